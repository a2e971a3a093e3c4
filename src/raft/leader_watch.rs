//! Detects that the leader's process has ended, long before the election timeout does.
//!
//! When a process ends, its connections are closed at once, and its port refuses new ones; when a
//! machine or a network fails, there is only silence. So whenever the leader's append exchange
//! ends, this connects to the leader's port. A refused connection means that no process listens. A
//! working leader notices the same end, and sends a heartbeat to show that it is still there. A
//! node that has no exchange with the leader any more, whose connections are refused repeatedly,
//! and that receives nothing meanwhile, *finds the leader gone*. Silence, and any answer, are left
//! to the election timeout.
//!
//! A port may refuse for another reason while its leader works: a firewall, a proxy. So the finding
//! of a single node changes nothing. It asks the other voters whether they would vote for it, as
//! before any election. They refuse while they have heard from the leader within its lease, unless
//! they find it gone, too. Only when a majority would vote does a node drop the lease that it
//! granted; a voter drops its own only for the vote that follows, and only if it finds the leader
//! gone itself.
//!
//! No acknowledgement depends on a lease: votes are durable and by majority, and so are every
//! commit and the confirmation of every read. A lease only prevents unnecessary elections. A
//! mistake would cost an election, and nothing else.
//!
//! openraft has no call to drop a lease. It drops one when it receives a message that the leader
//! hands over to another node. That message changes nothing else here: it never makes its receiver
//! a candidate unless it names the receiver.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::raft::{TransferLeaderRequest, VoteRequest};
use tokio::sync::Notify;

use crate::clock::{Deadline, Stopwatch};
use crate::raft::codec;
use crate::raft::member::{Member, Phase};
use crate::raft::peer::{CallError, Channel, paths};
use crate::raft::types::{LogId, MemberNode, TypeConfig, Vote};

/// The timeout for the leader's port to refuse, and for a voter to answer: a round trip, with room
/// for a busy machine.
const PROBE_TIMEOUT: Duration = Duration::from_millis(100);

/// The pause between two probes, and between two rounds of requests to the voters.
const BETWEEN: Duration = Duration::from_millis(10);

/// The time for which the port must have refused, with nothing received, since the exchange ended:
/// enough for the heartbeat of a working leader on a busy machine. If the exchange ended earlier, a
/// heartbeat interval is added.
const QUIET: Duration = Duration::from_millis(40);

/// A margin beyond the lease, in which the last messages from the leader are processed.
const MARGIN: Duration = Duration::from_millis(10);

/// The time between the campaigns of two voters, so that they do not split the votes: a campaign of
/// two rounds and a sync each is over by then, unless its log is behind.
const APART: Duration = Duration::from_millis(60);

/// A node's knowledge about the end of its leader's process.
#[derive(Default)]
pub(crate) struct LeaderWatch {
    /// Notified when the leader's append exchange has ended, for any reason, and when another voter
    /// asks to end the leader's term.
    look: Notify,
    /// Notified when the result of [`LeaderWatch::finds_gone`] may have changed.
    judged: Notify,
    /// Notified on the leader when one of its exchanges has ended.
    lost: Notify,
    /// The number of messages received from leaders.
    heard: AtomicU64,
    /// The time of the last message from a leader.
    last: Mutex<Option<Stopwatch>>,
    /// A leader's last report of its majority.
    majority: Mutex<Option<Followed>>,
    exchanges: Mutex<Exchanges>,
    gone: Mutex<Option<Gone>>,
    /// Whether `gone` is set.
    noted: AtomicBool,
}

/// A report that a majority followed a leader, `before` the time it was received.
#[derive(Clone, Copy)]
struct Followed {
    before: Duration,
    since: Stopwatch,
}

impl Followed {
    fn ago(&self) -> Duration {
        self.before.saturating_add(self.since.elapsed())
    }
}

/// The append exchanges that leaders have with this node.
#[derive(Clone, Copy, Default)]
struct Exchanges {
    /// The number of the newest one. It replaces earlier ones, whose other end may have vanished
    /// without closing the connection.
    newest: u64,
    /// Whether the newest one is open.
    open: bool,
    /// The message count when the last one ended.
    ended: Option<u64>,
}

/// The finding that no process listens on a leader's port.
#[derive(Clone, Copy)]
struct Gone {
    /// The leader's vote.
    vote: Vote,
    /// The message count at that time.
    heard: u64,
    /// Whether a voter whose turn is earlier has asked for a vote and cannot win.
    passed_on: bool,
}

impl LeaderWatch {
    /// Records a message from a leader.
    pub(crate) fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Stopwatch::start());
        // This is rare: tasks that wait for another leader must be notified.
        if self.noted.load(Ordering::Relaxed) {
            self.judge(None);
        }
    }

    /// The time since the last message from a leader; `None` if there was none.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.map(|last| last.elapsed())
    }

    /// Records a leader's report of the time since a majority followed it.
    pub(crate) fn hear_of_majority(&self, ago: Duration) {
        let mut known = self.majority.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none_or(|known| ago < known.ago()) {
            *known = Some(Followed { before: ago, since: Stopwatch::start() });
        }
    }

    /// The time since a majority followed a leader that has sent messages since; `None` if no
    /// leader has reported one. A leader that has lost its majority goes on sending for a while.
    pub(crate) fn majority_silence(&self) -> Option<Duration> {
        let known = *self.majority.lock().unwrap_or_else(PoisonError::into_inner);
        known.map(|known| known.ago())
    }

    /// Requests a check whether the leader is still there.
    pub(crate) fn look(&self) {
        self.look.notify_one();
    }

    /// Records that one of this node's own exchanges, as a leader, has ended.
    pub(crate) fn lose(&self) {
        self.lost.notify_one();
    }

    /// Resolves when the result of [`LeaderWatch::finds_gone`] may have changed.
    pub(crate) async fn judged(&self) {
        self.judged.notified().await;
    }

    /// Whether the port of the leader with this vote refuses, it has no exchange with this node,
    /// and no message has been received since.
    pub(crate) fn finds_gone(&self, vote: &Vote) -> bool {
        let gone = *self.gone();
        gone.is_some_and(|gone| gone.vote == *vote && gone.heard == self.heard())
            && !self.exchanges().open
    }

    fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Records that the voter whose turn is earlier cannot win.
    fn pass_on(&self) {
        if let Some(gone) = &mut *self.gone() {
            gone.passed_on = true;
        }
    }

    fn is_passed_on(&self) -> bool {
        self.gone().is_some_and(|gone| gone.passed_on)
    }

    fn judge(&self, gone: Option<Gone>) {
        self.noted.store(gone.is_some(), Ordering::Relaxed);
        *self.gone() = gone;
        self.judged.notify_one();
    }

    fn exchanges(&self) -> MutexGuard<'_, Exchanges> {
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> MutexGuard<'_, Option<Gone>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guard that lives as long as an append exchange that a leader has with this node.
pub(crate) struct Open {
    leader_watch: Arc<LeaderWatch>,
    number: u64,
}

impl Open {
    pub(crate) fn new(leader_watch: &Arc<LeaderWatch>) -> Self {
        let mut exchanges = leader_watch.exchanges();
        exchanges.newest += 1;
        exchanges.open = true;
        let number = exchanges.newest;
        drop(exchanges);
        Self { leader_watch: Arc::clone(leader_watch), number }
    }

    /// Records a message received over it.
    pub(crate) fn hear(&self) {
        self.leader_watch.hear();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let heard = self.leader_watch.heard();
        let mut exchanges = self.leader_watch.exchanges();
        // If another exchange was opened since, the end of this one implies nothing about the
        // leader.
        if exchanges.newest != self.number {
            return;
        }
        exchanges.open = false;
        exchanges.ended = Some(heard);
        drop(exchanges);
        self.leader_watch.look();
    }
}

/// Watches for the leader's end for as long as it is polled.
pub(crate) async fn keep(member: Arc<Member>) {
    loop {
        tokio::select! {
            biased;
            () = member.leader_watch.look.notified() => {}
            () = member.leader_watch.lost.notified() => {
                // This has no effect on a node that does not lead. A stopped core is noticed
                // elsewhere.
                if member.raft.trigger().heartbeat().await.is_err() {
                    return;
                }
                continue;
            }
        }
        if let Some(watch) = Watch::over_the_leader(&member)
            && let Err(stopped) = watch.keep().await
        {
            // A stopped core is noticed elsewhere.
            tracing::debug!(%stopped, "there is no core left to campaign");
        }
    }
}

/// The check of one leader that may have ended.
struct Watch<'a> {
    member: &'a Member,
    vote: Vote,
    leader: u64,
    node: Option<MemberNode>,
    /// The voters except this node and the leader.
    others: Vec<(u64, MemberNode)>,
    quorum: usize,
    /// The end of the lease that was granted, after which it need not be dropped.
    lease: Deadline,
}

impl<'a> Watch<'a> {
    /// Starts the check. `None` if this node follows no leader as a voter.
    fn over_the_leader(member: &'a Member) -> Option<Self> {
        let may_campaign = matches!(member.phase(), Phase::Recovering | Phase::Ready);
        let lease = Deadline::after(member.timing.election_max.saturating_add(MARGIN));
        member.metrics_ref(|metrics| {
            let leader = metrics.current_leader.filter(|leader| *leader != member.id)?;
            let membership = &metrics.membership_config;
            let voters: Vec<u64> = membership.voter_ids().collect();
            if !may_campaign || !voters.contains(&member.id) {
                return None;
            }
            let others = voters.iter().filter(|id| **id != member.id && **id != leader);
            let others = others.filter_map(|id| Some((*id, membership.get_node(id)?.clone())));
            Some(Self {
                member,
                vote: metrics.vote,
                leader,
                node: membership.get_node(&leader).cloned(),
                others: others.collect(),
                quorum: voters.len() / 2 + 1,
                lease,
            })
        })
    }

    async fn keep(&self) -> Result<(), Fatal<TypeConfig>> {
        if !self.finds_gone().await {
            return Ok(());
        }
        tracing::info!(leader = self.leader, "the leader's process has ended");
        let before_me = self.others.iter().filter(|(id, _)| *id < self.member.id).count();
        let apart = APART.saturating_mul(u32::try_from(before_me).unwrap_or(u32::MAX));
        let turn = Deadline::after(apart);
        while !turn.remaining().is_zero() && !self.member.leader_watch.is_passed_on() {
            tokio::time::sleep(BETWEEN).await;
        }
        while self.is_unchanged() && !self.lease.remaining().is_zero() {
            if self.would_win().await {
                self.drop_lease().await?;
                return self.member.raft.trigger().elect(true).await;
            }
            tokio::time::sleep(BETWEEN).await;
        }
        // Too few voters find the leader gone, but the lease ends at some time.
        tokio::time::sleep(apart).await;
        if self.is_unchanged() {
            return self.member.raft.trigger().elect(true).await;
        }
        Ok(())
    }

    /// Whether this is still the newest known leader, and it is still found gone.
    fn is_unchanged(&self) -> bool {
        let vote = self.member.metrics_ref(|metrics| metrics.vote);
        vote == self.vote && self.member.leader_watch.finds_gone(&vote)
    }

    /// Probes the leader's port until it has refused for long enough with nothing received
    /// meanwhile, gives another result, or the lease has ended.
    async fn finds_gone(&self) -> bool {
        let leader_watch = &self.member.leader_watch;
        let mut quiet: Option<(u64, Deadline)> = None;
        while !self.lease.remaining().is_zero() {
            let Exchanges { open, ended, .. } = *leader_watch.exchanges();
            let heard = leader_watch.heard();
            if open || self.member.metrics_ref(|metrics| metrics.vote) != self.vote {
                return false;
            }
            match self.ask_port().await {
                Port::Refuses => {
                    let just_ended = ended == Some(heard);
                    let wait = if just_ended { QUIET } else { self.heartbeat() + QUIET };
                    let since = quiet.filter(|(before, _)| *before == heard);
                    let (_, until) = since.unwrap_or_else(|| (heard, Deadline::after(wait)));
                    quiet = Some((heard, until));
                    let over = until.remaining().is_zero();
                    if (just_ended || over) && !leader_watch.finds_gone(&self.vote) {
                        leader_watch.judge(Some(Gone { vote: self.vote, heard, passed_on: false }));
                    }
                    if over && leader_watch.finds_gone(&self.vote) {
                        return true;
                    }
                }
                Port::Unclear => {}
                Port::Answers => {
                    leader_watch.judge(None);
                    return false;
                }
            }
            tokio::time::sleep(BETWEEN).await;
        }
        false
    }

    fn heartbeat(&self) -> Duration {
        self.member.timing.heartbeat
    }

    async fn ask_port(&self) -> Port {
        let logged = self.node.as_ref().map(|node| node.peer_addr.as_str());
        let Some(addr) = self.member.peers.addr(self.leader, logged) else { return Port::Answers };
        let target = (self.leader, self.node.as_ref().map(|node| node.uuid), addr);
        // Pooled connections that ended with the process are reported as broken, each once.
        for _ in 0..MOST_POOLED {
            let path = paths::IDENTITY;
            let peers = &self.member.peers;
            match peers.call(Channel::Control, target, path, Bytes::new(), PROBE_TIMEOUT).await {
                Err(error) if is_refused(&error) => return Port::Refuses,
                Err(CallError::Broken { .. }) => {}
                Err(CallError::Connect { .. }) => return Port::Unclear,
                Ok(_)
                | Err(
                    CallError::Timeout { .. }
                    | CallError::Refused { .. }
                    | CallError::Distrusted { .. }
                    | CallError::Answer { .. }
                    | CallError::Status { .. },
                ) => return Port::Answers,
            }
        }
        Port::Unclear
    }

    /// Asks the other voters whether they would vote for this node in the next term.
    async fn would_win(&self) -> bool {
        let vote = Vote::new(self.vote.leader_id().term + 1, self.member.id);
        let request = VoteRequest::new(vote, last_log_id(self.member));
        let message = codec::encode_vote_request(&request);
        let ask = async |(id, node): &(u64, MemberNode)| {
            let peers = &self.member.peers;
            let addr = peers.addr(*id, Some(&node.peer_addr))?;
            let target = (*id, Some(node.uuid), addr);
            let message = message.clone();
            let asked =
                peers.call(Channel::Control, target, paths::PRE_VOTE, message, PROBE_TIMEOUT).await;
            let answer = codec::decode_vote_response(&asked.ok()?).ok()?;
            answer.vote_granted.then_some(())
        };
        let asked = futures::future::join_all(self.others.iter().map(ask)).await;
        1 + asked.into_iter().flatten().count() >= self.quorum
    }

    /// Drops the lease that this node granted to the leader.
    async fn drop_lease(&self) -> Result<(), Fatal<TypeConfig>> {
        self.member.drop_lease(self.vote, self.leader).await
    }
}

/// The result of probing a leader's port.
enum Port {
    /// No process listens.
    Refuses,
    /// A process listens, or there was no result to the contrary.
    Answers,
    /// Unknown; probe again.
    Unclear,
}

/// An upper bound on the unused connections that a pool keeps to one member.
const MOST_POOLED: usize = 8;

impl Member {
    /// Whether this node would vote for the sender in spite of a lease: it finds the leader gone,
    /// and the sender's log has everything that its own has.
    pub(crate) fn would_vote_after_the_end(&self, request: &VoteRequest<TypeConfig>) -> bool {
        let vote = self.metrics_ref(|metrics| metrics.vote);
        if !self.finds_gone_before(&vote, request) {
            // Another node wants to end the leader's term.
            self.leader_watch.look();
            return false;
        }
        let complete = request.last_log_id >= last_log_id(self);
        if !complete {
            self.leader_watch.pass_on();
        }
        complete
    }

    /// Drops the lease of a leader that this node finds gone, before it votes.
    pub(crate) async fn drop_lease_after_the_end(
        &self,
        request: &VoteRequest<TypeConfig>,
    ) -> Result<(), Fatal<TypeConfig>> {
        let vote = self.metrics_ref(|metrics| metrics.vote);
        if !self.finds_gone_before(&vote, request) {
            return Ok(());
        }
        self.drop_lease(vote, request.vote.leader_id().voted_for).await
    }

    fn finds_gone_before(&self, vote: &Vote, request: &VoteRequest<TypeConfig>) -> bool {
        request.vote.leader_id().term > vote.leader_id().term && self.leader_watch.finds_gone(vote)
    }

    /// Drops the lease that this node granted to the leader with this vote, if that is still the
    /// newest known. `to` is any other node.
    async fn drop_lease(&self, vote: Vote, to: u64) -> Result<(), Fatal<TypeConfig>> {
        debug_assert!(to != self.id, "it would make this node a candidate without a pre-vote");
        let handed_over = TransferLeaderRequest::new(vote, to, None);
        match self.raft.handle_transfer_leader(handed_over).await? {
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, "the lease stays"),
        }
        Ok(())
    }
}

fn last_log_id(member: &Member) -> Option<LogId> {
    member.raft.data_metrics().borrow_watched().last_log
}

/// Whether the operating system of the other machine reported that no process listens.
pub(super) fn is_refused(error: &CallError) -> bool {
    let CallError::Connect { source, .. } = error else { return false };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&**source);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind == Some(io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};

    use tokio::net::TcpSocket;

    use super::*;
    use crate::client::carrier::{Carrier, SendError};

    #[test]
    fn only_a_refused_connection_says_that_nobody_listens() {
        #[derive(Debug, thiserror::Error)]
        #[error("tcp connect error")]
        struct Outer(#[source] io::Error);
        let connect = |kind| CallError::Connect {
            addr: "a".to_owned(),
            source: Box::new(Outer(io::Error::from(kind))),
        };
        assert!(is_refused(&connect(io::ErrorKind::ConnectionRefused)));
        for kind in [io::ErrorKind::TimedOut, io::ErrorKind::HostUnreachable] {
            assert!(!is_refused(&connect(kind)));
        }
        let source = Box::new(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert!(!is_refused(&CallError::Broken { addr: "a".to_owned(), source }));
    }

    #[test]
    fn an_exchange_that_never_ends_does_not_hide_the_end_of_a_newer_one() {
        let leader_watch = Arc::<LeaderWatch>::default();
        let vanished = Open::new(&leader_watch);
        let newer = Open::new(&leader_watch);
        newer.hear();
        assert!(leader_watch.exchanges().open);
        drop(newer);
        assert!(!leader_watch.exchanges().open);
        assert_eq!(leader_watch.exchanges().ended, Some(1));
        let next = Open::new(&leader_watch);
        drop(vanished);
        assert!(leader_watch.exchanges().open, "only the newest counts");
        drop(next);
    }

    /// Whether a port refuses connections; `None` if there is no answer.
    async fn asked(addr: SocketAddr) -> Option<bool> {
        let url = format!("http://{addr}/").parse().unwrap();
        let request = reqwest::Request::new(reqwest::Method::POST, url);
        let way = Carrier::Http(crate::client::tls::plain().build().unwrap());
        let sent = tokio::time::timeout(PROBE_TIMEOUT, way.send(request)).await.ok()?;
        let addr = addr.to_string();
        let error = match sent.err()? {
            SendError::Connect(source) => CallError::Connect { addr, source },
            SendError::Broken(source) => CallError::Broken { addr, source },
        };
        Some(is_refused(&error))
    }

    #[tokio::test]
    async fn a_port_that_is_only_bound_refuses_and_a_full_queue_or_a_reset_does_not() {
        let bound = || {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            socket
        };
        let closed = bound();
        assert_eq!(asked(closed.local_addr().unwrap()).await, Some(true));
        // Waiting connections are not accepted, and the queue is short.
        let listener = bound().listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        for _ in 0..4 {
            waiting.extend(TcpStream::connect_timeout(&addr, Duration::from_millis(50)));
        }
        assert_eq!(asked(addr).await, None, "{} wait", waiting.len());
        // A proxy accepts the connection and resets it.
        let listener = bound().listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let resets = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream.set_zero_linger());
            }
        });
        assert_eq!(asked(addr).await, Some(false));
        resets.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_without_a_majority_does_not_renew_what_it_had_said_of_one() {
        let leader_watch = LeaderWatch::default();
        assert_eq!(leader_watch.majority_silence(), None);
        let ms = Duration::from_millis;
        leader_watch.hear_of_majority(ms(30));
        tokio::time::advance(ms(100)).await;
        assert_eq!(leader_watch.majority_silence(), Some(ms(130)));
        // The leader goes on sending, and its report grows older.
        leader_watch.hear();
        leader_watch.hear_of_majority(ms(140));
        assert_eq!(
            (leader_watch.silence(), leader_watch.majority_silence()),
            (Some(ms(0)), Some(ms(130)))
        );
        leader_watch.hear_of_majority(ms(20));
        assert_eq!(leader_watch.majority_silence(), Some(ms(20)));
    }

    #[test]
    fn a_leader_is_gone_only_while_its_port_refuses_and_nothing_is_heard() {
        let leader_watch = Arc::<LeaderWatch>::default();
        let vote = Vote::new_committed(3, 1);
        let gone = |heard| Some(Gone { vote, heard, passed_on: false });
        assert!(!leader_watch.finds_gone(&vote));
        let open = Open::new(&leader_watch);
        leader_watch.judge(gone(0));
        assert!(!leader_watch.finds_gone(&vote), "an exchange is open");
        drop(open);
        assert!(leader_watch.finds_gone(&vote));
        assert!(!leader_watch.finds_gone(&Vote::new_committed(4, 1)), "another leader");
        leader_watch.hear();
        assert!(!leader_watch.finds_gone(&vote), "it is heard");
        leader_watch.judge(gone(1));
        assert!(leader_watch.finds_gone(&vote));
        assert!(!leader_watch.is_passed_on());
        leader_watch.pass_on();
        assert!(leader_watch.is_passed_on());
        leader_watch.judge(None);
        assert!(!leader_watch.finds_gone(&vote));
    }
}
