//! Rules: rights, and the locks and people that they are about.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::principal::name;
use crate::error::Error;
use crate::types::{MAX_NAME_BYTES, MAX_SAFE_INTEGER};

/// The permission to do one kind of thing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// See locks, their holders and their queues. Included in every other right.
    Observe,
    /// Take, renew, wait for and release locks, at levels up to 0.
    Acquire,
    /// Do so at higher levels, up to the rule's. Includes `acquire`.
    Preempt,
    /// Take a lock from whoever holds it, and end grants and places of others.
    Force,
    /// Change the limits of locks; with the whole table, its defaults.
    Configure,
    /// Everything, everywhere: also rules, tokens, and the sessions of others.
    Admin,
}

impl Right {
    /// Every right, in the order of its bit in records.
    pub const ALL: [Self; 6] =
        [Self::Observe, Self::Acquire, Self::Preempt, Self::Force, Self::Configure, Self::Admin];

    /// The word for it, in JSON and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Acquire => "acquire",
            Self::Preempt => "preempt",
            Self::Force => "force",
            Self::Configure => "configure",
            Self::Admin => "admin",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The rights that include this one, itself among them.
    pub(super) fn included_in(self) -> Rights {
        let others = match self {
            Self::Observe => Rights::EVERY.0,
            Self::Acquire => Self::Preempt.bit() | Self::Admin.bit(),
            Self::Preempt | Self::Force | Self::Configure | Self::Admin => Self::Admin.bit(),
        };
        Rights(self.bit() | others)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Right {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|right| right.word() == text);
        found.ok_or_else(|| {
            let words = Self::ALL.map(Self::word).join(", ");
            format!("there is no right {text:?}; the rights are {words}")
        })
    }
}

/// A set of rights.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights(pub(super) u8);

impl Rights {
    pub(super) const EVERY: Self = Self(0b11_1111);

    /// Whether one of them is, or includes, this right.
    pub fn give(self, right: Right) -> bool {
        self.0 & right.included_in().0 != 0
    }

    /// Whether this very right is among them.
    pub fn contain(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// The rights, in their order.
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.contain(*right))
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<T: IntoIterator<Item = Right>>(rights: T) -> Self {
        Self(rights.into_iter().fold(0, |bits, right| bits | right.bit()))
    }
}

/// The identity or the group that a rule gives rights to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Grantee {
    /// An identity.
    Identity(Box<str>),
    /// Every member of a group.
    Group(Box<str>),
}

impl Grantee {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Identity(name) | Self::Group(name) => name,
        }
    }

    /// The kind of the grantee, as a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Identity(_) => "identity",
            Self::Group(_) => "group",
        }
    }
}

impl fmt::Display for Grantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind(), self.name())
    }
}

/// The names of locks that a rule is about.
///
/// Without `*` at its end, `jobs/a` is the lock `jobs/a` and all below it, `jobs/a/…`, and not
/// `jobs/abc`; `jobs/` is all below `jobs`, and not `jobs` itself. With it, `jobs/a*` is every name
/// that begins with `jobs/a`, and `*` alone is every name. Only one `*` at the end has a meaning;
/// one before it is a character like any other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pattern {
    /// The text before the `*`, if there is one.
    pub(super) prefix: Box<str>,
    /// Whether it was written with `*`.
    pub(super) open: bool,
}

/// The text is not a pattern; the message describes the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a prefix is a name, or the beginning of names and a `*`; `*` alone is every lock")]
pub struct InvalidPattern;

impl Pattern {
    /// The pattern of every name.
    pub fn every() -> Self {
        Self { prefix: "".into(), open: true }
    }

    /// Whether it is the pattern of every name.
    pub fn is_every(&self) -> bool {
        self.open && self.prefix.is_empty()
    }

    /// Whether the name is one of them.
    pub fn matches(&self, name: &str) -> bool {
        let Some(rest) = name.strip_prefix(&*self.prefix) else { return false };
        self.open || rest.is_empty() || rest.starts_with('/') || self.prefix.ends_with('/')
    }
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        match text.strip_suffix('*') {
            Some(prefix) => Ok(Self { prefix: prefix.into(), open: true }),
            None if text.is_empty() => Err(InvalidPattern),
            None => Ok(Self { prefix: text.into(), open: false }),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefix)?;
        f.write_str(if self.open { "*" } else { "" })
    }
}

/// The name of a rule: there is one rule for each grantee, table and pattern.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RuleName {
    /// The grantee.
    pub grantee: Grantee,
    /// The table; `None` for every table.
    pub table: Option<Box<str>>,
    /// The locks.
    pub pattern: Pattern,
}

/// The rights of a grantee on some locks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Its name.
    pub name: RuleName,
    /// The rights.
    pub rights: Rights,
    /// With `preempt`, the highest level; otherwise 0.
    pub max_level: i64,
    /// The signee in whose name alone it lets its grantee lock and unlock, in which `{identity}`
    /// stands for the identity; `None` for any.
    pub signee: Option<Box<str>>,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table.as_deref().unwrap_or(Self::EVERY_TABLE);
        write!(f, "{}: table {table:?}, {:?}", self.grantee, self.pattern.to_string())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rights: Vec<&str> = self.rights.iter().map(Right::word).collect();
        write!(f, "{}: {}", self.name, rights.join(", "))?;
        if self.max_level != 0 {
            write!(f, " up to level {}", self.max_level)?;
        }
        match &self.signee {
            Some(signee) => write!(f, " as {signee:?}"),
            None => Ok(()),
        }
    }
}

impl RuleName {
    /// The word for every table.
    pub const EVERY_TABLE: &str = "*";

    /// Checks the lengths of its parts.
    ///
    /// # Errors
    /// `BadRequest`, saying what is wrong and what is allowed.
    pub fn validate(&self) -> Result<(), Error> {
        name(self.grantee.kind(), self.grantee.name())?;
        let table = self.table.as_deref().unwrap_or(Self::EVERY_TABLE);
        if table.is_empty() {
            return Err(Error::bad_request("the table is empty"));
        }
        for (what, text) in [("table", table), ("prefix", &*self.pattern.prefix)] {
            text_of(what, text)?;
        }
        Ok(())
    }

    /// Whether a part has a NUL, which no key can hold.
    fn has_nul(&self) -> bool {
        let texts =
            [self.grantee.name(), self.table.as_deref().unwrap_or(""), &self.pattern.prefix];
        texts.iter().any(|text| text.contains('\0'))
    }

    /// The reason why no rule can have this name.
    pub(super) fn flaw(&self) -> Option<&'static str> {
        let is_void = self.grantee.name().is_empty()
            || self.table.as_deref().is_some_and(str::is_empty)
            || (self.pattern.prefix.is_empty() && !self.pattern.open);
        match (self.has_nul(), is_void) {
            (true, _) => Some("a name in the rule contains a NUL byte"),
            (false, true) => Some("a name in the rule is empty"),
            (false, false) => None,
        }
    }

    /// The names of locks as a person reads them.
    pub fn locks(&self) -> String {
        match &self.table {
            Some(table) => format!("{} in table {table:?}", self.pattern),
            None => format!("{} in every table", self.pattern),
        }
    }
}

impl Rule {
    /// The word that stands for the identity in a bound signee.
    pub const IDENTITY: &str = "{identity}";

    /// The rule that makes an administrator.
    pub fn admin(grantee: Grantee) -> Self {
        Self {
            name: RuleName { grantee, table: None, pattern: Pattern::every() },
            rights: Rights::from_iter([Right::Admin]),
            max_level: 0,
            signee: None,
        }
    }

    /// Checks everything that can be checked without the state.
    ///
    /// # Errors
    /// `BadRequest`, saying what is wrong and what is allowed.
    pub fn validate(&self) -> Result<(), Error> {
        self.name.validate()?;
        if let Some(signee) = &self.signee {
            text_of("signee", signee)?;
        }
        self.flaw().map_or(Ok(()), |flaw| Err(Error::bad_request(flaw)))
    }

    /// The reason why the rule makes no sense.
    pub(super) fn flaw(&self) -> Option<&'static str> {
        if let Some(flaw) = self.name.flaw() {
            return Some(flaw);
        }
        let highest = i64::try_from(MAX_SAFE_INTEGER).unwrap_or(i64::MAX);
        let preempts = self.rights.contain(Right::Preempt);
        let is_admin = self.rights.contain(Right::Admin);
        if self.rights.is_empty() {
            Some("the rule gives no right; to take rights away, remove the rule")
        } else if preempts && !(1..=highest).contains(&self.max_level) {
            Some("a rule with `preempt` has a max_level from 1 to 2^53 - 1")
        } else if !preempts && self.max_level != 0 {
            Some("only a rule with `preempt` has a max_level")
        } else if is_admin && (self.name.table.is_some() || !self.name.pattern.is_every()) {
            Some("an administrator is one everywhere: the table and the prefix are `*`")
        } else if is_admin && self.signee.is_some() {
            Some("the signee of an administrator is not bound")
        } else if self.signee.as_deref().is_some_and(str::is_empty) {
            Some("the bound signee is empty")
        } else if self.signee.as_deref().is_some_and(|signee| signee.contains('\0')) {
            Some("the bound signee contains a NUL byte")
        } else {
            None
        }
    }

    /// The signee that the rule binds an identity to.
    pub fn signee_of(&self, identity: &str) -> Option<String> {
        self.signee.as_ref().map(|signee| signee.replace(Self::IDENTITY, identity))
    }

    /// Whether the rule lets an identity act in this signee's name.
    pub(super) fn allows_signee(&self, identity: &str, signee: Option<&str>) -> bool {
        match (&self.signee, signee) {
            (None, _) | (_, None) => true,
            (Some(bound), Some(signee)) if &**bound == Self::IDENTITY => signee == identity,
            (Some(_), Some(signee)) => self.signee_of(identity).as_deref() == Some(signee),
        }
    }
}

fn text_of(what: &str, text: &str) -> Result<(), Error> {
    if text.len() > MAX_NAME_BYTES {
        return Err(Error::bad_request(format!(
            "the {what} of the rule has {} bytes; at most {MAX_NAME_BYTES} are allowed",
            text.len()
        )));
    }
    Ok(())
}
