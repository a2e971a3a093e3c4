//! JWTs as credentials: who an issuer says that one is.
//!
//! A node that is given a file of [issuers](Issuers) takes JWTs that one of them has signed for this
//! service. [`Issuers::judge`] finds the issuer by the `iss` of the token, checks the signature with
//! one of that issuer's keys, then the audience and the times, and reads identity and groups from
//! claims. The names that it makes begin with `jwt:` and the issuer's name in the file, and nothing
//! else that proves an identity can have such a name but an access token that an administrator made
//! for it: so no issuer can name whom it likes.
//!
//! The files are read again when they have changed ([`Followed`]). A JWT that was checked is
//! remembered until it ends, at most [`REMEMBERED`] of them, and all are forgotten with the keys.
//!
//! This folder knows neither HTTP nor consensus, fetches nothing from anywhere, and reads no clock:
//! the time is handed in. A key that a token names by itself (`jwk`, `jku`, `x5u`) is never used, and
//! no algorithm in which a shared secret signs. The parsing of tokens, keys and claims is that of the
//! crate `jsonwebtoken`; signatures are checked by `ring`, as those of TLS are.
//!
//! Start with [`Issuers`]. [`issuers`] reads the file, [`keys`] the keys and which of them a token
//! was signed with, [`claims`] what it says, [`provider`] checks signatures.

mod claims;
mod issuers;
mod keys;
mod provider;

#[cfg(test)]
pub(crate) mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use jsonwebtoken::dangerous::insecure_decode_claims;
use quick_cache::sync::Cache;
use ring::digest;
use serde::Deserialize;

use crate::files::{Followed, Look, Unusable};
use crate::limits::MAX_JWT_BYTES;
use crate::principal::Principal;
use issuers::{Content, Issuer};

/// The beginning of every identity and group that a JWT proves.
pub const PREFIX: &str = "jwt:";

/// The number of checked JWTs that are remembered: a signature takes some 30 to 100 µs to check, a
/// remembered token one or two. It is enough for the clients of a large cluster, and at most 3 MiB.
pub const REMEMBERED: usize = 4096;

/// A JWT that was checked.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The one that it names.
    pub principal: Arc<Principal>,
    /// The time from which on it proves nothing, in seconds since 1970, skew included.
    pub ends: u64,
    /// The time before which it proves nothing.
    begins: u64,
}

/// The reason why a JWT proves nothing. No part of the token is in it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// It is no JWT, or one of an issuer that is not configured here: perhaps it is meant for
    /// another service.
    #[error("{0}")]
    Stranger(String),
    /// It is one of an issuer that is configured here, and is refused.
    #[error("{0}")]
    Invalid(String),
}

/// The figures of the JWTs of a node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// JWTs taken after their signature was checked.
    pub checked: u64,
    /// JWTs taken because they were remembered.
    pub remembered: u64,
    /// JWTs refused.
    pub refused: u64,
    /// The usable keys of each issuer, by its name.
    pub keys: Vec<(String, u64)>,
    /// Whether the files have content that cannot be used, so that older content is in use.
    pub is_outdated: bool,
}

/// The issuers of JWTs that a node trusts, with their keys.
pub struct Issuers {
    /// The file; `None` for issuers that never change.
    path: Option<PathBuf>,
    state: RwLock<State>,
    checked: AtomicU64,
    remembered: AtomicU64,
    refused: AtomicU64,
}

struct State {
    current: Arc<Current>,
    /// The content of the files that was judged last, whether it could be used or not.
    judged: u128,
    is_outdated: bool,
}

/// The issuers at one moment, and the tokens that were checked with their keys.
struct Current {
    issuers: Vec<Issuer>,
    verified: Cache<[u8; 32], Verified>,
}

/// The part of the claims that says who the issuer is.
#[derive(Deserialize)]
struct ClaimedIssuer {
    iss: Option<String>,
}

impl Issuers {
    /// Loads the issuers that this file names, and their keys.
    ///
    /// # Errors
    /// A file cannot be used, with the reason.
    pub fn load(path: &Path) -> Result<Arc<Self>, Unusable> {
        Self::of(&Content::read(path)?, Some(path.to_owned()))
    }

    /// Issuers that never change: those of this text, each with the keys of this JWKS.
    ///
    /// # Errors
    /// A text cannot be used, with the reason.
    pub fn of_texts(issuers: &[u8], jwks: &[u8]) -> Result<Arc<Self>, Unusable> {
        let content = Content::of(Path::new("issuers"), issuers.to_vec(), |_| Ok(jwks.to_vec()))?;
        Self::of(&content, None)
    }

    fn of(content: &Content, path: Option<PathBuf>) -> Result<Arc<Self>, Unusable> {
        provider::install();
        let judged = content.fingerprint();
        let current = Arc::new(Current::new(content)?);
        Ok(Arc::new(Self {
            path,
            state: RwLock::new(State { current, judged, is_outdated: false }),
            checked: AtomicU64::new(0),
            remembered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// Judges a JWT at this time, in seconds since 1970.
    ///
    /// # Errors
    /// It proves nothing, with the reason.
    pub fn judge(&self, token: &str, now: u64) -> Result<Verified, Refused> {
        let current = self.read_state(|state| Arc::clone(&state.current));
        let judged = current.judge(token, now);
        let counter = match &judged {
            Ok((_, true)) => &self.remembered,
            Ok((_, false)) => &self.checked,
            Err(_) => &self.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        judged.map(|(verified, _)| verified)
    }

    /// The figures.
    pub fn figures(&self) -> Figures {
        let (current, is_outdated) =
            self.read_state(|state| (Arc::clone(&state.current), state.is_outdated));
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            checked: value(&self.checked),
            remembered: value(&self.remembered),
            refused: value(&self.refused),
            keys: current.issuers.iter().map(Issuer::figure).collect(),
            is_outdated,
        }
    }

    fn look_at_content(&self) -> Look {
        let Some(path) = &self.path else { return Look::Unchanged };
        let content = match Content::read(path) {
            Ok(content) => content,
            Err(error) => return self.refuse(error.fingerprint(), error),
        };
        let seen = content.fingerprint();
        if self.read_state(|state| state.judged) == seen {
            return Look::Unchanged;
        }
        match Current::new(&content) {
            Ok(current) => {
                let current = Arc::new(current);
                self.write_state(|state| {
                    *state = State { current, judged: seen, is_outdated: false };
                });
                Look::Taken
            }
            Err(error) => self.refuse(seen, error),
        }
    }

    fn refuse(&self, seen: u128, error: Unusable) -> Look {
        let known = self.write_state(|state| {
            state.is_outdated = true;
            std::mem::replace(&mut state.judged, seen) == seen
        });
        if known { Look::Unchanged } else { Look::Refused(error) }
    }

    fn read_state<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read().expect("nothing panics while it holds the state"))
    }

    fn write_state<T>(&self, write: impl FnOnce(&mut State) -> T) -> T {
        write(&mut self.state.write().expect("nothing panics while it holds the state"))
    }
}

impl Followed for Issuers {
    fn look(&self) -> Look {
        let look = self.look_at_content();
        match &look {
            Look::Unchanged => {}
            Look::Taken => {
                for (issuer, keys) in self.figures().keys {
                    tracing::info!(issuer, keys, "an issuer of JWTs is read anew and in use");
                }
            }
            Look::Refused(error) => tracing::error!(
                %error,
                "the issuers of JWTs or their keys cannot be used; the old ones stay in use"
            ),
        }
        look
    }
}

impl std::fmt::Debug for Issuers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuers").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Current {
    fn new(content: &Content) -> Result<Self, Unusable> {
        Ok(Self { issuers: content.issuers()?, verified: Cache::new(REMEMBERED) })
    }

    /// Judges a token; `true` if it was remembered.
    fn judge(&self, token: &str, now: u64) -> Result<(Verified, bool), Refused> {
        if token.len() > MAX_JWT_BYTES {
            return Err(Refused::Stranger(format!(
                "the JWT has {} bytes; at most {MAX_JWT_BYTES} are accepted",
                token.len()
            )));
        }
        // The whole token is hashed, its signature included: one that differs in any byte is another.
        let hash: [u8; 32] = digest::digest(&digest::SHA256, token.as_bytes())
            .as_ref()
            .try_into()
            .expect("SHA-256 has 32 bytes");
        if let Some(verified) = self.verified.get(&hash) {
            return verified.at(now).map(|verified| (verified, true));
        }
        let issuer = self.issuer(token)?;
        let verified = issuer.verify(token).map_err(Refused::Invalid)?.at(now)?;
        self.verified.insert(hash, verified.clone());
        Ok((verified, false))
    }

    /// The issuer that the token says it is of. Nothing is proven by that.
    fn issuer(&self, token: &str) -> Result<&Issuer, Refused> {
        let stranger = |why: &str| Refused::Stranger(why.to_owned());
        let claimed = insecure_decode_claims::<ClaimedIssuer>(token);
        let claimed = claimed.map_err(|_| {
            stranger("the credential is neither an access token (kw_ and 64 hexadecimal digits) nor a JWT")
        })?;
        let Some(iss) = claimed.iss else {
            return Err(stranger("the JWT does not say who issued it (iss)"));
        };
        let found = self.issuers.iter().find(|issuer| issuer.is(&iss));
        found.ok_or_else(|| stranger("the JWT is of an issuer (iss) that is not configured here"))
    }
}

impl Verified {
    /// The same, if it proves something at this time.
    fn at(self, now: u64) -> Result<Self, Refused> {
        if self.ends <= now {
            Err(Refused::Invalid("the JWT has expired (exp)".to_owned()))
        } else if now < self.begins {
            let why = "the JWT is not valid yet (nbf, iat); perhaps a clock is wrong";
            Err(Refused::Invalid(why.to_owned()))
        } else {
            Ok(self)
        }
    }
}

/// Reads a JWKS: the number of its keys that can check a JWT.
///
/// # Errors
/// The text is none, or has no such key; in words.
pub fn read_keys(text: &[u8]) -> Result<usize, String> {
    provider::install();
    keys::Keys::read(text).map(|keys| keys.len())
}
