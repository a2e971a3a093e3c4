//! Logs which members the leader has lost, and when they are back.
//!
//! openraft logs every message that fails, ten a second for each member that is down; its own
//! messages are off by default. Here a member is lost once it has acknowledged nothing for
//! [`LOST`]: this logs one warning then, one a minute while it stays lost, and one line when it is
//! back. Only the leader receives acknowledgements from all members, so only it reports them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::Instant as _;

use crate::client::carrier::is_of_a_certificate;
use crate::raft::leader_watch::is_refused;
use crate::raft::member::Member;
use crate::raft::peer::CallError;

/// The time without acknowledgement after which a member is reported: longer than an election and a
/// slow answer, and shorter than a person would wait before asking.
const LOST: Duration = Duration::from_secs(3);

/// The interval at which acknowledgements are checked.
const EVERY: Duration = Duration::from_secs(1);

/// The interval at which a member that stays lost is reported.
const REMINDER: Duration = Duration::from_secs(60);

/// The reason why the latest message to each member failed, as text for a person.
#[derive(Default)]
pub(crate) struct Failures(Mutex<BTreeMap<u64, String>>);

impl Failures {
    pub(crate) fn note(&self, member: u64, error: &CallError) {
        self.lock().insert(member, in_words(error));
    }

    fn latest(&self, member: u64) -> String {
        self.lock().get(&member).cloned().unwrap_or_else(|| "its answers are late".to_owned())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, String>> {
        // Only texts are moved while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_words(error: &CallError) -> String {
    match error {
        CallError::Connect { addr, .. } if is_refused(error) => {
            format!("nothing listens at {addr}: its process does not run")
        }
        CallError::Connect { source, .. } if is_of_a_certificate(source.as_ref()) => {
            error.to_string()
        }
        CallError::Connect { addr, .. } => format!("{addr} cannot be reached"),
        CallError::Broken { addr, .. } => format!("the connection to {addr} breaks off"),
        CallError::Timeout { addr, .. } => format!("{addr} does not answer in time"),
        CallError::Refused { addr, reason, .. } => format!("{addr} refuses: {reason}"),
        CallError::Distrusted { addr, reason } => format!("{addr} is not trusted: {reason}"),
        CallError::Answer { addr, .. } => format!("{addr} gives answers that do not decode"),
        CallError::Status { addr, status } => format!("{addr} answers with HTTP status {status}"),
    }
}

/// Watches the members for as long as it is polled.
pub(crate) async fn keep(member: Arc<Member>) {
    let mut absences = Absences::default();
    loop {
        tokio::time::sleep(EVERY).await;
        for event in absences.look(member.clock.boottime(), heard(&member)) {
            report(&event, &member.failures);
        }
    }
}

/// The time since each other member acknowledged something; `None` unless this node leads.
fn heard(member: &Member) -> Option<BTreeMap<u64, Option<Duration>>> {
    member.metrics_ref(|metrics| {
        let acknowledged = metrics.heartbeat.as_ref()?;
        let others = acknowledged.iter().filter(|(id, _)| **id != member.id);
        Some(others.map(|(id, at)| (*id, at.as_ref().map(|at| at.elapsed()))).collect())
    })
}

fn report(event: &Event, failures: &Failures) {
    match event {
        Event::Lost { member, silent } => tracing::warn!(
            member,
            silent_for = ?silent,
            cause = failures.latest(*member),
            "a member is lost: it acknowledges nothing"
        ),
        Event::StillLost { member, silent } => tracing::warn!(
            member,
            silent_for = ?silent,
            cause = failures.latest(*member),
            "a member is still lost"
        ),
        Event::Back { member, silent } => {
            // The next loss has another cause.
            failures.lock().remove(member);
            tracing::info!(member, silent_for = ?silent, "a member is back");
        }
    }
}

/// An event to report; silences are in whole seconds.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Event {
    Lost { member: u64, silent: Duration },
    StillLost { member: u64, silent: Duration },
    Back { member: u64, silent: Duration },
}

/// The members that are lost.
#[derive(Default)]
struct Absences {
    /// The time when this node was first seen to lead, if it does.
    leads_since: Option<Duration>,
    looked: Option<Duration>,
    lost: BTreeMap<u64, Lost>,
}

struct Lost {
    since: Duration,
    reported: Duration,
}

impl Absences {
    /// Compares the current silences with the reported ones.
    fn look(
        &mut self,
        now: Duration,
        heard: Option<BTreeMap<u64, Option<Duration>>>,
    ) -> Vec<Event> {
        let before = self.looked.replace(now);
        let Some(heard) = heard else {
            *self = Self { looked: self.looked, ..Self::default() };
            return Vec::new();
        };
        let leads_since = *self.leads_since.get_or_insert(now);
        // A process that was paused has received nothing; its members are contacted first.
        if before.is_some_and(|before| now.saturating_sub(before) > 2 * EVERY) {
            return Vec::new();
        }
        self.lost.retain(|member, _| heard.contains_key(member));
        let silence = |silent: Option<Duration>| silent.unwrap_or(now.saturating_sub(leads_since));
        let members = heard.into_iter().map(|(member, silent)| (member, silence(silent)));
        members.filter_map(|(member, silent)| self.judge(now, member, silent)).collect()
    }

    fn judge(&mut self, now: Duration, member: u64, silent: Duration) -> Option<Event> {
        let whole = |time: Duration| Duration::from_secs(time.as_secs());
        if silent < LOST {
            let lost = self.lost.remove(&member)?;
            let silent = whole(now.saturating_sub(silent).saturating_sub(lost.since));
            return Some(Event::Back { member, silent });
        }
        let Some(lost) = self.lost.get_mut(&member) else {
            let since = now.saturating_sub(silent);
            self.lost.insert(member, Lost { since, reported: now });
            return Some(Event::Lost { member, silent: whole(silent) });
        };
        if now.saturating_sub(lost.reported) < REMINDER {
            return None;
        }
        lost.reported = now;
        Some(Event::StillLost { member, silent: whole(silent) })
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The reports of a leader that checks once a second; member 2 is silent when `silent` returns
    /// true.
    fn reports(length: u64, silent: impl Fn(u64) -> bool) -> Vec<(u64, Event)> {
        let (mut absences, mut reported, mut last) = (Absences::default(), Vec::new(), 0);
        for at in 100..100 + length {
            if !silent(at - 100) {
                last = at;
            }
            let heard = BTreeMap::from([(2, Some(seconds(at - last))), (3, Some(seconds(0)))]);
            let events = absences.look(seconds(at), Some(heard));
            reported.extend(events.into_iter().map(|event| (at - 100, event)));
        }
        reported
    }

    #[test]
    fn a_lost_member_is_reported_once_then_once_a_minute_and_when_it_is_back() {
        let member = 2;
        assert_eq!(
            reports(200, |at| (10..150).contains(&at)),
            [
                (12, Event::Lost { member, silent: seconds(3) }),
                (72, Event::StillLost { member, silent: seconds(63) }),
                (132, Event::StillLost { member, silent: seconds(123) }),
                (150, Event::Back { member, silent: seconds(141) }),
            ]
        );
    }

    #[test]
    fn a_short_silence_is_reported_to_nobody() {
        assert_eq!(reports(60, |at| at % 4 > 1), []);
    }

    #[test]
    fn a_member_that_never_answered_is_lost_from_the_beginning_of_the_leadership() {
        let mut absences = Absences::default();
        let silent = || Some(BTreeMap::from([(2, None)]));
        assert_eq!(absences.look(seconds(50), None), []);
        for at in 51..54 {
            assert_eq!(absences.look(seconds(at), silent()), [], "{at}");
        }
        let lost = Event::Lost { member: 2, silent: LOST };
        assert_eq!(absences.look(seconds(54), silent()), std::slice::from_ref(&lost));
        // Another node leads for a moment, and reports its members itself.
        assert_eq!(absences.look(seconds(55), None), []);
        for at in 56..59 {
            assert_eq!(absences.look(seconds(at), silent()), [], "{at}");
        }
        assert_eq!(absences.look(seconds(59), silent()), [lost]);
    }

    #[test]
    fn a_leader_that_stood_still_blames_nobody() {
        let mut absences = Absences::default();
        let heard = |ago| Some(BTreeMap::from([(2, Some(seconds(ago)))]));
        assert_eq!(absences.look(seconds(1), heard(0)), []);
        assert_eq!(absences.look(seconds(30), heard(29)), []);
        assert_eq!(absences.look(seconds(31), heard(0)), []);
    }

    #[test]
    fn a_cause_is_told_in_plain_words() {
        let failures = Failures::default();
        assert_eq!(failures.latest(2), "its answers are late");
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = CallError::Connect { addr: "h:1".to_owned(), source: Box::new(refused) };
        failures.note(2, &error);
        assert_eq!(failures.latest(2), "nothing listens at h:1: its process does not run");
        let error = CallError::Timeout { addr: "h:1".to_owned(), timeout: LOST };
        failures.note(2, &error);
        assert_eq!(failures.latest(2), "h:1 does not answer in time");
    }
}
