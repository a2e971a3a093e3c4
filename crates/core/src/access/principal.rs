//! The names of principals, and the tokens that prove who they are.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::limits::{MAX_GROUPS, MAX_GROUPS_BYTES, MAX_IDENTITY_BYTES};
use crate::principal::{Principal, TokenId};

impl Principal {
    /// Checks its names.
    ///
    /// # Errors
    /// `BadRequest`, saying what is wrong and what is allowed.
    pub fn validate(&self) -> Result<(), Error> {
        validate_names(&self.identity, &self.groups)
    }
}

/// Checks the names of an identity and of its groups.
pub(super) fn validate_names(identity: &str, groups: &[Box<str>]) -> Result<(), Error> {
    name("identity", identity)?;
    groups.iter().try_for_each(|group| name("group", group))?;
    if groups.len() > MAX_GROUPS {
        return Err(Error::bad_request(format!(
            "there are {} groups; at most {MAX_GROUPS} are allowed",
            groups.len()
        )));
    }
    let bytes: usize = groups.iter().map(|group| group.len()).sum();
    if bytes > MAX_GROUPS_BYTES {
        return Err(Error::bad_request(format!(
            "the groups have {bytes} bytes together; at most {MAX_GROUPS_BYTES} are allowed"
        )));
    }
    Ok(())
}

/// Checks the name of an identity or a group.
pub(super) fn name(what: &str, text: &str) -> Result<(), Error> {
    if text.is_empty() || text.len() > MAX_IDENTITY_BYTES {
        return Err(Error::bad_request(format!(
            "the {what} has {} bytes; it must have 1 to {MAX_IDENTITY_BYTES}",
            text.len()
        )));
    }
    if text.contains('\0') {
        return Err(Error::bad_request(format!("the {what} contains a NUL byte")));
    }
    Ok(())
}

/// The SHA-256 of a secret: what is stored of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// The name of the token with this hash.
    pub fn id(&self) -> TokenId {
        let first = self.0.iter().take(8);
        TokenId(first.fold(0, |id, byte| id << 8 | u64::from(*byte)))
    }
}

/// The secret of an access token: `kw_` and 256 bits as 64 hexadecimal digits. It is never printed
/// by accident: its debug form leaves it out.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// The beginning of every secret, by which people and scanners recognise one.
    pub const PREFIX: &str = "kw_";

    /// The secret of these bits, which must be drawn so that nobody can guess them.
    pub fn of_bits(bits: [u8; 32]) -> Self {
        let digits = bits.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        Self(format!("{}{digits}", Self::PREFIX).into())
    }

    /// The text, to be shown once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The hash that is stored. A plain hash is enough: 256 random bits cannot be searched for.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The text is not a secret; the message describes the format.
impl FromStr for Secret {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix(Self::PREFIX).unwrap_or_default();
        let is_lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() == 64 && digits.bytes().all(is_lower_hex) {
            Ok(Self(text.into()))
        } else {
            Err("an access token is kw_ and 64 hexadecimal digits")
        }
    }
}

/// A token, as the state knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessToken {
    /// The hash of its secret.
    pub hash: TokenHash,
    /// The identity of whoever comes with it.
    pub identity: Box<str>,
    /// The groups of whoever comes with it.
    pub groups: Vec<Box<str>>,
    /// The end of its validity, in seconds since 1970 by the wall clock of the node that is asked;
    /// `None` for never.
    pub expires: Option<u64>,
}

impl AccessToken {
    /// Its name.
    pub fn id(&self) -> TokenId {
        self.hash.id()
    }

    /// Whether it has expired at this time, in seconds since 1970.
    pub fn is_expired(&self, now: impl FnOnce() -> u64) -> bool {
        self.expires.is_some_and(|end| end <= now())
    }
}
