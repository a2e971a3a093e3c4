//! Requests from openraft to the other members.
//!
//! Heartbeats and votes are single calls. The log travels over one long exchange per follower:
//! requests are sent in the body of one HTTP request while their answers arrive in the body of its
//! response, in order, so that the next entries need not wait for the last answer. Snapshots are
//! sent piece by piece from their file.
//!
//! A member that cannot be connected to, refuses the call or is not trusted is `Unreachable`, which
//! makes openraft wait before it retries; everything else is retried at once.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::Either;
use futures::{FutureExt as _, Stream, StreamExt};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{OptionalSend, RPCTypes};
use tokio::sync::mpsc;
use tokio::time::Interval;

use crate::client::carrier::Cause;
use crate::lock::DecodeError;
use crate::raft::absence::Failures;
use crate::raft::codec;
use crate::raft::commit_filter::{CommitFilter, periods};
use crate::raft::leader_watch::LeaderWatch;
use crate::raft::peer::{CallError, Channel, MAX_MESSAGE_BYTES, Peers, broken, paths, signature};
use crate::raft::state_machine::SnapshotData;
use crate::raft::types::{LogId, MemberNode, TypeConfig, Vote, stored_vote};
use crate::storage::snapshots::StoredSnapshot;
use crate::storage::{Snapshots, Uuid};
use crate::task::blocking;

/// The number of requests of one exchange that may be queued for the socket; openraft's follower
/// side works on as many at once.
const WINDOW: usize = 64;

/// The timeout of an exchange that has unanswered requests. It is longer than any healthy sync of a
/// disk, and shorter than people's patience with a half-open connection. The leadership does not
/// depend on it: heartbeats have their own connection, and a follower answers them while a sync is
/// in progress (see `heartbeat` in [`super::inbound`]). Committing does: a follower whose syncs
/// take longer than this, or at worst twice this, acknowledges nothing before the exchange is
/// restarted.
const STALLED: Duration = Duration::from_secs(2);

/// The timeout for a sign of life from the receiver of a snapshot, which sends one every second,
/// even during installation. After it the receiver is considered gone, perhaps without having
/// closed the connection, and the snapshot is sent again.
const SILENT: Duration = Duration::from_secs(5);

/// The size of a snapshot's pieces in bytes.
const PIECE_BYTES: usize = 256 << 10;

const _: () = assert!(PIECE_BYTES <= MAX_MESSAGE_BYTES, "every piece is taken");

/// Creates the connections to members.
pub(crate) struct Network {
    peers: Arc<Peers>,
    acknowledged: Arc<Acknowledged>,
    failures: Arc<Failures>,
    leader_watch: Arc<LeaderWatch>,
}

/// The last entry that each member has acknowledged in a term of this node.
///
/// A member that later denies it has lost it. openraft would retry at once, for ever, and a debug
/// build would end; so it is detected here, and the member is told to stop.
#[derive(Default)]
struct Acknowledged(Mutex<BTreeMap<u64, (u64, LogId)>>);

impl Acknowledged {
    fn raise(&self, member: u64, term: u64, to: Option<LogId>) {
        let Some(to) = to else { return };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry(member).or_insert((term, to));
        *entry = (*entry).max((term, to));
    }

    fn get(&self, member: u64, term: u64) -> Option<LogId> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&member).filter(|known| known.0 == term).map(|known| known.1)
    }
}

impl Network {
    pub(crate) fn new(
        peers: Arc<Peers>,
        failures: Arc<Failures>,
        leader_watch: Arc<LeaderWatch>,
    ) -> Self {
        Self { peers, acknowledged: Arc::default(), failures, leader_watch }
    }

    fn connection(&self, target: u64, node: &MemberNode, pipelined: bool) -> Connection {
        Connection {
            target,
            addr: self.peers.addr(target, Some(&node.peer_addr)).unwrap_or_default().to_owned(),
            node: node.clone(),
            peers: self.peers.clone(),
            acknowledged: self.acknowledged.clone(),
            failures: self.failures.clone(),
            leader_watch: self.leader_watch.clone(),
            pipelined,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &MemberNode) -> Connection {
        self.connection(target, node, true)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &MemberNode) -> Connection {
        self.connection(target, node, false)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &MemberNode) -> Connection {
        self.connection(target, node, false)
    }
}

/// A connection to one member.
pub(crate) struct Connection {
    target: u64,
    addr: String,
    node: MemberNode,
    peers: Arc<Peers>,
    acknowledged: Arc<Acknowledged>,
    failures: Arc<Failures>,
    leader_watch: Arc<LeaderWatch>,
    /// Whether appends carry the log, rather than heartbeats.
    pipelined: bool,
}

type RpcError = RPCError<TypeConfig>;
type AppendResults<'s> =
    Pin<Box<dyn Stream<Item = Result<StreamAppendResult<TypeConfig>, RpcError>> + Send + 's>>;

impl Connection {
    fn target(&self) -> (u64, Option<crate::storage::Uuid>, &str) {
        (self.target, Some(self.node.uuid), &self.addr)
    }

    /// Sends one small message and waits for its answer.
    async fn exchange<T>(
        &self,
        path: &str,
        message: Bytes,
        decode: fn(&[u8]) -> Result<T, DecodeError>,
        option: &RPCOption,
    ) -> Result<T, CallError> {
        let timeout = option.soft_ttl();
        let answer =
            self.peers.call(Channel::Control, self.target(), path, message, timeout).await?;
        self.decoded(decode(&answer))
    }

    /// The error if a member denies an entry that it had acknowledged before the request: its data
    /// folder is not accepted any more.
    fn denied(&self, before: Option<LogId>, conflict: &LogId) -> Option<CallError> {
        let acknowledged = denied(before, conflict)?;
        let reason = format!(
            "node {} lacks entry {conflict}, and had acknowledged all up to {acknowledged}",
            self.target
        );
        if !self.peers.condemn(self.node.uuid) {
            return None;
        }
        tracing::error!("{reason}: its data folder is an old copy, or has lost what was synced");
        Some(CallError::Distrusted { addr: self.addr.clone(), reason })
    }

    fn decoded<T>(&self, result: Result<T, DecodeError>) -> Result<T, CallError> {
        result.map_err(|source| CallError::Answer { addr: self.addr.clone(), source })
    }

    fn rpc_error(&self, action: RPCTypes, error: &CallError) -> RpcError {
        self.failures.note(self.target, error);
        match error {
            CallError::Timeout { timeout, .. } => {
                // The sender's id is only printed; openraft does not use it.
                let (id, target, timeout) = (0, self.target, *timeout);
                RPCError::Timeout(Timeout { action, id, target, timeout })
            }
            // An immediate retry does not resolve a refusal.
            CallError::Connect { .. }
            | CallError::Refused { .. }
            | CallError::Distrusted { .. } => {
                RPCError::Unreachable(Unreachable::from_string(error))
            }
            CallError::Broken { .. } | CallError::Answer { .. } | CallError::Status { .. } => {
                RPCError::Network(NetworkError::from_string(error))
            }
        }
    }

    async fn open_exchange(
        &self,
        body: FrameBody,
        option: &RPCOption,
    ) -> Result<reqwest::Response, CallError> {
        let timeout = option.soft_ttl();
        let body = reqwest::Body::wrap(body);
        let sent = self.peers.send(Channel::Append, self.target(), paths::APPEND_STREAM, body);
        match tokio::time::timeout(timeout, sent).await {
            Ok(response) => response,
            Err(_) => Err(CallError::Timeout { addr: self.addr.clone(), timeout }),
        }
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
    ) -> Result<SnapshotResponse<TypeConfig>, CallError> {
        let (frames, body) = FrameBody::new();
        let header = codec::encode_snapshot_header(&vote, &snapshot.meta);
        let pieces = send_pieces(snapshot.snapshot, header, frames);
        let body = reqwest::Body::wrap(body);
        let answer = pin!(self.installed(body));
        // The pieces end before the answer, unless the other end refuses them.
        let pieces = pin!(pieces.then(|()| std::future::pending::<Infallible>()));
        match futures::future::select(answer, pieces).await {
            Either::Left((answer, _)) => answer,
            Either::Right((never, _)) => match never {},
        }
    }

    /// Sends a snapshot's pieces, and reads signs of life until the answer arrives.
    async fn installed(
        &self,
        body: reqwest::Body,
    ) -> Result<SnapshotResponse<TypeConfig>, CallError> {
        let silent = || CallError::Timeout { addr: self.addr.clone(), timeout: SILENT };
        let cut_off = |source: Cause| CallError::Broken { addr: self.addr.clone(), source };
        let sent = self.peers.send(Channel::Snapshot, self.target(), paths::SNAPSHOT, body);
        let mut response = tokio::time::timeout(SILENT, sent).await.map_err(|_| silent())??;
        let mut frames = Frames::default();
        loop {
            match frames.next().map_err(|error| cut_off(error.into()))? {
                Some(sign) if sign.is_empty() => continue,
                Some(answer) => return self.decoded(codec::decode_installed(&answer)),
                None => {}
            }
            let chunk = tokio::time::timeout(SILENT, response.chunk()).await;
            match chunk.map_err(|_| silent())?.map_err(|source| broken(&self.addr, source))? {
                Some(chunk) => frames.push(&chunk),
                None => return Err(cut_off("it ended before the snapshot was installed".into())),
            }
        }
    }
}

/// Reads a snapshot's file and sends it as a request's body: a frame with the header, then frames
/// of the file's bytes, then an empty one, so that a broken connection is not taken for the end.
/// Stops when the receiver is gone.
async fn send_pieces(snapshot: SnapshotData, header: Bytes, frames: mpsc::Sender<Bytes>) {
    let SnapshotData::Stored(snapshots, stored) = snapshot else {
        tracing::error!("openraft asked to send a snapshot that was not installed yet");
        return;
    };
    if frames.send(frame(&header)).await.is_err() {
        return;
    }
    let mut offset = 0;
    loop {
        let piece = match read_piece(&snapshots, &stored, offset).await {
            Ok(piece) => piece,
            Err(error) => {
                // Without the empty frame the receiver discards the pieces.
                tracing::warn!(%error, file = stored.file, "cannot read the snapshot to send it");
                return;
            }
        };
        offset += piece.len() as u64;
        if frames.send(frame(&piece)).await.is_err() || piece.is_empty() {
            return;
        }
    }
}

async fn read_piece(
    snapshots: &Snapshots,
    stored: &StoredSnapshot,
    offset: u64,
) -> std::io::Result<Bytes> {
    let (snapshots, stored) = (snapshots.clone(), stored.clone());
    let read = move || snapshots.piece(&stored, offset, PIECE_BYTES);
    blocking(read).await?.map_err(std::io::Error::other)
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let last = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id);
        let term = stored_vote(&rpc.vote).term;
        let before = self.acknowledged.get(self.target, term);
        let message = codec::encode_append(&rpc);
        let result = self.exchange(paths::APPEND, message, codec::decode_appended, &option).await;
        match result.map_err(|error| self.rpc_error(RPCTypes::AppendEntries, &error))? {
            Ok(accepted) => {
                self.acknowledged.raise(self.target, term, accepted);
                if accepted == last {
                    Ok(AppendEntriesResponse::Success)
                } else {
                    Ok(AppendEntriesResponse::PartialSuccess(accepted))
                }
            }
            Err(StreamAppendError::Conflict(conflict)) => match self.denied(before, &conflict) {
                Some(error) => Err(self.rpc_error(RPCTypes::AppendEntries, &error)),
                None => Ok(AppendEntriesResponse::Conflict),
            },
            Err(StreamAppendError::HigherVote(vote)) => Ok(AppendEntriesResponse::HigherVote(vote)),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> Pin<Box<dyn Future<Output = Result<AppendResults<'s>, RpcError>> + Send + 's>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if !self.pipelined {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            // openraft waits for its backoff inside the stream of requests. If a connection were
            // opened before the first request is polled, a member that is down would be called
            // thousands of times a second.
            let Some(first) = input.next().await else {
                // The stream has ended: polling it again would panic, and so end the process.
                let nothing: AppendResults<'s> = Box::pin(futures::stream::empty());
                return Ok(nothing);
            };
            let term = stored_vote(&first.vote).term;
            let before = self.acknowledged.get(self.target, term);
            let input = futures::stream::iter([first]).chain(input);
            let (frames, body) = FrameBody::new();
            let opened = self.open_exchange(body, &option).await;
            let response =
                opened.map_err(|error| self.rpc_error(RPCTypes::AppendEntries, &error))?;
            let exchange = Exchange::new(&*self, input, frames, response, (term, before));
            let results: AppendResults<'s> = Box::pin(exchange.results());
            Ok(results)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let message = codec::encode_vote_request(&rpc);
        self.exchange(paths::VOTE, message, codec::decode_vote_response, &option)
            .await
            .map_err(|error| self.rpc_error(RPCTypes::Vote, &error))
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let message = codec::encode_vote_request(&rpc);
        self.exchange(paths::PRE_VOTE, message, codec::decode_vote_response, &option)
            .await
            .map_err(|error| self.rpc_error(RPCTypes::Vote, &error))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let timeout = option.soft_ttl();
        let sending = tokio::time::timeout(timeout, self.send_snapshot(vote, snapshot));
        let result = tokio::select! {
            biased;
            result = sending => result,
            closed = cancel => return Err(closed.into()),
        };
        let addr = self.addr.clone();
        let result = result.unwrap_or(Err(CallError::Timeout { addr, timeout }));
        result.map_err(|error| self.rpc_error(RPCTypes::InstallSnapshot, &error).into())
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let message = codec::encode_transfer(&req);
        self.exchange(paths::TRANSFER, message, codec::decode_transferred, &option)
            .await
            .map_err(|error| self.rpc_error(RPCTypes::TransferLeader, &error))
    }
}

/// The last acknowledged entry, if a conflict denies it or an earlier one.
fn denied(before: Option<LogId>, conflict: &LogId) -> Option<LogId> {
    before.filter(|before| conflict.index() <= before.index())
}

/// Encodes one message of a body that carries many: its length, then its bytes.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + message.len());
    out.put_u32_le(u32::try_from(message.len()).expect("messages stay far below 4 GiB"));
    out.put_slice(message);
    out.freeze()
}

/// The error for a message that is longer than any of this protocol.
#[derive(Debug, thiserror::Error)]
#[error("a message of {0} bytes is longer than any of this protocol")]
pub(crate) struct TooLong(usize);

/// Splits bodies into messages.
#[derive(Default)]
pub(crate) struct Frames(BytesMut);

impl Frames {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next complete message.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        let Some(head) = self.0.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE_BYTES {
            return Err(TooLong(length));
        }
        if self.0.len() < 4 + length {
            return Ok(None);
        }
        self.0.advance(4);
        Ok(Some(self.0.split_to(length).freeze()))
    }
}

/// A request body that is produced while it is sent.
pub(crate) struct FrameBody(mpsc::Receiver<Bytes>);

impl FrameBody {
    fn new() -> (mpsc::Sender<Bytes>, Self) {
        let (sender, receiver) = mpsc::channel(WINDOW);
        (sender, Self(receiver))
    }
}

impl hyper::body::Body for FrameBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(context)
            .map(|bytes| bytes.map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }
}

/// An append exchange with one follower: the requests and their answers.
struct Exchange<'s> {
    connection: &'s Connection,
    /// Turns openraft's requests into frames until there are no more; dropping it ends the HTTP
    /// request.
    requests: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    unanswered: Arc<AtomicUsize>,
    response: reqwest::Response,
    /// The run of the follower that answers.
    run: Option<Uuid>,
    /// The leader's term.
    term: u64,
    /// The last entry that the follower had acknowledged before the exchange.
    before: Option<LogId>,
    frames: Frames,
    /// Ticks every [`STALLED`].
    period: Interval,
    /// The number of unanswered requests at the last tick, if no answer has arrived since.
    overdue: usize,
}

impl<'s> Exchange<'s> {
    fn new<S>(
        connection: &'s Connection,
        input: S,
        frames: mpsc::Sender<Bytes>,
        response: reqwest::Response,
        (term, before): (u64, Option<LogId>),
    ) -> Self
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        let unanswered = Arc::new(AtomicUsize::new(0));
        let counter = unanswered.clone();
        let mut input = CommitFilter::new(input);
        let requests = async move {
            while let Some(request) = input.next().await {
                counter.fetch_add(1, Ordering::Relaxed);
                if frames.send(frame(&codec::encode_append(&request))).await.is_err() {
                    return;
                }
            }
        };
        let requests: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(requests);
        Self {
            connection,
            requests: Some(requests),
            unanswered,
            // The response was accepted, so it is signed.
            run: signature(&response).ok().map(|signature| signature.run()),
            term,
            before,
            response,
            frames: Frames::default(),
            period: periods(STALLED),
            overdue: 0,
        }
    }

    /// The answers, in the order of the requests. Ends after the first one that is not a success,
    /// after an error, or when all requests are answered.
    fn results(
        self,
    ) -> impl Stream<Item = Result<StreamAppendResult<TypeConfig>, RpcError>> + Send + 's {
        futures::stream::unfold(Some(self), |exchange| async move {
            let mut exchange = exchange?;
            match exchange.next().await {
                Ok(Some(Ok(log_id))) => Some((Ok(Ok(log_id)), Some(exchange))),
                Ok(Some(Err(refused))) => Some((Ok(Err(refused)), None)),
                Ok(None) => {
                    exchange.connection.leader_watch.lose();
                    None
                }
                Err(error) => {
                    exchange.connection.leader_watch.lose();
                    let error = exchange.connection.rpc_error(RPCTypes::AppendEntries, &error);
                    Some((Err(error), None))
                }
            }
        })
    }

    /// Decodes an answer, and records the follower's promises that came with it.
    fn counted(&self, frame: &Bytes) -> Result<StreamAppendResult<TypeConfig>, CallError> {
        let Connection { peers, node, acknowledged, target, .. } = self.connection;
        let (promised, answer) = self.connection.decoded(codec::decode_promised(frame))?;
        let identity = &peers.own().identity;
        if !self.run.is_some_and(|run| identity.heard(node.uuid, run, promised)) {
            let reason = format!("node {target} was started anew since it acknowledged this");
            return Err(CallError::Distrusted { addr: self.connection.addr.clone(), reason });
        }
        let answer = self.connection.decoded(codec::decode_appended(&answer))?;
        match &answer {
            Ok(accepted) => acknowledged.raise(*target, self.term, *accepted),
            Err(StreamAppendError::Conflict(conflict)) => {
                if let Some(error) = self.connection.denied(self.before, conflict) {
                    return Err(error);
                }
            }
            Err(StreamAppendError::HigherVote(_)) => {}
        }
        Ok(answer)
    }

    async fn next(&mut self) -> Result<Option<StreamAppendResult<TypeConfig>>, CallError> {
        let addr = &self.connection.addr;
        loop {
            let frame = self.frames.next().map_err(|_| CallError::Answer {
                addr: addr.clone(),
                source: DecodeError::Invalid("length of an append answer"),
            })?;
            if let Some(frame) = frame {
                self.unanswered.fetch_sub(1, Ordering::Relaxed);
                self.overdue = 0;
                return self.counted(&frame).map(Some);
            }
            // The end of the response is not awaited: the other end may be gone without closing the
            // connection, and nothing more would be sent that could reveal that.
            if self.requests.is_none() && self.unanswered.load(Ordering::Relaxed) == 0 {
                return Ok(None);
            }
            let requests = async {
                match &mut self.requests {
                    Some(requests) => requests.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = requests => self.requests = None,
                chunk = self.response.chunk() => match chunk {
                    Ok(Some(chunk)) => self.frames.push(&chunk),
                    Ok(None) => return Ok(None),
                    Err(source) => return Err(broken(addr, source)),
                },
                _ = self.period.tick() => {
                    // There are unanswered requests now and there were a whole period ago, with no
                    // answer in between.
                    let unanswered = self.unanswered.load(Ordering::Relaxed);
                    if self.overdue > 0 && unanswered > 0 {
                        return Err(CallError::Timeout { addr: addr.clone(), timeout: STALLED });
                    }
                    self.overdue = unanswered;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::raft_log_id;

    fn id(term: u64, index: u64) -> LogId {
        raft_log_id(crate::storage::LogId { term, index })
    }

    #[test]
    fn what_a_member_acknowledged_only_grows_within_a_term() {
        let known = Acknowledged::default();
        assert_eq!(known.get(2, 5), None);
        known.raise(2, 5, Some(id(4, 9)));
        known.raise(2, 5, Some(id(3, 8)));
        known.raise(2, 5, None);
        assert_eq!(known.get(2, 5), Some(id(4, 9)));
        assert_eq!(known.get(3, 5), None, "another member");
        // Entries without a majority may be removed by the next leader.
        known.raise(2, 6, Some(id(4, 7)));
        assert_eq!((known.get(2, 5), known.get(2, 6)), (None, Some(id(4, 7))));
        assert_eq!(denied(known.get(2, 6), &id(4, 7)), Some(id(4, 7)));
        assert_eq!(denied(known.get(2, 6), &id(4, 8)), None, "it was never acknowledged");
        assert_eq!(denied(known.get(2, 5), &id(4, 1)), None, "nor in this term");
    }
}
