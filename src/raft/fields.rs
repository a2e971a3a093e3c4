//! Messages of members about themselves, as `key=value` words in a line.
//!
//! A reader ignores unknown keys, so that a later version can add some. Values have no spaces and
//! lists no commas: both are escaped as in a URL.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use crate::storage::{Promises, Uuid};

/// A line under construction.
#[derive(Default)]
pub(super) struct Line(String);

impl Line {
    pub(super) fn put(&mut self, key: &str, value: impl Display) {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        write!(self.0, "{key}={value}").expect("a string takes what is written");
    }

    pub(super) fn put_some(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    pub(super) fn put_text(&mut self, key: &str, value: Option<&str>) {
        self.put_some(key, value.map(escaped));
    }

    /// Adds a list, unless it is empty.
    pub(super) fn put_list<T: Display>(&mut self, key: &str, items: impl Iterator<Item = T>) {
        let items: Vec<String> = items.map(|item| item.to_string()).collect();
        self.put_some(key, (!items.is_empty()).then(|| items.join(",")));
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Escapes a text for use as a value: bytes with a special meaning become `%XX`.
pub(super) fn escaped(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_graphic() && !b"%,@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02x}").expect("a string takes what is written");
        }
        out
    })
}

/// Decodes the output of [`escaped`].
pub(super) fn unescaped(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The fields of a line. Readers return `None` for a missing or invalid field; readers of optional
/// fields return `Some(None)` for a missing one.
pub(super) struct Fields<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Fields<'a> {
    /// Parses a line; `None` if a word has no `=` or a key is repeated.
    pub(super) fn parse(line: &'a str) -> Option<Self> {
        let mut fields = BTreeMap::new();
        for word in line.split(' ') {
            let (key, value) = word.split_once('=')?;
            if fields.insert(key, value).is_some() {
                return None;
            }
        }
        Some(Self(fields))
    }

    pub(super) fn read<T>(&self, key: &str, read: impl Fn(&'a str) -> Option<T>) -> Option<T> {
        read(self.0.get(key)?)
    }

    #[expect(clippy::option_option, reason = "missing is allowed, nonsense is not")]
    pub(super) fn optional<T>(
        &self,
        key: &str,
        read: impl Fn(&'a str) -> Option<T>,
    ) -> Option<Option<T>> {
        self.0.get(key).map_or(Some(None), |value| read(value).map(Some))
    }

    /// The items of a list; empty if it is missing.
    pub(super) fn list<T>(&self, key: &str, read: impl Fn(&'a str) -> Option<T>) -> Option<Vec<T>> {
        let value = self.0.get(key).copied().unwrap_or_default();
        value.split(',').filter(|item| !item.is_empty()).map(read).collect()
    }
}

pub(super) fn number<T: std::str::FromStr>(value: &str) -> Option<T> {
    value.parse().ok()
}

pub(super) fn uuid(value: &str) -> Option<Uuid> {
    u128::from_str_radix(value, 16).ok().map(Uuid)
}

/// Parses [`Promises`] as they are displayed.
pub(super) fn promises(value: &str) -> Option<Promises> {
    let (votes, log) = value.split_once('.')?;
    Some(Promises { votes: number(votes)?, log: number(log)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_reads_back_as_it_was_written() {
        for text in ["", "http://[::1]:7420", "a b,c%d=e@f", "é\n"] {
            let written = escaped(text);
            assert!(!written.contains([' ', ',', '@', '\n']), "{written}");
            assert_eq!(unescaped(&written).as_deref(), Some(text));
        }
        for wrong in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(unescaped(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_line_of_words_without_keys_or_with_a_key_twice_is_none() {
        for wrong in ["", "a", "a=1 b", "a=1  b=2", "a=1 a=1"] {
            assert!(Fields::parse(wrong).is_none(), "{wrong}");
        }
    }
}
