//! The list is whole, validation keeps to it, and the page says it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::*;
use std::time::Duration;

use crate::lock::{Command, Query};
use crate::types::{
    LockOptions, LockRequest, Mode, ReadOptions, RequestId, SessionId, SessionOptions,
    SessionRequest, TableDefaults, TableOptions, Token,
};

/// A text of so many bytes.
fn text(value: i128) -> String {
    "x".repeat(usize::try_from(value).unwrap())
}

/// A request with this value of this limit, and everything else as is usual; `None` if a request has no
/// such value.
pub(crate) fn request(limit: Limit, value: i128) -> Option<(LockRequest, LockOptions)> {
    let mut request =
        LockRequest { signature: "a".to_owned(), signee: "b".to_owned(), level: None };
    let mut options = LockOptions::default();
    match limit.name {
        "signature" => request.signature = text(value),
        "signee" => request.signee = text(value),
        "instance" => options.instance = Some(text(value)),
        "table" => options.table = Some(text(value)),
        "level" => request.level = Some(i64::try_from(value).unwrap()),
        "token" => options.token = Some(Token(u64::try_from(value).unwrap())),
        "duration" => {
            options.duration = Some(Duration::from_millis(u64::try_from(value).unwrap()));
        }
        "time_to_live" => {
            let length = Duration::from_millis(u64::try_from(value).unwrap());
            options.time_to_live = Some(length.into());
        }
        "request_number" => {
            let seq = u64::try_from(value).ok()?;
            options.request_id = Some(RequestId { lane: 1, seq });
        }
        _ => return None,
    }
    Some((request, options))
}

/// A page with this value of this limit; `None` if a page has no such value.
pub(crate) fn page(limit: Limit, value: i128) -> Option<ListRequest> {
    let mut page = ListRequest::default();
    match limit.name {
        "prefix" => page.prefix = text(value),
        "after" => page.after = Some(text(value)),
        "limit" => page.limit = u32::try_from(value).unwrap(),
        _ => return None,
    }
    Some(page)
}

fn is_valid(lock: LockRequest, options: LockOptions) -> bool {
    Command::lock(lock, options).unwrap().validate().is_ok()
}

fn is_allowed(limit: Limit, value: i128) -> bool {
    let page = page(limit, value);
    match (request(limit, value), page) {
        (Some((lock, options)), _) => is_valid(lock, options),
        (None, Some(page)) => Query::list(page, &ReadOptions::default()).validate().is_ok(),
        (None, None) => panic!("no test asks for {limit:?}"),
    }
}

#[test]
fn validation_allows_both_ends_and_refuses_what_is_beyond() {
    // Levels are bounded by what JSON carries, where they are read.
    let elsewhere = |limit: &Limit| *limit == LEVEL || OF_TURNS.contains(limit);
    let asked = ALL.iter().filter(|limit| limit.proof == Proof::Asked && !elsewhere(limit));
    for &limit in asked.filter(|limit| limit.beyond == Beyond::Refused) {
        assert!(is_allowed(limit, limit.smallest), "{limit:?}");
        assert!(is_allowed(limit, limit.largest), "{limit:?}");
        assert!(!is_allowed(limit, limit.largest + 1), "{limit:?}");
        if limit.smallest > 0 {
            assert!(!is_allowed(limit, limit.smallest - 1), "{limit:?}");
        }
    }
}

/// The limits of what waits, of sessions and of settings of a table.
const OF_TURNS: [Limit; 6] = [WAIT, SESSION_WAIT, PERMITS, TTL, LOCK_DELAY, MAX_HOLD];

#[test]
fn what_waits_is_allowed_at_both_ends_and_refused_beyond() {
    let lock = |options: LockOptions| {
        let request = LockRequest { signature: "a".into(), signee: "b".into(), level: None };
        Command::lock(request, options)
    };
    let ms = |value: i128| Duration::from_millis(u64::try_from(value).unwrap());
    let options = LockOptions::default;
    let command = |limit: Limit, value: i128| match limit.name {
        "wait" => lock(LockOptions { wait: Some(ms(value)), ..options() }),
        "session_wait" => {
            let session = Some(SessionId(1));
            lock(LockOptions { wait: Some(ms(value)), session, ..options() })
        }
        "permits" => {
            let limit = Some(u32::try_from(value).unwrap());
            lock(LockOptions { mode: Some(Mode::Permits), limit, ..options() })
        }
        "lock_delay" => lock(LockOptions { lock_delay: Some(ms(value)), ..options() }),
        "max_hold" => {
            let defaults = TableDefaults { max_hold: Some(ms(value)), ..TableDefaults::default() };
            Command::configure_table(defaults, TableOptions::default())
        }
        "ttl" => {
            let request = SessionRequest { signee: "b".into(), ttl: ms(value) };
            Command::open_session(request, SessionOptions::default())
        }
        name => panic!("no test asks for {name}"),
    };
    let allowed = |limit, value| command(limit, value).is_ok_and(|it| it.validate().is_ok());
    for limit in OF_TURNS {
        assert!(allowed(limit, limit.smallest), "{limit:?}");
        assert!(allowed(limit, limit.largest), "{limit:?}");
        assert!(!allowed(limit, limit.largest + 1), "{limit:?}");
        assert!(limit.smallest == 0 || !allowed(limit, limit.smallest - 1), "{limit:?}");
    }
}

/// The folder of the whole project.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

#[test]
fn a_name_stands_for_one_limit_and_its_files_are_there() {
    for (at, limit) in ALL.iter().enumerate() {
        assert!(ALL[..at].iter().all(|earlier| earlier.name != limit.name), "{limit:?}");
        let root = Path::new(ROOT);
        let file = |path: &str| path == "openraft" || root.join(path).is_file();
        assert!(file(limit.enforced_by), "{limit:?}");
        if let Proof::Tested(path) = limit.proof {
            assert!(file(path), "{limit:?}");
        }
    }
}

/// `UPDATE_GOLDENFILES=1` writes the page.
#[test]
fn the_page_says_the_list() {
    let path = Path::new(ROOT).join("docs/limits.md");
    let page = table();
    if std::env::var("UPDATE_GOLDENFILES").is_ok_and(|value| value == "1") {
        fs::write(&path, &page).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/limits.md is another: UPDATE_GOLDENFILES=1");
}

const HEAD: &str = "# Limits

Every limit of Keyward, from the list in `crates/core/src/limits.rs`: validation refuses by it, the proof asks at both ends of each and
beyond, and this page is written from it (`UPDATE_GOLDENFILES=1 cargo nextest run -p keyward-core limits`).

*Asked*: clients of [simulation](simulation.md) and [chaos](chaos.md) ask at the smallest, at the largest and beyond, and a run that
did not reach one of them shows nothing. *Worked*: the proof makes that much work; the simulation has smaller bounds for it. A queue of 300 places counts there, more than an
entry hands over.

| limit | bounds | unit | smallest | largest | beyond | enforced by | proof |
|---|---|---|---|---|---|---|---|
";

fn table() -> String {
    let mut page = HEAD.to_owned();
    for limit in ALL {
        let Limit { name, bounds, smallest, largest, enforced_by, .. } = limit;
        let unit = match limit.unit {
            Unit::TextBytes => "bytes of UTF-8, no NUL",
            Unit::Bytes => "bytes",
            Unit::Milliseconds => "ms",
            Unit::Number => "",
        };
        let beyond = match limit.beyond {
            Beyond::Refused => "refused (400)",
            Beyond::Unauthorized => "refused (401)",
            Beyond::TooLarge => "refused (413)",
            Beyond::Split => "the client asks in parts; refused (400, 413) over HTTP",
            Beyond::Shortened => "the client takes the largest; refused (400) over HTTP",
            Beyond::Replaced => "the client leaves it out",
            Beyond::Full => "refused (`queue_full`)",
            Beyond::Dropped => "the oldest go, and the answer says `overflow`",
            Beyond::Pieces => "done in pieces",
            Beyond::Impossible => "cannot be written",
        };
        let proof = match limit.proof {
            Proof::Asked => "asked".to_owned(),
            Proof::Worked => "worked".to_owned(),
            Proof::Tested(path) => format!("`{path}`"),
        };
        writeln!(
            page,
            "| {name} | {bounds} | {unit} | {smallest} | {largest} | {beyond} | `{enforced_by}` | {proof} |"
        )
        .unwrap();
    }
    page
}
