//! The encoding of forwarded requests and their answers: many requests in a message, one answer in
//! a frame.
//!
//! A request's number is its position in the message, from 0. Each answer carries the number of its
//! request and is sent as soon as it is known, in any order.
//!
//! Requests have structs of their own, separate from those of the contract: the format between two
//! versions of this program changes only together with [`VERSION`]. A node that receives an unknown
//! version refuses it before doing anything.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::raft::peer::MAX_MESSAGE_BYTES;
use crate::types::{
    BatchAnswer, BatchRequest, CallOptions, CheckResponse, DeleteStatus, ListRequest, ListResponse,
    LockOptions, LockRequest, LockResponse, ReadOptions, RecordState, RequestId, TableDefaults,
    TableOptions, TablesRequest, TablesResponse, TimeToLive, Token, UnlockOptions, UnlockRequest,
    UnlockResponse,
};

/// The version of both encodings. In version 1 a message had one request, in version 2 its answers
/// were sent together, in version 3 a time_to_live was a length and a list had no state.
const VERSION: u8 = 4;

/// A forwarded request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    Lock(LockRequest, LockOptions),
    Unlock(UnlockRequest, UnlockOptions),
    Check(String, ReadOptions),
    List(ListRequest, ReadOptions),
    Tables(TablesRequest, ReadOptions),
    ConfigureTable(TableDefaults, TableOptions),
    DeleteTable(TableOptions),
    /// For tests alone: moves the clock forward.
    Advance(Duration),
}

impl Request {
    /// Whether repeating or losing it makes no difference.
    pub(crate) fn is_read(&self) -> bool {
        match self {
            Self::Check(..) | Self::List(..) | Self::Tables(..) => true,
            Self::Lock(..)
            | Self::Unlock(..)
            | Self::ConfigureTable(..)
            | Self::DeleteTable(..)
            | Self::Advance(..) => false,
        }
    }
}

impl Request {
    /// The id that makes it safe to repeat.
    pub(crate) fn request_id(&self) -> Option<RequestId> {
        match self {
            Self::Lock(_, options) => options.request_id,
            Self::Unlock(_, options) => options.request_id,
            Self::ConfigureTable(_, options) | Self::DeleteTable(options) => options.request_id,
            Self::Check(..) | Self::List(..) | Self::Tables(..) | Self::Advance(..) => None,
        }
    }
}

impl From<BatchRequest> for Request {
    fn from(request: BatchRequest) -> Self {
        match request {
            BatchRequest::Lock(request, options) => Self::Lock(request, options),
            BatchRequest::Unlock(request, options) => Self::Unlock(request, options),
        }
    }
}

/// Requests that cannot be in a batch are returned as the error.
impl TryFrom<Request> for BatchRequest {
    type Error = Request;

    fn try_from(request: Request) -> Result<Self, Request> {
        match request {
            Request::Lock(request, options) => Ok(Self::Lock(request, options)),
            Request::Unlock(request, options) => Ok(Self::Unlock(request, options)),
            other @ (Request::Check(..)
            | Request::List(..)
            | Request::Tables(..)
            | Request::ConfigureTable(..)
            | Request::DeleteTable(..)
            | Request::Advance(..)) => Err(other),
        }
    }
}

impl From<BatchAnswer> for Answer {
    fn from(answer: BatchAnswer) -> Self {
        match answer {
            BatchAnswer::Lock(response) => Self::Lock(response),
            BatchAnswer::Unlock(response) => Self::Unlock(response),
        }
    }
}

/// The answer to a forwarded request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Lock(LockResponse),
    Unlock(UnlockResponse),
    Check(CheckResponse),
    List(ListResponse),
    Tables(TablesResponse),
    Done,
    TableDeleted(DeleteStatus),
}

/// Converts to the response of each kind of request; `None` if the answer is of another kind.
impl Answer {
    /// Whether it answers a read, which has done nothing.
    pub(crate) fn is_of_a_read(&self) -> bool {
        match self {
            Self::Check(_) | Self::List(_) | Self::Tables(_) => true,
            Self::Lock(_) | Self::Unlock(_) | Self::Done | Self::TableDeleted(_) => false,
        }
    }

    pub(crate) fn lock(self) -> Option<LockResponse> {
        if let Self::Lock(response) = self { Some(response) } else { None }
    }

    pub(crate) fn unlock(self) -> Option<UnlockResponse> {
        if let Self::Unlock(response) = self { Some(response) } else { None }
    }

    /// The answer to a request of a batch.
    pub(crate) fn batch(self) -> Option<BatchAnswer> {
        match self {
            Self::Lock(response) => Some(BatchAnswer::Lock(response)),
            Self::Unlock(response) => Some(BatchAnswer::Unlock(response)),
            Self::Check(_)
            | Self::List(_)
            | Self::Tables(_)
            | Self::Done
            | Self::TableDeleted(_) => None,
        }
    }

    pub(crate) fn check(self) -> Option<CheckResponse> {
        if let Self::Check(response) = self { Some(response) } else { None }
    }

    pub(crate) fn list(self) -> Option<ListResponse> {
        if let Self::List(response) = self { Some(response) } else { None }
    }

    pub(crate) fn tables(self) -> Option<TablesResponse> {
        if let Self::Tables(response) = self { Some(response) } else { None }
    }

    pub(crate) fn done(self) -> Option<()> {
        (self == Self::Done).then_some(())
    }

    pub(crate) fn table_deleted(self) -> Option<DeleteStatus> {
        if let Self::TableDeleted(status) = self { Some(status) } else { None }
    }
}

/// Bytes that are not a forwarded request or an answer to one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("version {0} of forwarded requests is not known here")]
    Version(u8),
    #[error("a forwarded message does not decode: {0}")]
    Decode(#[from] postcard::Error),
    #[error("a frame of {0} bytes is none of an answer")]
    Length(usize),
}

/// Encodes requests, each with call options that replace its own.
pub(crate) fn encode_requests(requests: Vec<(Request, CallOptions)>) -> Bytes {
    let envelope = |(request, call)| Envelope { call: Call::from(call), body: Body::from(request) };
    encode(&requests.into_iter().map(envelope).collect::<Vec<_>>())
}

/// Decodes the output of [`encode_requests`]; each request contains its call options.
pub(crate) fn decode_requests(bytes: &[u8]) -> Result<Vec<Request>, WireError> {
    let envelopes: Vec<Envelope> = decode(bytes)?;
    let request = |envelope: Envelope| envelope.body.into_request(envelope.call.into());
    Ok(envelopes.into_iter().map(request).collect())
}

/// Encodes the frame of one answer: the length of the rest, the version, the number of its request,
/// and the payload that [`decode_answer`] reads.
pub(crate) fn encode_answer(number: usize, answer: &Result<Answer, Error>) -> Bytes {
    let number = u32::try_from(number).expect("a message has fewer requests");
    let mut frame = vec![0; 4];
    frame.push(VERSION);
    frame.extend_from_slice(&number.to_le_bytes());
    let frame = postcard::to_extend(answer, frame);
    let mut frame = frame.expect("plain data can always be written to memory");
    let length = u32::try_from(frame.len() - 4).expect("answers stay far below 4 GiB");
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame.into()
}

/// The beginning of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameHead {
    /// The number of the request that it answers.
    pub(crate) number: usize,
    /// The bytes of the head.
    pub(crate) bytes: usize,
    /// The bytes of the answer behind it.
    pub(crate) payload: usize,
}

/// Reads the head of the frame at the start of `bytes`; `None` if it is incomplete.
pub(crate) fn frame_head(bytes: &[u8]) -> Result<Option<FrameHead>, WireError> {
    let (Some(length), Some(number)) = (bytes.first_chunk::<4>(), bytes.get(5..9)) else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if !(5..=MAX_MESSAGE_BYTES).contains(&length) {
        return Err(WireError::Length(length));
    }
    if bytes[4] != VERSION {
        return Err(WireError::Version(bytes[4]));
    }
    let number = u32::from_le_bytes(number.try_into().expect("four bytes"));
    let number = usize::try_from(number).unwrap_or(usize::MAX);
    Ok(Some(FrameHead { number, bytes: 9, payload: length - 5 }))
}

/// Decodes the payload of a frame.
pub(crate) fn decode_answer(bytes: &[u8]) -> Result<Result<Answer, Error>, WireError> {
    Ok(postcard::from_bytes(bytes)?)
}

fn encode(value: &impl Serialize) -> Bytes {
    let bytes = postcard::to_extend(value, vec![VERSION]);
    Bytes::from(bytes.expect("plain data can always be written to memory"))
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, WireError> {
    let Some((version, rest)) = bytes.split_first() else {
        return Err(postcard::Error::DeserializeUnexpectedEnd.into());
    };
    if *version != VERSION {
        return Err(WireError::Version(*version));
    }
    Ok(postcard::from_bytes(rest)?)
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    call: Call,
    body: Body,
}

#[derive(Serialize, Deserialize)]
struct Call {
    /// The time that is left.
    timeout_ms: Option<u64>,
    trace_id: Option<String>,
    actor: Option<String>,
    cause: Option<String>,
}

#[derive(Serialize, Deserialize)]
enum Body {
    Lock {
        signature: String,
        signee: String,
        level: Option<i64>,
        table: Option<String>,
        force: bool,
        duration: Option<Duration>,
        time_to_live: Option<TimeToLive>,
        token: Option<Token>,
        instance: Option<String>,
        request_id: Option<(u128, u64)>,
    },
    Unlock {
        signature: String,
        signee: String,
        table: Option<String>,
        token: Option<Token>,
        instance: Option<String>,
        request_id: Option<(u128, u64)>,
    },
    Check {
        signature: String,
        table: Option<String>,
    },
    List {
        table: Option<String>,
        prefix: String,
        after: Option<String>,
        limit: u32,
        state: Option<RecordState>,
    },
    Tables {
        after: Option<String>,
        limit: u32,
    },
    ConfigureTable {
        table: Option<String>,
        duration: Option<Duration>,
        time_to_live: Option<TimeToLive>,
        request_id: Option<(u128, u64)>,
    },
    DeleteTable {
        table: Option<String>,
        request_id: Option<(u128, u64)>,
    },
    Advance {
        by: Duration,
    },
}

impl From<CallOptions> for Call {
    fn from(call: CallOptions) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            timeout_ms: call.timeout.map(millis),
            trace_id: call.trace_id,
            actor: call.actor,
            cause: call.cause,
        }
    }
}

impl From<Call> for CallOptions {
    fn from(call: Call) -> Self {
        Self {
            timeout: call.timeout_ms.map(Duration::from_millis),
            trace_id: call.trace_id,
            actor: call.actor,
            cause: call.cause,
        }
    }
}

fn pair(id: Option<RequestId>) -> Option<(u128, u64)> {
    id.map(|id| (id.lane, id.seq))
}

fn request_id(pair: Option<(u128, u64)>) -> Option<RequestId> {
    pair.map(|(lane, seq)| RequestId { lane, seq })
}

impl From<Request> for Body {
    fn from(request: Request) -> Self {
        match request {
            Request::Lock(request, options) => Self::Lock {
                signature: request.signature,
                signee: request.signee,
                level: request.level,
                table: options.table,
                force: options.force,
                duration: options.duration,
                time_to_live: options.time_to_live,
                token: options.token,
                instance: options.instance,
                request_id: pair(options.request_id),
            },
            Request::Unlock(request, options) => Self::Unlock {
                signature: request.signature,
                signee: request.signee,
                table: options.table,
                token: options.token,
                instance: options.instance,
                request_id: pair(options.request_id),
            },
            Request::Check(signature, options) => Self::Check { signature, table: options.table },
            Request::List(request, options) => Self::List {
                table: options.table,
                prefix: request.prefix,
                after: request.after,
                limit: request.limit,
                state: request.state,
            },
            Request::Tables(request, _) => {
                Self::Tables { after: request.after, limit: request.limit }
            }
            Request::ConfigureTable(defaults, options) => Self::ConfigureTable {
                table: options.table,
                duration: defaults.duration,
                time_to_live: defaults.time_to_live,
                request_id: pair(options.request_id),
            },
            Request::DeleteTable(options) => {
                Self::DeleteTable { table: options.table, request_id: pair(options.request_id) }
            }
            Request::Advance(by) => Self::Advance { by },
        }
    }
}

impl Body {
    fn into_request(self, call: CallOptions) -> Request {
        // A stale read is answered by the node that receives it, so a forwarded read is never
        // stale.
        let read = |table, call| ReadOptions { table, stale: false, call };
        match self {
            Self::Lock {
                signature,
                signee,
                level,
                table,
                force,
                duration,
                time_to_live,
                token,
                instance,
                request_id: id,
            } => {
                let request_id = request_id(id);
                Request::Lock(
                    LockRequest { signature, signee, level },
                    LockOptions {
                        table,
                        force,
                        duration,
                        time_to_live,
                        token,
                        instance,
                        request_id,
                        call,
                    },
                )
            }
            Self::Unlock { signature, signee, table, token, instance, request_id: id } => {
                let request_id = request_id(id);
                Request::Unlock(
                    UnlockRequest { signature, signee },
                    UnlockOptions { table, token, instance, request_id, call },
                )
            }
            Self::Check { signature, table } => Request::Check(signature, read(table, call)),
            Self::List { table, prefix, after, limit, state } => {
                Request::List(ListRequest { prefix, after, limit, state }, read(table, call))
            }
            Self::Tables { after, limit } => {
                Request::Tables(TablesRequest { after, limit }, read(None, call))
            }
            Self::ConfigureTable { table, duration, time_to_live, request_id: id } => {
                Request::ConfigureTable(
                    TableDefaults { duration, time_to_live },
                    TableOptions { table, request_id: request_id(id), call },
                )
            }
            Self::DeleteTable { table, request_id: id } => {
                Request::DeleteTable(TableOptions { table, request_id: request_id(id), call })
            }
            Self::Advance { by } => Request::Advance(by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> CallOptions {
        CallOptions {
            timeout: Some(Duration::from_millis(1234)),
            trace_id: Some("t".to_owned()),
            actor: Some("a".to_owned()),
            cause: None,
        }
    }

    fn requests() -> Vec<Request> {
        let table = Some("jobs".to_owned());
        let request_id = Some(RequestId { lane: u128::MAX - 1, seq: 7 });
        let read = ReadOptions { table: table.clone(), stale: false, call: call() };
        let tables = TableOptions { table: table.clone(), request_id, call: call() };
        vec![
            Request::Lock(
                LockRequest { signature: "s".into(), signee: "w".into(), level: Some(-3) },
                LockOptions {
                    table: table.clone(),
                    force: true,
                    duration: Some(Duration::from_millis(5)),
                    time_to_live: Some(TimeToLive::Never),
                    token: Some(Token(9)),
                    instance: Some("i".to_owned()),
                    request_id,
                    call: call(),
                },
            ),
            Request::Unlock(
                UnlockRequest { signature: "s".into(), signee: "w".into() },
                UnlockOptions {
                    table: table.clone(),
                    token: None,
                    instance: None,
                    request_id,
                    call: call(),
                },
            ),
            Request::Check("s".to_owned(), read.clone()),
            Request::List(
                ListRequest { state: Some(RecordState::Held), ..ListRequest::default() },
                read,
            ),
            Request::Tables(
                TablesRequest::default(),
                ReadOptions { call: call(), ..ReadOptions::default() },
            ),
            Request::ConfigureTable(TableDefaults::default(), tables.clone()),
            Request::DeleteTable(tables),
            Request::Advance(Duration::from_secs(1)),
        ]
    }

    #[test]
    fn a_request_reads_back_as_it_was_written() {
        let with_call = requests().into_iter().map(|request| (request, call())).collect();
        assert_eq!(decode_requests(&encode_requests(with_call)).unwrap(), requests());
    }

    #[test]
    fn a_request_is_written_the_same_for_ever() {
        let unlock = encode_requests(vec![(requests().swap_remove(1), call())]);
        let hex = crate::raft::codec::tests::hex(&unlock);
        let golden = [
            "04",     // version
            "01",     // one request
            "01d209", // 1234 ms are left
            "010174",
            "010161",
            "00", // trace, actor, no cause
            "01", // unlock
            "0173",
            "0177",         // signature, signee
            "01046a6f6273", // table
            "00",
            "00",                                         // no token, no instance
            "01feffffffffffffffffffffffffffffffffff0307", // lane and seq
        ];
        assert_eq!(hex, golden.concat());
    }

    #[test]
    fn a_cut_request_and_one_of_another_version_are_refused() {
        for request in requests() {
            let bytes = encode_requests(vec![(request, call())]);
            for length in 0..bytes.len() {
                assert!(decode_requests(&bytes[..length]).is_err());
            }
            let mut newer = bytes.to_vec();
            newer[0] = VERSION + 1;
            assert!(matches!(decode_requests(&newer), Err(WireError::Version(_))));
        }
    }

    #[test]
    fn an_answer_reads_back_as_it_was_written() {
        let error = Error::Unavailable { reason: "r".into(), leader: Some("l".into()) };
        let deleted = Ok(Answer::TableDeleted(DeleteStatus::NoTable));
        for answer in [Ok(Answer::Done), deleted, Err(error)] {
            let frame = encode_answer(7, &answer);
            for length in 0..9 {
                assert_eq!(frame_head(&frame[..length]).unwrap(), None);
            }
            let head = frame_head(&frame).unwrap().unwrap();
            assert_eq!((head.number, head.bytes + head.payload), (7, frame.len()));
            assert_eq!(decode_answer(&frame[head.bytes..]).unwrap(), answer);
        }
    }

    #[test]
    fn an_answer_is_written_the_same_for_ever() {
        let error = Error::Unavailable { reason: "r".into(), leader: Some("l".into()) };
        let golden = [
            "0c000000", // 12 bytes follow
            "04",       // version
            "00010000", // answers request 256
            "01",       // an error
            "03",       // unavailable
            "0172",     // reason
            "01016c",   // leader
        ];
        let hex = crate::raft::codec::tests::hex(&encode_answer(256, &Err(error)));
        assert_eq!(hex, golden.concat());
        let done = crate::raft::codec::tests::hex(&encode_answer(0, &Ok(Answer::Done)));
        assert_eq!(done, "0700000004000000000005");
    }

    #[test]
    fn a_frame_of_another_version_or_of_no_length_is_refused() {
        let mut frame = encode_answer(0, &Ok(Answer::Done)).to_vec();
        frame[4] = VERSION + 1;
        assert!(matches!(frame_head(&frame), Err(WireError::Version(_))));
        for length in [4, u32::MAX] {
            frame[..4].copy_from_slice(&length.to_le_bytes());
            assert!(matches!(frame_head(&frame), Err(WireError::Length(_))));
        }
    }
}
