//! The peer listener, which answers the other members.
//!
//! Every call must name its sender and its receiver. A call that is not meant for this node, or
//! comes from another cluster or an old copy of a data folder, is refused with a code and a reason.
//! Accepted calls are answered by [`crate::raft::inbound`] and, for forwarded requests, by the
//! node.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt};
use http_body_util::{BodyExt, Limited};
use tokio::net::TcpListener;

use crate::api::Code;
use crate::forward::{Forwarding, answer_forwarded};
use crate::http::server::{Limits, Terms, descriptors, serve_connections};
use crate::node::Node;
use crate::raft::handshake::{
    HANDSHAKE_HEADER, Handshake, NotAHandshake, REFUSAL_HEADER, Refusal, Signature,
};
use crate::raft::inbound::{Call, Caller, InboundError};
use crate::raft::network::{Frames, frame};
use crate::raft::peer::{MAX_MESSAGE_BYTES, paths};
use crate::tls::PeerCertificate;

/// The longest time from the beginning of a message to its end.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers peers until `shutdown` resolves.
///
/// # Errors
/// The listener is broken.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Forwarding>,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let tls = service.node().peer_tls().cloned();
    let limits = Limits {
        // Members are few and each keeps some connections; the rest is room for mistakes.
        // With those of clients they leave a quarter of the descriptors to files.
        connections: 1024.min(descriptors() / 4),
        // Longer than peers keep an unused connection, so that the peer closes it first: a request
        // sent on a connection that is being closed has an unknown outcome.
        head_timeout: Duration::from_secs(60),
        body_bytes: MAX_MESSAGE_BYTES,
        // The stream of appends ends with the leadership, not with the shutdown; nobody waits.
        shutdown_grace: Duration::from_millis(200),
        ..Limits::default()
    };
    let terms = Terms { limits, tls };
    serve_connections(listener, router(service.node().clone()), terms, shutdown).await
}

/// The router of [`serve`], without a listener.
pub fn router(node: Node) -> Router {
    let call = |call: Call| {
        post(move |State(node): State<Node>, request: Request| small_call(node, call, request))
    };
    Router::new()
        .route(paths::IDENTITY, call(Call::Identity))
        .route(paths::APPEND, call(Call::Append))
        .route(paths::VOTE, call(Call::Vote))
        .route(paths::PRE_VOTE, call(Call::PreVote))
        .route(paths::CONFIRM, call(Call::Confirm))
        .route(paths::TRANSFER, call(Call::Transfer))
        .route(paths::APPEND_STREAM, post(append_stream))
        .route(paths::SNAPSHOT, post(snapshot))
        .route(paths::FORWARD, post(forward))
        // Newer members may use paths that this version does not have: those answers are signed,
        // too.
        .route("/peer/{*path}", any(stranger))
        .layer(axum::middleware::map_response_with_state(node.clone(), sign))
        .fallback(stranger)
        .method_not_allowed_fallback(stranger)
        .with_state(node)
}

/// Answers a client, such as a browser, that this is not its port. The answer contains no more than
/// that of `GET /v1/cluster` on the client port, and nothing is changed.
async fn stranger(State(node): State<Node>) -> Response {
    let member = node.member();
    let clients = match member.peers.client_addr(member.id) {
        Some(address) => format!("clients are answered at {address}"),
        None => "clients are answered at another port, 7420 unless configured".to_owned(),
    };
    let detail = format!("this port is for the other nodes of the cluster; {clients}");
    super::answer::Refusal::new(Code::NoSuchPath, detail).into_response()
}

/// The error of a call that gets no answer.
enum PeerError {
    Inbound(InboundError),
    /// The body did not arrive whole.
    Body,
}

impl<E: Into<InboundError>> From<E> for PeerError {
    fn from(error: E) -> Self {
        Self::Inbound(error.into())
    }
}

impl IntoResponse for PeerError {
    fn into_response(self) -> Response {
        match self {
            Self::Inbound(InboundError::Refused(refusal)) => {
                tracing::debug!(code = refusal.code(), %refusal, "a peer's call is refused");
                let code = HeaderValue::from_static(refusal.code());
                let reason = refusal.to_string();
                (StatusCode::CONFLICT, [(REFUSAL_HEADER, code)], reason).into_response()
            }
            Self::Inbound(InboundError::Message(error)) => {
                tracing::warn!(%error, "a peer's message does not decode");
                (StatusCode::BAD_REQUEST, error.to_string()).into_response()
            }
            Self::Inbound(
                error
                @ (InboundError::Stopped(_) | InboundError::Storage(_) | InboundError::CutOff),
            ) => {
                if error.is_of_a_stop() {
                    tracing::debug!(%error, "a peer's call fails");
                } else {
                    tracing::warn!(%error, "a peer's call fails");
                }
                (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
            }
            Self::Body => StatusCode::BAD_REQUEST.into_response(),
        }
    }
}

/// Adds a header that names the data folder, and the start of it, that answered.
async fn sign(State(node): State<Node>, mut response: Response) -> Response {
    let member = node.member();
    let signature = Signature::of(&member.identity, member.peers.own().level).to_string();
    let value = HeaderValue::try_from(signature).expect("letters, digits and signs of ASCII");
    response.headers_mut().insert(HANDSHAKE_HEADER, value);
    response
}

async fn greet(node: &Node, head: &Parts, call: Option<Call>) -> Result<Caller, PeerError> {
    let text = head
        .headers
        .get(HANDSHAKE_HEADER)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let handshake: Handshake =
        text.parse().map_err(|error: NotAHandshake| InboundError::from(Refusal::from(error)))?;
    let certificate = head.extensions.get::<Arc<PeerCertificate>>().map(|shown| &**shown);
    Ok(node.member().greet(&handshake, certificate, call).await?)
}

/// Receives a whole message.
async fn whole(body: Body) -> Result<Bytes, PeerError> {
    let collected = Limited::new(body, MAX_MESSAGE_BYTES).collect();
    match tokio::time::timeout(BODY_TIMEOUT, collected).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(_)) | Err(_) => Err(PeerError::Body),
    }
}

async fn small_call(node: Node, call: Call, request: Request) -> Result<Bytes, PeerError> {
    let (head, body) = request.into_parts();
    let caller = greet(&node, &head, Some(call)).await?;
    let message = whole(body).await?;
    Ok(node.member().answer(caller, call, message).await?)
}

async fn append_stream(State(node): State<Node>, request: Request) -> Result<Body, PeerError> {
    let (head, body) = request.into_parts();
    greet(&node, &head, None).await?;
    let requests = Box::pin(messages(body));
    let answers = node.member().append_stream(requests).await?;
    Ok(Body::from_stream(answers.map(|answer| answer.map(|message| frame(&message)))))
}

async fn snapshot(State(node): State<Node>, request: Request) -> Result<Body, PeerError> {
    let (head, body) = request.into_parts();
    greet(&node, &head, None).await?;
    let messages = Box::pin(messages(body));
    let answers = node.member().take_snapshot(messages).await?;
    Ok(Body::from_stream(answers.map(|answer| match answer {
        Ok(message) => Ok(frame(&message)),
        Err(error) => {
            tracing::warn!(%error, "a snapshot is not taken");
            Err(error)
        }
    })))
}

async fn forward(State(node): State<Node>, request: Request) -> Result<Body, PeerError> {
    let (head, body) = request.into_parts();
    greet(&node, &head, None).await?;
    let message = whole(body).await?;
    // It does not decode, so nothing was done, and the sender may answer so.
    let answers = answer_forwarded(&node, &message)
        .ok_or_else(|| InboundError::from(Refusal::NotAHandshake(NotAHandshake::forwarded())))?;
    Ok(forwarded(answers).await)
}

/// The answers to forwarded requests. Usually all are ready at once and sent as one piece;
/// otherwise each is sent as soon as it is ready.
async fn forwarded(answers: impl Stream<Item = Vec<Bytes>> + Send + 'static) -> Body {
    let mut answers = Box::pin(answers.peekable());
    let first = answers.next().await.unwrap_or_default();
    let all_here = match answers.as_mut().peek().now_or_never() {
        Some(next) => next.is_none(),
        None => false,
    };
    if let ([only], true) = (&first[..], all_here) {
        return Body::from(only.clone());
    }
    let pieces = futures::stream::iter([first]).chain(answers);
    let pieces = pieces.flat_map(futures::stream::iter);
    Body::from_stream(pieces.map(Ok::<_, std::convert::Infallible>))
}

/// The messages in a body that contains many.
fn messages(body: Body) -> impl Stream<Item = Result<Bytes, InboundError>> + Send {
    let state = (body.into_data_stream(), Frames::default());
    futures::stream::try_unfold(state, |(mut body, mut frames)| async move {
        loop {
            match frames.next() {
                Ok(Some(message)) => return Ok(Some((message, (body, frames)))),
                Ok(None) => {}
                Err(_) => return Err(InboundError::CutOff),
            }
            match body.next().await {
                Some(Ok(bytes)) => frames.push(&bytes),
                Some(Err(_)) => return Err(InboundError::CutOff),
                None => return Ok(None),
            }
        }
    })
}
