//! The requests of the second part of the contract: waiting, modes, sessions, leaving, limits.
//!
//! Each settles the lock that it names, judges, changes it, and notes it for the hand-over that
//! follows once the command is remembered by its lane.

use crate::limits;
use crate::lock::ends::WaitEnd;
use crate::lock::events::{Change, SessionChange};
use crate::lock::lanes::Effect;
use crate::lock::queue::{Lasts, Place, Terms};
use crate::lock::record::{Grant, Key, Owner};
use crate::lock::rules::Asker;
use crate::lock::sessions::{Ended, Session};
use crate::lock::state::key;
use crate::lock::turns::{Edit, Wanted};
use crate::lock::{
    Command, LeaveCommand, LimitCommand, LockCommand, Refusal, SessionCommand, State, UnlockCommand,
};
use crate::types::{ForbiddenReason, Liveness, Mode, Seen, SessionId, TransferReason};

/// A lock request whose options are resolved.
struct Ask<'a> {
    request: &'a Command,
    command: &'a LockCommand,
    owner: Owner,
    terms: Terms,
}

impl State {
    pub(super) fn lock_in_turn(
        &mut self,
        key: &Key,
        request: &Command,
        command: &LockCommand,
    ) -> Effect {
        let mut edit = self.edit(key);
        self.settle_edit(&mut edit);
        let wanted = match self.owner(request, command) {
            None => Err(Effect::LockRefused(ForbiddenReason::SessionLost)),
            Some(owner) => self.terms(command).map(|terms| (owner, terms)),
        };
        let (owner, terms) = match wanted {
            Ok(wanted) => wanted,
            Err(refused) => {
                self.put_back(edit);
                return refused;
            }
        };
        self.settle_own(&mut edit, &owner);
        let ask = Ask { request, command, owner, terms };
        let own = edit.record.holders.of(&ask.owner).cloned();
        let effect = match own {
            Some(own) if !own.expired => self.ask_to_renew(&mut edit, &ask, &own),
            Some(_) | None if command.token.is_some() => Effect::LockRefused(ForbiddenReason::Lost),
            own @ (Some(_) | None) => self.ask_anew(&mut edit, &ask, own.as_ref()),
        };
        self.put_back(edit);
        effect
    }

    /// Puts a lock back, to be handed over.
    fn put_back(&mut self, edit: Edit) {
        self.tracker.work.changed = Some(edit.key.clone());
        self.commit(edit);
    }

    /// The owner of a request, which its session may supply; `None` if the session has ended, or
    /// another principal opened it.
    fn owner(&self, request: &Command, command: &LockCommand) -> Option<Owner> {
        let instance = command.instance.as_deref();
        let Some(id) = command.session else { return Some(Owner::new(&command.signee, instance)) };
        let session = self.sessions.live(id, self.clock)?;
        if session.actor.as_deref() != request.actor() {
            return None;
        }
        let signee = if command.signee.is_empty() { &session.signee } else { &command.signee };
        Some(Owner::new(signee, instance.or(Some(&*session.instance))))
    }

    fn terms(&self, command: &LockCommand) -> Result<Terms, Effect> {
        let defaults = self.locks.defaults(&command.table);
        let (lasts, duration_ms) = match command.session {
            Some(session) => (Lasts::Session(session), Some(0)),
            None => (Lasts::Ms(0), command.duration_ms),
        };
        let (duration_ms, keep) = defaults.resolve(duration_ms, command.time_to_live);
        if let crate::lock::Keep::Ms(time_to_live_ms) = keep
            && time_to_live_ms < duration_ms
        {
            return Err(Effect::TooShort { time_to_live_ms, duration_ms });
        }
        Ok(Terms {
            lasts: if command.session.is_some() { lasts } else { Lasts::Ms(duration_ms) },
            keep,
            lock_delay_ms: command.lock_delay_ms.or(defaults.lock_delay_ms).unwrap_or(0),
            max_hold_ms: defaults.max_hold_ms,
        })
    }

    /// The limit of the lock if a request in this mode is granted or waits.
    fn limit(edit: &Edit, command: &LockCommand, mode: Mode) -> Result<u32, Effect> {
        let present = edit.record.limit;
        if mode != Mode::Permits {
            return Ok(present);
        }
        match command.limit {
            None if present == 0 => Err(Effect::NoLimitNamed),
            Some(limit) if present == 0 => Ok(limit),
            Some(limit) if limit != present => {
                Err(Effect::LockRefused(ForbiddenReason::LimitDiffers))
            }
            Some(_) | None => Ok(present),
        }
    }

    fn ask_to_renew(&mut self, edit: &mut Edit, ask: &Ask<'_>, own: &Grant) -> Effect {
        let Ask { request, command, owner, terms } = ask;
        let mut terms = *terms;
        if command.token.is_some_and(|token| token != own.token) {
            return Effect::LockRefused(ForbiddenReason::Lost);
        }
        let own_session = own.session();
        if let Some(session) = own_session {
            // A renewal by token that says nothing of it leaves the grant in its session.
            if command.token.is_some() && command.session.is_none() && command.duration_ms.is_none()
            {
                terms.lasts = Lasts::Session(session);
                let kept = own.rare.as_ref().and_then(|rare| rare.session);
                terms.keep = kept.map_or(terms.keep, |(_, keep)| keep);
            }
            let opened_by = self.sessions.get(session).map(|session| session.actor.as_deref());
            if terms.lasts.session() != Some(session) && opened_by != Some(request.actor()) {
                return Effect::LockRefused(ForbiddenReason::Held);
            }
        }
        if command.lock_delay_ms.is_none() {
            terms.lock_delay_ms = own.lock_delay_ms();
        }
        let mode = command.mode.unwrap_or(edit.record.mode);
        let limit = match Self::limit(edit, command, mode) {
            Ok(limit) => limit,
            Err(_) if mode != edit.record.mode => {
                return Effect::LockRefused(ForbiddenReason::ModeDiffers);
            }
            Err(effect) => return effect,
        };
        // Only a renewal by token keeps a level that is left out.
        let kept = command.token.map(|_| own.level);
        let level = command.level.or(kept).unwrap_or(0);
        let owner = owner.clone();
        let wanted = Wanted { owner, level, mode, limit, terms, forced: false, asked: None };
        self.renew(edit, own, &wanted, command.force)
    }

    fn ask_anew(&mut self, edit: &mut Edit, ask: &Ask<'_>, own: Option<&Grant>) -> Effect {
        let Ask { request, command, owner, terms } = ask;
        // The former owner in its lock-delay keeps its mode, as a holder does.
        let former = own.filter(|own| own.is_delaying()).map(|_| edit.record.mode);
        let mode = command.mode.or(former).unwrap_or_default();
        let limit = match Self::limit(edit, command, mode) {
            Ok(limit) => limit,
            Err(effect) => return effect,
        };
        let mut terms = *terms;
        if let Some(own) = own.filter(|own| own.is_delaying() && command.lock_delay_ms.is_none()) {
            terms.lock_delay_ms = own.lock_delay_ms();
        }
        let level = command.level.unwrap_or(0);
        let place = edit.record.queue.as_ref().and_then(|queue| queue.of(owner)).cloned();
        if let Some(place) = &place
            && let Some(session) = place.session()
        {
            let opened_by = self.sessions.get(session).map(|session| session.actor.as_deref());
            if terms.lasts.session() != Some(session) && opened_by != Some(request.actor()) {
                return Effect::LockRefused(ForbiddenReason::Held);
            }
        }
        let force = command.force;
        let asker = Asker { owner, mode, level, limit, force, place: None };
        let refused = match Self::judge_request(&edit.record, &asker) {
            Ok(victims) => {
                if self.next_token > crate::types::MAX_SAFE_INTEGER {
                    return Effect::TokensExhausted;
                }
                if let Some(place) = &place {
                    self.drop_superseded(edit, place);
                }
                let owner = owner.clone();
                let forced = force && !victims.is_empty();
                let wanted = Wanted { owner, level, mode, limit, terms, forced, asked: None };
                let taken = if force { TransferReason::Forced } else { TransferReason::Preempted };
                return self.grant(edit, &wanted, &victims, taken);
            }
            Err(reason) => reason,
        };
        if command.wait_ms == 0 {
            return Effect::LockRefused(refused);
        }
        let at = self.tracker.work.current;
        let new = Place {
            owner: owner.clone(),
            level,
            mode,
            at,
            since: self.clock,
            end: self.clock.after_ms(command.wait_ms),
            ask: at,
            asked: self.clock,
            request: request.request_id,
            actor: request.actor().map(Into::into),
            terms,
        };
        let effect = match place {
            Some(old) if is_alike(&old, &new) => {
                let (at, since) = (old.at, old.since);
                self.supersede(edit, &old, &Place { at, since, ..new })
            }
            Some(old) => {
                self.drop_superseded(edit, &old);
                self.join(edit, new)
            }
            None => self.join(edit, new),
        };
        if mode == Mode::Permits && matches!(effect, Effect::Waiting(_)) {
            edit.record.limit = limit;
        }
        effect
    }

    /// Notes that a request was asked again under its id: its place waits longer, and its grant is
    /// not left any more because an earlier caller has gone.
    pub(super) fn ask_again(&mut self, command: &LockCommand, request: &Command, effect: &Effect) {
        let Ok(key) = key(&command.table, &command.signature) else { return };
        let at = self.tracker.work.current;
        let Some(record) = self.locks.get(&key) else { return };
        if let Effect::Waiting(place) = effect {
            let place = record.queue.as_ref().and_then(|queue| queue.get(*place));
            let Some(place) = place.filter(|place| place.request == request.request_id) else {
                return;
            };
            let end = place.end.max(self.clock.after_ms(command.wait_ms));
            let place = Place { end, ask: at, asked: self.clock, ..place.clone() };
            let mut edit = self.edit(&key);
            self.swap_place(&mut edit, place);
            self.commit(edit);
        } else if let Effect::Granted { token, .. } = effect {
            let asked = record.holders.get(*token).and_then(|grant| grant.rare.as_ref()?.asked);
            if asked.is_some() {
                let mut edit = self.edit(&key);
                self.forget_ask(&mut edit, *token);
                self.commit(edit);
            }
        }
    }

    pub(super) fn unlock_in_turn(&mut self, key: &Key, command: &UnlockCommand) -> Effect {
        let owner = Owner::new(&command.signee, command.instance.as_deref());
        let mut edit = self.edit(key);
        self.settle_edit(&mut edit);
        self.settle_own(&mut edit, &owner);
        let holders = &edit.record.holders;
        let own = holders.of(&owner).map(|own| own.token);
        let place = edit.record.queue.as_ref().and_then(|queue| queue.of(&owner));
        let place = place.map(|place| place.at);
        let lost = Effect::UnlockRefused(ForbiddenReason::Lost);
        let is_held = !holders.is_none();
        let effect = if command.force {
            let token = command.token.filter(|token| holders.get(*token).is_some());
            let queue = edit.record.queue.as_ref();
            let named =
                command.place.filter(|at| queue.is_some_and(|queue| queue.get(*at).is_some()));
            match (token, named) {
                (Some(token), _) => {
                    self.release(&mut edit, token, true);
                    Effect::Released
                }
                (None, Some(at)) => {
                    self.end_place(&mut edit, at, ForbiddenReason::Lost);
                    Effect::PlaceLeft
                }
                (None, None) if is_held && command.token.is_some() => lost,
                (None, None) => Effect::NoLock,
            }
        } else {
            match (command.token, own, place) {
                (None, Some(own), _) => {
                    self.release(&mut edit, own, false);
                    Effect::Released
                }
                (Some(token), Some(own), _) if token == own => {
                    self.release(&mut edit, own, false);
                    Effect::Released
                }
                (_, None, None) if !is_held => Effect::NoLock,
                (Some(_), _, _) => lost,
                (None, None, Some(at)) => {
                    self.end_place(&mut edit, at, ForbiddenReason::Lost);
                    Effect::PlaceLeft
                }
                (None, None, None) => Effect::UnlockRefused(ForbiddenReason::Held),
            }
        };
        self.put_back(edit);
        effect
    }

    pub(super) fn leave(&mut self, command: &LeaveCommand) -> Result<Effect, Refusal> {
        let key = key(&command.table, &command.signature)?;
        let mut edit = self.edit(&key);
        self.settle_edit(&mut edit);
        let wanted = (command.place, command.ask);
        let place = edit.record.queue.as_ref().and_then(|queue| queue.get(command.place));
        let place =
            place.filter(|place| (place.at, place.ask) == wanted && place.session().is_none());
        let asked =
            |grant: &&Grant| grant.rare.as_ref().is_some_and(|rare| rare.asked == Some(wanted));
        let is_place = place.is_some();
        let token = edit.record.holders.iter().find(asked).map(|grant| grant.token);
        let effect = if is_place {
            // Its caller had its time to ask again. If it comes back, it may take another place.
            let reason = ForbiddenReason::Timeout;
            self.end_place_by(&mut edit, command.place, (reason, WaitEnd::Left));
            Effect::Left
        } else if let Some(token) = token {
            self.release(&mut edit, token, false);
            Effect::Left
        } else {
            Effect::NotLeft
        };
        self.put_back(edit);
        Ok(effect)
    }

    pub(super) fn set_limit(&mut self, command: &LimitCommand) -> Result<Effect, Refusal> {
        let key = key(&command.table, &command.signature)?;
        let mut edit = self.edit(&key);
        self.settle_edit(&mut edit);
        let had_one = edit.record.limit > 0;
        if had_one {
            edit.record.limit = command.limit;
            self.tracker.event(|| Change::LimitSet {
                table: command.table.clone(),
                signature: command.signature.clone(),
                limit: command.limit,
            });
        }
        self.put_back(edit);
        Ok(if had_one { Effect::Limit } else { Effect::NoLimit })
    }
}

/// Whether a later request of an owner keeps the place of an earlier one.
fn is_alike(old: &Place, new: &Place) -> bool {
    old.level == new.level && old.mode == new.mode && old.terms.lasts.is_like(new.terms.lasts)
}

/// Sessions.
impl State {
    pub(super) fn open_session(
        &mut self,
        request: &Command,
        command: &SessionCommand,
    ) -> Result<Effect, Refusal> {
        let id = command.id.ok_or(Refusal::Unnamed)?;
        if self.sessions.get(id).is_some() {
            return Err(Refusal::BadRequest(format!("there is a session {id} already")));
        }
        if self.sessions.len() >= limits::MAX_SESSIONS {
            return Ok(Effect::OpenRefused(ForbiddenReason::QueueFull));
        }
        let deadline = self.clock.after_ms(command.ttl_ms);
        let own_name = id.to_string();
        let instance = command.instance.as_deref().unwrap_or(&own_name);
        let names = (&*command.signee, instance);
        let session = Session::new(command.ttl_ms, deadline, names, request.actor());
        self.sessions.put(id, session, &mut self.tracker);
        self.tracker.event(|| {
            let how = SessionChange::Opened { signee: command.signee.clone() };
            Change::Session { session: id, how }
        });
        Ok(Effect::Opened(id))
    }

    pub(super) fn close_session(&mut self, id: SessionId) -> Effect {
        if self.sessions.live(id, self.clock).is_none() {
            return Effect::NoSession;
        }
        let clock = self.clock;
        self.sessions.change(id, &mut self.tracker, |session| {
            session.ended = Some(Ended::Closed);
            session.deadline = clock;
        });
        self.tracker.ends.add_session(true);
        self.tracker.event(|| Change::Session { session: id, how: SessionChange::Closed });
        self.tracker.work.step();
        self.work_off_whole_session(id);
        if self.sessions.get(id).is_some_and(|session| session.first_member().is_none()) {
            self.sessions.remove(id, &mut self.tracker);
        }
        Effect::Closed
    }

    pub(super) fn keep_alive(&mut self, request: &Command, sessions: &[Seen]) -> Vec<Liveness> {
        let mut room = Liveness::MAX_ITEMS;
        sessions.iter().map(|seen| self.keep_one_alive(request, *seen, &mut room)).collect()
    }

    /// Keeps a session alive; its items take up room of the answer.
    fn keep_one_alive(&mut self, request: &Command, seen: Seen, room: &mut usize) -> Liveness {
        let Seen { session: id, seen } = seen;
        let session = self.sessions.live(id, self.clock);
        let Some(session) = session.filter(|session| session.actor.as_deref() == request.actor())
        else {
            return Liveness::Lost;
        };
        let mut session = session.clone();
        session.deadline = session.deadline.max(self.clock.after_ms(session.ttl_ms));
        if let Some(seen) = seen {
            session.inbox.drop_seen(id, seen, &mut self.tracker);
        }
        let (inbox, more, overflow) = session.inbox.tell(seen, *room);
        *room -= inbox.len();
        let valid = session.deadline.left(self.clock);
        self.sessions.put(id, session, &mut self.tracker);
        Liveness::Alive { valid, inbox, more, overflow }
    }
}
