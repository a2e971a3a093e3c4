//! Principals: who makes a request, as the node that was asked has found out.
//!
//! Plain data; what a principal may do is judged in [`crate::access`].

use std::fmt;
use std::str::FromStr;

/// The one that makes a request, as the node that was asked has found out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Principal {
    /// Its name, 1 to 256 bytes without NUL.
    pub identity: Box<str>,
    /// Its groups. Empty for one that came with a token: the token's record has them.
    pub groups: Vec<Box<str>>,
    /// The token that it came with.
    pub token: Option<TokenId>,
}

impl Principal {
    /// A principal with this name, no groups and no token.
    pub fn named(identity: &str) -> Self {
        Self { identity: identity.into(), ..Self::default() }
    }

    /// Whether it has anything but its name.
    pub fn has_details(&self) -> bool {
        self.token.is_some() || !self.groups.is_empty()
    }
}

/// The name of an access token: the first 64 bits of its hash, written as 16 hexadecimal digits. No
/// secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TokenId(pub u64);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The text is not the name of an access token; the message describes the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an access token is named by 16 hexadecimal digits")]
pub struct InvalidTokenId;

impl FromStr for TokenId {
    type Err = InvalidTokenId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or(InvalidTokenId)
    }
}
