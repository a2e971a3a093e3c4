//! The encoding of forwarded requests and of the frames of their answers: the requests of several
//! callers in a message, one answer in a frame.
//!
//! A message is a version and, for each request, its call (the time that is left, the trace id) and
//! its body. Commands are encoded as in the log. The answers are numbered through the message, from
//! 0: each command has one, a read has one. Each is sent as soon as it is known, in any order, behind
//! the head of its frame; see [`super::results`] for what follows the head.
//!
//! A node refuses a version that it does not know before it does anything.

#![allow(clippy::missing_errors_doc, reason = "each fails on bytes that are no such message")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::results::{put_answer, read_answer};
use crate::codec::{DecodeError, Encoding, Reader, flags, put_str, put_u64};
use crate::error::Error;
use crate::lock::encoding::{put_commands, read_commands, read_session_id};
use crate::lock::{Command, Decision, Query, Subject, View};
use crate::principal::Principal;
use crate::raft::peer::MAX_MESSAGE_BYTES;
use crate::types::{
    CallOptions, ListRequest, RecordState, SessionLocksRequest, TablesRequest, Token,
};

/// The version of both encodings. Up to version 4 a message had the requests of the contract and not
/// the commands of the log.
const VERSION: u8 = 5;

/// The first byte of a request's body. Never reused for another meaning.
mod body_tag {
    pub(super) const DECIDE: u8 = 1;
    pub(super) const CHECK: u8 = 2;
    pub(super) const LIST: u8 = 3;
    pub(super) const TABLES: u8 = 4;
    pub(super) const ADVANCE: u8 = 5;
    // Of feature level 2.
    pub(super) const CHECK_PLACES: u8 = 6;
    pub(super) const VERIFY: u8 = 7;
    pub(super) const SESSION_LOCKS: u8 = 8;
    pub(super) const DEADLOCKS: u8 = 9;
    // Of feature level 3. The first one stands before a read: the principal that reads.
    pub(super) const AS: u8 = 10;
    pub(super) const ACCESS: u8 = 11;
}

/// A forwarded request: what one call asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Commands, which are decided in their order.
    Decide(Vec<Command>),
    /// A read. Another node answers it as the leader, so it is never stale.
    Read(Query),
    /// For tests alone: moves the clock forward.
    Advance(Duration),
}

impl Request {
    /// Whether repeating or losing it makes no difference.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Read(_))
    }

    /// The number of its answers.
    pub fn answers(&self) -> usize {
        match self {
            Self::Decide(commands) => commands.len(),
            Self::Read(_) | Self::Advance(_) => 1,
        }
    }

    /// The requests that have one answer each, in the order of the answers.
    pub fn split(self) -> impl Iterator<Item = Self> {
        let (commands, other) = match self {
            Self::Decide(commands) => (commands, None),
            other @ (Self::Read(_) | Self::Advance(_)) => (Vec::new(), Some(other)),
        };
        commands.into_iter().map(|command| Self::Decide(vec![command])).chain(other)
    }

    /// One request for the parts of a request that was split; `None` of no parts.
    pub fn join(parts: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut parts = parts.into_iter();
        let mut joined = parts.next()?;
        for part in parts {
            if let (Self::Decide(commands), Self::Decide(more)) = (&mut joined, part) {
                commands.extend(more);
            }
        }
        Some(joined)
    }

    /// Whether it may be sent again to another leader, whatever the first one did: a read, or
    /// commands that all have an id.
    pub fn is_repeatable(&self) -> bool {
        match self {
            Self::Read(_) => true,
            Self::Decide(commands) => commands.iter().all(|command| command.request_id.is_some()),
            Self::Advance(_) => false,
        }
    }
}

/// The answer to a command, to a read, or to a move of the clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The decision on a command.
    Decision(Decision),
    /// The answer to a query.
    View(View),
    /// The clock was moved.
    Advanced,
}

impl Answer {
    /// The decision about a command.
    ///
    /// # Errors
    /// `Unknown` if it answers something else: the other node is broken, and may have done anything.
    pub fn into_decision(self) -> Result<Decision, Error> {
        match self {
            Self::Decision(decision) => Ok(decision),
            Self::View(_) | Self::Advanced => Err(mixed_up()),
        }
    }

    /// The view of a read.
    ///
    /// # Errors
    /// `Unavailable` if it answers something else: a read has done nothing.
    pub fn into_view(self) -> Result<View, Error> {
        match self {
            Self::View(view) => Ok(view),
            Self::Decision(_) | Self::Advanced => {
                Err(Error::unavailable("the leader answered another question"))
            }
        }
    }

    /// The answer to a move of the clock.
    ///
    /// # Errors
    /// As [`Answer::into_decision`].
    pub fn into_advanced(self) -> Result<(), Error> {
        match self {
            Self::Advanced => Ok(()),
            Self::Decision(_) | Self::View(_) => Err(mixed_up()),
        }
    }
}

/// The error for an answer of the wrong kind to a request that may have changed something.
pub(super) fn mixed_up() -> Error {
    Error::unknown("the leader answered another question")
}

/// Bytes that are not a forwarded request or an answer to one.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The message has another version.
    #[error("version {0} of forwarded requests is not known here")]
    Version(u8),
    /// The bytes have no meaning.
    #[error("a forwarded message does not decode: {0}")]
    Decode(#[from] DecodeError),
    /// A frame is too short or too long.
    #[error("a frame of {0} bytes is none of an answer")]
    Length(usize),
}

/// Encodes requests, each with its call.
pub fn encode_requests<'a>(
    requests: impl IntoIterator<Item = (&'a Request, &'a CallOptions)>,
) -> Bytes {
    let mut out = vec![VERSION];
    for (request, call) in requests {
        put_call(&mut out, call);
        put_request(&mut out, request);
    }
    out.into()
}

/// Decodes the output of [`encode_requests`].
pub fn decode_requests(bytes: &[u8]) -> Result<Vec<(Request, CallOptions)>, WireError> {
    let Some((version, rest)) = bytes.split_first() else {
        return Err(DecodeError::Truncated("forwarded requests").into());
    };
    if *version != VERSION {
        return Err(WireError::Version(*version));
    }
    let mut reader = Reader::new(rest, "a forwarded request");
    let mut requests = Vec::new();
    while !reader.rest().is_empty() {
        let call = read_call(&mut reader)?;
        requests.push((read_request(&mut reader)?, call));
    }
    Ok(requests)
}

/// Encodes the frame of one answer: the length of the rest, the version, the number of the answer,
/// and the payload that [`decode_answer`] reads.
///
/// # Panics
/// If the number is no 32-bit one.
pub fn encode_answer(number: usize, answer: &Result<Answer, Error>) -> Bytes {
    let number = u32::try_from(number).expect("a message has fewer requests");
    let mut frame = vec![0; 4];
    frame.push(VERSION);
    frame.extend_from_slice(&number.to_le_bytes());
    put_answer(&mut frame, answer);
    let length = u32::try_from(frame.len() - 4).expect("answers stay far below 4 GiB");
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame.into()
}

/// The beginning of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHead {
    /// The number of the answer.
    pub number: usize,
    /// The bytes of the head.
    pub bytes: usize,
    /// The bytes of the answer behind it.
    pub payload: usize,
}

/// Reads the head of the frame at the start of `bytes`; `None` if it is incomplete.
pub fn frame_head(bytes: &[u8]) -> Result<Option<FrameHead>, WireError> {
    let (Some(length), Some(number)) =
        (bytes.first_chunk::<4>(), bytes.get(5..).and_then(<[u8]>::first_chunk::<4>))
    else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if !(5..=MAX_MESSAGE_BYTES).contains(&length) {
        return Err(WireError::Length(length));
    }
    if bytes[4] != VERSION {
        return Err(WireError::Version(bytes[4]));
    }
    let number = u32::from_le_bytes(*number);
    let number = usize::try_from(number).unwrap_or(usize::MAX);
    Ok(Some(FrameHead { number, bytes: 9, payload: length - 5 }))
}

/// Decodes the payload of a frame.
pub fn decode_answer(bytes: &[u8]) -> Result<Result<Answer, Error>, WireError> {
    let mut reader = Reader::new(bytes, "an answer");
    let answer = read_answer(&mut reader)?;
    reader.end()?;
    Ok(answer)
}

/// Appends the call of a request. Principal and cause are part of each command, and the principal is
/// part of a read.
fn put_call(out: &mut Vec<u8>, call: &CallOptions) {
    let CallOptions { timeout, trace_id, principal: _, cause: _ } = call;
    out.push(flags([timeout.is_some(), trace_id.is_some()]));
    if let Some(timeout) = timeout {
        put_ms(out, *timeout);
    }
    if let Some(trace_id) = trace_id {
        put_str(out, trace_id);
    }
}

fn read_call(reader: &mut Reader<'_>) -> Result<CallOptions, DecodeError> {
    let [has_timeout, has_trace_id] = reader.flags()?;
    let timeout = has_timeout.then(|| read_ms(reader)).transpose()?;
    let trace_id = has_trace_id.then(|| reader.str().map(str::to_owned)).transpose()?;
    Ok(CallOptions { trace_id, ..CallOptions::within(timeout) })
}

fn put_request(out: &mut Vec<u8>, request: &Request) {
    match request {
        Request::Decide(commands) => {
            out.push(body_tag::DECIDE);
            put_commands(out, commands);
        }
        Request::Read(query) => {
            if let Some(principal) = &query.principal {
                out.push(body_tag::AS);
                principal.put(out);
            }
            put_subject(out, &query.subject);
        }
        Request::Advance(by) => {
            out.push(body_tag::ADVANCE);
            put_ms(out, *by);
        }
    }
}

fn read_request(reader: &mut Reader<'_>) -> Result<Request, DecodeError> {
    let (mut tag, mut principal) = (reader.u8()?, None);
    if tag == body_tag::AS {
        principal = Some(Arc::new(Principal::read(reader)?));
        tag = reader.u8()?;
        if matches!(tag, body_tag::DECIDE | body_tag::ADVANCE) {
            return Err(reader.invalid());
        }
    }
    let read = |subject| Request::Read(Query { stale: false, principal, subject });
    Ok(match tag {
        body_tag::DECIDE => Request::Decide(read_commands(reader)?),
        body_tag::CHECK => {
            let (table, signature) = (reader.str()?.into(), reader.str()?.into());
            read(Subject::Lock { table, signature, places_after: 0 })
        }
        body_tag::LIST => {
            let [has_after, is_held, is_expired] = reader.flags()?;
            let table = reader.str()?.into();
            let prefix = reader.str()?.to_owned();
            let after = has_after.then(|| reader.str().map(str::to_owned)).transpose()?;
            let limit = reader.u32()?;
            let state = match (is_held, is_expired) {
                (false, false) => None,
                (true, false) => Some(RecordState::Held),
                (false, true) => Some(RecordState::Expired),
                (true, true) => return Err(reader.invalid()),
            };
            read(Subject::Locks { table, page: ListRequest { prefix, after, limit, state } })
        }
        body_tag::TABLES => {
            let [has_after] = reader.flags()?;
            let after = has_after.then(|| reader.str().map(str::to_owned)).transpose()?;
            read(Subject::Tables(TablesRequest { after, limit: reader.u32()? }))
        }
        body_tag::ADVANCE => Request::Advance(read_ms(reader)?),
        body_tag::CHECK_PLACES => {
            let (table, signature) = (reader.str()?.into(), reader.str()?.into());
            read(Subject::Lock { table, signature, places_after: reader.u64()? })
        }
        body_tag::VERIFY => {
            let (table, signature) = (reader.str()?.into(), reader.str()?.into());
            read(Subject::Verify { table, signature, token: Token(reader.u64()?) })
        }
        body_tag::SESSION_LOCKS => {
            let [has_after] = reader.flags()?;
            let session = read_session_id(reader)?;
            let mut text = || reader.str().map(str::to_owned);
            let after = has_after.then(|| Ok((text()?, text()?))).transpose()?;
            let limit = reader.u32()?;
            read(Subject::SessionLocks(SessionLocksRequest { session, after, limit }))
        }
        body_tag::DEADLOCKS => read(Subject::Deadlocks),
        body_tag::ACCESS => read(Subject::Access(Encoding::read(reader)?)),
        _ => return Err(reader.invalid()),
    })
}

fn put_subject(out: &mut Vec<u8>, subject: &Subject) {
    match subject {
        Subject::Lock { table, signature, places_after: 0 } => {
            out.push(body_tag::CHECK);
            put_str(out, table);
            put_str(out, signature);
        }
        Subject::Lock { table, signature, places_after } => {
            out.push(body_tag::CHECK_PLACES);
            put_str(out, table);
            put_str(out, signature);
            put_u64(out, *places_after);
        }
        Subject::Locks { table, page } => {
            let ListRequest { prefix, after, limit, state } = page;
            out.push(body_tag::LIST);
            let (is_held, is_expired) =
                (*state == Some(RecordState::Held), *state == Some(RecordState::Expired));
            out.push(flags([after.is_some(), is_held, is_expired]));
            for text in [&**table, prefix].into_iter().chain(after.as_deref()) {
                put_str(out, text);
            }
            put_u64(out, (*limit).into());
        }
        Subject::Tables(TablesRequest { after, limit }) => {
            out.push(body_tag::TABLES);
            out.push(flags([after.is_some()]));
            if let Some(after) = after {
                put_str(out, after);
            }
            put_u64(out, (*limit).into());
        }
        Subject::Verify { table, signature, token: Token(token) } => {
            out.push(body_tag::VERIFY);
            put_str(out, table);
            put_str(out, signature);
            put_u64(out, *token);
        }
        Subject::SessionLocks(SessionLocksRequest { session, after, limit }) => {
            out.push(body_tag::SESSION_LOCKS);
            out.push(flags([after.is_some()]));
            out.extend_from_slice(&session.0.to_be_bytes());
            if let Some((table, signature)) = after {
                put_str(out, table);
                put_str(out, signature);
            }
            put_u64(out, (*limit).into());
        }
        Subject::Deadlocks => out.push(body_tag::DEADLOCKS),
        Subject::Access(question) => {
            out.push(body_tag::ACCESS);
            question.put(out);
        }
    }
}

/// Appends a length of time in whole milliseconds, rounded down.
pub(super) fn put_ms(out: &mut Vec<u8>, time: Duration) {
    put_u64(out, u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
}

pub(super) fn read_ms(reader: &mut Reader<'_>) -> Result<Duration, DecodeError> {
    reader.u64().map(Duration::from_millis)
}

#[cfg(test)]
pub(crate) mod tests;
