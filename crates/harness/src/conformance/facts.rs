//! The runner's own assertions, which hold for every answer of every script.
//!
//! A golden line is one answer. These facts relate answers to each other: tokens of a lock only
//! grow, and a later answer of a script is decided later in the log.

use std::collections::{BTreeMap, BTreeSet};

use keyward_core::types::{DecidedAt, Grant, Mode, RequestId, Token};

use super::print::NameTokens;

/// The facts from the answers of one script so far.
#[derive(Default)]
pub(crate) struct Facts {
    /// Every token shown, in order: its lock and its value. `t1` is the first.
    shown: Vec<(Lock, Token)>,
    /// The largest token that each lock has had.
    largest: BTreeMap<Lock, Token>,
    /// The requests with an id that were sent: their repetitions may be decided at an earlier
    /// place.
    asked: BTreeSet<RequestId>,
    last_decided: Option<DecidedAt>,
    /// The place that was last shown of each signee, by signature and signee.
    places: BTreeMap<(String, String), DecidedAt>,
}

/// A table and a signature.
type Lock = (String, String);

/// The kind of a request: whether it may change the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asks {
    ToChange,
    ToLook,
}

/// The kind of a grant: whether its token is new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Granted {
    Anew,
    Renewed,
    /// The renewal of a grant that may have others beside it, with larger tokens.
    RenewedBesideOthers,
}

impl Granted {
    pub(crate) fn of(grant: &Grant, is_new: bool) -> Self {
        match grant.mode {
            _ if is_new => Self::Anew,
            Mode::Exclusive => Self::Renewed,
            Mode::Shared | Mode::Permits => Self::RenewedBesideOthers,
        }
    }
}

impl Facts {
    /// The value of a token that the script has seen, by its number.
    pub(crate) fn token(&self, number: usize) -> Option<Token> {
        let index = number.checked_sub(1)?;
        self.shown.get(index).map(|(_, token)| *token)
    }

    /// Remembers a place.
    pub(crate) fn placed(&mut self, signature: &str, signee: &str, place: DecidedAt) {
        self.places.insert((signature.to_owned(), signee.to_owned()), place);
    }

    /// The place of a signee that the script has seen.
    pub(crate) fn place(&self, signature: &str, signee: &str) -> Result<DecidedAt, String> {
        let place = self.places.get(&(signature.to_owned(), signee.to_owned()));
        place.copied().ok_or_else(|| format!("the script has not shown a place of {signee} yet"))
    }

    /// Remembers an id; returns whether it was sent before.
    pub(crate) fn ask(&mut self, id: Option<RequestId>) -> bool {
        id.is_some_and(|id| !self.asked.insert(id))
    }

    /// Checks a token that a request was granted. It must not be smaller than any earlier token of
    /// the lock, unless it is the renewal of one of several holders; that of a new grant, not a
    /// renewal, must be larger.
    pub(crate) fn granted(
        &mut self,
        table: &str,
        signature: &str,
        token: Token,
        kind: Granted,
    ) -> Result<(), String> {
        let lock = (table.to_owned(), signature.to_owned());
        let largest = self.largest.get(&lock).copied();
        if token.0 == 0 || token.0 > keyward_core::types::MAX_SAFE_INTEGER {
            return Err(format!("the token {token} is not between 1 and 2^53-1"));
        }
        match largest {
            Some(largest) if token < largest && kind == Granted::RenewedBesideOthers => Ok(()),
            Some(largest) if token < largest => Err(format!(
                "the token {token} is smaller than {largest}, which the same lock had before"
            )),
            Some(largest) if token == largest && kind == Granted::Anew => {
                Err(format!("a new grant has the token {token} of the grant before"))
            }
            Some(_) | None => {
                self.largest.insert(lock, token);
                Ok(())
            }
        }
    }

    /// Checks the place where an answer was decided: never before an earlier answer of this script.
    /// Two writes are never decided at one place.
    pub(crate) fn decided(
        &mut self,
        decided_at: Option<DecidedAt>,
        asks: Asks,
    ) -> Result<(), String> {
        let Some(decided_at) = decided_at else { return Ok(()) };
        if let Some(last) = self.last_decided {
            let backwards = match asks {
                Asks::ToLook => decided_at < last,
                Asks::ToChange => decided_at <= last,
            };
            if backwards {
                return Err(format!("decided at {decided_at}, but an answer before it at {last}"));
            }
        }
        self.last_decided = Some(decided_at);
        Ok(())
    }

    /// Names tokens of locks in this table.
    pub(crate) fn names<'a>(&'a mut self, table: &'a str) -> Names<'a> {
        Names { shown: &mut self.shown, table }
    }
}

/// Names the tokens of one table's locks by the order in which a script first sees them.
pub(crate) struct Names<'a> {
    shown: &'a mut Vec<(Lock, Token)>,
    table: &'a str,
}

impl NameTokens for Names<'_> {
    fn name(&mut self, signature: &str, token: Token) -> String {
        // Only growth per lock is guaranteed: two locks may have equal tokens.
        let same = |((table, name), value): &(Lock, Token)| {
            table == self.table && name == signature && *value == token
        };
        let index = self.shown.iter().position(same).unwrap_or_else(|| {
            self.shown.push(((self.table.to_owned(), signature.to_owned()), token));
            self.shown.len() - 1
        });
        format!("t{}", index + 1)
    }

    fn of_table<'a>(&'a mut self, table: &'a str) -> impl NameTokens {
        Names { shown: self.shown, table }
    }

    fn is_own(&self, table: &str) -> bool {
        table == self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_shrinks_or_is_given_twice_is_an_error() {
        let mut facts = Facts::default();
        assert!(facts.granted("t", "a", Token(5), Granted::Anew).is_ok());
        assert!(facts.granted("t", "a", Token(5), Granted::Renewed).is_ok());
        assert!(facts.granted("t", "a", Token(5), Granted::Anew).is_err());
        assert!(facts.granted("t", "a", Token(4), Granted::Renewed).is_err());
        assert!(facts.granted("t", "a", Token(4), Granted::RenewedBesideOthers).is_ok());
        assert!(facts.granted("t", "b", Token(1), Granted::Anew).is_ok());
        assert!(facts.granted("t", "c", Token(0), Granted::Anew).is_err());
    }

    #[test]
    fn answers_are_decided_in_order() {
        let at = |index, position| Some(DecidedAt { index, position });
        let mut facts = Facts::default();
        assert!(facts.decided(at(3, 0), Asks::ToChange).is_ok());
        assert!(facts.decided(at(3, u32::MAX), Asks::ToLook).is_ok());
        assert!(facts.decided(at(3, u32::MAX), Asks::ToLook).is_ok());
        assert!(facts.decided(at(3, 1), Asks::ToChange).is_err());
        assert!(facts.decided(None, Asks::ToChange).is_ok());
        assert!(facts.decided(at(2, u32::MAX), Asks::ToLook).is_err());
    }

    #[test]
    fn equal_tokens_of_two_locks_have_two_names() {
        let mut facts = Facts::default();
        assert_eq!(facts.names("t").name("a", Token(1)), "t1");
        assert_eq!(facts.names("t").name("b", Token(1)), "t2");
        assert_eq!(facts.names("t").name("a", Token(1)), "t1");
        assert_eq!(facts.token(2), Some(Token(1)));
        assert_eq!(facts.token(0), None);
    }
}
