//! Access control, as a part of the replicated state: who may do what.
//!
//! # What it is
//!
//! A [`Principal`] makes a request: an identity, its groups, and the token that proved it. The node
//! that is asked finds out who it is; whether it may do what it asks is judged here, by the rules
//! as they are at the log position of the request. So a rule that is changed, or a token that is
//! revoked, takes effect on every node at one position, and nothing happens between a check and
//! what it was for.
//!
//! # Rules
//!
//! Nothing is allowed unless a [`Rule`] says so. A rule gives rights to an identity or a group, on
//! the locks of a table (or of every table) whose names fit its [`Pattern`]. Rules only ever give:
//! a request is allowed if one rule allows it, and no rule takes anything away. [`Right`] has the
//! rights, and which of them include others. A rule may bind the signee, so that its grantee locks
//! and unlocks in its own name alone.
//!
//! # Tokens
//!
//! An [`AccessToken`] is the hash of a secret, and the identity and groups of whoever knows it. The
//! secret itself is shown once, by the node that drew it, and stored nowhere. A token may have an
//! expiry in the time of the wall clock; the node that is asked judges that, because the state has
//! no clock but its own.
//!
//! # What it refuses to do
//!
//! It reads no clock, draws no numbers, does no I/O, and knows neither locks nor HTTP. `judge.rs`
//! judges, `book.rs` keeps rules and tokens and changes them, `change.rs` has the changes and
//! questions as data, `encoding.rs` their bytes.

mod book;
mod change;
mod encoding;
mod judge;
mod principal;
mod rule;

#[cfg(test)]
mod tests;

pub use crate::principal::{InvalidTokenId, Principal, TokenId};
pub use book::{Access, Bounds, RuleKey};
pub use change::{Answer, Change, Changed, Question, Request, TokenInfo};
pub use encoding::{put_details, read_details};
pub use judge::{Denied, Judge, Need};
pub use principal::{AccessToken, Secret, TokenHash};
pub use rule::{Grantee, InvalidPattern, Pattern, Right, Rights, Rule, RuleName};
