//! A wait for a lock, as the person at the terminal sees it, and its end.
//!
//! On a terminal one line is rewritten every second: the position in the queue, the holders and the
//! time. In a pipe nothing is written unless something is wrong. The line is of a copy of the state
//! that may be old; the request itself is the client's.

use std::fmt::Write as _;
use std::future::Future;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use rustix::process::Signal;

use crate::cli::signals::Signals;
use crate::cli::{client, duration, output};
use crate::client::{Acquire, Client};
use crate::clock::{Clock as _, SystemClock};
use crate::error::Error;
use crate::lock::Query;
use crate::service::LockService as _;
use crate::types::{
    CallOptions, LockRecord, LockRequest, Place, ReadOptions, SessionId, SessionLock,
    SessionLocksRequest, UnlockOptions, UnlockRequest,
};

/// The time before the first look: a lock that is free needs no line.
const FIRST_LOOK: Duration = Duration::from_millis(300);

/// The time from one look to the next on a terminal.
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// The time from one look to the next in a pipe: thousands may wait there.
const LISTEN_EVERY: Duration = Duration::from_secs(30);

/// The longest time for one look.
const LOOK: Duration = Duration::from_secs(1);

/// The longest time to leave the queue when a signal ended the wait: the person who pressed Ctrl-C
/// wants the terminal.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The time for which a cluster may lack the feature level for waiting: a new one has it within
/// seconds.
const TOO_OLD_AFTER: Duration = Duration::from_secs(5);

/// The width of a lock's name on the line, at most.
const NAME_WIDTH: usize = 40;

/// The width of a terminal that does not say it.
const USUAL_WIDTH: usize = 80;

/// The way in which a wait ended.
pub(crate) enum Waited<T> {
    /// With an answer.
    Answered(T),
    /// By a signal: the place in the queue is left, and a grant released.
    Interrupted(Signal),
}

/// Waits for the answer to a request, shows the wait, and leaves the queue on a signal.
///
/// # Errors
/// The cluster cannot let requests wait: a member runs an older program.
pub(crate) async fn wait<T>(
    client: &Client,
    request: &Acquire,
    signals: &mut Signals,
    answer: impl Future<Output = T>,
) -> Result<Waited<T>, Error> {
    let mut line = Line::new();
    let ended = tokio::select! {
        answer = answer => Ok(Waited::Answered(answer)),
        error = watch(client, request, &mut line) => Err(error),
        signal = interrupted(signals) => Ok(Waited::Interrupted(signal)),
    };
    line.clear();
    if let Ok(Waited::Interrupted(_)) = ended {
        leave(client, request).await;
    }
    ended
}

/// The next signal that ends a wait.
async fn interrupted(signals: &mut Signals) -> Signal {
    loop {
        match signals.next().await {
            Signal::CONT | Signal::USR1 | Signal::USR2 | Signal::CHILD => {}
            signal => return signal,
        }
    }
}

/// Watches the wait until it is over; ends only if the cluster does not let requests wait.
async fn watch(client: &Client, request: &Acquire, line: &mut Line) -> Error {
    if request.options.wait.is_none() {
        // A try is over soon.
        return std::future::pending().await;
    }
    tokio::time::sleep(FIRST_LOOK).await;
    if line.live { show(client, request, line).await } else { listen(client, request).await }
}

/// Rewrites the line on the terminal.
async fn show(client: &Client, request: &Acquire, line: &mut Line) -> Error {
    let begun = SystemClock.boottime().saturating_sub(FIRST_LOOK);
    let mut too_old = TooOld::default();
    let mut position = 0;
    loop {
        let waits = SystemClock.boottime().saturating_sub(begun);
        match look(client, request, position).await {
            Ok((record, place)) => {
                position = place.as_ref().map_or(0, |place| place.position);
                line.show(&describe(request, record.as_ref(), place.as_ref(), waits));
            }
            Err(error) => line.show(&trouble(&short_name(request), &error.to_string())),
        }
        // A place is only given where requests may wait.
        let level = if position == 0 { client::too_old(client).await } else { None };
        if let Some(error) = too_old.for_long(level) {
            return error;
        }
        tokio::time::sleep(SHOW_EVERY).await;
    }
}

/// Says once on standard error that something is wrong, and again after it was right.
async fn listen(client: &Client, request: &Acquire) -> Error {
    let mut too_old = TooOld::default();
    let mut is_told = false;
    loop {
        let status = client.cluster(CallOptions::within(LOOK)).await;
        let level = status.as_ref().ok().and_then(client::too_old_at);
        let pause = if level.is_some() { TOO_OLD_AFTER } else { LISTEN_EVERY };
        if let Some(error) = too_old.for_long(level) {
            return error;
        }
        let wrong = match status {
            Ok(status) => status.not_ready,
            // Locks that belong to no cluster.
            Err(Error::BadRequest { .. }) => None,
            Err(error) => Some(error.to_string()),
        };
        if let Some(wrong) = &wrong
            && !is_told
        {
            let name = output::visible(&request.request.signature);
            let trouble = trouble(&name, wrong);
            output::say(&format!("{trouble}; it is asked for again until the wait is over"));
        }
        is_told = wrong.is_some();
        tokio::time::sleep(pause).await;
    }
}

fn trouble(name: &str, wrong: &str) -> String {
    format!("{name} is waited for, but {wrong}")
}

/// The beginning of the lock's name, which leaves room on the line.
fn short_name(request: &Acquire) -> String {
    cut(&output::visible(&request.request.signature), NAME_WIDTH)
}

/// The time since a cluster was first seen to be too old.
#[derive(Default)]
struct TooOld {
    since: Option<Duration>,
}

impl TooOld {
    /// The error, once it has been seen at each look for [`TOO_OLD_AFTER`].
    fn for_long(&mut self, level: Option<Error>) -> Option<Error> {
        let now = SystemClock.boottime();
        if level.is_none() {
            self.since = None;
        }
        let error = level?;
        let since = *self.since.get_or_insert(now);
        (now.saturating_sub(since) >= TOO_OLD_AFTER).then_some(error)
    }
}

/// The record of the lock and the owner's place in its queue, as any node knows them. The place was
/// at this position before.
async fn look(
    client: &Client,
    request: &Acquire,
    position: u64,
) -> Result<(Option<LockRecord>, Option<Place>), Error> {
    const PAGE: u64 = LockRecord::MAX_PLACES as u64;
    // It moves forward, unless somebody comes with a higher level: then it is searched for.
    let mut after = position.saturating_sub(PAGE);
    let mut searched = after == 0;
    loop {
        let record = match page(client, request, after).await {
            Ok(record) => record,
            Err(Error::NotFound { .. }) => return Ok((None, None)),
            Err(error) => return Err(error),
        };
        let own = record.places.iter().find(|place| is_own(request, place)).cloned();
        let is_last = (record.places.len() as u64) < PAGE;
        match own {
            None if !is_last && searched => after += PAGE,
            None if !searched => (after, searched) = (0, true),
            own => return Ok((Some(record), own)),
        }
    }
}

async fn page(client: &Client, request: &Acquire, after: u64) -> Result<LockRecord, Error> {
    let options = ReadOptions {
        table: request.options.table.clone(),
        stale: true,
        call: CallOptions::within(LOOK),
    };
    let query = Query::check_places(request.request.signature.clone(), after, &options);
    Ok(client.read(query, options.call).await?.into_check()?.record)
}

/// Whether this is the place of the request. What is left out of a request is the session's.
fn is_own(request: &Acquire, place: &Place) -> bool {
    let (LockRequest { signee, .. }, options) = (&request.request, &request.options);
    let instance = match (&options.instance, options.session) {
        (None, Some(session)) => Some(session.to_string()),
        (instance, _) => instance.clone(),
    };
    place.session == options.session
        && place.instance == instance
        && (place.signee == *signee || (signee.is_empty() && options.session.is_some()))
}

fn describe(
    request: &Acquire,
    record: Option<&LockRecord>,
    place: Option<&Place>,
    waits: Duration,
) -> String {
    let mut text = short_name(request) + ": ";
    // Writing to a string does not fail.
    if let (Some(record), Some(place)) = (record, place) {
        let _ = write!(text, "position {} of {}, ", place.position, record.waiting);
    }
    let _ = write!(text, "waiting {}", duration::format_short(waits));
    if let Some(wait) = request.options.wait.filter(|wait| *wait != Duration::MAX) {
        let _ = write!(text, " of {}", duration::format(wait));
    }
    let holders = record.map_or(&[][..], |record| &record.holders);
    if let Some(first) = holders.iter().find(|holder| !holder.expired) {
        let owner = output::owner(&first.signee, first.instance.as_deref());
        let left = duration::format_short(first.expires_in);
        let _ = write!(text, "; held by {owner}, {left} left");
        let more = record.map_or(0, |record| record.more_holders) + holders.len() as u64 - 1;
        if more > 0 {
            let _ = write!(text, ", and by {more} more");
        }
    }
    text
}

/// Leaves the queue, or releases the grant that the place may have become.
async fn leave(client: &Client, request: &Acquire) {
    let left = tokio::time::timeout(LAST_WORD, async {
        let mut signee = request.request.signee.clone();
        let mut instance = request.options.instance.clone();
        if let Some(session) = request.options.session {
            instance = Some(instance.unwrap_or_else(|| session.to_string()));
            if signee.is_empty() {
                signee = signee_in(client, request, session, instance.as_deref()).await?;
            }
        }
        let request_to_leave =
            UnlockRequest { signature: request.request.signature.clone(), signee };
        let options = UnlockOptions {
            table: request.options.table.clone(),
            instance,
            call: CallOptions::within(LAST_WORD),
            ..UnlockOptions::default()
        };
        client.unlock(request_to_leave, options).await
    });
    match left.await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => not_left(request, &error.to_string()),
        Err(_) => not_left(request, "no node answered in time"),
    }
}

fn not_left(request: &Acquire, why: &str) {
    let name = output::visible(&request.request.signature);
    output::say(&format!(
        "the place in the queue of {name} was not left and ends by itself: {why}"
    ));
}

/// The signee of a session, whose name only the cluster has: that of its one owner in this lock.
async fn signee_in(
    client: &Client,
    request: &Acquire,
    session: SessionId,
    instance: Option<&str>,
) -> Result<String, Error> {
    let signature = &request.request.signature;
    let table = request.options.table.clone().unwrap_or_default();
    // A page begins behind a name, so the search begins just before this one.
    let mut before = signature.clone();
    before.pop();
    let mut page =
        SessionLocksRequest { session, after: Some((table.clone(), before)), limit: 1000 };
    let is_this = |lock: &SessionLock| lock.table == table && lock.signature == *signature;
    let options = ReadOptions { call: CallOptions::within(LAST_WORD), ..ReadOptions::default() };
    loop {
        let found = client.session_locks(page.clone(), options.clone()).await?;
        if let Some(lock) = found.locks.into_iter().find(is_this) {
            let holders = lock.holders.into_iter().map(|holder| (holder.signee, holder.instance));
            let places = lock.places.into_iter().map(|place| (place.signee, place.instance));
            let mut own: Vec<String> = holders
                .chain(places)
                .filter(|(_, of)| of.as_deref() == instance)
                .map(|(signee, _)| signee)
                .collect();
            own.dedup();
            return match (own.pop(), own.is_empty()) {
                (Some(signee), true) => Ok(signee),
                _ => Err(Error::unavailable("several owners of the session ask for the lock")),
            };
        }
        match found.next {
            Some(next) if next.0 == table && next.1 < *signature => page.after = Some(next),
            Some(_) | None => {
                return Err(Error::unavailable("the session has no place in the queue"));
            }
        }
    }
}

/// The line on a terminal.
struct Line {
    live: bool,
    shown: bool,
}

impl Line {
    fn new() -> Self {
        Self { live: std::io::stderr().is_terminal(), shown: false }
    }

    fn show(&mut self, text: &str) {
        if self.live {
            self.shown = true;
            write_over(&cut(text, width()));
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            write_over("");
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}

fn write_over(text: &str) {
    // A line that is not shown is no loss.
    let _ = write!(std::io::stderr().lock(), "\r\x1b[2K{text}");
}

fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { USUAL_WIDTH } else { columns }
}

/// The beginning of a text that fits into one line: a line that is wrapped cannot be rewritten. A
/// character that is not ASCII may take two cells.
fn cut(text: &str, columns: usize) -> String {
    let cells = |c: char| if c.is_ascii() { 1 } else { 2 };
    let room = columns.saturating_sub(1);
    if text.chars().map(cells).sum::<usize>() <= room {
        return text.to_owned();
    }
    let mut left = room.saturating_sub(2);
    let fits = |c: &char| {
        let fits = cells(*c) <= left;
        left = left.saturating_sub(cells(*c));
        fits
    };
    let mut short: String = text.chars().take_while(fits).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DecidedAt, Holder, Mode, Token};

    #[test]
    fn a_line_is_never_wrapped() {
        assert_eq!(cut("short", 80), "short");
        assert_eq!(cut("0123456789", 11), "0123456789");
        assert_eq!(cut("0123456789", 10), "0123456…");
        assert_eq!(cut("ää0123456789", 10), "ää012…");
        assert_eq!(cut("long", 0), "…");
    }

    #[test]
    fn the_line_says_position_time_and_holders() {
        let mut request = Acquire::new("a", "me").wait(Duration::from_secs(600));
        let holder = Holder {
            signee: "other".into(),
            token: Token(3),
            expires_in: Duration::from_secs(9),
            ..Holder::default()
        };
        let place = Place {
            place: DecidedAt::default(),
            signee: "me".into(),
            instance: None,
            session: None,
            level: 0,
            mode: Mode::Exclusive,
            since: Duration::from_secs(1),
            position: 2,
        };
        let record = LockRecord {
            signature: "a".into(),
            holders: vec![holder],
            more_holders: 0,
            limit: None,
            waiting: 5,
            places: vec![place.clone()],
        };
        let waits = Duration::from_secs(3);
        assert_eq!(
            describe(&request, Some(&record), Some(&place), waits),
            "a: position 2 of 5, waiting 3.0s of 10m; \
             held by other, 9.0s left"
        );
        let long = Acquire::new("n".repeat(1024), "me");
        let line = describe(&long, None, None, waits);
        assert_eq!(line, format!("{}…: waiting 3.0s", "n".repeat(37)));
        request.options.wait = Some(Duration::MAX);
        assert_eq!(describe(&request, None, None, waits), "a: waiting 3.0s");
        assert!(is_own(&request, &place));
        let session = Some(SessionId(7));
        request.options.session = session;
        assert!(!is_own(&request, &place));
        let instance = session.map(|session| session.to_string());
        let place = Place { session, instance, ..place };
        assert!(is_own(&request, &place));
        request.request.signee.clear();
        assert!(is_own(&request, &place), "the signee is the session's");
    }
}
