//! Histories as short text files, with one line for each entry.
//!
//! ```text
//! verdict: two_holders                       (or: pass, nothing_shown; written by UPDATE_GOLDENFILES=1)
//! # A comment. Times are milliseconds, names without blanks.
//! 0-1 c1 lock x alice duration=10s -> ok 1
//! 2-4 c2 lock x bob -> held alice 1
//! 5-9 c2 unlock x bob token=2 -> unknown
//! ```
//!
//! Answers name their place in the log by `@3` or `@3.1`. If it is left out, each write comes one
//! after the line above, and a check reads the state after that. Remaining times are correct by
//! default, or given by `left=`. A lock request may have `mode=`, `limit=`, `wait=`, `session=`,
//! `delay=` and `queued`; its grant a `slot=` and a `mode=`, and it may be answered `waiting PLACE`.
//! `queue holders=a/1/shared/SLOT/SESSION,… places=b/4.0/LEVEL/MODE,…` answers a check. `open s a
//! ttl=10s -> opened`, `keepalive s seen=4.0 -> alive granted/x/a/3@7.1 …` and `close s -> closed` are
//! about sessions. `places none`, `plan`, `clocks`, `fault`, `event`, `node`,
//! `applied` and `log complete` are lines of their own.

use std::collections::HashMap;

use keyward::types::{
    DecidedAt, ForbiddenReason, Loss, Mode, RequestId, SessionId, TransferReason,
};
use smol_str::SmolStr;

use crate::history::*;

/// Reads a script into a history.
///
/// # Panics
/// If a line is malformed.
pub(super) fn parse(text: &str) -> History {
    let mut script = Script {
        history: History {
            header: Header::new(1, "a script", "a script"),
            entries: Vec::new(),
            footer: Footer { operations: 0, log_complete: false },
        },
        operations: Vec::new(),
        sessions: Vec::new(),
        places: true,
        index: 0,
        given: HashMap::new(),
    };
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() && !line.starts_with("verdict:") {
            script.line(line);
        }
    }
    script.finish()
}

struct Script {
    history: History,
    operations: Vec<Operation>,
    sessions: Vec<SessionOperation>,
    places: bool,
    index: u64,
    /// The time of the last renewal of each token, and its duration.
    given: HashMap<u64, (u64, u64)>,
}

/// The words of a line: those with `=` by name, the others in order.
struct Line<'a> {
    words: std::vec::IntoIter<&'a str>,
    named: HashMap<&'a str, &'a str>,
}

impl<'a> Line<'a> {
    fn new(text: &'a str) -> Self {
        let mut named = HashMap::new();
        let mut words = Vec::new();
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some((name, value)) => {
                    named.insert(name, value);
                }
                None => words.push(word),
            }
        }
        Self { words: words.into_iter(), named }
    }

    fn word(&mut self) -> &'a str {
        self.words.next().expect("a line has all its words")
    }

    fn number(&mut self) -> u64 {
        self.word().parse().expect("a number")
    }

    fn take<T: std::str::FromStr>(&mut self, name: &str) -> Option<T> {
        self.named.remove(name).map(|value| value.parse().ok().expect("a value of its kind"))
    }

    fn length(&mut self, name: &str) -> Option<u64> {
        let text = self.named.remove(name)?;
        let (number, factor) = match text.strip_suffix("ms") {
            Some(number) => (number, 1),
            None => (text.strip_suffix('s').expect("s or ms"), 1000),
        };
        Some(number.parse::<u64>().expect("a length") * factor)
    }

    fn end(mut self) {
        assert_eq!(self.words.next(), None, "a word too many");
        assert!(self.named.is_empty(), "unknown: {:?}", self.named);
    }
}

fn ms(number: u64) -> u64 {
    number * 1_000_000
}

fn request_id(text: &str) -> RequestId {
    let (lane, seq) = text.split_once('@').expect("lane@seq");
    let lane = lane.bytes().fold(0, |lane, byte| (lane << 8) | u128::from(byte));
    RequestId { lane, seq: seq.parse().expect("a number") }
}

/// A session's name from a short text.
fn session(text: &str) -> SessionId {
    SessionId(text.bytes().fold(0, |id, byte| (id << 8) | u128::from(byte)))
}

fn position(text: &str) -> DecidedAt {
    text.parse().expect("a place such as 4.0")
}

fn mode(text: &str) -> Mode {
    [Mode::Exclusive, Mode::Shared, Mode::Permits]
        .into_iter()
        .find(|mode| mode.word() == text)
        .expect("a mode")
}

fn reason(text: &str) -> Option<ForbiddenReason> {
    ForbiddenReason::ALL.into_iter().find(|reason| reason.word() == text)
}

fn turn(line: &mut Line<'_>) -> Turn {
    Turn {
        mode: line.take::<String>("mode").map(|word| mode(&word)),
        limit: line.take("limit"),
        wait_ms: line.length("wait").unwrap_or(0),
        queued: line.take("queued").unwrap_or(false),
        session: line.take::<String>("session").map(|text| session(&text)),
        lock_delay_ms: line.length("delay"),
    }
}

fn name(signature: &str) -> LockName {
    LockName::new("default", signature)
}

impl Script {
    fn line(&mut self, text: &str) {
        let mut line = Line::new(text);
        let first = line.word();
        match first {
            "places" => {
                self.places = false;
                line.word();
            }
            "plan" => self.plan(&mut line),
            "clocks" => {
                self.history.header.clocks.epsilon_ppm = line.take("epsilon").unwrap_or(0);
            }
            "fault" => {
                let (name, target) = (line.word().into(), line.word().into());
                let (begin, end) = times(line.word());
                let state = match line.word() {
                    "installed" => FaultState::Installed,
                    "skipped" => FaultState::Skipped,
                    _ => FaultState::Indeterminate,
                };
                let detail = String::new();
                let fault = Fault { name, target, begin, end, state, detail };
                self.history.entries.push(Entry::Fault(fault));
            }
            "event" => {
                let at = ms(line.number());
                let event = Event { at, name: line.word().into(), detail: String::new() };
                self.history.entries.push(Entry::Event(event));
            }
            "node" => self.node(&mut line),
            "applied" => {
                let request_id = request_id(line.word());
                let decided_at = DecidedAt { index: line.number(), position: 0 };
                self.history.entries.push(Entry::Applied(Applied { request_id, decided_at }));
            }
            "log" => {
                line.word();
                self.history.footer.log_complete = true;
            }
            _ => return self.operation(text),
        }
        line.end();
    }

    fn plan(&mut self, line: &mut Line<'_>) {
        let plan = &mut self.history.header.plan;
        plan.min_successes = line.take("successes").unwrap_or(0);
        plan.min_leader_changes = line.take("leaders").unwrap_or(0);
        plan.min_stale_writes_refused = line.take("stale").unwrap_or(0);
        plan.min_expiries = line.take("expiries").unwrap_or(0);
        plan.alive_within_ms = line.take("alive").unwrap_or(0);
        plan.observed_nodes = line.take("nodes").unwrap_or(0);
        plan.witnessed = line.take("witnessed").unwrap_or(false);
        if let Some(name) = line.take::<String>("fault") {
            plan.faults.push(PlannedFault { name, at_least: line.take("times").unwrap_or(1) });
        }
    }

    fn node(&mut self, line: &mut Line<'_>) {
        let node = line.word().into();
        let at = ms(line.take("at").unwrap_or(1_000_000));
        let applied = line.take("applied").unwrap_or(1_000);
        let state_hash = line.take::<String>("hash").map(SmolStr::from);
        let mut records = Vec::new();
        let seen = line.take::<String>("records");
        for record in seen.iter().flat_map(|seen| seen.split(',')).filter(|seen| *seen != "-") {
            let parts: Vec<_> = record.split('/').collect();
            let [signature, signee, token] = parts[..] else { panic!("signature/signee/token") };
            records.push(RecordSeen {
                lock: name(signature),
                signee: signee.into(),
                instance: None,
                level: 0,
                token: token.parse().expect("a token"),
            });
        }
        let records = seen.map(|_| records);
        let observation = Observation { at, node, applied, state_hash, records };
        self.history.entries.push(Entry::Observation(observation));
    }

    fn operation(&mut self, text: &str) {
        let (asked, answer) = text.split_once("->").expect("an operation has an answer");
        let mut asked = Line::new(asked);
        let (invoked, returned) = times(asked.word());
        let client: SmolStr = asked.word().into();
        let request_id = asked.named.remove("id").map(request_id);
        if let Some(action) = session_action(&mut asked) {
            asked.end();
            self.session(action, answer, (client, request_id), (invoked, returned));
            return;
        }
        let action = action(&mut asked);
        asked.end();
        let (answer, place) = match answer.split_once('@') {
            Some((answer, place)) => (answer, Some(place.trim())),
            None => (answer, None),
        };
        let mut answer = Line::new(answer);
        let end = returned.unwrap_or(invoked);
        let outcome = self.outcome(&action, &mut answer, invoked, end);
        answer.end();
        let unknown = outcome == Outcome::Unknown;
        let decided_at = self.place(&action, &outcome, place);
        self.operations.push(Operation {
            id: self.operations.len() as u64,
            client,
            request_id,
            node: None,
            invoked,
            returned: if unknown { None } else { returned },
            gave_up: if unknown { returned } else { None },
            decided_at,
            action,
            outcome,
        });
    }

    fn session(
        &mut self,
        action: SessionAction,
        answer: &str,
        (client, request_id): (SmolStr, Option<RequestId>),
        (invoked, returned): (u64, Option<u64>),
    ) {
        let (answer, place) = match answer.rsplit_once(" @") {
            Some((answer, place)) => (answer, Some(place.trim())),
            None => (answer, None),
        };
        let mut answer = Line::new(answer);
        let outcome = session_outcome(&action, &mut answer);
        answer.end();
        let answered = outcome != SessionOutcome::Unknown;
        let decided_at = answered.then(|| match place {
            Some(place) if place.contains('.') => position(place),
            Some(place) => {
                let index = place.parse().expect("an index");
                DecidedAt { index, position: 0 }
            }
            None => DecidedAt { index: self.index + 1, position: 0 },
        });
        self.index = decided_at.map_or(self.index, |at| at.index);
        self.sessions.push(SessionOperation {
            id: self.operations.len() as u64 + 1000,
            client,
            action,
            request_id,
            invoked,
            returned: returned.filter(|_| answered),
            outcome,
            decided_at,
        });
    }

    fn place(
        &mut self,
        action: &Action,
        outcome: &Outcome,
        place: Option<&str>,
    ) -> Option<DecidedAt> {
        let judged =
            matches!(outcome, Outcome::Ok(_) | Outcome::Refused(Refusal::Forbidden { .. }));
        let about_a_lock = !matches!(action, Action::Read(_) | Action::Write(_));
        if !self.places || !judged || !about_a_lock {
            return None;
        }
        let is_read = matches!(action, Action::Check(_) | Action::StaleCheck(_));
        self.index = match place {
            Some(place) => {
                let (index, position) = place.split_once('.').unwrap_or((place, "0"));
                let index = index.parse().expect("an index");
                let position = if is_read { u32::MAX } else { position.parse().expect("a place") };
                self.index = index;
                return Some(DecidedAt { index, position });
            }
            None if is_read => self.index,
            None => self.index + 1,
        };
        Some(DecidedAt { index: self.index, position: if is_read { u32::MAX } else { 0 } })
    }

    fn outcome(
        &mut self,
        action: &Action,
        answer: &mut Line<'_>,
        invoked: u64,
        end: u64,
    ) -> Outcome {
        let word = answer.word();
        match (word, action) {
            ("unknown", _) => return Outcome::Unknown,
            ("unavailable", _) => return Outcome::Unavailable,
            ("bad_request", _) => return Outcome::Refused(Refusal::BadRequest),
            ("stale", _) => return Outcome::Refused(Refusal::Stale),
            (_, Action::Read(_)) => {
                return Outcome::Ok(Answer::Value(word.parse().expect("a version")));
            }
            (_, Action::Write(_)) => {
                return Outcome::Ok(Answer::Written(word.parse().expect("a version")));
            }
            ("waiting", _) => {
                let place = position(answer.word());
                let ends_in_ms = answer.length("left").unwrap_or(10_000);
                return Outcome::Ok(Answer::Waiting(WaitingSeen {
                    place,
                    position: 1,
                    ends_in_ms,
                }));
            }
            ("left", _) => return Outcome::Ok(Answer::Left),
            ("queue", _) => return Outcome::Ok(Answer::Queue(queue(answer))),
            (word, Action::Lock(_) | Action::Unlock(_)) if reason(word).is_some() => {
                let reason = reason(word).expect("it was just found");
                let signee = answer.words.next();
                let holder = signee.map(|signee| self.holder(signee, answer, end));
                return Outcome::Refused(Refusal::Forbidden { reason, holder });
            }
            ("ok", Action::Unlock(_)) => return Outcome::Ok(Answer::Released),
            ("no_lock", _) => return Outcome::Ok(Answer::NoLock),
            ("none", _) => return Outcome::Ok(Answer::Record(None)),
            (signee, Action::Check(_) | Action::StaleCheck(_)) => {
                return Outcome::Ok(Answer::Record(Some(self.holder(signee, answer, end))));
            }
            (_, Action::Lock(_) | Action::Unlock(_)) => {}
        }
        let Action::Lock(asked) = action else { panic!("no answer: {word}") };
        let reason = match word {
            "expired" => Some(TransferReason::Expired),
            "forced" => Some(TransferReason::Forced),
            "preempted" => Some(TransferReason::Preempted),
            _ => None,
        };
        let status = match (word, reason) {
            ("ok", _) => Status::Ok,
            ("renewed", _) => Status::Renewed,
            (_, Some(reason)) => {
                Status::Transferred { previous_signee: answer.word().into(), reason }
            }
            (_, None) => panic!("no answer: {word}"),
        };
        let token = answer.number();
        self.given.insert(token, (invoked, asked.duration_ms));
        Outcome::Ok(Answer::Granted(Granted {
            status,
            token,
            level: answer.take("level").unwrap_or(asked.level.unwrap_or(0)),
            expires_in_ms: answer.length("left").unwrap_or(asked.duration_ms),
            live: answer.take("live").unwrap_or(true),
            mode: answer
                .take::<String>("mode")
                .map_or(asked.turn.mode.unwrap_or_default(), |word| mode(&word)),
            slot: answer.take("slot"),
            valid_ms: None,
        }))
    }

    fn holder(&self, signee: &str, answer: &mut Line<'_>, end: u64) -> HolderSeen {
        let token = answer.number();
        let expired = answer.words.next().inspect(|word| assert_eq!(*word, "expired")).is_some();
        let (from, length) = self.given.get(&token).copied().unwrap_or((end, 10_000));
        let left = length.saturating_sub(end.saturating_sub(from) / 1_000_000);
        let left = if expired { 0 } else { left };
        HolderSeen {
            signee: signee.into(),
            instance: answer.take::<String>("instance").map(SmolStr::from),
            level: answer.take("level").unwrap_or(0),
            token,
            expires_in_ms: answer.length("left").unwrap_or(left),
            expired,
            mode: answer.take::<String>("mode").map(|word| mode(&word)).unwrap_or_default(),
            slot: answer.take("slot"),
            session: answer.take::<String>("session").map(|text| session(&text)),
        }
    }

    fn finish(mut self) -> History {
        self.operations.sort_by_key(|operation| {
            (operation.returned.or(operation.gave_up).unwrap_or(operation.invoked), operation.id)
        });
        self.history.footer.operations = (self.operations.len() + self.sessions.len()) as u64;
        let operations = self.operations.into_iter().map(Entry::Operation);
        let sessions = self.sessions.into_iter().map(Entry::Session);
        self.history.entries = operations.chain(sessions).chain(self.history.entries).collect();
        self.history
    }
}

/// `5-9`, or `5-` for an operation that never ends.
fn times(word: &str) -> (u64, Option<u64>) {
    let (begin, end) = word.split_once('-').expect("begin-end");
    let number = |text: &str| ms(text.parse().expect("a time"));
    (number(begin), (!end.is_empty()).then(|| number(end)))
}

/// The holders and places of a check.
fn queue(answer: &mut Line<'_>) -> QueueSeen {
    let parts = |list: Option<String>| -> Vec<Vec<String>> {
        let list = list.unwrap_or_default();
        let all = list.split(',').filter(|item| !item.is_empty());
        all.map(|item| item.split('/').map(str::to_owned).collect()).collect()
    };
    let holders = parts(answer.take("holders")).into_iter().map(|parts| HolderSeen {
        signee: parts[0].as_str().into(),
        // The run of an owner in a session that names none.
        instance: parts.get(4).map(|text| session(text).to_string().into()),
        level: 0,
        token: parts[1].parse().expect("a token"),
        expires_in_ms: 5_000,
        expired: false,
        mode: mode(&parts[2]),
        slot: parts.get(3).and_then(|slot| slot.parse().ok()),
        session: parts.get(4).map(|text| session(text)),
    });
    let places = parts(answer.take("places")).into_iter().map(|parts| PlaceSeen {
        place: position(&parts[1]),
        signee: parts[0].as_str().into(),
        instance: None,
        level: parts.get(2).map_or(0, |level| level.parse().expect("a level")),
        mode: parts.get(3).map(|word| mode(word)).unwrap_or_default(),
    });
    let (holders, places): (Vec<_>, Vec<_>) = (holders.collect(), places.collect());
    QueueSeen { waiting: places.len() as u64, holders, places }
}

/// The request of a line, if it is one about a session.
fn session_action(line: &mut Line<'_>) -> Option<SessionAction> {
    let verb = *line.words.as_slice().first().expect("a line has all its words");
    if !["open", "keepalive", "close"].contains(&verb) {
        return None;
    }
    line.word();
    let name = session(line.word());
    Some(match verb {
        "open" => SessionAction::Open {
            ttl_ms: line.length("ttl").unwrap_or(10_000),
            signee: line.word().into(),
            instance: None,
        },
        "keepalive" => SessionAction::KeepAlive {
            session: name,
            seen: line.take::<String>("seen").map(|text| position(&text)),
        },
        _ => SessionAction::Close { session: name },
    })
}

fn session_outcome(action: &SessionAction, answer: &mut Line<'_>) -> SessionOutcome {
    match answer.word() {
        "unknown" => SessionOutcome::Unknown,
        "lost" => SessionOutcome::Lost,
        "closed" => SessionOutcome::Closed,
        "no_session" => SessionOutcome::NoSession,
        "opened" => {
            let SessionAction::Open { .. } = action else { panic!("only an open session opens") };
            SessionOutcome::Opened { session: session(answer.word()) }
        }
        "alive" => {
            let inbox = answer.words.by_ref().map(item).collect();
            SessionOutcome::Alive {
                valid_ms: 10_000,
                inbox,
                cut: answer.named.remove("cut").is_some(),
            }
        }
        word => panic!("no answer: {word}"),
    }
}

/// `granted/LOCK/SIGNEE/TOKEN@PLACE`, `lost/…/TOKEN@…` or `REASON/LOCK/SIGNEE@PLACE`.
fn item(text: &str) -> ItemSeen {
    let (fact, at) = text.split_once('@').expect("fact@place");
    let parts: Vec<_> = fact.split('/').collect();
    let token = || parts[3].parse().expect("a token");
    let news = match parts[0] {
        "granted" => {
            NewsSeen::Granted { token: token(), level: 0, mode: Mode::Exclusive, slot: None }
        }
        "lost" => NewsSeen::Lost { token: Some(token()), reason: Loss::Preempted },
        word => NewsSeen::Ended(reason(word).expect("a reason")),
    };
    ItemSeen { position: position(at), lock: name(parts[1]), signee: parts[2].into(), news }
}

fn action(line: &mut Line<'_>) -> Action {
    let verb = line.word();
    let lock = name(line.word());
    match verb {
        "lock" => {
            let signee = line.word().into();
            let force = line.words.next().inspect(|word| assert_eq!(*word, "force")).is_some();
            Action::Lock(LockAction {
                lock,
                signee,
                instance: line.take::<String>("instance").map(SmolStr::from),
                level: line.take("level"),
                duration_ms: line.length("duration").unwrap_or(10_000),
                time_to_live_ms: line.length("ttl"),
                force,
                token: line.take("token"),
                turn: turn(line),
            })
        }
        "unlock" => Action::Unlock(UnlockAction {
            lock,
            signee: line.word().into(),
            instance: line.take::<String>("instance").map(SmolStr::from),
            token: line.take("token"),
            force: line.take("force").unwrap_or(false),
            place: line.take::<String>("place").map(|text| position(&text)),
        }),
        "check" => Action::Check(lock),
        "stale-check" => Action::StaleCheck(lock),
        "read" => Action::Read(RegisterRead { lock, token: line.take("token") }),
        "write" => {
            let based_on = line.take("based_on").expect("what it is based on");
            Action::Write(RegisterWrite { lock, token: line.take("token"), based_on })
        }
        _ => panic!("no request: {verb}"),
    }
}
