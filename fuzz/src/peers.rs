//! The messages between members of a cluster.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use bytes::Bytes;
use tokio::runtime::Runtime;

use keyward::error::Error;
use keyward::forward::ask;
use keyward::forward::wire::{
    Answer, Request, decode_answer, decode_requests, encode_answer, encode_requests, frame_head,
};
use keyward::memory::MemoryLocks;
use keyward::raft::bootstrap::{decode_introduction, encode_introduction};
use keyward::raft::codec;
use keyward::raft::handshake::{Handshake, Signature};
use keyward::service::DebugLockService as _;
use keyward::types::CallOptions;

/// Every message of Raft, of a first start, and the header of every call: a message that decodes is
/// encoded to the same bytes.
pub fn peer_messages(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    one_spelling(&bytes, |_| codec::decode_append(&bytes), codec::encode_append);
    one_spelling(&bytes, codec::decode_appended, codec::encode_appended);
    one_spelling(&bytes, codec::decode_vote_request, codec::encode_vote_request);
    one_spelling(&bytes, codec::decode_vote_response, codec::encode_vote_response);
    one_spelling(&bytes, codec::decode_transfer, codec::encode_transfer);
    one_spelling(&bytes, codec::decode_transferred, codec::encode_transferred);
    one_spelling(&bytes, codec::decode_confirm, |round| codec::encode_confirm(*round));
    one_spelling(&bytes, codec::decode_confirmed, codec::encode_confirmed);
    one_spelling(&bytes, codec::decode_snapshot_meta, codec::encode_snapshot_meta);
    one_spelling(&bytes, codec::decode_installed, codec::encode_installed);
    one_spelling(
        &bytes,
        |_| codec::decode_promised(&bytes),
        |(promised, answer)| codec::encode_promised(*promised, answer),
    );
    if let Ok(introduction) = decode_introduction(&bytes) {
        let again = decode_introduction(&encode_introduction(&introduction));
        assert_eq!(again, Ok(introduction), "it reads as it is written");
    }
    one_spelling(&bytes, codec::decode_snapshot_header, |(vote, meta)| {
        codec::encode_snapshot_header(vote, meta)
    });
    one_spelling(&bytes, |_| codec::decode_payload(&bytes), codec::encode_payload);
    if let Ok(text) = std::str::from_utf8(&bytes) {
        reads_again::<Handshake>(text);
        reads_again::<Signature>(text);
    }
}

/// Asserts that an accepted message has only one encoding.
fn one_spelling<T, E>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
    encode: impl Fn(&T) -> Bytes,
) {
    if let Ok(message) = decode(bytes) {
        assert_eq!(encode(&message), bytes, "it is written as it was read");
    }
}

fn reads_again<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let again = value.to_string().parse::<T>().ok();
        assert_eq!(again.as_ref(), Some(&value), "{text}");
    }
}

/// Requests that one node forwards to another, and the answers: a message survives a round trip
/// through its encoding, and a service answers each request or refuses it as invalid.
pub fn forward(bytes: &[u8]) {
    if let Ok(requests) = decode_requests(bytes) {
        let parts = requests.iter().map(|(request, call)| (request, call));
        let again = decode_requests(&encode_requests(parts));
        assert_eq!(again.ok().as_ref(), Some(&requests), "they read as they are written");
        answer(requests);
    }
    let mut rest = bytes;
    while let Ok(Some(head)) = frame_head(rest) {
        let Some(payload) = rest.get(head.bytes..head.bytes + head.payload) else { return };
        if let Ok(answer) = decode_answer(payload) {
            reads_as_written(head.number, &answer);
        }
        rest = &rest[head.bytes + head.payload..];
    }
}

fn reads_as_written(number: usize, answer: &Result<Answer, Error>) {
    let frame = encode_answer(number, answer);
    let head = frame_head(&frame).ok().flatten().expect("it is one");
    assert_eq!((head.number, head.bytes + head.payload), (number, frame.len()));
    assert_eq!(decode_answer(&frame[head.bytes..]).ok().as_ref(), Some(answer));
}

fn answer(requests: Vec<(Request, CallOptions)>) {
    let runtime = runtime();
    let locks = MemoryLocks::new();
    let mut number = 0;
    for (request, call) in requests {
        let parts: Vec<Request> = request.clone().split().collect();
        let asked = ask(&locks, request, call, |by| locks.advance_clock(by));
        let answers = runtime.block_on(asked);
        assert_eq!(answers.len(), parts.len(), "each has an answer");
        for (part, answer) in parts.iter().zip(answers) {
            let settled = match &answer {
                // A request before it may have switched access control on, and who asks may have
                // come with a token that there is not.
                Ok(_)
                | Err(
                    Error::BadRequest { .. }
                    | Error::NotFound { .. }
                    | Error::Unauthorized { .. }
                    | Error::NotAllowed { .. },
                ) => true,
                // The lane was never begun, or the number is older than those remembered.
                Err(Error::LaneForgotten { .. }) => part.is_repeatable(),
                Err(Error::Forbidden(_) | Error::Unavailable { .. } | Error::Unknown { .. }) => {
                    false
                }
            };
            assert!(settled, "{answer:?}");
            reads_as_written(number, &answer);
            number += 1;
        }
    }
}

/// A runtime for one input: the service in memory never waits, but deadlines need timers.
pub(crate) fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // Whoever waits is not waited for: the time passes at once.
    builder
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O takes nothing from the system")
}
