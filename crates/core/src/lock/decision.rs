//! The result of a command, and its conversion to the caller's answer.
//!
//! An outcome belongs to the lock machine, an answer to the contract: `failed` stays an answer, a
//! refusal becomes one of the contract's errors. Nothing here judges.

use crate::access::Changed;
use crate::error::Error;
use crate::types::{
    BatchAnswer, CloseStatus, DecidedAt, DeleteStatus, Liveness, LockResponse, LockStatus,
    RequestId, SessionStatus, UnlockResponse, UnlockStatus,
};

/// The outcome of one command and the place in the log where it was decided. For a repeated request
/// that is the place of the first one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The result of the command.
    pub outcome: Outcome,
    /// The place in the log, if the service has one.
    pub decided_at: Option<DecidedAt>,
}

/// What became of a place of another request, told beside the decisions of an entry. The callers
/// that wait for it are those of the request id, or else those of the ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The position of the step in the log.
    pub at: DecidedAt,
    /// The table.
    pub table: Box<str>,
    /// The lock's name.
    pub signature: Box<str>,
    /// The place.
    pub place: DecidedAt,
    /// The position of the last ask of the place.
    pub ask: DecidedAt,
    /// The id of the last ask.
    pub request_id: Option<RequestId>,
    /// The result of the request.
    pub outcome: Outcome,
}

/// The result of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The result of a lock command.
    Lock(LockStatus),
    /// The result of an unlock command.
    Unlock(UnlockStatus),
    /// An advance was applied.
    Advanced,
    /// A command on a table was applied.
    Table,
    /// There was no table to delete.
    NoTable,
    /// The feature level was raised, or is as high already.
    FeatureLevel,
    /// The result of a command that opens a session.
    Session(SessionStatus),
    /// The state of each session that was to be kept alive.
    KeptAlive(Vec<Liveness>),
    /// The result of a command that closes a session.
    Closed(CloseStatus),
    /// A place was left, or the grant that it became is released.
    Left,
    /// There was nothing to leave: it was asked for, renewed or moved since.
    NotLeft,
    /// The limit of a lock was changed.
    Limit,
    /// The lock has no limit: nobody holds it or waits for it in mode permits.
    NoLimit,
    /// The result of a change of rules or tokens.
    Access(Changed),
    /// The command was not judged by the contract's table; it had no effect at all.
    Refused(Refusal),
}

/// The reason why a command had no effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The request is not valid.
    BadRequest(String),
    /// It was stamped in another term than that of its entry. Certainly not done.
    StaleStamp,
    /// Its request id continues a lane that is not remembered. Not done now; whether an earlier
    /// copy of it was done is unknown.
    LaneForgotten(RequestId),
    /// All tokens are used up: no new grant is possible. Certainly not done.
    TokensExhausted,
    /// It has a field or an operation that not every member of the cluster knows yet. Certainly not
    /// done.
    LevelTooLow,
    /// A session without a name: nobody drew one. Certainly not done.
    Unnamed,
    /// It is not known who asks. Certainly not done.
    Unauthorized(String),
    /// No rule allows it. Certainly not done.
    NotAllowed(String),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::BadRequest(reason) => Self::BadRequest { reason },
            Refusal::StaleStamp => {
                Self::unavailable("leadership changed while the request was under way")
            }
            Refusal::LaneForgotten(id) => Self::LaneForgotten {
                reason: format!(
                    "the request_id {id} continues a lane that the cluster does not remember: this \
                     copy was not done, and whether an earlier one was is open; take a new lane, \
                     beginning with 1"
                ),
            },
            Refusal::TokensExhausted => Self::unavailable("all 2^53 - 1 tokens were given away"),
            Refusal::LevelTooLow => {
                Self::unavailable("not every member of the cluster knows this kind of request yet")
            }
            Refusal::Unnamed => Self::unavailable("the service draws no names for sessions"),
            Refusal::Unauthorized(reason) => Self::Unauthorized { reason },
            Refusal::NotAllowed(reason) => Self::NotAllowed { reason },
        }
    }
}

impl Decision {
    /// The decision, unless it is a refusal.
    ///
    /// # Errors
    /// The error of the refusal: `BadRequest`, `LaneForgotten` or `Unavailable`.
    pub fn accepted(self) -> Result<Self, Error> {
        match self.outcome {
            Outcome::Refused(refusal) => Err(refusal.into()),
            Outcome::Lock(_)
            | Outcome::Unlock(_)
            | Outcome::Advanced
            | Outcome::Table
            | Outcome::NoTable
            | Outcome::FeatureLevel
            | Outcome::Session(_)
            | Outcome::KeptAlive(_)
            | Outcome::Closed(_)
            | Outcome::Left
            | Outcome::NotLeft
            | Outcome::Limit
            | Outcome::NoLimit
            | Outcome::Access(_) => Ok(self),
        }
    }
}

/// Conversions to the answer of each write of the contract.
impl Decision {
    /// The answer to a lock request.
    ///
    /// # Errors
    /// The error of a refusal, see [`Decision::accepted`]. `Unknown` if the decision is one about
    /// another kind of command: the service mixed up its answers, and what it did is not known.
    pub fn into_lock_response(self) -> Result<LockResponse, Error> {
        let Self { outcome, decided_at } = self;
        if let Outcome::Lock(status) = outcome {
            Ok(LockResponse { status, decided_at })
        } else {
            Err(other(outcome))
        }
    }

    /// The answer to an unlock request.
    ///
    /// # Errors
    /// As [`Decision::into_lock_response`].
    pub fn into_unlock_response(self) -> Result<UnlockResponse, Error> {
        let Self { outcome, decided_at } = self;
        if let Outcome::Unlock(status) = outcome {
            Ok(UnlockResponse { status, decided_at })
        } else {
            Err(other(outcome))
        }
    }

    /// The answer to a command that has no result besides that it was done.
    ///
    /// # Errors
    /// As [`Decision::into_lock_response`].
    pub fn into_done(self) -> Result<(), Error> {
        let is_done =
            matches!(self.outcome, Outcome::Table | Outcome::Advanced | Outcome::FeatureLevel);
        if is_done { Ok(()) } else { Err(other(self.outcome)) }
    }

    /// The answer to a request to delete a table.
    ///
    /// # Errors
    /// As [`Decision::into_lock_response`].
    pub fn into_delete_status(self) -> Result<DeleteStatus, Error> {
        if self.outcome == Outcome::Table {
            Ok(DeleteStatus::Ok)
        } else if self.outcome == Outcome::NoTable {
            Ok(DeleteStatus::NoTable)
        } else {
            Err(other(self.outcome))
        }
    }

    /// The answer to a request to open a session.
    ///
    /// # Errors
    /// As [`Decision::into_lock_response`].
    pub fn into_session(self) -> Result<SessionStatus, Error> {
        if let Outcome::Session(status) = self.outcome {
            Ok(status)
        } else {
            Err(other(self.outcome))
        }
    }

    /// The answer to a keep-alive: one for each session.
    ///
    /// # Errors
    /// As [`Decision::into_lock_response`].
    pub fn into_kept_alive(self) -> Result<Vec<Liveness>, Error> {
        if let Outcome::KeptAlive(sessions) = self.outcome {
            Ok(sessions)
        } else {
            Err(other(self.outcome))
        }
    }

    /// The answer to a request to close a session.
    ///
    /// # Errors
    /// As [`Decision::into_lock_response`].
    pub fn into_close_status(self) -> Result<CloseStatus, Error> {
        if let Outcome::Closed(status) = self.outcome {
            Ok(status)
        } else {
            Err(other(self.outcome))
        }
    }

    /// The answer to a change of rules or tokens.
    ///
    /// # Errors
    /// As [`Decision::into_lock_response`].
    pub fn into_changed(self) -> Result<Changed, Error> {
        if let Outcome::Access(changed) = self.outcome {
            Ok(changed)
        } else {
            Err(other(self.outcome))
        }
    }

    /// The answer to a change of a limit: whether the lock had one.
    ///
    /// # Errors
    /// As [`Decision::into_lock_response`].
    pub fn into_limit(self) -> Result<bool, Error> {
        if self.outcome == Outcome::Limit {
            Ok(true)
        } else if self.outcome == Outcome::NoLimit {
            Ok(false)
        } else {
            Err(other(self.outcome))
        }
    }
}

impl TryFrom<Decision> for BatchAnswer {
    type Error = Error;

    fn try_from(decision: Decision) -> Result<Self, Error> {
        let is_lock = matches!(decision.outcome, Outcome::Lock(_));
        if is_lock {
            decision.into_lock_response().map(Self::Lock)
        } else {
            decision.into_unlock_response().map(Self::Unlock)
        }
    }
}

/// The error for an outcome of another kind than expected.
fn other(outcome: Outcome) -> Error {
    if let Outcome::Refused(refusal) = outcome {
        refusal.into()
    } else {
        Error::unknown("the answer is one to another request")
    }
}
