//! The contract's table: who gets a lock, who releases it.
//!
//! Pure judgements about one record and one command. Whether the grant is expired was settled
//! before; nothing here knows the time, and nothing here changes anything.

use crate::lock::queue::Queue;
use crate::lock::record::{Grant, Owner, Record};
use crate::lock::{LockCommand, UnlockCommand};
use crate::types::{DecidedAt, ForbiddenReason, Mode, Token, TransferReason};

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

/// A request, or a place at the head of a queue, that is to be granted beside others.
pub(super) struct Asker<'a> {
    pub(super) owner: &'a Owner,
    pub(super) mode: Mode,
    pub(super) level: i64,
    /// The limit of the lock, if the mode is permits.
    pub(super) limit: u32,
    pub(super) force: bool,
    /// The place, which never preempts a grant that was taken by force after it was made.
    pub(super) place: Option<DecidedAt>,
}

/// The holders that must end for an owner without a live grant to be granted beside the others:
/// none if it is compatible with all of them. It is refused if one of them has no lower level, or
/// a lock-delay that is not over. An owner's own expired grant is in nobody's way but others'.
pub(super) fn judge_turn(
    record: &Record,
    asker: &Asker<'_>,
) -> Result<Vec<Token>, ForbiddenReason> {
    let holders = &record.holders;
    // After its longest hold, an owner waits for the end of its lock-delay like anyone else.
    let own = holders.of(asker.owner).filter(|own| own.is_in_the_way());
    let own = own.filter(|own| asker.force || !own.is_held_out());
    let others = holders.in_the_way() - usize::from(own.is_some());
    let limit = usize::try_from(asker.limit).unwrap_or(usize::MAX);
    let are_alike = asker.mode == record.mode;
    let needed = match asker.mode {
        Mode::Shared if are_alike => 0,
        Mode::Permits if are_alike => (others + 1).saturating_sub(limit),
        Mode::Exclusive | Mode::Shared | Mode::Permits => others,
    };
    if needed == 0 {
        return Ok(Vec::new());
    }
    let live = usize::try_from(holders.live()).unwrap_or(usize::MAX);
    if asker.force {
        let delaying = holders.iter().filter(|grant| grant.is_delaying());
        let delaying = delaying.filter(|grant| Some(grant.token) != own.map(|own| own.token));
        let tokens = holders.by_level().chain(delaying).map(|grant| grant.token);
        return Ok(tokens.take(needed).collect());
    }
    let highest = if needed < live {
        holders.by_level().nth(needed - 1)
    } else {
        holders.by_level().next_back()
    };
    if highest.is_some_and(|grant| grant.level >= asker.level) {
        return Err(ForbiddenReason::Held);
    }
    if needed > live {
        return Err(ForbiddenReason::Delay);
    }
    let is_forced = |grant: &Grant| {
        let forced = grant.rare.as_ref().and_then(|rare| rare.forced);
        asker.place.is_some() && forced > asker.place
    };
    let mut victims = Vec::with_capacity(needed);
    for grant in holders.by_level().take(needed) {
        if is_forced(grant) {
            return Err(ForbiddenReason::Held);
        }
        victims.push(grant.token);
    }
    Ok(victims)
}

/// Whether a place of another owner waits at this or a higher level.
pub(super) fn is_behind(queue: &Queue, owner: &Owner, level: i64) -> bool {
    let mut others = queue.in_order().filter(|place| place.owner != *owner);
    others.next().is_some_and(|first| first.level >= level)
}
