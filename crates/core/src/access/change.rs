//! Changes of rules and tokens, and questions about them, as data.

use super::principal::{AccessToken, TokenHash, validate_names};
use super::rule::{Right, Rule, RuleName};
use crate::error::Error;
use crate::principal::{Principal, TokenId};
use crate::types::{DEFAULT_TABLE, DecidedAt, ListRequest};

/// A change of rules, of tokens, or of whether they count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Make a rule, or replace the one with its name.
    PutRule(Rule),
    /// Remove a rule.
    RemoveRule(RuleName),
    /// Make a token.
    PutToken(AccessToken),
    /// Revoke a token.
    RevokeToken(TokenId),
    /// Switch access control on or off.
    Switch(bool),
    /// Make the first administrator: its token and its rule. Refused once there is a token, or when
    /// access control is on.
    Bootstrap {
        /// The first token.
        token: AccessToken,
        /// Whether access control is switched on in the same step.
        on: bool,
    },
}

/// The result of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Changed {
    /// It is done.
    Done,
    /// There was nothing to remove: a success.
    Nothing,
}

impl Change {
    /// Checks everything that can be checked without the state.
    ///
    /// # Errors
    /// `BadRequest`, saying what is wrong and what is allowed.
    pub fn validate(&self) -> Result<(), Error> {
        match self {
            Self::PutRule(rule) => rule.validate(),
            Self::RemoveRule(name) => name.validate(),
            Self::PutToken(token) | Self::Bootstrap { token, .. } => {
                validate_names(&token.identity, &token.groups)
            }
            Self::RevokeToken(_) | Self::Switch(_) => Ok(()),
        }
    }
}

/// A question about rules and tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// Whether access control is on, and who asks.
    Status,
    /// A page of the rules: this many of them, after a number of others.
    Rules {
        /// The number of rules to pass over.
        after: u64,
        /// The number of rules, 1 to 1000.
        limit: u32,
    },
    /// A page of the tokens, in the order of their names.
    Tokens {
        /// Only tokens after this one.
        after: Option<TokenId>,
        /// The number of tokens, 1 to 1000.
        limit: u32,
    },
    /// Whether a request would be allowed.
    CanI(Request),
    /// The token with this hash: for the node that was asked, when its own copy of the state does
    /// not have it. No client can ask it.
    Credential(TokenHash),
}

/// A request that is only thought of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The principal that would make it; `None` for the one that asks.
    pub principal: Option<Principal>,
    /// The right that it needs.
    pub right: Right,
    /// The table.
    pub table: Box<str>,
    /// The lock; empty for the whole table.
    pub signature: Box<str>,
    /// The level.
    pub level: i64,
    /// The signee; `None` for any.
    pub signee: Option<Box<str>>,
}

impl Request {
    /// A request that needs this right to a lock of the default table.
    pub fn new(right: Right, signature: &str) -> Self {
        Self {
            principal: None,
            right,
            table: DEFAULT_TABLE.into(),
            signature: signature.into(),
            level: 0,
            signee: None,
        }
    }
}

impl Question {
    /// The largest page.
    pub const MAX_LIMIT: u32 = ListRequest::MAX_LIMIT;

    /// Checks everything that can be checked without the state.
    ///
    /// # Errors
    /// `BadRequest`, saying what is wrong and what is allowed.
    pub fn validate(&self) -> Result<(), Error> {
        match self {
            Self::Rules { limit, .. } | Self::Tokens { limit, .. } => {
                if !(1..=Self::MAX_LIMIT).contains(limit) {
                    return Err(Error::bad_request(format!(
                        "the limit is {limit}; it must be 1 to {}",
                        Self::MAX_LIMIT
                    )));
                }
                Ok(())
            }
            Self::CanI(request) => request.principal.as_ref().map_or(Ok(()), Principal::validate),
            Self::Status | Self::Credential(_) => Ok(()),
        }
    }
}

/// A token as lists show it: without its hash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenInfo {
    /// Its name.
    pub id: TokenId,
    /// The identity.
    pub identity: Box<str>,
    /// The groups.
    pub groups: Vec<Box<str>>,
    /// The end of its validity, in seconds since 1970.
    pub expires: Option<u64>,
}

impl From<&AccessToken> for TokenInfo {
    fn from(token: &AccessToken) -> Self {
        Self {
            id: token.id(),
            identity: token.identity.clone(),
            groups: token.groups.clone(),
            expires: token.expires,
        }
    }
}

/// The answer to a question, of the same kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Whether access control is on, and who asks.
    Status {
        /// Whether it is on.
        on: bool,
        /// The one that asks, with all its groups.
        principal: Option<Principal>,
        /// Whether it is an administrator.
        is_admin: bool,
        /// The log position of the state that was read.
        decided_at: Option<DecidedAt>,
    },
    /// A page of the rules.
    Rules {
        /// The rules.
        rules: Vec<Rule>,
        /// The value of `after` for the next page; `None` on the last.
        next: Option<u64>,
        /// The log position of the state that was read.
        decided_at: Option<DecidedAt>,
    },
    /// A page of the tokens.
    Tokens {
        /// The tokens.
        tokens: Vec<TokenInfo>,
        /// The value of `after` for the next page; `None` on the last.
        next: Option<TokenId>,
        /// The log position of the state that was read.
        decided_at: Option<DecidedAt>,
    },
    /// Whether a request would be allowed.
    CanI {
        /// The reason why not; `None` if it would be.
        refused: Option<String>,
        /// The log position of the state that was read.
        decided_at: Option<DecidedAt>,
    },
    /// The token; `None` if there is none.
    Credential(Option<AccessToken>),
}

impl Answer {
    /// The log position of the state that was read.
    pub fn decided_at(&self) -> Option<DecidedAt> {
        match self {
            Self::Status { decided_at, .. }
            | Self::Rules { decided_at, .. }
            | Self::Tokens { decided_at, .. }
            | Self::CanI { decided_at, .. } => *decided_at,
            Self::Credential(_) => None,
        }
    }
}
