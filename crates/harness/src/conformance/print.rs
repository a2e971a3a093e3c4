//! The form of answers in a script: one line each, in the contract's words.
//!
//! Remaining times are rounded *up* to whole seconds. Scripts request whole seconds and let whole
//! seconds pass, so a service may be late by less than a second and print the same, but it may not
//! be early, or report more time than there is by even a millisecond.

use std::fmt::Write as _;
use std::time::Duration;

use keyward_core::error::Error;
use keyward_core::types::{
    DeadlocksResponse, DeleteStatus, Forbidden, Grant, Holder, KEPT_AFTER_EXPIRY, ListResponse,
    Liveness, LockRecord, LockStatus, Mode, News, Place, SessionLock, SessionLocksResponse,
    TableDefaults, TableInfo, TimeToLive, Token, TransferReason, UnlockStatus, VerifyResponse,
};

use super::words::Timed;

/// Names tokens: `t1` for the first one shown, and so on.
pub(crate) trait NameTokens {
    /// The name of a token of this lock in the table of the answer.
    fn name(&mut self, signature: &str, token: Token) -> String;

    /// Names tokens of another table.
    fn of_table<'a>(&'a mut self, table: &'a str) -> impl NameTokens;

    /// Whether this is the table of the answer.
    fn is_own(&self, table: &str) -> bool;
}

pub(crate) fn lock(status: &LockStatus, signature: &str, names: &mut impl NameTokens) -> String {
    match status {
        LockStatus::Ok(grant) => format!("ok{}", self::grant(grant, signature, names)),
        LockStatus::Renewed(grant) => format!("renewed{}", self::grant(grant, signature, names)),
        LockStatus::Transferred { grant, previous_signee, reason } => format!(
            "transferred{} previous_signee={} reason={}",
            self::grant(grant, signature, names),
            name(previous_signee),
            match reason {
                TransferReason::Expired => "expired",
                TransferReason::Forced => "forced",
                TransferReason::Preempted => "preempted",
            },
        ),
        LockStatus::Waiting(waiting) => {
            format!("waiting position={} ends_in={}", waiting.position, seconds(waiting.ends_in))
        }
        LockStatus::Failed(forbidden) => self::forbidden(forbidden, signature, names),
    }
}

pub(crate) fn unlock(
    status: &UnlockStatus,
    signature: &str,
    names: &mut impl NameTokens,
) -> String {
    match status {
        UnlockStatus::Ok => String::from("ok"),
        UnlockStatus::NoLock => String::from("no_lock"),
        UnlockStatus::Left => String::from("left"),
        UnlockStatus::Failed(forbidden) => self::forbidden(forbidden, signature, names),
    }
}

pub(crate) fn deletion(status: DeleteStatus) -> String {
    String::from(match status {
        DeleteStatus::Ok => "ok",
        DeleteStatus::NoTable => "no_table",
    })
}

/// The number of holders, places or items from which on only the first and the last are named.
const MANY: usize = 9;

/// The number of many things, and the first and the last of their names.
fn range(of: &str, names: &[&str]) -> String {
    let [first, .., last] = names else { return String::new() };
    format!("{of}={} from={} to={}", names.len(), name(first), name(last))
}

pub(crate) fn record(record: &LockRecord, timed: Timed, names: &mut impl NameTokens) -> String {
    let mut line = name(&record.signature);
    if record.holders.len() >= MANY {
        let all: Vec<&str> = record.holders.iter().map(|holder| &*holder.signee).collect();
        let _ = write!(line, " {}", range("holders", &all));
        if record.more_holders > 0 {
            let _ = write!(line, " more_holders={}", record.more_holders);
        }
    } else {
        for holder in &record.holders {
            line.push_str(&self::holder(holder, &record.signature, timed, names));
        }
    }
    if let Some(limit) = record.limit {
        let _ = write!(line, " limit={limit}");
    }
    if record.waiting > 0 {
        let _ = write!(line, " waiting={}", record.waiting);
    }
    if record.places.len() >= MANY {
        let all: Vec<&str> = record.places.iter().map(|place| &*place.signee).collect();
        let _ = write!(line, " {}", range("places", &all));
    } else {
        for place in &record.places {
            line.push_str(&self::place(place, timed));
            let _ = write!(line, " position={}", place.position);
        }
    }
    line
}

pub(crate) fn session(valid: Duration, known: Option<&str>) -> String {
    let known = known.map(|known| format!(" known={}", name(known)));
    format!("open valid={}{}", seconds(valid), known.unwrap_or_default())
}

/// The locks of a session: its grants and places in each.
pub(crate) fn session_locks(page: &SessionLocksResponse, names: &mut impl NameTokens) -> String {
    let mut lines = Vec::new();
    let is_many = page.locks.len() >= MANY;
    if is_many {
        let all: Vec<&str> = page.locks.iter().map(|lock| &*lock.signature).collect();
        lines.push(range("locks", &all));
    }
    for SessionLock { table, signature, holders, places } in page.locks.iter().filter(|_| !is_many)
    {
        let mut line = name(signature);
        push_table(&mut line, table, names);
        for holder in holders {
            let names = &mut names.of_table(table);
            line.push_str(&self::holder(holder, signature, Timed::Yes, names));
        }
        for place in places {
            line.push_str(&self::place(place, Timed::Yes));
        }
        lines.push(line);
    }
    if lines.is_empty() {
        lines.push(String::from("no locks"));
    }
    if let Some((_, next)) = &page.next {
        lines.push(format!("next={}", name(next)));
    }
    lines.join("\n")
}

/// The cycles of locks in tables with this prefix: each owner and the lock that it waits for, a
/// line a cycle. A cycle begins with the owner whose name is the smallest.
pub(crate) fn deadlocks(response: &DeadlocksResponse, prefix: &str) -> String {
    let mut lines = Vec::new();
    for cycle in &response.cycles {
        if !cycle.iter().all(|edge| edge.table.starts_with(prefix)) {
            continue;
        }
        let first = cycle.iter().enumerate().min_by_key(|(_, edge)| &edge.signee);
        let first = first.map_or(0, |(index, _)| index);
        let edges = cycle[first..].iter().chain(&cycle[..first]);
        let edges = edges.map(|edge| format!("{} waits for {}", edge.signee, edge.signature));
        lines.push(edges.collect::<Vec<_>>().join(", "));
    }
    lines.sort();
    if lines.is_empty() { String::from("no deadlocks") } else { lines.join("\n") }
}

fn push_table(text: &mut String, table: &str, names: &impl NameTokens) {
    if !names.is_own(table) {
        let _ = write!(text, " table={}", name(table));
    }
}

/// A place. Its age is rounded down, so that a service may be late.
fn place(place: &Place, timed: Timed) -> String {
    let mut text = format!(" place={}", name(&place.signee));
    if let Some(instance) = &place.instance {
        let _ = write!(text, " instance={}", name(instance));
    }
    push_mode(&mut text, place.mode, None);
    if place.level != 0 {
        let _ = write!(text, " level={}", place.level);
    }
    if timed == Timed::Yes {
        let _ = write!(text, " since={}s", place.since.as_secs());
    }
    text
}

pub(crate) fn liveness(state: &Liveness, names: &mut impl NameTokens) -> String {
    let Liveness::Alive { valid, inbox, more, overflow } = state else {
        return String::from("session_lost");
    };
    let mut text = format!("alive valid={}", seconds(*valid));
    let is_many = inbox.len() >= MANY;
    if is_many {
        let all: Vec<&str> = inbox.iter().map(|item| &*item.signature).collect();
        let _ = write!(text, "\n{}", range("items", &all));
    }
    for item in inbox.iter().filter(|_| !is_many) {
        let _ = write!(text, "\n{}", name(&item.signature));
        push_table(&mut text, &item.table, names);
        let _ = write!(text, " signee={}", name(&item.signee));
        if let Some(instance) = &item.instance {
            let _ = write!(text, " instance={}", name(instance));
        }
        let mut names = names.of_table(&item.table);
        match item.news {
            News::Granted { token, level, mode, slot } => {
                let token = names.name(&item.signature, token);
                let _ = write!(text, " granted token={token} level={level}");
                push_mode(&mut text, mode, slot);
            }
            News::Ended(reason) => {
                let _ = write!(text, " ended reason={}", reason.word());
            }
            News::Lost { token, reason } => {
                let token = token.map(|token| names.name(&item.signature, token));
                let _ = write!(text, " lost reason={}", reason.word());
                if let Some(token) = token {
                    let _ = write!(text, " token={token}");
                }
            }
        }
    }
    for (is, word) in [(*more, " more"), (*overflow, " overflow")] {
        text.push_str(if is { word } else { "" });
    }
    text
}

pub(crate) fn verified(
    verified: &VerifyResponse,
    signature: &str,
    names: &mut impl NameTokens,
) -> String {
    let holder = verified.holder.as_ref();
    let holder = holder.map(|holder| self::holder(holder, signature, Timed::Yes, names));
    format!("live={}{}", verified.live, holder.unwrap_or_default())
}

fn push_mode(text: &mut String, mode: Mode, slot: Option<u32>) {
    if mode != Mode::Exclusive {
        let _ = write!(text, " mode={}", mode.word());
    }
    if let Some(slot) = slot {
        let _ = write!(text, " slot={slot}");
    }
}

pub(crate) fn list(page: &ListResponse, names: &mut impl NameTokens) -> String {
    let mut lines: Vec<String> =
        page.locks.iter().map(|record| self::record(record, Timed::Yes, names)).collect();
    if lines.is_empty() {
        lines.push(String::from("no locks"));
    }
    if let Some(next) = &page.next {
        lines.push(format!("next={}", name(next)));
    }
    lines.join("\n")
}

pub(crate) fn tables(tables: &[TableInfo], prefix: &str) -> String {
    let lines: Vec<String> = tables
        .iter()
        .filter_map(|info| {
            let shown = info.table.strip_prefix(prefix)?;
            // A repetition has the length that the script gave it, which includes the prefix.
            let mut line = match repetition(shown) {
                Some((letter, times)) => format!("\"{{{letter}*{}}}\"", times + prefix.len()),
                None => name(shown),
            };
            let _ = write!(line, " locks={}", info.locks);
            if let Some(duration) = info.defaults.duration {
                let _ = write!(line, " duration={}", seconds(duration));
            }
            if let Some(time_to_live) = info.defaults.time_to_live {
                let kept = time_to_live.length().map(seconds);
                let kept = kept.as_deref().unwrap_or(TimeToLive::NEVER_WORD);
                let _ = write!(line, " time_to_live={kept}");
            }
            let TableDefaults { lock_delay, max_hold, .. } = info.defaults;
            for (word, time) in [("delay", lock_delay), ("max_hold", max_hold)] {
                if let Some(time) = time {
                    let _ = write!(line, " {word}={}", seconds(time));
                }
            }
            Some(line)
        })
        .collect();
    if lines.is_empty() { String::from("no tables") } else { lines.join("\n") }
}

/// The errors that are part of the contract, in the form of a script. `None` for errors that end
/// the script, because the service could not answer.
pub(crate) fn error(error: &Error, names: &mut impl NameTokens, signature: &str) -> Option<String> {
    match error {
        Error::Forbidden(forbidden) => Some(self::forbidden(forbidden, signature, names)),
        Error::BadRequest { reason } => Some(format!("bad_request: {reason}")),
        Error::NotFound { .. } => Some(String::from("not_found")),
        Error::LaneForgotten { .. } => Some(String::from("lane_forgotten")),
        Error::Unavailable { .. }
        | Error::Unknown { .. }
        | Error::Unauthorized { .. }
        | Error::NotAllowed { .. } => None,
    }
}

fn grant(grant: &Grant, signature: &str, names: &mut impl NameTokens) -> String {
    let mut text = format!(" token={}", names.name(signature, grant.token));
    if grant.level != 0 {
        let _ = write!(text, " level={}", grant.level);
    }
    if !grant.live {
        text.push_str(" live=false");
        return text;
    }
    push_mode(&mut text, grant.mode, grant.slot);
    let _ = write!(text, " expires_in={}", seconds(grant.expires_in));
    // Counted from the ask, and so longer by the wait, which is rounded down: late is forgiven.
    let waited = grant.valid.saturating_sub(grant.expires_in).as_secs();
    if waited > 0 {
        let _ = write!(text, " waited={waited}s");
    }
    push_removal(&mut text, Some(grant.expires_in), grant.removed_in);
    text
}

fn forbidden(forbidden: &Forbidden, signature: &str, names: &mut impl NameTokens) -> String {
    let mut text = format!("failed reason={}", forbidden.reason.word());
    if let Some(limit) = forbidden.limit {
        let _ = write!(text, " limit={limit}");
    }
    if let Some(delay) = forbidden.delay {
        let _ = write!(text, " delay={}", seconds(delay));
    }
    for holder in &forbidden.holders {
        text.push_str(&self::holder(holder, signature, Timed::Yes, names));
    }
    text
}

fn holder(holder: &Holder, signature: &str, timed: Timed, names: &mut impl NameTokens) -> String {
    let mut text = format!(" holder={}", name(&holder.signee));
    if let Some(instance) = &holder.instance {
        let _ = write!(text, " instance={}", name(instance));
    }
    let _ = write!(text, " token={}", names.name(signature, holder.token));
    push_mode(&mut text, holder.mode, holder.slot);
    if holder.level != 0 {
        let _ = write!(text, " level={}", holder.level);
    }
    if holder.expired {
        text.push_str(" expired");
    } else if timed == Timed::Yes {
        let _ = write!(text, " expires_in={}", seconds(holder.expires_in));
    }
    if timed == Timed::No {
        return text;
    }
    let expires_in = (!holder.expired).then_some(holder.expires_in);
    push_removal(&mut text, expires_in, holder.removed_in);
    text
}

/// Appends the time of removal. Nothing is written if the record of a live grant is removed exactly
/// a day after it expires, which is the default.
fn push_removal(text: &mut String, expires_in: Option<Duration>, removed_in: Option<Duration>) {
    let left_out = expires_in.map(|expires_in| expires_in + KEPT_AFTER_EXPIRY);
    match removed_in {
        Some(removed_in) if Some(removed_in) == left_out => {}
        Some(removed_in) => {
            let _ = write!(text, " removed_in={}", seconds(removed_in));
        }
        None => text.push_str(" removed_in=never"),
    }
}

/// A time in whole seconds, rounded up; whole days are written as days.
fn seconds(time: Duration) -> String {
    const DAY_SECONDS: u64 = 24 * 60 * 60;
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    if seconds > 0 && seconds.is_multiple_of(DAY_SECONDS) {
        format!("{}d", seconds / DAY_SECONDS)
    } else {
        format!("{seconds}s")
    }
}

/// A name in the form of a script: quoted where it must be, a long repetition as one.
fn name(text: &str) -> String {
    if let Some((letter, times)) = repetition(text) {
        return format!("\"{{{letter}*{times}}}\"");
    }
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-./@".contains(letter);
    if text.is_empty() || !text.chars().all(plain) { format!("{text:?}") } else { text.to_owned() }
}

/// The letter and its count, for a long name that repeats one letter.
fn repetition(text: &str) -> Option<(char, usize)> {
    // Longer names would make unreadable lines.
    const LONGEST_WRITTEN_OUT: usize = 64;
    let first = text.chars().next()?;
    let long = text.len() > LONGEST_WRITTEN_OUT && text.chars().all(|letter| letter == first);
    long.then(|| (first, text.chars().count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_up_so_that_late_is_forgiven_and_generous_is_not() {
        let ms = Duration::from_millis;
        for (time, text) in
            [(9_001, "10s"), (10_000, "10s"), (10_001, "11s"), (0, "0s"), (86_400_000, "1d")]
        {
            assert_eq!(seconds(ms(time)), text, "{time} ms");
        }
    }

    #[test]
    fn names_read_as_a_script_writes_them() {
        assert_eq!(name("jobs/nightly"), "jobs/nightly");
        assert_eq!(name("two words"), "\"two words\"");
        assert_eq!(name(&"x".repeat(1024)), "\"{x*1024}\"");
        assert_eq!(name("e\u{301}"), "\"e\\u{301}\"");
    }
}
