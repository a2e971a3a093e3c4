//! The contract's table: who gets a lock, who releases it.
//!
//! Pure judgements about one record and one command. Whether the grant is expired was settled
//! before; nothing here knows the time, and nothing here changes anything.

use crate::lock::record::Grant;
use crate::lock::{LockCommand, UnlockCommand};
use crate::types::{ForbiddenReason, TransferReason};

/// The verdict on a lock command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LockVerdict {
    /// The lock is free: grant it.
    Grant,
    /// It is mine: new deadlines, the same token.
    Renew,
    /// It was mine and expired: new deadlines and a new token, because whoever acted before the
    /// gap must be fenced off.
    RenewExpired,
    /// It changes hands.
    Transfer(TransferReason),
    /// It does not.
    Refuse(ForbiddenReason),
}

/// The first row of the contract's table that matches wins. `holder` is `None` when there is no
/// record, or its time_to_live has passed.
pub(super) fn judge_lock(holder: Option<&Grant>, command: &LockCommand) -> LockVerdict {
    if command.token.is_some() {
        return judge_renew_only(holder, command);
    }
    let Some(holder) = holder else { return LockVerdict::Grant };
    let mine = holder.belongs_to(&command.signee, command.instance.as_deref());
    match (mine, holder.expired) {
        (true, false) => LockVerdict::Renew,
        (true, true) => LockVerdict::RenewExpired,
        (false, true) => LockVerdict::Transfer(TransferReason::Expired),
        (false, false) if command.force => LockVerdict::Transfer(TransferReason::Forced),
        (false, false) if holder.level < command.level.unwrap_or(0) => {
            LockVerdict::Transfer(TransferReason::Preempted)
        }
        (false, false) => LockVerdict::Refuse(ForbiddenReason::Held),
    }
}

/// With a token it is renew only, forced or not: it never creates a grant and never takes one, so
/// that a late renewal revives nothing.
fn judge_renew_only(holder: Option<&Grant>, command: &LockCommand) -> LockVerdict {
    let renewable = holder.is_some_and(|holder| {
        holder.belongs_to(&command.signee, command.instance.as_deref())
            && Some(holder.token) == command.token
            && !holder.expired
    });
    match holder {
        Some(_) if renewable => LockVerdict::Renew,
        Some(_) | None => LockVerdict::Refuse(ForbiddenReason::Lost),
    }
}

/// The verdict on an unlock command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum UnlockVerdict {
    /// There is no such lock: a success.
    NoLock,
    /// It is mine, expired or not: the record goes.
    Release,
    /// It is another's, or mine with another token.
    Refuse(ForbiddenReason),
}

/// A released token never releases a later grant: a request with a token is refused with `lost`
/// when the lock has gone to another grant, mine or not.
pub(super) fn judge_unlock(holder: Option<&Grant>, command: &UnlockCommand) -> UnlockVerdict {
    let Some(holder) = holder else { return UnlockVerdict::NoLock };
    let mine = holder.belongs_to(&command.signee, command.instance.as_deref());
    match command.token {
        Some(token) if mine && holder.token == token => UnlockVerdict::Release,
        Some(_) => UnlockVerdict::Refuse(ForbiddenReason::Lost),
        None if mine => UnlockVerdict::Release,
        None => UnlockVerdict::Refuse(ForbiddenReason::Held),
    }
}
