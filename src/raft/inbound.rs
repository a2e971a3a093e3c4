//! Incoming requests from the other members, without the HTTP around them.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt as _, Stream, StreamExt};
use openraft::errors::{Fatal, RaftError};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse};
use openraft::storage::Snapshot;
use tokio::sync::oneshot;

use crate::lock::DecodeError;
use crate::raft::bootstrap::{decode_introduction, encode_introduction};
use crate::raft::codec::{self, Confirmed};
use crate::raft::handshake::{Handshake, Refusal};
use crate::raft::leader_watch::Open;
use crate::raft::member::{Member, Phase};
use crate::raft::state_machine::{ReceivedSnapshot, SnapshotData};
use crate::raft::types::{LogId, SnapshotMeta, TypeConfig, Vote, raft_vote};
use crate::storage::StorageError;
use crate::storage::snapshots::SnapshotReceiver;
use crate::task::blocking;
use crate::tls::PeerCertificate;

/// The timeout for the next piece of a snapshot. After it the snapshot is abandoned with all
/// received pieces: the leader is gone, and another one will send its own.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);

/// The interval at which the leader is notified that its snapshot is still being received.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// The reason why a member's call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InboundError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the message does not decode: {0}")]
    Message(#[from] DecodeError),
    #[error("consensus has stopped: {0}")]
    Stopped(#[from] Fatal<TypeConfig>),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the transfer was cut off")]
    CutOff,
}

/// The kind of a caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Caller {
    /// A member of this node's cluster, on the newest start of its data folder.
    Member,
    /// Any other caller.
    Stranger,
}

impl InboundError {
    /// Whether the error is part of a member's clean shutdown, here or at the other end.
    pub(crate) fn is_of_a_stop(&self) -> bool {
        matches!(self, Self::Stopped(Fatal::Stopped) | Self::CutOff)
    }
}

/// The kind of a small call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Identity,
    Append,
    Vote,
    PreVote,
    Transfer,
    Confirm,
}

impl Member {
    /// Checks whether the caller may call this node at all; every call does this first. `certificate`
    /// is the one that the caller has shown; with TLS it must be that of the node that it says it is. A node that
    /// has no cluster yet may ask for this node's identity, and nothing else: such a caller changes
    /// no state that is reported to others.
    pub(crate) async fn greet(
        &self,
        handshake: &Handshake,
        certificate: Option<&PeerCertificate>,
        call: Option<Call>,
    ) -> Result<Caller, InboundError> {
        if self.peers.tls().is_some() {
            let judged = handshake.judge_certificate(certificate, &self.addrs);
            judged.inspect_err(|refusal| self.peers.say_once(refusal))?;
        }
        handshake.judge_target(self.id, &self.identity)?;
        // A node of another cluster may, too: it learns from the answer that its folder belongs
        // there.
        let here = self.identity.facts().cluster;
        if call == Some(Call::Identity) && (here.is_none() || handshake.cluster != here) {
            return Ok(Caller::Stranger);
        }
        handshake.judge_sender(&self.identity).await??;
        self.peers.learn(handshake.from, &handshake.known).await;
        if self.peers.is_retired() {
            return Err(Refusal::Stopping.into());
        }
        if let Err(refusal) = handshake.judge_rho(self.id, self.peers.own().rho_ppm) {
            self.peers.say_once(&refusal);
            return Err(refusal.into());
        }
        if let Some(ms) = handshake.majority_ms {
            self.leader_watch.hear_of_majority(Duration::from_millis(ms));
        }
        self.peers.note_client_addr(handshake.from, handshake.client_addr.as_deref());
        Ok(Caller::Member)
    }

    /// Checks that this node may make promises now.
    fn admit(&self) -> Result<(), Refusal> {
        if self.peers.is_retired() {
            return Err(Refusal::Stopping);
        }
        match self.phase() {
            Phase::Forming(_) => Err(Refusal::NotJoined),
            Phase::Recovering | Phase::Ready => Ok(()),
            Phase::Stopping => Err(Refusal::Stopping),
        }
    }

    /// Answers a small call.
    pub(crate) async fn answer(
        &self,
        caller: Caller,
        call: Call,
        message: Bytes,
    ) -> Result<Bytes, InboundError> {
        if call == Call::Identity {
            // A member sends its own introduction with the request.
            if caller == Caller::Member && !message.is_empty() {
                let theirs = decode_introduction(&message)?;
                self.peers.compare_members(theirs.node, &theirs.configured);
            }
            return Ok(encode_introduction(&self.introduction()));
        }
        self.admit()?;
        self.take_part().await?;
        match call {
            Call::Identity => unreachable!("answered above"),
            Call::Append => {
                let request = codec::decode_append(&message)?;
                // A deposed leader's request is no sign of the current leader.
                if self.metrics_ref(|metrics| request.vote >= metrics.vote) {
                    self.leader_watch.hear();
                }
                let prev = request.prev_log_id;
                let last = request.entries.last().map(|entry| entry.log_id).or(prev);
                if request.entries.is_empty() {
                    return self.heartbeat(request).await;
                }
                let response = self.raft.append_entries(request).await.map_err(fatal)?;
                if response.is_conflict() && prev.is_none() {
                    // Nothing conflicts with the beginning of the log; openraft never reports that.
                    return Err(DecodeError::Invalid("append request").into());
                }
                Ok(codec::encode_appended(&response.into_stream_result(prev, last)))
            }
            Call::Vote => {
                let request = codec::decode_vote_request(&message)?;
                self.drop_lease_after_the_end(&request).await?;
                let response = self.raft.vote(request).await.map_err(fatal)?;
                Ok(codec::encode_vote_response(&response))
            }
            Call::PreVote => {
                let request = codec::decode_vote_request(&message)?;
                let mut response = self.raft.pre_vote(request.clone()).await.map_err(fatal)?;
                if !response.vote_granted {
                    response.vote_granted = self.would_vote_after_the_end(&request);
                }
                Ok(codec::encode_vote_response(&response))
            }
            Call::Confirm => {
                let round = codec::decode_confirm(&message)?;
                // The vote in memory: a later one is there before any node learns that it was
                // granted.
                let vote = self.log.vote().map(raft_vote);
                Ok(codec::encode_confirmed(&Confirmed { round, vote }))
            }
            Call::Transfer => {
                let request = codec::decode_transfer(&message)?;
                let response = self.raft.handle_transfer_leader(request).await?;
                Ok(codec::encode_transferred(&response))
            }
        }
    }

    /// Answers a heartbeat: whether this node follows the leader.
    ///
    /// openraft answers once everything it has accepted is synced. A follower whose disk needs
    /// longer than the leader's lease would then be considered gone, and with a majority of such
    /// followers nothing would be committed. So a heartbeat is answered as soon as the core has
    /// received it, which renews the leader's lease here, if both the vote in memory and the vote
    /// on the disk are the leader's. The answer acknowledges no entry: it returns the entry that
    /// the leader knows this node to have, and confirms only the leadership.
    async fn heartbeat(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<Bytes, InboundError> {
        let (vote, matching) = (request.vote, request.prev_log_id);
        let mut answered = pin!(self.raft.append_entries(request));
        // The core processes requests in order: it reads the vote after the heartbeat.
        let (sender, follows) = oneshot::channel();
        let look = self.raft.external_request(move |state| {
            // The receiver is gone if the core's own answer came first.
            let _ = sender.send(*state.vote_ref() == vote);
        });
        let taken = async move { look.await.is_ok() && follows.await == Ok(true) };
        let response = tokio::select! {
            biased;
            response = &mut answered => response,
            taken = taken => {
                if taken && self.metrics_ref(|metrics| metrics.vote == vote) {
                    return Ok(codec::encode_appended(&Ok(matching)));
                }
                answered.await
            }
        };
        let response = response.map_err(fatal)?;
        if response.is_conflict() && matching.is_none() {
            return Err(DecodeError::Invalid("append request").into());
        }
        Ok(codec::encode_appended(&response.into_stream_result(matching, matching)))
    }

    /// Appends entries from one leader in the order of `requests`; the answers come in that order.
    /// Ends with the first refusal, or when a request does not decode.
    pub(crate) async fn append_stream(
        &self,
        requests: impl Stream<Item = Result<Bytes, InboundError>> + Send + Unpin + 'static,
    ) -> Result<BoxStream<'static, Result<Bytes, InboundError>>, InboundError> {
        self.admit()?;
        self.take_part().await?;
        let open = Open::new(&self.leader_watch);
        let requests = requests
            .map(move |message| {
                let message = message?;
                open.hear();
                Ok::<_, InboundError>(codec::decode_append(&message)?)
            })
            .take_while(|request| {
                match request {
                    Err(error) if error.is_of_a_stop() => {
                        tracing::debug!(%error, "an append exchange ends");
                    }
                    Err(error) => tracing::warn!(%error, "an append exchange ends"),
                    Ok(_) => {}
                }
                std::future::ready(request.is_ok())
            })
            .filter_map(|request| std::future::ready(request.ok()));
        let answers = self.raft.stream_append(requests);
        let promised = self.log.promised();
        // The promises are read after the entries were synced, so they include those of the answer.
        let counted = move |answer| {
            Ok(codec::encode_promised(promised.get(), &codec::encode_appended(&answer?)))
        };
        Ok(answers.map(counted).boxed())
    }

    /// Receives a snapshot: a header, the bytes of its file, and an empty message at the end.
    /// Yields an empty message every second, as a sign of life, and then the answer.
    pub(crate) async fn take_snapshot(
        self: &Arc<Self>,
        messages: impl Stream<Item = Result<Bytes, InboundError>> + Send + Unpin + 'static,
    ) -> Result<BoxStream<'static, Result<Bytes, InboundError>>, InboundError> {
        self.admit()?;
        self.take_part().await?;
        let member = Arc::clone(self);
        let taken = async move { member.receive_snapshot(messages).await }.boxed();
        let signs = futures::stream::unfold(Some(taken), |taken| async move {
            let mut taken = taken?;
            match tokio::time::timeout(SIGN_OF_LIFE, &mut taken).await {
                Ok(answer) => Some((answer, None)),
                Err(_) => Some((Ok(Bytes::new()), Some(taken))),
            }
        });
        Ok(signs.boxed())
    }

    async fn receive_snapshot(
        &self,
        mut messages: impl Stream<Item = Result<Bytes, InboundError>> + Send + Unpin,
    ) -> Result<Bytes, InboundError> {
        let header = next_piece(&mut messages).await?;
        let (vote, meta) = codec::decode_snapshot_header(&header)?;
        let mut receiver = self.snapshots.receive()?;
        loop {
            let piece = next_piece(&mut messages).await?;
            if piece.is_empty() {
                break;
            }
            receiver = write_piece(receiver, piece).await?;
        }
        self.install(vote, meta, receiver).await
    }

    /// Installs a received snapshot. All slow work is done before openraft receives it: from then
    /// on openraft answers nothing until the snapshot is installed.
    async fn install(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        receiver: SnapshotReceiver,
    ) -> Result<Bytes, InboundError> {
        tracing::info!(%meta, "a snapshot has come from the leader");
        // A decoded state takes memory: a second snapshot waits until the first is installed or
        // refused.
        let alone = Arc::clone(&self.installing).lock_owned().await;
        let (cluster, level) = (self.identity.facts().cluster, self.peers.own().level);
        // The leader may disconnect meanwhile: the work goes on, and holds the lock until it is
        // done.
        let verified =
            blocking(move || (ReceivedSnapshot::prepare(receiver, cluster, level), alone)).await;
        let (verified, _alone) = verified.map_err(|_| InboundError::CutOff)?;
        let verified = verified?;
        if verified.meta().ok().as_ref() != Some(&meta) {
            return Err(DecodeError::Invalid("snapshot header").into());
        }
        if let Some(answer) = self.commit_instead(vote, meta.last_log_id).await? {
            return Ok(codec::encode_installed(&answer));
        }
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Received(Box::new(verified)) };
        let response = self.raft.install_full_snapshot(vote, snapshot).await?;
        Ok(codec::encode_installed(&response))
    }

    /// Commits the entries that a snapshot covers, if the log has the last of them and with it, as
    /// two logs with one entry in common have all before it in common, every one. The leader had not
    /// heard of that when it sent the snapshot. Answers as an installation would.
    ///
    /// The core is asked, not the log on the disk: appends that it has accepted may still be on
    /// their way there.
    ///
    /// openraft would install it, and from then on take the snapshot's last entry for the last that
    /// it has written: what it has accepted behind that is committed without being applied, until
    /// another entry comes.
    async fn commit_instead(
        &self,
        vote: Vote,
        last: Option<LogId>,
    ) -> Result<Option<SnapshotResponse<TypeConfig>>, InboundError> {
        let Some(entry) = last else { return Ok(None) };
        let request = AppendEntriesRequest {
            vote,
            prev_log_id: Some(entry),
            leader_commit: Some(entry),
            entries: Vec::new(),
        };
        // It is answered once the entries are synced, which is what the leader takes from it.
        Ok(match self.raft.append_entries(request).await.map_err(fatal)? {
            AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_) => {
                tracing::info!(%entry, "the log has what the snapshot covers");
                Some(SnapshotResponse::new(vote))
            }
            AppendEntriesResponse::HigherVote(vote) => Some(SnapshotResponse::new(vote)),
            AppendEntriesResponse::Conflict => None,
        })
    }
}

/// Waits for the next message of a transfer, with a timeout.
async fn next_piece(
    messages: &mut (impl Stream<Item = Result<Bytes, InboundError>> + Send + Unpin),
) -> Result<Bytes, InboundError> {
    match tokio::time::timeout(PIECE_TIMEOUT, messages.next()).await {
        Ok(Some(message)) => message,
        Ok(None) | Err(_) => Err(InboundError::CutOff),
    }
}

/// Writes a piece on a thread that may block on the disk.
async fn write_piece(
    mut receiver: SnapshotReceiver,
    piece: Bytes,
) -> Result<SnapshotReceiver, InboundError> {
    let write = move || receiver.write(&piece).map(|()| receiver);
    match blocking(write).await {
        Ok(receiver) => Ok(receiver?),
        Err(_) => Err(InboundError::CutOff),
    }
}

fn fatal(error: RaftError<TypeConfig>) -> InboundError {
    match error {
        RaftError::Fatal(fatal) => fatal.into(),
        RaftError::APIError(never) => match never {},
    }
}

#[cfg(test)]
mod tests;
