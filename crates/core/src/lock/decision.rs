//! The result of a command, and its conversion to the caller's answer.
//!
//! An outcome belongs to the lock machine, an answer to the contract: `failed` stays an answer, a
//! refusal becomes one of the contract's errors. Nothing here judges.

use crate::error::Error;
use crate::types::{
    BatchAnswer, DecidedAt, DeleteStatus, LockResponse, LockStatus, RequestId, UnlockResponse,
    UnlockStatus,
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
            | Outcome::FeatureLevel => Ok(self),
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
        match self.outcome {
            Outcome::Table | Outcome::Advanced | Outcome::FeatureLevel => Ok(()),
            outcome @ (Outcome::Lock(_)
            | Outcome::Unlock(_)
            | Outcome::NoTable
            | Outcome::Refused(_)) => Err(other(outcome)),
        }
    }

    /// The answer to a request to delete a table.
    ///
    /// # Errors
    /// As [`Decision::into_lock_response`].
    pub fn into_delete_status(self) -> Result<DeleteStatus, Error> {
        match self.outcome {
            Outcome::Table => Ok(DeleteStatus::Ok),
            Outcome::NoTable => Ok(DeleteStatus::NoTable),
            outcome @ (Outcome::Lock(_)
            | Outcome::Unlock(_)
            | Outcome::Advanced
            | Outcome::FeatureLevel
            | Outcome::Refused(_)) => Err(other(outcome)),
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
