//! Many writes in one message: its encoding and decoding, and batches that a program makes itself.
//!
//! A batch is only a transport. Each write in it has its own id and its own outcome; a failure of
//! the message as a whole (no connection, a truncated answer, a node that is unavailable) holds for
//! each of them. A node that does not support batches, or refuses one as such, has done nothing:
//! the writes are then sent one by one.
//!
//! See also [`super::batcher`], which coalesces a client's writes into batches by itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::de::DeserializeOwned;

use super::transport::{Ask, Kind, Reply, Request, Transport};
use crate::api::{
    BatchItemAnswer, Code, LockBody, LockReply, MAX_BATCH, MAX_BATCH_BYTES, MAX_BODY_BYTES,
    UnlockAnswer, UnlockBody, routes,
};
use keyward_core::clock::Deadline;
use keyward_core::error::Error;
use keyward_core::lock::{Command, Decision, Operation, Outcome};
use keyward_core::types::{CallOptions, Forbidden, LockStatus, UnlockStatus};

/// The operation of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    Lock,
    Unlock,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Unlock => "unlock",
        }
    }

    fn route(self) -> &'static str {
        match self {
            Self::Lock => routes::LOCK,
            Self::Unlock => routes::UNLOCK,
        }
    }
}

/// The answer to a write that may be sent in a batch.
pub(super) trait Batched: DeserializeOwned + Send {
    /// The operation that it answers.
    const VERB: Verb;

    /// Takes the answer from an item of a batch's answer; `None` if it answers another operation.
    fn of(answer: BatchItemAnswer) -> Option<Self>;
}

impl Batched for LockReply {
    const VERB: Verb = Verb::Lock;

    fn of(answer: BatchItemAnswer) -> Option<Self> {
        answer.lock.map(Self::Granted).or(answer.waiting.map(Self::Waiting))
    }
}

impl Batched for UnlockAnswer {
    const VERB: Verb = Verb::Unlock;

    fn of(answer: BatchItemAnswer) -> Option<Self> {
        answer.unlock
    }
}

/// One write of a batch, with the body that it would have alone.
#[derive(Clone)]
pub(super) struct Item {
    pub(super) verb: Verb,
    pub(super) body: Bytes,
    /// Whether it only renews or releases what is held.
    pub(super) keeps: bool,
}

impl Item {
    /// `{"unlock":` … `},`
    const FRAME_BYTES: usize = 12;

    fn bytes(&self) -> usize {
        self.body.len() + Self::FRAME_BYTES
    }
}

/// The text before and after the items of a batch.
const BEFORE: &[u8] = br#"{"requests":["#;
const BEHIND: &[u8] = b"]}";

/// The space left in a message: a batch beyond these bounds is refused whole.
pub(super) struct Room {
    items: usize,
    bytes: usize,
}

impl Room {
    pub(super) fn takes(&self, item: &Item) -> bool {
        self.items > 0 && item.bytes() <= self.bytes && item.body.len() <= MAX_BODY_BYTES
    }

    pub(super) fn take(&mut self, item: &Item) {
        self.items -= 1;
        // An item beyond the bounds is in a message of its own, which is refused.
        self.bytes = self.bytes.saturating_sub(item.bytes());
    }
}

/// The batch as it is sent.
pub(super) struct Message {
    pub(super) request: Request,
    /// The number of answers that must come back.
    pub(super) items: usize,
}

impl Message {
    /// The space in an empty message.
    pub(super) fn room() -> Room {
        Room { items: MAX_BATCH, bytes: MAX_BATCH_BYTES - BEFORE.len() - BEHIND.len() }
    }

    pub(super) fn of(items: &[&Item]) -> Self {
        let bytes = items.iter().map(|item| item.bytes()).sum::<usize>();
        let mut body = BytesMut::with_capacity(BEFORE.len() + bytes + BEHIND.len());
        body.put_slice(BEFORE);
        for (at, item) in items.iter().enumerate() {
            body.put_slice(if at == 0 { b"{\"" } else { b",{\"" });
            body.put_slice(item.verb.word().as_bytes());
            body.put_slice(b"\":");
            body.put_slice(&item.body);
            body.put_u8(b'}');
        }
        body.put_slice(BEHIND);
        let keeps = items.iter().all(|item| item.keeps);
        let request = Request::post(routes::BATCH, body.freeze()).keeping(keeps);
        Self { request, items: items.len() }
    }
}

/// The answer to one write of a batch, in the form that it would have had alone.
pub(super) fn answer_of<T: Batched>(
    endpoint: &str,
    answer: BatchItemAnswer,
) -> Result<Reply<Result<T, Forbidden>>, Error> {
    let decided_at = answer.log_position;
    match &answer.problem {
        Some(problem) if problem.is_ours() && problem.code == Code::Forbidden => {
            return Ok((Err(problem.to_forbidden()), decided_at));
        }
        Some(problem) if problem.is_ours() => return Err(problem.clone().into_error(decided_at)),
        Some(_) | None => {}
    }
    let answer = T::of(answer).ok_or_else(|| {
        Error::unknown(format!("{endpoint}: not the answer of a Keyward node to what was asked"))
    })?;
    Ok((Ok(answer), decided_at))
}

/// The decision about a lock command.
pub(super) fn locked(reply: Reply<Result<LockReply, Forbidden>>) -> Result<Decision, Error> {
    let (status, decided_at) = match reply {
        (Ok(answer), decided_at) => {
            let response = answer
                .into_words(decided_at)
                .ok_or_else(|| Error::unknown("the answer says transferred, but not from whom"))?;
            (response.status, decided_at)
        }
        (Err(forbidden), decided_at) => (LockStatus::Failed(forbidden), decided_at),
    };
    Ok(Decision { outcome: Outcome::Lock(status), decided_at })
}

/// The decision about an unlock command.
pub(super) fn unlocked(reply: Reply<Result<UnlockAnswer, Forbidden>>) -> Decision {
    let (status, decided_at) = match reply {
        (Ok(answer), decided_at) => (answer.into_words(decided_at).status, decided_at),
        (Err(forbidden), decided_at) => (UnlockStatus::Failed(forbidden), decided_at),
    };
    Decision { outcome: Outcome::Unlock(status), decided_at }
}

/// One write of a batch that a program made.
struct Asked {
    item: Item,
    /// The write as a request of its own, for nodes that do not support batches.
    request: Request,
    answer: Option<Result<Decision, Error>>,
    /// Whether its outcome will stay open: a final answer said nothing about an earlier attempt.
    is_given_up: bool,
    /// The number of attempts at it whose result is not known.
    in_flight: usize,
}

/// The reason in an answer that is final but leaves open whether another attempt took effect.
fn says_nothing_of_others(told: &Result<Decision, Error>) -> Option<String> {
    match told {
        Err(
            error @ (Error::LaneForgotten { .. }
            | Error::BadRequest { .. }
            | Error::Unauthorized { .. }
            | Error::NotAllowed { .. }
            | Error::NotFound { .. }),
        ) => Some(error.to_string()),
        Ok(_) | Err(Error::Forbidden(_) | Error::Unavailable { .. } | Error::Unknown { .. }) => {
            None
        }
    }
}

impl Asked {
    /// `None` if the command is not one of a batch.
    fn new(command: &Command) -> Option<Self> {
        let (verb, request) = if let Operation::Lock(lock) = &command.operation {
            let body = LockBody::new(lock, command.request_id);
            let request = Request::write("POST", Verb::Lock.route(), &body);
            (Verb::Lock, request.keeping(lock.token.is_some()))
        } else if let Operation::Unlock(unlock) = &command.operation {
            let body = UnlockBody::new(unlock, command.request_id);
            let request = Request::write("POST", Verb::Unlock.route(), &body);
            (Verb::Unlock, request.keeping(true))
        } else {
            return None;
        };
        Some(Self {
            item: Item { verb, body: request.body(), keeps: request.keeps() },
            request,
            answer: None,
            is_given_up: false,
            in_flight: 0,
        })
    }

    /// Records the result of one attempt. A decision is kept, and an open outcome stays open until
    /// a node answers the repetition.
    fn note(&mut self, told: Result<Decision, Error>) {
        self.in_flight -= 1;
        let was_open = matches!(self.answer, Some(Err(Error::Unknown { .. })));
        if self.is_decided() {
            return;
        }
        let is_open = was_open || self.in_flight > 0;
        if is_open && let Some(reason) = says_nothing_of_others(&told) {
            // No later answer can tell whether the other attempt took effect.
            self.is_given_up = true;
            if !was_open {
                self.answer = Some(Err(Error::unknown(reason)));
            }
            return;
        }
        let not_done = matches!(told, Err(Error::Unavailable { .. }));
        if !(was_open && not_done) {
            self.answer = Some(told);
        }
    }

    /// The answer for the caller. An attempt that was dropped when another one was answered may
    /// still take effect.
    fn into_answer(self) -> Option<Result<Decision, Error>> {
        match self.answer {
            Some(Err(Error::Unavailable { reason, .. })) if self.in_flight > 0 => {
                Some(Err(Error::unknown(reason)))
            }
            answer => answer,
        }
    }

    /// Whether a node has decided it, either way, or a retry would be in vain.
    fn is_decided(&self) -> bool {
        self.is_given_up
            || !matches!(
                &self.answer,
                None | Some(Err(Error::Unavailable { .. } | Error::Unknown { .. }))
            )
    }

    fn read(&self, endpoint: &str, answer: BatchItemAnswer) -> Result<Decision, Error> {
        match self.item.verb {
            Verb::Lock => locked(answer_of(endpoint, answer)?),
            Verb::Unlock => Ok(unlocked(answer_of(endpoint, answer)?)),
        }
    }
}

/// A part of a program's batch that is sent as one message, in order.
///
/// A retry repeats only the writes after the last decided one: an undecided write before that one
/// would be decided out of order.
struct Part<'a> {
    transport: &'a Arc<Transport>,
    asked: Mutex<Vec<Asked>>,
    call: &'a CallOptions,
}

impl Ask for Part<'_> {
    type Answer = ();

    fn kind(&self) -> Kind {
        Kind::Write
    }

    async fn ask(&self, endpoint: &Arc<str>, wait: Duration) -> Result<(), Error> {
        let (from, message) = {
            let mut asked = self.lock();
            let from = undecided(&asked);
            asked[from..].iter_mut().for_each(|asked| asked.in_flight += 1);
            let items: Vec<&Item> = asked[from..].iter().map(|asked| &asked.item).collect();
            (from, Message::of(&items))
        };
        let one_by_one = self.transport.asks_one_by_one(endpoint);
        let answers = if one_by_one {
            None
        } else {
            let attempt = self.transport.attempt_batch(endpoint, &message, self.call, wait);
            attempt.await.inspect_err(|error| self.note_all(from, error))?
        };
        match answers {
            Some(answers) => {
                for (asked, answer) in self.lock()[from..].iter_mut().zip(answers) {
                    let told = asked.read(endpoint, answer);
                    asked.note(told);
                }
            }
            None => self.ask_one_by_one(endpoint, from, wait).await,
        }
        self.lock().last().map_or(Ok(()), |last| match &last.answer {
            Some(Err(error)) if !last.is_decided() => Err(error.clone()),
            _ => Ok(()),
        })
    }
}

impl Part<'_> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Asked>> {
        // Nothing panics in the middle of a change.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_all(&self, from: usize, error: &Error) {
        for asked in &mut self.lock()[from..] {
            asked.note(Err(error.clone()));
        }
    }

    /// Sends the writes one by one, in order, and stops at the first that is not decided: the later
    /// ones have to wait for it.
    async fn ask_one_by_one(&self, endpoint: &Arc<str>, from: usize, wait: Duration) {
        let requests: Vec<(Verb, Request)> = {
            let asked = self.lock();
            asked[from..].iter().map(|asked| (asked.item.verb, asked.request.clone())).collect()
        };
        let until = Deadline::after(wait);
        for (at, (verb, request)) in (from..).zip(requests) {
            let (transport, call, wait) = (self.transport, self.call, until.remaining());
            let told = match verb {
                Verb::Lock => {
                    let reply = transport.attempt(endpoint, &request, call, wait).await;
                    reply.and_then(locked)
                }
                Verb::Unlock => {
                    let reply = transport.attempt(endpoint, &request, call, wait).await;
                    reply.map(unlocked)
                }
            };
            let mut asked = self.lock();
            asked[at].note(told);
            if let Some(Err(error)) = asked[at].answer.clone()
                && !asked[at].is_decided()
            {
                let reason = format!("an earlier request of the batch was not answered: {error}");
                for later in &mut asked[at + 1..] {
                    later.note(Err(Error::unavailable(reason.clone())));
                }
                return;
            }
        }
    }
}

/// The index of the first write that is retried.
fn undecided(asked: &[Asked]) -> usize {
    asked.iter().rposition(Asked::is_decided).map_or(0, |last| last + 1)
}

impl Transport {
    /// Sends lock and unlock commands, in order, in as few messages as they fit in.
    pub(super) async fn batch(
        self: &Arc<Self>,
        commands: Vec<Command>,
        call: &CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        let mut answers = Vec::with_capacity(commands.len());
        for Group { cause, asked } in groups(&commands) {
            let call = CallOptions { cause: cause.map(str::to_owned), ..call.clone() };
            let part = Part { transport: self, asked: Mutex::new(asked), call: &call };
            let ended = self.repeat(&part, &call).await;
            let asked = part.asked.into_inner().unwrap_or_else(PoisonError::into_inner);
            let missing = || match &ended {
                Err(error) => Err(error.clone()),
                Ok(()) => Err(Error::unknown("the batch was answered without this request")),
            };
            answers
                .extend(asked.into_iter().map(|asked| asked.into_answer().unwrap_or_else(missing)));
        }
        answers
    }
}

/// The writes of one message, which have the same headers.
struct Group<'a> {
    cause: Option<&'a str>,
    asked: Vec<Asked>,
}

/// Splits the commands into runs that fit in a message and have the same cause.
fn groups(commands: &[Command]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut room = Message::room();
    for command in commands {
        let asked = Asked::new(command).expect("commands on tables are sent by themselves");
        let cause = command.cause.as_deref();
        let fits = room.takes(&asked.item);
        if !groups.last().is_some_and(|group| fits && group.cause == cause) {
            groups.push(Group { cause, asked: Vec::new() });
            room = Message::room();
        }
        room.take(&asked.item);
        groups.last_mut().expect("one was just made").asked.push(asked);
    }
    groups
}
