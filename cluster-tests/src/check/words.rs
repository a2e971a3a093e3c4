//! Operations and answers in words, for people.

use std::fmt;

use keyward::types::{Mode, TransferReason};

use super::model::{Lock, Told};
use super::step::{Rules, right_answers};
use crate::history::{
    Action, Answer, Granted, HolderSeen, LockAction, Operation, Outcome, Refusal, Status, Turn,
};

/// An operation on one line, such as `#7 c1 lock worker-1 level 2: transferred, token 9`.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a>(pub &'a Operation);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { id, client, action, outcome, .. } = self.0;
        write!(f, "#{id} {client} ")?;
        match action {
            Action::Lock(asked) => lock(f, asked)?,
            Action::Unlock(asked) => {
                write!(f, "unlock {}", asked.signee)?;
                option(f, "instance", asked.instance.as_ref())?;
                option(f, "token", asked.token)?;
            }
            Action::Check(_) => f.write_str("check")?,
            Action::StaleCheck(_) => f.write_str("stale check")?,
            Action::Read(read) => {
                f.write_str("read")?;
                option(f, "token", read.token)?;
            }
            Action::Write(write) => {
                write!(f, "write based on {}", write.based_on)?;
                option(f, "token", write.token)?;
            }
        }
        f.write_str(": ")?;
        outcome_in_words(f, outcome)
    }
}

fn lock(f: &mut fmt::Formatter<'_>, asked: &LockAction) -> fmt::Result {
    let verb = if asked.token.is_some() { "renew" } else { "lock" };
    write!(f, "{verb} {}", asked.signee)?;
    option(f, "instance", asked.instance.as_ref())?;
    option(f, "level", asked.level)?;
    if asked.force {
        f.write_str(" by force")?;
    }
    option(f, "token", asked.token)?;
    let Turn { mode, limit, wait_ms, queued: _, session, lock_delay_ms } = asked.turn;
    option(f, "mode", mode.map(Mode::word))?;
    option(f, "limit", limit)?;
    option(f, "wait", (wait_ms > 0).then_some(wait_ms))?;
    option(f, "session", session)?;
    option(f, "delay", lock_delay_ms)
}

fn option(f: &mut fmt::Formatter<'_>, name: &str, value: Option<impl fmt::Display>) -> fmt::Result {
    value.map_or(Ok(()), |value| write!(f, " {name} {value}"))
}

fn outcome_in_words(f: &mut fmt::Formatter<'_>, outcome: &Outcome) -> fmt::Result {
    match outcome {
        Outcome::Ok(Answer::Granted(granted)) => {
            let Granted { status, token, level, expires_in_ms, live, mode, slot, .. } = granted;
            status_in_words(f, status)?;
            write!(f, ", token {token}, level {level}, {expires_in_ms} ms")?;
            if *mode != Mode::Exclusive {
                write!(f, ", {}", mode.word())?;
            }
            option(f, "slot", *slot)?;
            if *live { Ok(()) } else { f.write_str(", not live") }
        }
        Outcome::Ok(Answer::Released) => f.write_str("released"),
        Outcome::Ok(Answer::NoLock) => f.write_str("no lock"),
        Outcome::Ok(Answer::Left) => f.write_str("left"),
        Outcome::Ok(Answer::Waiting(waiting)) => {
            write!(f, "waits at {}, number {}", waiting.place, waiting.position)
        }
        Outcome::Ok(Answer::Queue(queue)) => {
            let holders = queue.holders.iter();
            let holders = holders.map(|holder| format!("{} ({})", holder.signee, holder.token));
            let holders = holders.collect::<Vec<_>>().join(", ");
            write!(f, "{holders} have it, {} wait", queue.waiting)
        }
        Outcome::Ok(Answer::Record(None)) => f.write_str("not found"),
        Outcome::Ok(Answer::Record(Some(holder))) => holder_in_words(f, holder),
        Outcome::Ok(Answer::Value(version)) => write!(f, "version {version}"),
        Outcome::Ok(Answer::Written(version)) => write!(f, "made version {version}"),
        Outcome::Refused(Refusal::Forbidden { reason, holder }) => {
            write!(f, "refused as {}", reason.word())?;
            holder.as_ref().map_or(Ok(()), |holder| {
                f.write_str(", ")?;
                holder_in_words(f, holder)
            })
        }
        Outcome::Refused(Refusal::BadRequest) => f.write_str("bad request"),
        Outcome::Refused(Refusal::Stale) => f.write_str("refused as stale"),
        Outcome::Unavailable => f.write_str("unavailable"),
        Outcome::Unknown => f.write_str("unknown"),
    }
}

fn status_in_words(f: &mut fmt::Formatter<'_>, status: &Status) -> fmt::Result {
    match status {
        Status::Ok => f.write_str("given"),
        Status::Renewed => f.write_str("renewed"),
        Status::Transferred { previous_signee, reason } => {
            let reason = match reason {
                TransferReason::Expired => "expired",
                TransferReason::Forced => "forced",
                TransferReason::Preempted => "preempted",
            };
            write!(f, "taken from {previous_signee} ({reason})")
        }
    }
}

fn holder_in_words(f: &mut fmt::Formatter<'_>, holder: &HolderSeen) -> fmt::Result {
    write!(f, "{} has it", holder.signee)?;
    option(f, "as instance", holder.instance.as_ref())?;
    write!(f, ", token {}, level {}, ", holder.token, holder.level)?;
    if holder.expired {
        f.write_str("expired")
    } else {
        write!(f, "{} ms left", holder.expires_in_ms)
    }
}

/// The answer of the contract at this place, one of several if time may have had several effects.
pub(super) fn answers<'a>(
    locks: impl Iterator<Item = &'a Lock>,
    operation: &Operation,
    now: u64,
    rules: Rules,
) -> String {
    let mut all = Vec::new();
    for (told, after) in locks.flat_map(|lock| right_answers(lock, operation, now, rules)) {
        let text = told_in_words(&told, &after);
        if !all.contains(&text) {
            all.push(text);
        }
    }
    all.join(" or ")
}

fn told_in_words(told: &Told, after: &Lock) -> String {
    let holder = after.grant.as_ref().map(|grant| {
        let token = grant.token.map_or_else(|| String::from("unknown"), |token| token.to_string());
        let dead = if grant.dead { ", expired" } else { "" };
        format!("{}, token {token}, level {}{dead}", grant.signee, grant.level)
    });
    let holder = holder.unwrap_or_else(|| String::from("nobody"));
    match told {
        Told::Granted { status, new_token, level } => {
            let token = match (new_token, after.grant.as_ref().and_then(|grant| grant.token)) {
                (false, Some(token)) => format!("token {token}"),
                _ => format!("a token above {}", after.highest),
            };
            format!("{}, {token}, level {level}", StatusWords(status))
        }
        Told::Refused(reason) => format!("refused as {} ({holder})", reason.word()),
        Told::Released => String::from("released"),
        Told::NoLock => String::from("no lock"),
        Told::Record if after.grant.is_none() => String::from("not found"),
        Told::Record => format!("the record ({holder})"),
    }
}

struct StatusWords<'a>(&'a Status);

impl fmt::Display for StatusWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        status_in_words(f, self.0)
    }
}
