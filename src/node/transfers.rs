//! Log lines of locks that were taken from their holders.
//!
//! A holder whose lock is gone asks who took it, and why. So the node that proposed a transfer logs
//! it when it is decided: once in the cluster, and not again when entries are applied at a start. A
//! repeated request that is answered as before is no transfer and leaves no line. A line is lost
//! with a node that dies before it is written: the log is for people, the state decides.
//!
//! A lock that is forced or preempted always leaves a line. Locks that are taken over because they
//! expired may come in thousands, so of these the first few in each window leave a line of their
//! own, and the others are counted. Names are written as quoted text, with control characters
//! escaped.
//!
//! A release by an operator, who ends the grant or the place of another, leaves a line, too: on the
//! node that proposed it, and once more if the request is repeated.

use std::sync::Arc;
use std::time::Duration;

use openraft::raft::ClientWriteResponse;

use crate::error::Error;
use crate::flood::{Flood, WINDOW};
use crate::lock::{Command, Decision, LockCommand, Operation, Outcome};
use crate::raft::codec;
use crate::raft::types::{Data, TypeConfig};
use crate::types::{DecidedAt, LockStatus, Token, TransferReason, UnlockStatus};

/// Logs transfers, and limits those of expired locks.
#[derive(Default)]
pub(super) struct Transfers {
    expired: Flood,
}

/// A lock that changed hands by one command of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Transfer {
    token: Token,
    level: i64,
    previous_owner: String,
    reason: TransferReason,
    decided_at: DecidedAt,
}

impl Transfers {
    /// Logs the transfers of an entry. `trace_ids` are those of its commands, and `now` is the time
    /// of the node's raw clock.
    pub(super) fn tell(
        &self,
        transfers: Vec<Transfer>,
        proposed: &Data,
        trace_ids: &[Option<Arc<str>>],
        now: Duration,
    ) {
        tell_left_out(self.expired.left_out(now));
        // Decoded again from the bytes of the entry: hardly any entry has a transfer, so the
        // commands are not kept for it.
        let mut proposal = None;
        for transfer in transfers {
            if transfer.reason == TransferReason::Expired && !self.admits(now) {
                continue;
            }
            let commands = proposal.get_or_insert_with(|| commands_of(proposed));
            let position = transfer.decided_at.position as usize;
            let Some(command) = commands.get(position) else { continue };
            log(&transfer, command, trace_ids.get(position).and_then(Option::as_deref));
        }
    }

    fn admits(&self, now: Duration) -> bool {
        let (admitted, left_out) = self.expired.admit(now);
        tell_left_out(left_out);
        admitted
    }
}

fn tell_left_out(left_out: u64) {
    if left_out > 0 {
        let seconds = WINDOW.as_secs();
        tracing::info!(locks = left_out, seconds, "more expired locks were taken over");
    }
}

/// The transfers that were decided by an entry. A decision with another position is an earlier one,
/// repeated.
pub(super) fn transfers_of(response: &ClientWriteResponse<TypeConfig>) -> Vec<Transfer> {
    let index = response.log_id.index();
    let transfer = |(decision, position): (&Decision, u32)| match &decision.outcome {
        Outcome::Lock(LockStatus::Transferred { grant, previous_signee, reason }) => {
            let decided_at = DecidedAt { index, position };
            (decision.decided_at == Some(decided_at)).then(|| Transfer {
                token: grant.token,
                level: grant.level,
                previous_owner: previous_signee.clone(),
                reason: *reason,
                decided_at,
            })
        }
        Outcome::Lock(_)
        | Outcome::Unlock(_)
        | Outcome::Advanced
        | Outcome::Table
        | Outcome::NoTable
        | Outcome::FeatureLevel
        | Outcome::Session(_)
        | Outcome::KeptAlive(_)
        | Outcome::Closed(_)
        | Outcome::Left
        | Outcome::NotLeft
        | Outcome::Limit
        | Outcome::NoLimit
        | Outcome::Access(_)
        | Outcome::Refused(_) => None,
    };
    response.data.decisions.iter().zip(0..).filter_map(transfer).collect()
}

fn commands_of(proposed: &Data) -> Vec<Command> {
    let proposal = codec::proposal_of(proposed);
    proposal.expect("this node has encoded the proposal itself").commands
}

fn log(transfer: &Transfer, command: &Command, trace_id: Option<&str>) {
    let Operation::Lock(lock) = &command.operation else { return };
    let Transfer { token, level, previous_owner, reason, decided_at } = transfer;
    let LockCommand { table, signature, signee, instance, .. } = &**lock;
    // Passed as text, not as `Display`, so that the log quotes and escapes them.
    let (table, signature, owner) = (&**table, &**signature, &**signee);
    let (instance, cause) = (instance.as_deref(), command.cause.as_deref());
    let (actor, token) = (command.actor(), token.0);
    let position = tracing::field::display(decided_at);
    let message = match reason {
        TransferReason::Expired => "an expired lock was taken over",
        TransferReason::Forced | TransferReason::Preempted => "a lock was taken from its holder",
    };
    let reason = match reason {
        TransferReason::Expired => "expired",
        TransferReason::Forced => "forced",
        TransferReason::Preempted => "preempted",
    };
    tracing::info!(
        table,
        signature,
        owner,
        instance,
        previous_owner,
        reason,
        grant_level = level,
        token,
        cause,
        actor,
        trace_id,
        position,
        "{message}"
    );
}

/// The releases by operators among commands, with their numbers: hardly ever is there one.
pub(super) fn forced_releases(commands: &[Command]) -> Vec<(usize, Command)> {
    let is_forced =
        |command: &Command| matches!(&command.operation, Operation::Unlock(it) if it.force);
    let numbered = commands.iter().enumerate().filter(|(_, command)| is_forced(command));
    numbered.map(|(number, command)| (number, command.clone())).collect()
}

/// Logs those releases by operators that ended something.
pub(super) fn tell_releases(
    forced: &[(usize, Command)],
    decided: &[Result<Decision, Error>],
    trace_id: Option<&str>,
) {
    for (number, command) in forced {
        let Operation::Unlock(release) = &command.operation else { continue };
        let Some(Ok(decision)) = decided.get(*number) else { continue };
        let message = if decision.outcome == Outcome::Unlock(UnlockStatus::Ok) {
            "a grant was ended by an operator"
        } else if decision.outcome == Outcome::Unlock(UnlockStatus::Left) {
            "a place was ended by an operator"
        } else {
            continue;
        };
        let (table, signature, by) = (&*release.table, &*release.signature, &*release.signee);
        let (token, place) = (release.token.map(|token| token.0), release.place);
        let place = place.map(tracing::field::display);
        let position = decision.decided_at.map(tracing::field::display);
        let (cause, actor) = (command.cause.as_deref(), command.actor());
        tracing::info!(
            table,
            signature,
            by,
            token,
            place,
            cause,
            actor,
            trace_id,
            position,
            "{message}"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::lock::{ClusterTime, Proposal, Stamp, State};
    use crate::raft::types::{Applied, raft_log_id};
    use crate::storage;
    use crate::types::RequestId;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The log as the program writes it, as text.
    fn logged(log: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.split_terminator('\n').map(str::to_owned).collect()
    }

    fn forced(signee: &str, request_id: Option<RequestId>) -> Command {
        let command = LockCommand {
            table: "default".into(),
            signature: "s".into(),
            signee: signee.into(),
            instance: None,
            level: None,
            force: true,
            duration_ms: None,
            time_to_live: None,
            token: None,
            ..LockCommand::default()
        };
        let operation = Operation::Lock(Box::new(command));
        Command { request_id, cause: Some("why\u{1b}[2J".into()), ..Command::from(operation) }
    }

    #[test]
    fn of_an_entry_each_transfer_leaves_one_line_and_names_cannot_forge_another() {
        let id = Some(RequestId { lane: 1, seq: 1 });
        let ann = "ann\r\n2026-01-01 ERROR keyward: forged\u{9b}2J";
        let commands =
            vec![forced("bob", None), forced(ann, id), forced(ann, id), forced("cy", None)];
        let proposal = Proposal { stamp: Stamp { term: 1, time: ClusterTime(1) }, commands };
        let decisions = State::new().apply(1, 5, &proposal);
        let response = ClientWriteResponse {
            log_id: raft_log_id(storage::LogId { term: 1, index: 5 }),
            data: Applied { decisions },
            membership: None,
        };
        let trace_ids = [None, Some("trace-1".into()), None, None];
        let lines = logged(|| {
            let data = codec::data_of(&proposal);
            let transfers = transfers_of(&response);
            Transfers::default().tell(transfers, &data, &trace_ids, Duration::ZERO);
        });
        // The first was free, the third repeats the second.
        assert_eq!(lines.len(), 2, "{lines:?}");
        let has = |line: &str, text: &str| assert!(line.contains(text), "{text} is not in {line}");
        has(&lines[0], r#"owner="ann\r\n2026-01-01 ERROR keyward: forged\u{9b}2J""#);
        has(&lines[0], r#"previous_owner="bob" reason="forced" grant_level=0 token=2"#);
        has(&lines[0], r#"cause="why\u{1b}[2J" trace_id="trace-1" position=5.1"#);
        has(&lines[1], r#"owner="cy" previous_owner="ann\r\n"#);
        has(&lines[1], "position=5.3");
        assert!(!lines.iter().any(|line| line.contains(char::is_control)), "{lines:?}");
    }
}
