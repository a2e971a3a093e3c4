//! The simulated network: it delays, loses, reorders, repeats, cuts and resets.
//!
//! The network carries the requests and responses that production code would pass to its HTTP
//! client, and delivers them to the routers that production code would serve. It leaves out what
//! TCP and HTTP do with bytes, but keeps their promises: a connection has to be established before
//! anything is sent; a streamed body arrives in order or is cut off, noticeably or not; requests on
//! different connections overtake each other. A loss on a connection either goes unnoticed, or the
//! connection is reset.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use keyward::client::carrier::{Carry, SendError};
use keyward::raft::paths;
use tokio::sync::{Notify, mpsc, oneshot};
use tower::ServiceExt;

use super::chance::Dice;
use super::clock::TrueTime;
use super::host::{Death, Host};
use super::trace::Trace;

/// A machine's number: nodes have their own ids, clients begin at [`FIRST_CLIENT`].
pub type MachineId = u64;

/// The first client's number.
pub const FIRST_CLIENT: MachineId = 101;

/// The timeout for establishing a connection, as in production code's pools.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The time after which data held up by a cut link is sent again, as TCP would.
const RETRANSMIT: Duration = Duration::from_millis(200);

/// The number of pieces of a streamed body in flight at once.
const IN_FLIGHT: usize = 64;

/// The behaviour of a link in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Nothing arrives.
    pub cut: bool,
    /// The least delay, in milliseconds.
    pub min_ms: u64,
    /// The usual largest delay, in milliseconds.
    pub max_ms: u64,
    /// The share of messages that are late, in parts per million.
    pub late_ppm: u32,
    /// The largest additional delay of a late message, in milliseconds.
    pub late_ms: u64,
    /// The share of messages that are lost, in parts per million.
    pub loss_ppm: u32,
    /// The share of requests that arrive twice, in parts per million.
    pub repeat_ppm: u32,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            cut: false,
            min_ms: 0,
            max_ms: 2,
            late_ppm: 0,
            late_ms: 0,
            loss_ppm: 0,
            repeat_ppm: 0,
        }
    }
}

/// All links and listeners.
pub(crate) struct Network {
    time: TrueTime,
    trace: Arc<Trace>,
    state: Mutex<State>,
}

struct State {
    dice: Dice,
    links: BTreeMap<(MachineId, MachineId), Link>,
    listeners: BTreeMap<String, Listener>,
    delivered: u64,
}

/// The process that answers at an address.
#[derive(Clone)]
struct Listener {
    machine: MachineId,
    host: Arc<Host>,
    router: Router,
}

/// The direction of a message.
#[derive(Clone, Copy, Debug)]
struct Route {
    from: MachineId,
    to: MachineId,
}

impl Route {
    fn back(self) -> Self {
        Self { from: self.to, to: self.from }
    }
}

/// The outcome of a request.
enum Fate {
    Answered(http::Response<Arriving>),
    Reset,
    Silence,
}

impl Network {
    pub(crate) fn new(seed: u64, time: TrueTime, trace: Arc<Trace>) -> Arc<Self> {
        let state = State {
            dice: Dice::new(seed, "network"),
            links: BTreeMap::new(),
            listeners: BTreeMap::new(),
            delivered: 0,
        };
        Arc::new(Self { time, trace, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn link(&self, from: MachineId, to: MachineId) -> Link {
        self.lock().links.get(&(from, to)).copied().unwrap_or_default()
    }

    pub(crate) fn set_link(&self, from: MachineId, to: MachineId, link: Link) {
        self.lock().links.insert((from, to), link);
    }

    /// Registers the router that answers at this address, as long as the host lives.
    pub(crate) fn listen(
        &self,
        address: String,
        machine: MachineId,
        host: &Arc<Host>,
        router: Router,
    ) {
        let listener = Listener { machine, host: host.clone(), router };
        self.lock().listeners.insert(address, listener);
    }

    /// Drops all listeners, at the end of a run: their routers hold nodes, and each node holds this
    /// network, so that nothing else would ever drop them.
    pub(crate) fn close(&self) {
        // What is dropped with them may still look for a listener.
        let listeners = std::mem::take(&mut self.lock().listeners);
        drop(listeners);
    }

    /// The delay of a message that is sent now; `None` if it does not arrive.
    fn leg(&self, route: Route) -> Option<Duration> {
        let mut state = self.lock();
        let link = state.links.get(&(route.from, route.to)).copied().unwrap_or_default();
        if link.cut || state.dice.hits(link.loss_ppm) {
            return None;
        }
        let mut delay = state.dice.within(link.min_ms..=link.max_ms);
        if state.dice.hits(link.late_ppm) {
            delay += state.dice.within(0..=link.late_ms);
        }
        Some(Duration::from_millis(delay))
    }

    fn hits(&self, per_million: u32) -> bool {
        self.lock().dice.hits(per_million)
    }

    fn say(&self, what: std::fmt::Arguments<'_>) {
        self.trace.line(format_args!("{} {what}", self.time.now().as_millis()));
    }
}

/// Waits for a leg to pass; never resolves for a lost message.
async fn cross(leg: Option<Duration>) {
    match leg {
        Some(delay) if delay.is_zero() => tokio::task::yield_now().await,
        Some(delay) => tokio::time::sleep(delay).await,
        None => std::future::pending().await,
    }
}

/// The network as one kind of call of one process sees it: its pool of connections.
pub(crate) struct Uplink {
    network: Arc<Network>,
    machine: MachineId,
    host: Arc<Host>,
    /// The process at the other end of each open connection.
    open: Mutex<BTreeMap<String, Arc<Host>>>,
}

impl Uplink {
    pub(crate) fn new(network: Arc<Network>, machine: MachineId, host: Arc<Host>) -> Arc<Self> {
        Arc::new(Self { network, machine, host, open: Mutex::default() })
    }

    /// Separate connections for a kind of call.
    pub(crate) fn channel(&self) -> Arc<Self> {
        Self::new(self.network.clone(), self.machine, self.host.clone())
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Host>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and waits for the head of its response.
    async fn carry(&self, request: reqwest::Request) -> Result<reqwest::Response, SendError> {
        if !self.host.is_alive() {
            return std::future::pending().await;
        }
        let address = authority(request.url());
        let (listener, route) = self.connect(&address).await?;
        let request = http::Request::<reqwest::Body>::try_from(request)
            .map_err(|error| SendError::Connect(error.into()))?;
        let (head, body) = request.into_parts();
        let gone = Gone::new();
        let (body, copy) = if body.size_hint().exact().is_some() {
            let bytes = body.collect().await.map_err(|error| SendError::Broken(error.into()))?;
            let bytes = bytes.to_bytes();
            (axum::body::Body::from(bytes.clone()), may_be_repeated(&head).then_some(bytes))
        } else {
            let (pipe, arriving) = pipe(&self.network, route, &self.host);
            tokio::spawn(pour(body, pipe, Reader::Told(gone.clone())));
            (axum::body::Body::new(arriving), None)
        };
        let (fate, told) = oneshot::channel();
        let delivery = Delivery {
            network: self.network.clone(),
            route,
            listener,
            head: head.clone(),
            body,
            gone: gone.clone(),
        };
        let mut repeated = false;
        if let Some(bytes) = copy
            && self.network.hits(self.network.link(route.from, route.to).repeat_ppm)
        {
            repeated = true;
            let body = axum::body::Body::from(bytes);
            let (unheard, _) = oneshot::channel();
            tokio::spawn(Delivery { head, body, ..delivery.shared() }.run(unheard));
        }
        tokio::spawn(delivery.run(fate));
        let close = CloseOnDrop(gone);
        match told.await.unwrap_or(Fate::Silence) {
            // The copy may be done all the same: a proxy that repeats a client's request must not
            // pass on an answer that holds for only one of the two.
            Fate::Answered(response)
                if repeated && response.status() == http::StatusCode::SERVICE_UNAVAILABLE =>
            {
                Err(SendError::Broken("one of two copies was refused".into()))
            }
            Fate::Answered(response) => {
                let (head, body) = response.into_parts();
                let body = Kept { body, _close: close };
                let response = http::Response::from_parts(head, reqwest::Body::wrap(body));
                Ok(response.into())
            }
            Fate::Reset => {
                self.open().remove(&address);
                Err(SendError::Broken("the connection was reset".into()))
            }
            Fate::Silence => {
                self.open().remove(&address);
                std::future::pending().await
            }
        }
    }

    /// Uses an open connection, or establishes one.
    async fn connect(&self, address: &str) -> Result<(Listener, Route), SendError> {
        let failed = |why: &str| Err(SendError::Connect(why.to_owned().into()));
        let listener = self.network.lock().listeners.get(address).cloned();
        let Some(listener) = listener else { return failed("there is no such machine") };
        let route = Route { from: self.machine, to: listener.machine };
        let known = self.open().get(address).is_some_and(|host| Arc::ptr_eq(host, &listener.host));
        if known {
            return Ok((listener, route));
        }
        let handshake = async {
            cross(self.network.leg(route)).await;
            // The listener is looked up when the request for a connection arrives.
            let listener = self.network.lock().listeners.get(address).cloned();
            let Some(listener) = listener else { return Ok(None) };
            match listener.host.death() {
                Some(Death::PowerCut) => std::future::pending().await,
                death => {
                    cross(self.network.leg(route.back())).await;
                    if death.is_some() { Err(refused()) } else { Ok(Some(listener)) }
                }
            }
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, handshake).await {
            Ok(Ok(Some(listener))) => {
                self.open().insert(address.to_owned(), listener.host.clone());
                Ok((listener, route))
            }
            Ok(Ok(None)) => failed("there is no such machine"),
            Ok(Err(refused)) => Err(SendError::Connect(refused.into())),
            Err(_) => failed("no connection in time"),
        }
    }
}

impl Carry for Uplink {
    fn send(
        &self,
        request: reqwest::Request,
    ) -> BoxFuture<'_, Result<reqwest::Response, SendError>> {
        Box::pin(self.carry(request))
    }
}

/// The error of a machine where no process listens.
fn refused() -> std::io::Error {
    std::io::ErrorKind::ConnectionRefused.into()
}

/// Whether a request may arrive twice. TCP repeats no request, but a proxy between a client and a
/// node may, and openraft has to tolerate it. There is no proxy between a node that forwards a
/// request and the leader, and one answer reports which parts were certainly not done: that must
/// not be the answer to one of two copies.
fn may_be_repeated(head: &http::request::Parts) -> bool {
    head.uri.path() != paths::FORWARD
}

/// The host and port of a URL.
fn authority(url: &reqwest::Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(80))
}

/// A request in transit.
struct Delivery {
    network: Arc<Network>,
    route: Route,
    listener: Listener,
    head: http::request::Parts,
    body: axum::body::Body,
    gone: Gone,
}

impl Delivery {
    /// A second delivery with the same head, and an empty body.
    fn shared(&self) -> Self {
        Self {
            network: self.network.clone(),
            route: self.route,
            listener: self.listener.clone(),
            head: self.head.clone(),
            body: axum::body::Body::empty(),
            gone: Gone::new(),
        }
    }

    async fn run(self, fate: oneshot::Sender<Fate>) {
        let Some(delay) = self.network.leg(self.route) else {
            // The loss is noticed as a reset, or not at all.
            let reset = self.network.hits(500_000);
            if reset {
                cross(Some(RETRANSMIT)).await;
            }
            let _ = fate.send(if reset { Fate::Reset } else { Fate::Silence });
            return;
        };
        cross(Some(delay)).await;
        match self.listener.host.death() {
            None => {}
            Some(Death::Killed) => {
                cross(self.network.leg(self.route.back())).await;
                let _ = fate.send(Fate::Reset);
                return;
            }
            Some(Death::PowerCut) => return drop(fate.send(Fate::Silence)),
        }
        let number = {
            let mut state = self.network.lock();
            state.delivered += 1;
            state.delivered
        };
        let Route { from, to } = self.route;
        let bytes = self.body.size_hint().exact();
        let bytes = bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
        self.network.say(format_args!("{from}>{to} #{number} {} {bytes}", self.head.uri.path()));
        let host = self.listener.host.clone();
        host.spawn(self.answer(fate, number));
    }

    /// Handles a request that has arrived, as a task of the process's host.
    async fn answer(self, fate: oneshot::Sender<Fate>, number: u64) {
        let Self { network, route, listener, head, body, gone } = self;
        let back = route.back();
        // Reports it when the process dies before it has answered.
        let mut fate =
            Untold { network: network.clone(), back, host: listener.host, fate: Some(fate) };
        let request = http::Request::from_parts(head, body);
        // A server may or may not notice that its client no longer waits for the answer.
        let notices = network.hits(500_000);
        let response = tokio::select! {
            biased;
            () = gone.wait(), if notices => return,
            response = listener.router.oneshot(request) => match response {
                Ok(response) => response,
                Err(never) => match never {},
            },
        };
        let (head, body) = response.into_parts();
        if body.size_hint().exact().is_none() {
            let (pipe, arriving) = pipe(&network, back, &fate.host);
            let response = http::Response::from_parts(head, Arriving::Piecewise(arriving));
            fate.tell_after_leg(response, number);
            return pour(body, pipe, Reader::Unheard).await;
        }
        let Ok(bytes) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
            return;
        };
        let response = http::Response::from_parts(head, Arriving::Whole(Some(bytes)));
        fate.tell_after_leg(response, number);
    }
}

/// Reports the outcome of a request to its sender; on drop, that the other end is gone.
struct Untold {
    network: Arc<Network>,
    back: Route,
    host: Arc<Host>,
    fate: Option<oneshot::Sender<Fate>>,
}

impl Untold {
    fn tell_after_leg(&mut self, response: http::Response<Arriving>, number: u64) {
        if !self.host.is_alive() {
            return;
        }
        let Some(fate) = self.fate.take() else { return };
        let (network, back) = (self.network.clone(), self.back);
        // In transit, the response no longer belongs to the process.
        tokio::spawn(async move {
            let Some(delay) = network.leg(back) else {
                let reset = network.hits(500_000);
                let _ = fate.send(if reset { Fate::Reset } else { Fate::Silence });
                return;
            };
            cross(Some(delay)).await;
            let Route { from, to } = back;
            let status = response.status().as_u16();
            let bytes = response.body().size_hint().exact();
            let bytes = bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
            network.say(format_args!("{from}>{to} #{number} {status} {bytes}"));
            let _ = fate.send(Fate::Answered(response));
        });
    }
}

impl Drop for Untold {
    fn drop(&mut self) {
        let Some(fate) = self.fate.take() else { return };
        let silent = self.host.death() == Some(Death::PowerCut);
        let _ = fate.send(if silent { Fate::Silence } else { Fate::Reset });
    }
}

/// Set when the sender of a request no longer waits for its response.
#[derive(Clone)]
struct Gone(Arc<(AtomicBool, Notify)>);

impl Gone {
    fn new() -> Self {
        Self(Arc::default())
    }

    async fn wait(&self) {
        let (gone, bell) = &*self.0;
        let rings = bell.notified();
        if !gone.load(Ordering::Relaxed) {
            rings.await;
        }
    }
}

struct CloseOnDrop(Gone);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        let (gone, bell) = &*self.0.0;
        gone.store(true, Ordering::Relaxed);
        bell.notify_waiters();
    }
}

/// A response's body.
enum Arriving {
    Whole(Option<Bytes>),
    Piecewise(PipeOut),
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Piecewise(pipe) => Pin::new(pipe).poll_frame(context),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Piecewise(_) => SizeHint::default(),
        }
    }
}

/// A response's body, as the requester holds it.
struct Kept {
    body: Arriving,
    _close: CloseOnDrop,
}

impl Body for Kept {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The connection was cut off in the middle of a body.
#[derive(Debug, thiserror::Error)]
#[error("the connection was reset in the middle of a body")]
struct CutOff;

/// The sending end of a streamed body.
struct PipeIn {
    network: Arc<Network>,
    route: Route,
    /// The process that produces the body.
    host: Arc<Host>,
    pieces: mpsc::Sender<Piece>,
    last: Duration,
}

/// The receiving end.
struct PipeOut {
    time: TrueTime,
    /// The process that produces the body.
    host: Arc<Host>,
    pieces: mpsc::Receiver<Piece>,
    next: Option<(Pin<Box<tokio::time::Sleep>>, Step)>,
}

/// The next event of a body.
enum Step {
    Bytes(Bytes),
    End,
    CutOff,
}

/// A step, and when it arrives.
struct Piece {
    arrives: Duration,
    step: Step,
}

fn pipe(network: &Arc<Network>, route: Route, host: &Arc<Host>) -> (PipeIn, PipeOut) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let (time, last) = (network.time, Duration::ZERO);
    let (network, host) = (network.clone(), host.clone());
    let out = PipeOut { time, host: host.clone(), pieces: receiver, next: None };
    (PipeIn { network, route, host, pieces: sender, last }, out)
}

impl PipeIn {
    /// Sends a step; waits while the link is cut, as TCP does. `false`: nothing follows.
    async fn send(&mut self, step: Step) -> bool {
        if !self.host.is_alive() {
            return false;
        }
        let delay = loop {
            if let Some(delay) = self.network.leg(self.route) {
                break delay;
            }
            if self.pieces.is_closed() {
                return false;
            }
            // A loss holds up what follows, or ends the connection.
            if self.network.hits(100_000) {
                let piece = Piece { arrives: self.last, step: Step::CutOff };
                // If the reader is gone, it need not know.
                let _ = self.pieces.send(piece).await;
                return false;
            }
            cross(Some(RETRANSMIT)).await;
        };
        self.last = self.last.max(self.network.time.now() + delay);
        self.pieces.send(Piece { arrives: self.last, step }).await.is_ok()
    }
}

impl Body for PipeOut {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        if self.next.is_none() {
            let Some(piece) = ready!(self.pieces.poll_recv(context)) else {
                // The other end is gone without an end. After a power cut there is no sign of it.
                return match self.host.death() {
                    Some(Death::PowerCut) => Poll::Pending,
                    Some(Death::Killed) | None => Poll::Ready(Some(Err(CutOff))),
                };
            };
            let left = piece.arrives.saturating_sub(self.time.now());
            self.next = Some((Box::pin(tokio::time::sleep(left)), piece.step));
        }
        let (sleep, _) = self.next.as_mut().expect("it was just set");
        ready!(sleep.as_mut().poll(context));
        Poll::Ready(match self.next.take().map(|(_, step)| step) {
            Some(Step::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Step::CutOff) => Some(Err(CutOff)),
            Some(Step::End) | None => None,
        })
    }
}

/// The producer of a body, and whether it notices that the reader is gone.
enum Reader {
    /// The client: it stops when it has dropped the response.
    Told(Gone),
    /// The server: it goes on with what has arrived already, as one that has not noticed yet.
    Unheard,
}

impl Reader {
    async fn gone(&self) {
        match self {
            Self::Told(gone) => gone.wait().await,
            Self::Unheard => std::future::pending().await,
        }
    }
}

/// Copies a body into a pipe until it ends, or until the reader is known to be gone.
async fn pour<B>(body: B, mut pipe: PipeIn, reader: Reader)
where
    B: Body<Data = Bytes> + Send + 'static,
{
    let mut body = Box::pin(body);
    let mut open = true;
    let gone = reader.gone();
    tokio::pin!(gone);
    loop {
        let frame = tokio::select! {
            biased;
            () = &mut gone => return,
            frame = body.frame() => frame,
        };
        let step = match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => Step::Bytes(bytes),
                Err(_) => continue,
            },
            Some(Err(_)) => return,
            None => Step::End,
        };
        let ended = matches!(step, Step::End);
        open = open && pipe.send(step).await;
        if ended || (!open && matches!(reader, Reader::Told(_))) {
            return;
        }
    }
}
