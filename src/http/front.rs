//! The fast path of the most frequent requests: directly to their handlers, without the router.
//!
//! A router matches the path, boxes the handler's future and its response, and runs every layer.
//! That costs more than a lock. The handlers are the same, and each request is observed in the same
//! way; all other paths and methods go to the router.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, Request};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;

use super::Context;
use super::answer::Refusal;
use super::handlers::{self, Answer};
use super::head;
use super::metrics::Endpoint;
use super::observe::{TraceId, observed};
use super::places::Place;
use super::request::Asked;
use super::server::Answerer;
use crate::api::routes;
use crate::service::LockService;

/// Answers the most frequent requests itself, and passes all others to the router.
pub(crate) struct Front<S> {
    context: Arc<Context<S>>,
    router: Router,
}

impl<S: LockService> Front<S> {
    pub(crate) fn new(context: Arc<Context<S>>) -> Self {
        Self { router: handlers::router(Arc::clone(&context)), context }
    }

    /// Runs a handler of [`handlers`] on a request, and observes it.
    async fn ask<F: Future<Output = Answer>>(
        &self,
        request: Request<Incoming>,
        place: &Arc<Place>,
        handler: impl FnOnce(State<Arc<Context<S>>>, Asked<Incoming>) -> F,
    ) -> Response {
        let trace_id = TraceId::of(request.headers());
        let endpoint = Endpoint::new(request.method(), request.uri().path());
        let place = Some(Arc::clone(place));
        let meant = self.context.judge_cluster(request.headers());
        let budget = self.context.metrics.budget().clone();
        let asked = Asked { request, trace_id: trace_id.clone(), place, budget };
        // Boxed, because the futures below would contain it several times over, and hyper moves
        // them for each request.
        let answer = Box::pin(handler(State(Arc::clone(&self.context)), asked));
        let answer = async move {
            match meant {
                Ok(()) => answer.await.into_response(),
                Err(error) => Refusal::from(error).into_response(),
            }
        };
        observed(&self.context, endpoint, trace_id, answer).await
    }
}

// A derived impl would require the service to be `Clone`.
impl<S> Clone for Front<S> {
    fn clone(&self) -> Self {
        Self { context: Arc::clone(&self.context), router: self.router.clone() }
    }
}

impl<S: LockService> Answerer for Front<S> {
    async fn answer(&self, request: Request<Incoming>, place: &Arc<Place>) -> Response {
        if let Err(refusal) = head::check(&request, &self.context.extras.hosts) {
            let refused = |_, _| std::future::ready(Err(refusal));
            return Box::pin(self.ask(request, place, refused)).await;
        }
        match (request.method(), request.uri().path()) {
            (&Method::POST, routes::LOCK) => self.ask(request, place, handlers::lock).await,
            (&Method::POST, routes::UNLOCK) => self.ask(request, place, handlers::unlock).await,
            (&Method::GET, routes::LOCK) => self.ask(request, place, handlers::check).await,
            // Boxed, so that the future of those above has no room for it.
            _ => Box::pin(self.router.answer(request, place)).await,
        }
    }
}
