//! A second lock machine, written from the contract alone and sharing no code with the one under
//! test.
//!
//! It models one lock. Facts that it cannot know are passed in: whether the grant is alive
//! ([`super::time`] bounds that) and the token of a new grant (any that is larger than all before).

use keyward::types::{ForbiddenReason, TransferReason};
use smol_str::SmolStr;

use crate::history::{Action, LockAction, Status, UnlockAction};

/// A lock between two operations.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Lock {
    pub(super) grant: Option<Grant>,
    /// The largest token that it is known to have granted.
    pub(super) highest: u64,
}

/// The holder and the terms of its grant.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Grant {
    pub(super) signee: SmolStr,
    pub(super) instance: Option<SmolStr>,
    pub(super) level: i64,
    /// `None`: the answer with the token was lost. It is larger than [`Lock::highest`].
    pub(super) token: Option<u64>,
    pub(super) terms: Terms,
    /// It was seen to be expired, and nothing makes it live again.
    pub(super) dead: bool,
}

/// The request of the last lock operation or renewal of a grant, and its times.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Terms {
    pub(super) invoked: u64,
    /// `u64::MAX` if it never returned.
    pub(super) returned: u64,
    pub(super) duration_ms: u64,
    pub(super) time_to_live_ms: Option<u64>,
    /// The least remaining time seen since, and the invocation of the operation that saw it.
    pub(super) left: Option<(u64, u64)>,
}

impl Lock {
    pub(super) fn may_have(&self, grant: &Grant, token: u64) -> bool {
        grant.token.map_or(token > self.highest, |own| own == token)
    }
}

/// The effect of time on the grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    Live,
    Expired,
    /// Its record was removed.
    Gone,
}

/// The only correct answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Told {
    Granted { status: Status, new_token: bool, level: i64 },
    Refused(ForbiddenReason),
    Released,
    NoLock,
    Record,
}

/// The answer of the contract to a request, and the lock after it. A new grant's token is not known
/// yet.
pub(super) fn answer(lock: &Lock, life: Life, action: &Action, terms: Terms) -> (Told, Lock) {
    let mut lock = lock.clone();
    match life {
        Life::Live => {}
        Life::Expired => lock.grant.iter_mut().for_each(|grant| grant.dead = true),
        Life::Gone => lock.grant = None,
    }
    let told = match action {
        Action::Lock(asked) => {
            let told = judge_lock(&lock, life, asked);
            if let Told::Granted { new_token, level, .. } = &told {
                let kept = lock.grant.take().filter(|_| !new_token);
                lock.grant = Some(Grant {
                    signee: asked.signee.clone(),
                    instance: asked.instance.clone(),
                    level: *level,
                    token: kept.and_then(|grant| grant.token.or(asked.token)),
                    terms,
                    dead: false,
                });
            }
            told
        }
        Action::Unlock(asked) => {
            let told = judge_unlock(&lock, asked);
            if told == Told::Released {
                lock.grant = None;
            }
            told
        }
        Action::Check(_) | Action::StaleCheck(_) | Action::Read(_) | Action::Write(_) => {
            Told::Record
        }
    };
    (told, lock)
}

fn judge_lock(lock: &Lock, life: Life, asked: &LockAction) -> Told {
    let alive = life == Life::Live;
    let level = asked.level.unwrap_or(0);
    let given = |status| Told::Granted { status, new_token: true, level };
    let Some(grant) = &lock.grant else {
        let renews = asked.token.is_some();
        return if renews { Told::Refused(ForbiddenReason::Lost) } else { given(Status::Ok) };
    };
    let mine = (&grant.signee, &grant.instance) == (&asked.signee, &asked.instance);
    if let Some(token) = asked.token {
        if mine && alive && lock.may_have(grant, token) {
            let level = asked.level.unwrap_or(grant.level);
            return Told::Granted { status: Status::Renewed, new_token: false, level };
        }
        return Told::Refused(ForbiddenReason::Lost);
    }
    if mine {
        return Told::Granted { status: Status::Renewed, new_token: !alive, level };
    }
    let reason = match () {
        () if !alive => TransferReason::Expired,
        () if asked.force => TransferReason::Forced,
        () if level > grant.level => TransferReason::Preempted,
        () => return Told::Refused(ForbiddenReason::Held),
    };
    given(Status::Transferred { previous_signee: grant.signee.clone(), reason })
}

fn judge_unlock(lock: &Lock, asked: &UnlockAction) -> Told {
    let Some(grant) = &lock.grant else { return Told::NoLock };
    let mine = (&grant.signee, &grant.instance) == (&asked.signee, &asked.instance);
    match asked.token {
        None if mine => Told::Released,
        None => Told::Refused(ForbiddenReason::Held),
        Some(token) if mine && lock.may_have(grant, token) => Told::Released,
        Some(_) => Told::Refused(ForbiddenReason::Lost),
    }
}
