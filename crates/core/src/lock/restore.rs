//! The first state of a new cluster, made from the state of an earlier one.

use std::sync::Arc;

use crate::lock::State;
use crate::lock::holders::Holders;
use crate::lock::record::{Grant, Rare, Record};
use crate::lock::table::{Deletion, Value};
use crate::types::{MAX_SAFE_INTEGER, Mode, Token};

/// The number by which a restore raises the next token. The earlier cluster may have gone on after
/// the state that is restored, and granted that many tokens less one, before a new token could be one
/// of its tokens: at a million grants a second, twelve days.
pub const TOKEN_GAP: u64 = 1 << 40;

/// No state can be made: the earlier cluster has used up too many tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the next token is {next_token}, and raised by {TOKEN_GAP} it is beyond the largest, \
     {MAX_SAFE_INTEGER}"
)]
pub struct NoTokensLeft {
    /// The next token of the earlier cluster.
    pub next_token: u64,
}

impl State {
    /// The state with which a new cluster begins that takes the place of the one with this state.
    ///
    /// It has the tables' defaults, the access rules and the access tokens. Every new token is at
    /// least [`TOKEN_GAP`] above those before it. Sessions, places and what is remembered of
    /// requests are left out, for nobody can tell what became of them since; with `keep_locks`, grants
    /// outside of sessions stay, with their tokens and as much time as they had left.
    ///
    /// Equal states give equal states, which all members of the new cluster have to begin with.
    ///
    /// # Errors
    /// If there are not enough tokens left.
    pub fn restored(&self, keep_locks: bool) -> Result<Self, NoTokensLeft> {
        let next_token = self.next_token.saturating_add(TOKEN_GAP);
        if next_token > MAX_SAFE_INTEGER {
            return Err(NoTokensLeft { next_token: self.next_token });
        }
        let mut state = Self {
            clock: self.clock,
            next_token,
            feature_level: self.feature_level,
            access: Arc::clone(&self.access),
            ..Self::new()
        };
        for (table, value) in self.locks.all_values() {
            let value = Value { deletion: None, ..value };
            if value != Value::default() {
                state.locks.load_value(table, value);
            }
        }
        if keep_locks {
            for (key, record) in self.locks.iter() {
                let deletion = self.locks.value(key.table()).deletion;
                if let Some(kept) = kept(record, deletion) {
                    state.locks.load(key.clone(), |record| *record = kept);
                }
            }
        }
        let is_sound = state.locks.load_shelves(Token(next_token));
        debug_assert!(is_sound, "there is no deletion");
        Ok(state)
    }
}

/// What stays of a lock; `None` if nothing does.
fn kept(record: &Record, deletion: Option<Deletion>) -> Option<Record> {
    let is_deleted = |grant: &Grant| deletion.is_some_and(|of| grant.token < of.next_token);
    let is_kept = |grant: &&Grant| grant.session().is_none() && !is_deleted(grant);
    let mut holders = Holders::None;
    for grant in record.holders.iter().filter(is_kept) {
        let rare = grant.rare.as_deref().map(|rare| {
            // Positions of the earlier cluster's log.
            Rare { forced: None, asked: None, ..rare.clone() }
        });
        let rare = rare.filter(|rare| *rare != Rare::default()).map(Box::new);
        holders.insert(Grant { rare, ..grant.clone() });
    }
    (!holders.is_none()).then(|| Record {
        holders,
        queue: None,
        pending: None,
        limit: if record.mode == Mode::Permits { record.limit } else { 0 },
        mode: record.mode,
    })
}
