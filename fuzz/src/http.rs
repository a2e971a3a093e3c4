//! The HTTP API over locks in memory: the real handlers, whose answers are compared with those of
//! the service itself.
//!
//! The clock does not move while a request is answered, so that times can be compared, too.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Uri};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

use super::peers::runtime;
use keyward::api::{
    BatchAnswers, BatchBody, BatchItem, BatchItemAnswer, CheckAnswer, CheckQuery, Code,
    DeleteAnswer, DoneAnswer, ListAnswer, ListQuery, LockAnswer, LockBody, LockStatusWord,
    PROBLEM_MEDIA_TYPE, Problem, TableAnswer, TableBody, TableQuery, TablesAnswer, TablesQuery,
    UnlockAnswer, UnlockBody, UnlockStatusWord, WaitingAnswer, headers, parse_log_position, routes,
    to_ms,
};
use keyward::clock::ManualClock;
use keyward::error::Error;
use keyward::http::{clients_router, serve_one};
use keyward::lock::Operation;
use keyward::memory::MemoryLocks;
use keyward::service::{LockService as _, all_tables};
use keyward::types::{
    DEFAULT_DURATION, DEFAULT_TABLE, DeleteStatus, Holder, ListRequest, LockOptions, LockRecord,
    LockRequest, ReadOptions, RequestId, TableDefaults, TableInfo, TableOptions, TablesRequest,
};

/// The lane of request ids that [`Api::new`] has used.
const USED_LANE: u128 = 1;

/// Some locks, and the router that answers requests about them.
struct Api {
    runtime: Runtime,
    locks: MemoryLocks,
    router: axum::Router,
}

/// An answer.
struct Told {
    status: u16,
    fields: HeaderMap,
    body: Vec<u8>,
}

/// Every table with its records.
type Everything = Vec<(TableInfo, Vec<LockRecord>)>;

impl Api {
    /// A lock that is held, one that is expired, one of an instance, and one in a table with
    /// defaults that was asked for with a request id.
    fn new() -> Self {
        let runtime = runtime();
        let clock = ManualClock::default();
        let locks = MemoryLocks::with_clock(Arc::new(clock.clone()));
        runtime.block_on(some_locks(&locks)).expect("they are free");
        clock.advance(Duration::from_secs(2));
        let router = clients_router(Arc::new(locks.clone()), Arc::new(()));
        Self { runtime, locks, router }
    }

    /// Sends a request; `None` if the URI is not one.
    fn ask(&self, method: Method, uri: &str, json: Option<&[u8]>) -> Option<Told> {
        let uri: Uri = uri.parse().ok()?;
        let mut request = Request::builder().method(method).uri(uri);
        if json.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Body::from(json.unwrap_or_default().to_vec());
        let request = request.body(body).expect("method and path are right");
        let answer = self.runtime.block_on(self.router.clone().oneshot(request));
        let (head, body) = answer.expect("the router never fails").into_parts();
        let body = self.runtime.block_on(axum::body::to_bytes(body, usize::MAX));
        let body = body.expect("the answer is in memory").to_vec();
        let told = Told { status: head.status.as_u16(), fields: head.headers, body };
        told.assert_right();
        Some(told)
    }

    fn post(&self, path: &str, body: &[u8]) -> Told {
        self.ask(Method::POST, path, Some(body)).expect("the path is right")
    }

    fn check(&self, table: Option<String>, signature: &str) -> Option<LockRecord> {
        let options = ReadOptions { table, ..ReadOptions::default() };
        match self.runtime.block_on(self.locks.check(signature.to_owned(), options)) {
            Ok(response) => Some(response.record),
            Err(Error::NotFound { .. }) => None,
            Err(error) => panic!("{signature:?} was asked for, and cannot be: {error}"),
        }
    }

    fn holder(&self, table: Option<String>, signature: &str) -> Option<Holder> {
        self.check(table, signature).map(|record| {
            let [holder] = <[Holder; 1]>::try_from(record.holders).expect("it has one holder");
            holder
        })
    }

    fn everything(&self) -> Everything {
        let tables = self.runtime.block_on(all_tables(&self.locks, ReadOptions::default()));
        let records = |info: TableInfo| {
            let request = ListRequest { limit: ListRequest::MAX_LIMIT, ..ListRequest::default() };
            let options = ReadOptions { table: Some(info.table.clone()), ..ReadOptions::default() };
            let listed = self.runtime.block_on(self.locks.list(request, options));
            (info, listed.expect("a table that is listed can be read").locks)
        };
        tables.expect("memory is always available").into_iter().map(records).collect()
    }
}

async fn some_locks(locks: &MemoryLocks) -> Result<(), Error> {
    let by = |signature: &str, signee: &str| LockRequest {
        signature: signature.to_owned(),
        signee: signee.to_owned(),
        level: Some(1),
    };
    let options = |table: &str, seconds| LockOptions {
        table: Some(table.to_owned()),
        duration: Some(Duration::from_secs(seconds)),
        ..LockOptions::default()
    };
    locks.lock(by("a", "b"), options(DEFAULT_TABLE, 30)).await?;
    let time_to_live = Some(Duration::from_secs(60).into());
    let expired = LockOptions { time_to_live, ..options(DEFAULT_TABLE, 1) };
    locks.lock(by("ab", "b"), expired).await?;
    let instance = LockOptions { instance: Some("i".to_owned()), ..options(DEFAULT_TABLE, 30) };
    locks.lock(by("b", "c"), instance).await?;
    let table = TableOptions { table: Some("t".to_owned()), ..TableOptions::default() };
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let time_to_live = seconds(10).map(Into::into);
    let defaults = TableDefaults { duration: seconds(5), time_to_live, ..TableDefaults::default() };
    locks.configure_table(defaults, table).await?;
    let request_id = Some(RequestId { lane: USED_LANE, seq: 1 });
    locks.lock(by("a", "b"), LockOptions { request_id, ..options("t", 30) }).await.map(drop)
}

impl Told {
    /// Asserts what every answer must satisfy.
    fn assert_right(&self) {
        let shown = || format!("{}: {}", self.status, self.body.escape_ascii());
        assert!(self.status < 500, "{}", shown());
        assert!(self.fields.contains_key(headers::TRACE_ID), "no trace id: {}", shown());
        if let Some(position) = self.fields.get(headers::LOG_POSITION) {
            let position = position.to_str().ok().and_then(parse_log_position);
            assert!(position.is_some(), "{:?}", self.fields);
        }
        if !matches!(self.status, 200 | 202) {
            let media_type = self.fields.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            assert_eq!(media_type, Some(PROBLEM_MEDIA_TYPE.as_bytes()), "{}", shown());
            self.problem();
        }
    }

    fn json<T: DeserializeOwned>(&self) -> T {
        let shown = self.body.escape_ascii();
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {shown}"))
    }

    fn problem(&self) -> Problem {
        let problem: Problem = self.json();
        assert!(problem.is_ours() && problem.code != Code::Other, "{problem:?}");
        assert_eq!((problem.status, problem.code.status()), (self.status, self.status));
        problem
    }
}

/// `POST /v1/lock` with this body. After a grant, a check shows the requester as the holder, and a
/// repeated request renews the lock; a refused request has changed nothing.
pub fn http_lock(body: &[u8]) {
    let api = Api::new();
    let before = api.everything();
    let told = api.post(routes::LOCK, body);
    if !matches!(told.status, 200 | 202) {
        assert_eq!(api.everything(), before, "what is refused changes nothing");
        return;
    }
    let asked: LockBody = serde_json::from_slice(body).expect("what was granted is a request");
    if told.status == 202 {
        assert_waits(&api, &before, &asked, &told.json());
        return;
    }
    let answer: LockAnswer = told.json();
    if asked.request_id.is_none_or(|id| id.lane != USED_LANE) {
        assert_grant_is_new(&before, &asked, &answer);
    }
    let holder = api.holder(asked.table.clone(), &asked.signature).expect("it was granted");
    assert_eq!(holder.signee, asked.signee);
    assert_eq!(holder.instance, asked.instance);
    assert_eq!((holder.token.0, holder.level), (answer.token, answer.level));
    assert!(answer.live && !holder.expired, "{answer:?} {holder:?}");
    assert_eq!(to_ms(holder.expires_in), answer.expires_in_ms);
    assert_eq!(holder.removed_in.map(to_ms), answer.removed_in_ms);

    let again: LockAnswer = api.post(routes::LOCK, body).json();
    let repeated = asked.request_id.is_some();
    let status = if repeated { answer.status } else { LockStatusWord::Renewed };
    assert_eq!((again.status, again.token), (status, answer.token), "mine is renewed");
    assert_eq!(again.expires_in_ms, answer.expires_in_ms);
}

/// Asserts that the request has the only place, and that the holders are as they were.
fn assert_waits(api: &Api, before: &Everything, asked: &LockBody, answer: &WaitingAnswer) {
    let table = asked.table.as_deref().unwrap_or(DEFAULT_TABLE);
    let found = before.iter().find(|(info, _)| info.table == table);
    let mut locks = found.into_iter().flat_map(|(_, locks)| locks);
    let held = locks.find(|lock| lock.signature == asked.signature).expect("a free lock is given");
    let now = api.check(asked.table.clone(), &asked.signature).expect("it has a place");
    assert_eq!((now.waiting, answer.position), (1, 1));
    assert_eq!(now.holders, held.holders, "who waits changes nothing for the holders");
    assert!(Some(answer.ends_in_ms) <= asked.wait_ms, "{answer:?}");
}

/// Asserts that the answer is the one that the contract demands, given the state before.
fn assert_grant_is_new(before: &Everything, asked: &LockBody, answer: &LockAnswer) {
    let table = asked.table.as_deref().unwrap_or(DEFAULT_TABLE);
    let found = before.iter().find(|(info, _)| info.table == table);
    let (duration, records) = match found {
        Some((info, records)) => (info.defaults.duration, records.as_slice()),
        None => (None, &[][..]),
    };
    let duration_ms = asked.duration_ms.unwrap_or(to_ms(duration.unwrap_or(DEFAULT_DURATION)));
    assert_eq!(answer.expires_in_ms, duration_ms);
    assert!(answer.removed_in_ms.is_none_or(|removed| removed >= answer.expires_in_ms));
    let record = records.iter().find(|record| record.signature == asked.signature);
    let Some(holder) = record.and_then(|record| record.holders.first()) else {
        assert_eq!((answer.status, asked.token), (LockStatusWord::Ok, None));
        assert_eq!(answer.level, asked.level.unwrap_or(0));
        return;
    };
    let mine = (&holder.signee, &holder.instance) == (&asked.signee, &asked.instance);
    if mine {
        assert_eq!(answer.status, LockStatusWord::Renewed);
        assert_eq!(answer.token == holder.token.0, !holder.expired, "{answer:?} {holder:?}");
    } else {
        assert_eq!(answer.status, LockStatusWord::Transferred);
        assert_eq!(answer.previous_signee.as_ref(), Some(&holder.signee));
        let may = holder.expired || asked.force || asked.level.unwrap_or(0) > holder.level;
        assert!(may && asked.token.is_none(), "{answer:?} {holder:?}");
    }
    assert!(answer.token >= holder.token.0, "tokens only grow: {answer:?} {holder:?}");
}

/// `POST /v1/unlock` with this body. A lock that was released is gone, and was the caller's, unless
/// an operator released it.
pub fn http_unlock(body: &[u8]) {
    let api = Api::new();
    let before = api.everything();
    let told = api.post(routes::UNLOCK, body);
    if told.status != 200 {
        assert_eq!(api.everything(), before, "what is refused changes nothing");
        return;
    }
    let asked: UnlockBody = serde_json::from_slice(body).expect("what was done is a request");
    let answer: UnlockAnswer = told.json();
    if asked.place.is_some() {
        assert_eq!(answer.status, UnlockStatusWord::NoLock, "nobody waits");
        assert_eq!(api.everything(), before, "what is gone already changes nothing");
        return;
    }
    assert_eq!(api.holder(asked.table.clone(), &asked.signature), None, "it is gone");
    let was = Api::new().holder(asked.table, &asked.signature);
    match (answer.status, was) {
        (UnlockStatusWord::NoLock, None) => {}
        (UnlockStatusWord::Ok, Some(holder)) => {
            let is_mine = (&holder.signee, &holder.instance) == (&asked.signee, &asked.instance);
            assert!(is_mine || asked.force, "only an operator releases another's: {holder:?}");
            assert!(asked.token.is_none_or(|token| token == holder.token.0));
        }
        (status, was) => panic!("{status:?} is no answer where {was:?} was"),
    }
}

/// `GET /v1/lock` with this query string: the answer is that of the service itself.
pub fn http_check(query: &[u8]) {
    let Ok(query) = std::str::from_utf8(query) else { return };
    let api = Api::new();
    let Some(told) = api.ask(Method::GET, &format!("{}?{query}", routes::LOCK), None) else {
        return;
    };
    if told.status == 200 || told.status == 404 {
        let asked: CheckQuery =
            serde_urlencoded::from_str(without_fragment(query)).expect("it was answered");
        let expected = api.check(asked.table, &asked.signature);
        let found = (told.status == 200).then(|| told.json::<CheckAnswer>());
        assert_eq!(found, expected.as_ref().map(CheckAnswer::from));
    }
}

/// The part of a query string that reaches a server.
fn without_fragment(query: &str) -> &str {
    query.split('#').next().unwrap_or_default()
}

/// `GET /v1/locks` with this query string: the page is that of a plain filter of all records.
pub fn http_list(query: &[u8]) {
    let Ok(query) = std::str::from_utf8(query) else { return };
    let api = Api::new();
    let Some(told) = api.ask(Method::GET, &format!("{}?{query}", routes::LOCKS), None) else {
        return;
    };
    if told.status != 200 {
        return;
    }
    let asked: ListQuery =
        serde_urlencoded::from_str(without_fragment(query)).expect("it was answered");
    let table = asked.table.as_deref().unwrap_or(DEFAULT_TABLE);
    let everything = api.everything();
    let records = everything.iter().find(|(info, _)| info.table == table);
    let records = records.map(|(_, records)| records.as_slice()).unwrap_or_default();
    let mut expected: Vec<CheckAnswer> = records
        .iter()
        .filter(|record| record.signature.starts_with(&asked.prefix))
        .filter(|record| asked.after.as_ref().is_none_or(|after| record.signature > *after))
        .filter(|record| asked.state.is_none_or(|state| record.state() == state))
        .map(CheckAnswer::from)
        .collect();
    let limit = asked.limit.unwrap_or(ListRequest::DEFAULT_LIMIT) as usize;
    let next = (expected.len() > limit).then(|| expected[limit - 1].signature.clone());
    expected.truncate(limit);
    assert_eq!(told.json::<ListAnswer>(), ListAnswer { locks: expected, next, next_table: None });
}

/// `POST /v1/batch` with this body: each request is answered as it would be alone.
pub fn http_batch(body: &[u8]) {
    let api = Api::new();
    let before = api.everything();
    let told = api.post(routes::BATCH, body);
    if told.status != 200 {
        assert_eq!(api.everything(), before, "what is refused changes nothing");
        return;
    }
    let asked: BatchBody = serde_json::from_slice(body).expect("what was done is a batch");
    let answers: BatchAnswers = told.json();
    assert_eq!(answers.answers.len(), asked.requests.len(), "each request has its answer");
    let alone = Api::new();
    // Reads are entries, too: this brings both to the same position in the log.
    assert_eq!(alone.everything(), before);
    for (item, answer) in asked.requests.iter().zip(answers.answers) {
        assert_eq!(answer, ask_alone(&alone, item), "{item:?}");
    }
    assert_eq!(api.everything(), alone.everything());
}

fn ask_alone(api: &Api, item: &BatchItem) -> BatchItemAnswer {
    let (path, body) = match item {
        BatchItem::Lock(body) => (routes::LOCK, serde_json::to_vec(body)),
        BatchItem::Unlock(body) => (routes::UNLOCK, serde_json::to_vec(body)),
    };
    let told = api.post(path, &body.expect("our documents have string keys only"));
    let position = told.fields.get(headers::LOG_POSITION).and_then(|value| value.to_str().ok());
    let mut answer = BatchItemAnswer {
        log_position: position.and_then(parse_log_position),
        ..BatchItemAnswer::default()
    };
    match (told.status, item) {
        (200, BatchItem::Lock(_)) => answer.lock = Some(told.json()),
        (200, BatchItem::Unlock(_)) => answer.unlock = Some(told.json()),
        _ => answer.problem = Some(told.problem()),
    }
    answer
}

/// Requests about tables, one a line: `GET` or `DELETE` and a query string, or `PUT` and a body.
/// A table that was set has its defaults, one that was deleted is gone.
pub fn http_tables(bytes: &[u8]) {
    let api = Api::new();
    for line in bytes.split(|byte| *byte == b'\n').take(16) {
        if let Some(body) = line.strip_prefix(b"PUT ") {
            put_table(&api, body);
        } else if let Some(query) = line.strip_prefix(b"DELETE ") {
            let Ok(query) = std::str::from_utf8(query) else { continue };
            delete_table(&api, query);
        } else if let Some(query) = line.strip_prefix(b"GET ") {
            let Ok(query) = std::str::from_utf8(query) else { continue };
            get_tables(&api, query);
        }
    }
}

fn put_table(api: &Api, body: &[u8]) {
    let before = api.everything();
    let told = api.ask(Method::PUT, routes::TABLE, Some(body)).expect("the path is right");
    if told.status != 200 {
        assert_eq!(api.everything(), before, "what is refused changes nothing");
        return;
    }
    assert_eq!(told.json::<DoneAnswer>(), DoneAnswer::default());
    let asked: TableBody = serde_json::from_slice(body).expect("what was done is a request");
    if asked.request_id.is_some() {
        // A repeated request does nothing, and gets the same answer.
        return;
    }
    let command = asked.into_command().expect("what was done is a command").operation;
    let Operation::ConfigureTable(asked) = command else { panic!("{command:?}") };
    let found = api.everything().into_iter().find(|(info, _)| info.table == *asked.table);
    let defaults = found.map(|(info, _)| info.defaults).unwrap_or_default();
    assert_eq!(defaults.duration, asked.duration_ms.map(Duration::from_millis));
    assert_eq!(defaults.time_to_live, asked.time_to_live.map(Into::into));
}

fn delete_table(api: &Api, query: &str) {
    let before = api.everything();
    let uri = format!("{}?{query}", routes::TABLE);
    let Some(told) = api.ask(Method::DELETE, &uri, None) else { return };
    if told.status != 200 {
        assert_eq!(api.everything(), before, "what is refused changes nothing");
        return;
    }
    let asked: TableQuery =
        serde_urlencoded::from_str(without_fragment(query)).expect("it was done");
    if asked.request_id.is_none() {
        let was_there = before.iter().any(|(info, _)| info.table == asked.table);
        let status = if was_there { DeleteStatus::Ok } else { DeleteStatus::NoTable };
        assert_eq!(told.json::<DeleteAnswer>(), DeleteAnswer::from(status));
        let is_left = api.everything().iter().any(|(info, _)| info.table == asked.table);
        assert!(!is_left, "{asked:?} is still there");
    }
}

fn get_tables(api: &Api, query: &str) {
    let Some(told) = api.ask(Method::GET, &format!("{}?{query}", routes::TABLES), None) else {
        return;
    };
    if told.status == 200 {
        let asked: TablesQuery =
            serde_urlencoded::from_str(without_fragment(query)).expect("it was answered");
        let everything = api.everything();
        let tables = everything.iter().map(|(info, _)| info);
        let tables =
            tables.filter(|info| asked.after.as_ref().is_none_or(|after| info.table > *after));
        let mut expected: Vec<TableAnswer> = tables.map(TableAnswer::from).collect();
        let limit = asked.limit.unwrap_or(TablesRequest::DEFAULT_LIMIT) as usize;
        let next = (expected.len() > limit).then(|| expected[limit - 1].table.clone());
        expected.truncate(limit);
        assert_eq!(told.json::<TablesAnswer>(), TablesAnswer { tables: expected, next });
    }
}

/// The bytes that a client sends over a connection: each answer is one of the contract, and the
/// locks can be read afterwards.
pub fn http(bytes: &[u8]) {
    let api = Api::new();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (mut answers, mut requests) = tokio::io::split(ours);
    let mut told = Vec::new();
    api.runtime.block_on(async {
        let locks = Arc::new(api.locks.clone());
        let served = serve_one(theirs, locks);
        let sent = async {
            // The server may have closed the connection: it does so when the bytes are no HTTP.
            let _ = requests.write_all(bytes).await;
            let _ = requests.shutdown().await;
        };
        let ((), (), read) = tokio::join!(served, sent, answers.read_to_end(&mut told));
        read.expect("the end of a connection in memory is no error");
    });
    let mut rest = told.as_slice();
    while !rest.is_empty() {
        rest = assert_answer(rest);
    }
    api.everything();
}

/// Checks the answer at the start of the bytes; returns the rest.
fn assert_answer(bytes: &[u8]) -> &[u8] {
    let shown = bytes.escape_ascii();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, rest) = bytes.split_at(end.unwrap_or_else(|| panic!("cut: {shown}")) + 4);
    let head = std::str::from_utf8(head).unwrap_or_else(|error| panic!("{error}: {shown}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse::<u16>().ok());
    let status = status.unwrap_or_else(|| panic!("no status: {shown}"));
    assert!((100..500).contains(&status), "{shown}");
    let length = lines.filter_map(|line| line.split_once(':'));
    let length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize =
        length.map(|(_, value)| value.trim().parse::<usize>().expect("a length")).sum();
    // The answer to a HEAD request has a length and no body.
    let length = if rest.starts_with(b"HTTP/1.") || rest.is_empty() { 0 } else { length };
    let (body, rest) = rest.split_at_checked(length).unwrap_or_else(|| panic!("cut: {shown}"));
    // Bytes that are no HTTP are refused without a document.
    if status >= 400 && !body.is_empty() {
        let problem: Problem = serde_json::from_slice(body).expect("a refusal is a problem");
        assert_eq!((problem.status, problem.code.status()), (status, status), "{problem:?}");
        assert!(problem.is_ours() && problem.code != Code::Other, "{problem:?}");
    }
    rest
}
