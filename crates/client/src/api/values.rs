//! The form of values in JSON and query strings.
//!
//! JSON knows one kind of number: `30000.0` and `3e4` are 30000, and clients in languages without
//! integers send them. A field that may be left out may also be `null`.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use keyward_core::lock::Keep;
use keyward_core::types::{MAX_SAFE_INTEGER, TimeToLive};

/// The largest whole number that a floating point number carries exactly.
#[allow(clippy::cast_precision_loss, reason = "2^53 - 1 is exact")]
const MAX_EXACT: f64 = MAX_SAFE_INTEGER as f64;

/// An integer of a request.
pub(super) trait Whole: Sized {
    /// The description of the expected value.
    const EXPECTED: &'static str;

    /// The number, if it is one of this kind.
    fn exactly(value: i128) -> Option<Self>;
}

impl Whole for u64 {
    const EXPECTED: &'static str = "a whole number, 0 or more";

    fn exactly(value: i128) -> Option<Self> {
        value.try_into().ok()
    }
}

impl Whole for u32 {
    const EXPECTED: &'static str = u64::EXPECTED;

    fn exactly(value: i128) -> Option<Self> {
        value.try_into().ok()
    }
}

impl Whole for i64 {
    const EXPECTED: &'static str = "a whole number";

    fn exactly(value: i128) -> Option<Self> {
        value.try_into().ok()
    }
}

/// Reads a whole number in any notation, or `null`.
pub(super) fn whole<'de, D: Deserializer<'de>, T: Whole>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_any(WholeVisitor(PhantomData))
}

/// Reads a whole number from a query string, which has text only.
pub(super) fn whole_text<'de, D: Deserializer<'de>, T: Whole>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = digits.then(|| text.parse().ok()).flatten().and_then(T::exactly);
    let wrong = || D::Error::custom(format!("`{text}` is not {}", T::EXPECTED));
    value.map(Some).ok_or_else(wrong)
}

/// A time_to_live in JSON: a whole number of milliseconds, or `"none"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeToLiveMs {
    /// This many milliseconds.
    Ms(u64),
    /// The record is never removed.
    Never,
}

impl TimeToLiveMs {
    const EXPECTED: &'static str = "a whole number, 0 or more, or the word `none`";
}

impl From<Keep> for TimeToLiveMs {
    fn from(keep: Keep) -> Self {
        match keep {
            Keep::Ms(ms) => Self::Ms(ms),
            Keep::ForEver => Self::Never,
        }
    }
}

impl From<TimeToLiveMs> for Keep {
    fn from(time_to_live: TimeToLiveMs) -> Self {
        match time_to_live {
            TimeToLiveMs::Ms(ms) => Self::Ms(ms),
            TimeToLiveMs::Never => Self::ForEver,
        }
    }
}

impl Serialize for TimeToLiveMs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Ms(ms) => serializer.serialize_u64(*ms),
            Self::Never => serializer.serialize_str(TimeToLive::NEVER_WORD),
        }
    }
}

impl<'de> Deserialize<'de> for TimeToLiveMs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl Visitor<'_> for Read {
            type Value = TimeToLiveMs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(TimeToLiveMs::EXPECTED)
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
                Ok(TimeToLiveMs::Ms(value))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
                read_whole(WholeVisitor(PhantomData).visit_i64(value))
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
                read_whole(WholeVisitor(PhantomData).visit_f64(value))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                if text == TimeToLive::NEVER_WORD {
                    return Ok(TimeToLiveMs::Never);
                }
                Err(E::custom(format!("{text:?} is not {}", TimeToLiveMs::EXPECTED)))
            }
        }

        fn read_whole<E: serde::de::Error>(
            read: Result<Option<u64>, E>,
        ) -> Result<TimeToLiveMs, E> {
            read?.map(TimeToLiveMs::Ms).ok_or_else(|| E::custom(TimeToLiveMs::EXPECTED))
        }

        deserializer.deserialize_any(Read)
    }
}

/// Reads `true`, `false`, or `null`, which is `false`.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    <Option<bool> as serde::Deserialize>::deserialize(deserializer).map(Option::unwrap_or_default)
}

struct WholeVisitor<T>(PhantomData<T>);

impl<T: Whole> WholeVisitor<T> {
    fn exactly<E: serde::de::Error>(value: i128) -> Result<Option<T>, E> {
        T::exactly(value)
            .map(Some)
            .ok_or_else(|| E::custom(format!("{value} is not {}", T::EXPECTED)))
    }
}

impl<T: Whole> Visitor<'_> for WholeVisitor<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Self::exactly(value.into())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Self::exactly(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        if value.fract() != 0.0 || value.abs() > MAX_EXACT {
            return Err(E::custom(format!("{value} is not {}", T::EXPECTED)));
        }
        #[allow(clippy::cast_possible_truncation, reason = "a whole number within 2^53")]
        Self::exactly(value as i128)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Deserialize, PartialEq, Debug)]
    struct Fields {
        #[serde(default, deserialize_with = "super::whole")]
        count: Option<u64>,
        #[serde(default, deserialize_with = "super::whole")]
        level: Option<i64>,
        #[serde(default, deserialize_with = "super::flag")]
        force: bool,
    }

    #[test]
    fn a_whole_number_is_taken_however_it_is_written() {
        let cases: [(&str, Option<u64>); 5] = [
            ("30000", Some(30_000)),
            ("30000.0", Some(30_000)),
            ("3e4", Some(30_000)),
            ("null", None),
            ("-0.0", Some(0)),
        ];
        for (text, count) in cases {
            let read: Fields = serde_json::from_str(&format!(r#"{{"count":{text}}}"#)).unwrap();
            assert_eq!(read.count, count, "{text}");
        }
        let read: Fields = serde_json::from_str(r#"{"level":-2.0,"force":null}"#).unwrap();
        assert_eq!(read, Fields { count: None, level: Some(-2), force: false });
    }

    #[test]
    fn what_is_no_whole_number_is_refused_in_the_words_of_json() {
        for text in ["1.5", "-1", "\"1\"", "true", "1e999", "9007199254740993.0", "[]"] {
            let read = serde_json::from_str::<Fields>(&format!(r#"{{"count":{text}}}"#));
            let error = read.unwrap_err().to_string();
            assert!(!error.contains("u64"), "{text}: {error}");
        }
    }
}
