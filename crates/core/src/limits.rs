//! Every limit of the service, in one list.
//!
//! Validation enforces it, `docs/limits.md` is written from it, and the proof uses it: the
//! simulation, chaos and the sweep send requests at both ends of each limit and one beyond, and a
//! run that did not reach a limit proves nothing about it. A limit that is added here is therefore
//! required of the proof automatically; where it cannot be reached from outside, [`Proof`] names
//! the test.
//!
//! The limits hold for values that come *in*. A value that was once accepted stays readable and
//! removable when a limit changes.

use std::time::Duration;

use crate::types::{
    ListRequest, MAX_DURATION, MAX_LOCK_DELAY, MAX_NAME_BYTES, MAX_PERMITS, MAX_SAFE_INTEGER,
    MAX_WAIT, SESSION_TTL,
};

#[cfg(test)]
pub(crate) mod tests;

/// The longest `cause` that a program may pass on, in bytes: it travels in every log entry.
pub const MAX_AUDIT_BYTES: usize = 1024;

/// The longest timeout of a request. Longer waits hold a connection and a place in the queue for
/// work whose caller has most likely gone.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest trace id that is taken over from a caller; a longer one is replaced.
pub const MAX_TRACE_ID_BYTES: usize = 128;

/// The longest cause that HTTP accepts for the audit.
pub const MAX_CAUSE_BYTES: usize = 256;

/// The largest request body a client may send. The longest legal request has five names of 1024
/// bytes; JSON may take six bytes for each of these (`\u0001`), 30 KiB in all.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// The maximum number of requests in a batch: far more than are needed to make the message cheap,
/// and few enough that they are answered together without making anyone wait.
pub const MAX_BATCH: usize = 1000;

/// The largest body of a batch: a thousand requests with ordinary names several times over, or 32
/// of the longest there are.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// The maximum number of commands in a log entry: with names of full length about 1.5 MiB.
pub const MAX_ENTRY_COMMANDS: usize = 256;

/// The number of entries that openraft applies again at once when a node starts; it wants each
/// piece whole.
pub const REAPPLIED_ENTRIES: u64 = 64;

/// Bytes of entries read at once to be applied: enough to keep the disk busy, few enough that a
/// restart with a long log does not hold all of it in memory.
pub const APPLY_BYTES: usize = 8 << 20;

/// Bytes of entries sent to a follower at once, or one entry if it is larger: far below the limit
/// of a message, and far more than is needed to make a round trip worth it.
pub const SEND_BYTES: usize = 1 << 20;

/// The size of a segment of the log. 16 MiB is filled with zeros in some 20 ms, and a log of a few
/// tens of thousands of entries has a handful of files.
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// The part of a snapshot with a checksum of its own: damage is found after reading this much.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

/// The maximum number of places in the queue of one lock.
pub const MAX_PLACES_PER_LOCK: u64 = 10_000;

/// The maximum number of places in all queues.
pub const MAX_PLACES: u64 = 1_000_000;

/// The maximum number of places of one principal.
pub const MAX_PLACES_PER_ACTOR: u64 = 10_000;

/// The maximum size of the names in all places, in bytes.
pub const MAX_PLACE_BYTES: u64 = 512 << 20;

/// The maximum number of items that an inbox keeps for a session that does not look.
pub const MAX_INBOX: usize = 10_000;

/// The maximum number of steps of one lock in an entry: a long queue holds up no other for long.
pub const STEPS_PER_LOCK: usize = 256;

/// The maximum number of due deadlines, and of unused lanes, that an entry works off: some ten
/// milliseconds. A million locks that expire together are done after 245 entries.
pub const MAX_WORK: usize = 4096;

/// The maximum number of sessions.
pub const MAX_SESSIONS: u64 = 100_000;

/// The maximum number of sessions that one request keeps alive.
pub const MAX_KEPT_ALIVE: usize = 1000;

/// The longest name of an identity or a group, in bytes: it travels with each of its requests.
pub const MAX_IDENTITY_BYTES: usize = 256;

/// The maximum number of groups of a principal.
pub const MAX_GROUPS: usize = 32;

/// The maximum size of the names of all groups of a principal, in bytes.
pub const MAX_GROUPS_BYTES: usize = 2048;

/// The maximum number of access rules: a few thousand teams with several rules each.
pub const MAX_RULES: usize = 20_000;

/// The maximum number of access tokens.
pub const MAX_ACCESS_TOKENS: usize = 20_000;

/// The longest JWT that is read, in bytes: several times as long as those of Kubernetes and of CI
/// services, and within what a node accepts as the head of a request.
pub const MAX_JWT_BYTES: usize = 8 * 1024;

/// A bound on a value of a request, or on a piece of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// Its name, as in refusals and tables.
    pub name: &'static str,
    /// The thing it bounds, in a few words.
    pub bounds: &'static str,
    /// The unit of both ends.
    pub unit: Unit,
    /// The least that is allowed.
    pub smallest: i128,
    /// The most that is allowed.
    pub largest: i128,
    /// The handling of a value beyond.
    pub beyond: Beyond,
    /// The file that enforces it.
    pub enforced_by: &'static str,
    /// How it is known to hold.
    pub proof: Proof,
}

/// The unit in which a limit counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Bytes of a text in UTF-8 without NUL.
    TextBytes,
    /// Bytes.
    Bytes,
    /// Whole milliseconds.
    Milliseconds,
    /// A number, or a count of things.
    Number,
}

/// The handling of a value beyond a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beyond {
    /// It is refused with `BadRequest`, and nothing changes.
    Refused,
    /// HTTP refuses it with `Unauthorized`: it is a credential.
    Unauthorized,
    /// HTTP refuses it with `TooLarge`; Keyward's client never sends it.
    TooLarge,
    /// Keyward's client sends it in several messages; HTTP refuses it.
    Split,
    /// It is replaced by the largest allowed value.
    Shortened,
    /// It is dropped and replaced by another.
    Replaced,
    /// It is refused as `queue_full`.
    Full,
    /// The oldest are dropped, and the answer says so.
    Dropped,
    /// The work is done in several pieces.
    Pieces,
    /// It cannot be represented.
    Impossible,
}

/// How a limit is known to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// Clients of the proof send requests at both ends, and beyond where that is refused.
    Asked,
    /// The proof generates work that is as large, in the simulation with a smaller bound.
    Worked,
    /// A test, in this file.
    Tested(&'static str),
}

impl Limit {
    /// Whether a value is within both ends.
    pub fn allows(&self, value: i128) -> bool {
        (self.smallest..=self.largest).contains(&value)
    }

    /// The largest value as a length in memory.
    pub(crate) fn most(&self) -> usize {
        usize::try_from(self.largest).unwrap_or(usize::MAX)
    }
}

const fn name(name: &'static str, bounds: &'static str) -> Limit {
    text(name, bounds, 1)
}

const fn text(name: &'static str, bounds: &'static str, smallest: i128) -> Limit {
    Limit {
        name,
        bounds,
        unit: Unit::TextBytes,
        smallest,
        largest: MAX_NAME_BYTES as i128,
        beyond: Beyond::Refused,
        enforced_by: "crates/core/src/lock/validate.rs",
        proof: Proof::Asked,
    }
}

const fn number(name: &'static str, bounds: &'static str, smallest: i128, largest: i128) -> Limit {
    let unit = Unit::Number;
    Limit { unit, smallest, largest, ..text(name, bounds, 0) }
}

const fn work(name: &'static str, bounds: &'static str, unit: Unit, largest: i128) -> Limit {
    Limit {
        name,
        bounds,
        unit,
        smallest: 0,
        largest,
        beyond: Beyond::Pieces,
        enforced_by: "",
        proof: Proof::Worked,
    }
}

/// The name of a lock.
pub const SIGNATURE: Limit = name("signature", "the name of a lock");
/// The name of an owner.
pub const SIGNEE: Limit = name("signee", "the owner that asks");
/// The name of a run of an owner.
pub const INSTANCE: Limit = name("instance", "the run of the owner");
/// The name of a table.
pub const TABLE: Limit = name("table", "the name of a table");
/// The prefix of the names on a page.
pub const PREFIX: Limit = text("prefix", "the beginning of the signatures of a page", 0);
/// The name that a page begins after.
pub const AFTER: Limit = text("after", "the signature that a page begins behind", 0);
/// The priority of a request.
pub const LEVEL: Limit = Limit {
    enforced_by: "crates/client/src/api/requests.rs",
    ..number("level", "the priority", -(MAX_SAFE_INTEGER as i128), MAX_SAFE_INTEGER as i128)
};
/// The token of a renewal or a release.
pub const TOKEN: Limit =
    number("token", "the token of a renewal or a release", 1, MAX_SAFE_INTEGER as i128);
/// How long a grant lasts.
pub const DURATION: Limit = Limit {
    unit: Unit::Milliseconds,
    ..number("duration", "how long a grant lasts", 1, MAX_DURATION.as_millis().cast_signed())
};
/// When a record is removed.
pub const TIME_TO_LIVE: Limit = Limit {
    unit: Unit::Milliseconds,
    ..number("time_to_live", "when the record is removed", 1, MAX_SAFE_INTEGER as i128)
};
/// How long a request waits outside of a session.
pub const WAIT: Limit = Limit {
    unit: Unit::Milliseconds,
    ..number("wait", "how long a request waits for a lock", 0, MAX_WAIT.as_millis().cast_signed())
};
/// How long a request waits in a session.
pub const SESSION_WAIT: Limit = Limit {
    unit: Unit::Milliseconds,
    ..number(
        "session_wait",
        "how long a request waits in a session",
        0,
        MAX_DURATION.as_millis().cast_signed(),
    )
};
/// The permits of a lock.
pub const PERMITS: Limit = number("permits", "the permits of a lock", 1, MAX_PERMITS as i128);
/// The time to live of a session.
pub const TTL: Limit = Limit {
    unit: Unit::Milliseconds,
    ..number(
        "ttl",
        "how long a session lives on by itself",
        SESSION_TTL[0].as_millis().cast_signed(),
        SESSION_TTL[1].as_millis().cast_signed(),
    )
};
/// The lock-delay.
pub const LOCK_DELAY: Limit = Limit {
    unit: Unit::Milliseconds,
    ..number(
        "lock_delay",
        "how long an expired grant keeps others out",
        0,
        MAX_LOCK_DELAY.as_millis().cast_signed(),
    )
};
/// The longest hold.
pub const MAX_HOLD: Limit = Limit {
    unit: Unit::Milliseconds,
    ..number("max_hold", "how long renewals keep a grant", 1, MAX_SAFE_INTEGER as i128)
};
/// The places in the queue of a lock.
pub const PLACES: Limit = Limit {
    beyond: Beyond::Full,
    enforced_by: "crates/core/src/lock/turns.rs",
    ..work("places", "the places in the queue of a lock", Unit::Number, MAX_PLACES_PER_LOCK as i128)
};
/// The places of a principal.
pub const PRINCIPAL_PLACES: Limit = Limit {
    beyond: Beyond::Full,
    enforced_by: "crates/core/src/lock/queue.rs",
    proof: Proof::Tested("crates/core/src/lock/tests/queue.rs"),
    ..work(
        "principal_places",
        "the places of a principal",
        Unit::Number,
        MAX_PLACES_PER_ACTOR as i128,
    )
};
/// The places of all locks.
pub const ALL_PLACES: Limit = Limit {
    beyond: Beyond::Full,
    enforced_by: "crates/core/src/lock/queue.rs",
    proof: Proof::Tested("crates/core/src/lock/queue.rs"),
    ..work("all_places", "the places of all locks", Unit::Number, MAX_PLACES as i128)
};
/// The bytes of the names in all places.
pub const PLACE_BYTES: Limit = Limit {
    beyond: Beyond::Full,
    enforced_by: "crates/core/src/lock/queue.rs",
    proof: Proof::Tested("crates/core/src/lock/queue.rs"),
    ..work("place_bytes", "the names in all places", Unit::Bytes, MAX_PLACE_BYTES as i128)
};
/// The open sessions.
pub const SESSIONS: Limit = Limit {
    beyond: Beyond::Full,
    enforced_by: "crates/core/src/lock/requests.rs",
    proof: Proof::Tested("crates/core/src/lock/tests/sessions.rs"),
    ..work("sessions", "the open sessions of a cluster", Unit::Number, MAX_SESSIONS as i128)
};
/// The items that an answer to a keep-alive tells.
pub const TOLD_ITEMS: Limit = Limit {
    enforced_by: "crates/core/src/lock/sessions.rs",
    ..work(
        "told_items",
        "the items of inboxes in an answer",
        Unit::Number,
        crate::types::Liveness::MAX_ITEMS as i128,
    )
};
/// The items that an inbox keeps.
pub const INBOX: Limit = Limit {
    beyond: Beyond::Dropped,
    enforced_by: "crates/core/src/lock/sessions.rs",
    proof: Proof::Tested("crates/core/src/lock/tests/sessions.rs"),
    ..work("inbox", "the items of an inbox", Unit::Number, MAX_INBOX as i128)
};
/// The steps that an entry makes of one lock.
pub const LOCK_STEPS: Limit = Limit {
    enforced_by: "crates/core/src/lock/turns.rs",
    proof: Proof::Tested("crates/core/src/lock/tests/queue.rs"),
    ..work("lock_steps", "the steps of one lock in an entry", Unit::Number, STEPS_PER_LOCK as i128)
};
/// The work of an entry.
pub const WORK: Limit = Limit {
    enforced_by: "crates/core/src/lock/state.rs",
    proof: Proof::Tested("crates/core/src/lock/tests/time.rs"),
    ..work("work", "the deadlines of an entry; a step is four", Unit::Number, MAX_WORK as i128)
};
/// The number of a request on its lane.
pub const REQUEST_NUMBER: Limit = Limit {
    beyond: Beyond::Impossible,
    enforced_by: "crates/core/src/types.rs",
    ..number("request_number", "the number of a request on its lane", 0, u64::MAX as i128)
};
/// The records on a page.
pub const PAGE: Limit = number("limit", "the records on a page", 1, ListRequest::MAX_LIMIT as i128);
/// The requests in a batch.
pub const BATCH: Limit = Limit {
    beyond: Beyond::Split,
    enforced_by: "src/http/batch.rs",
    ..number("batch", "the requests in a batch", 1, MAX_BATCH as i128)
};
/// The bytes of a batch.
pub const BATCH_BYTES: Limit = Limit {
    beyond: Beyond::Split,
    enforced_by: "src/http/batch.rs",
    ..work("batch_bytes", "the body of a batch", Unit::Bytes, MAX_BATCH_BYTES as i128)
};
/// The bytes of a request.
pub const BODY_BYTES: Limit = Limit {
    beyond: Beyond::TooLarge,
    enforced_by: "src/http/request.rs",
    proof: Proof::Tested("src/http/tests/limits.rs"),
    ..work("body_bytes", "the body of any other request", Unit::Bytes, MAX_BODY_BYTES as i128)
};
/// How long a request waits.
pub const TIMEOUT: Limit = Limit {
    unit: Unit::Milliseconds,
    beyond: Beyond::Shortened,
    enforced_by: "src/http/request.rs",
    proof: Proof::Tested("src/http/tests/malformed.rs"),
    ..number(
        "timeout",
        "how long a request waits; HTTP refuses more",
        1,
        MAX_TIMEOUT.as_millis().cast_signed(),
    )
};
/// The reason of a request.
pub const CAUSE: Limit = Limit {
    largest: MAX_CAUSE_BYTES as i128,
    beyond: Beyond::Replaced,
    enforced_by: "src/http/request.rs",
    proof: Proof::Tested("src/http/tests/malformed.rs"),
    ..text("cause", "why a request is made; HTTP refuses more", 0)
};
/// The name under which a request is traced.
pub const TRACE_ID: Limit = Limit {
    largest: MAX_TRACE_ID_BYTES as i128,
    beyond: Beyond::Replaced,
    enforced_by: "crates/client/src/api/mod.rs",
    proof: Proof::Tested("src/http/tests/malformed.rs"),
    ..text("trace_id", "the name under which a request is followed", 1)
};
/// The commands of a log entry.
pub const ENTRY_COMMANDS: Limit = Limit {
    enforced_by: "src/node/proposer.rs",
    ..work(
        "entry_commands",
        "the commands of a log entry",
        Unit::Number,
        MAX_ENTRY_COMMANDS as i128,
    )
};
/// The entries that a start applies again in one piece.
pub const REAPPLIED: Limit = Limit {
    enforced_by: "openraft",
    ..work(
        "reapplied",
        "the entries that a start applies at once",
        Unit::Number,
        REAPPLIED_ENTRIES as i128,
    )
};

/// The bytes of entries that are applied in one piece.
pub const APPLIED_BYTES: Limit = Limit {
    enforced_by: "src/raft/log_store.rs",
    ..work(
        "applied_bytes",
        "the entries that a start applies at once",
        Unit::Bytes,
        APPLY_BYTES as i128,
    )
};
/// The bytes of entries that are sent in one piece.
pub const SENT_BYTES: Limit = Limit {
    enforced_by: "src/raft/log_store.rs",
    ..work("sent_bytes", "the entries of a message to a follower", Unit::Bytes, SEND_BYTES as i128)
};
/// The bytes of the log in one file.
pub const SEGMENT: Limit = Limit {
    enforced_by: "src/storage/log/segments.rs",
    ..work("segment_bytes", "the log in one file", Unit::Bytes, SEGMENT_BYTES as i128)
};
/// The bytes of a snapshot with one checksum.
pub const SNAPSHOT_CHUNK: Limit = Limit {
    enforced_by: "src/storage/snapshots.rs",
    ..work(
        "snapshot_chunk",
        "the part of a snapshot with one checksum",
        Unit::Bytes,
        SNAPSHOT_CHUNK_BYTES as i128,
    )
};

/// The test of access control.
const OF_ACCESS: Proof = Proof::Tested("crates/core/src/access/tests.rs");
/// The name of an identity or a group.
pub const IDENTITY: Limit = Limit {
    largest: MAX_IDENTITY_BYTES as i128,
    enforced_by: "crates/core/src/access/principal.rs",
    proof: OF_ACCESS,
    ..name("identity", "the name of an identity or a group")
};
/// The groups of a principal.
pub const GROUPS: Limit = Limit {
    enforced_by: "crates/core/src/access/principal.rs",
    proof: OF_ACCESS,
    ..number("groups", "the groups of a principal", 0, MAX_GROUPS as i128)
};
/// The bytes of the groups of a principal.
pub const GROUPS_BYTES: Limit = Limit {
    unit: Unit::Bytes,
    enforced_by: "crates/core/src/access/principal.rs",
    proof: OF_ACCESS,
    ..number("groups_bytes", "the names of those groups together", 0, MAX_GROUPS_BYTES as i128)
};
/// The access rules.
pub const RULES: Limit = Limit {
    enforced_by: "crates/core/src/access/book.rs",
    proof: OF_ACCESS,
    ..number("rules", "the access rules of a cluster", 0, MAX_RULES as i128)
};
/// The access tokens.
pub const ACCESS_TOKENS: Limit = Limit {
    enforced_by: "crates/core/src/access/book.rs",
    proof: OF_ACCESS,
    ..number("access_tokens", "the access tokens of a cluster", 0, MAX_ACCESS_TOKENS as i128)
};

/// A JWT.
pub const JWT_BYTES: Limit = Limit {
    unit: Unit::Bytes,
    beyond: Beyond::Unauthorized,
    enforced_by: "src/jwt/mod.rs",
    proof: Proof::Tested("src/jwt/tests.rs"),
    ..number("jwt_bytes", "a JWT with which a request is made", 0, MAX_JWT_BYTES as i128)
};

/// Every limit, in the order of `docs/limits.md`.
pub const ALL: &[Limit] = &[
    SIGNATURE,
    SIGNEE,
    INSTANCE,
    TABLE,
    PREFIX,
    AFTER,
    LEVEL,
    TOKEN,
    DURATION,
    TIME_TO_LIVE,
    WAIT,
    SESSION_WAIT,
    PERMITS,
    TTL,
    LOCK_DELAY,
    MAX_HOLD,
    PLACES,
    PRINCIPAL_PLACES,
    ALL_PLACES,
    PLACE_BYTES,
    SESSIONS,
    TOLD_ITEMS,
    INBOX,
    LOCK_STEPS,
    WORK,
    REQUEST_NUMBER,
    PAGE,
    BATCH,
    BATCH_BYTES,
    BODY_BYTES,
    TIMEOUT,
    CAUSE,
    TRACE_ID,
    IDENTITY,
    GROUPS,
    GROUPS_BYTES,
    RULES,
    ACCESS_TOKENS,
    JWT_BYTES,
    ENTRY_COMMANDS,
    REAPPLIED,
    APPLIED_BYTES,
    SENT_BYTES,
    SEGMENT,
    SNAPSHOT_CHUNK,
];
