//! The dispatch of the client listener: every path and method with its handler, in one table.
//!
//! All requests take the same way: it is looked at how often their client asks, their head is checked, their handler is found here, it is found
//! out who asks ([`identity`]), and they are observed by [`observed`]. There is no router in between: it would box a handler's future and its
//! response once more and look up twice what stands in one table, which costs more than a lock.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::header::ALLOW;
use axum::http::{Method, Request};
use axum::response::{IntoResponse, Response};
use futures::future::{BoxFuture, ready};
use hyper::body::Incoming;

use super::access;
use super::answer::{Held, Refusal};
use super::backup::backup;
use super::batch::batch;
use super::handlers::{
    Answer, advance, check, close_session, cluster, configure_table as configure, deadlocks,
    delete_table as delete, description, healthz, keep_alive, list, lock, metrics, open_session,
    readyz, set_limit, tables, unlock, verify,
};
use super::identity::{self, Door, Found};
use super::metrics::Endpoint;
use super::observe::{observed, trace_id};
use super::rates::Share;
use super::request::{Arriving, ClientRequest};
use super::server::Answerer;
use super::slots::Slot;
use super::welcome::welcome;
use super::{Context, head};
use crate::api::{Code, routes};
use crate::service::LockService;

/// A handler. Its future is boxed, because those of the server would contain it several times over,
/// and hyper moves them for each request.
type Handler<S, B> = for<'a> fn(&'a Context<S>, ClientRequest<B>) -> BoxFuture<'a, Answer>;

/// One method of one path, with what it demands, and its handler.
type Operation<S, B> = (Method, &'static str, Door, Handler<S, B>);

/// Every operation. Those of one path stand together, and the most frequent ones stand first. A path
/// that has `GET` has `HEAD`, too.
fn operations<S: LockService, B: Arriving>() -> &'static [Operation<S, B>] {
    const {
        &[
            (Method::POST, routes::LOCK, Door::Decided, |context, request| {
                Box::pin(lock(context, request))
            }),
            (Method::GET, routes::LOCK, Door::Decided, |context, request| {
                Box::pin(check(context, request))
            }),
            (Method::POST, routes::UNLOCK, Door::Decided, |context, request| {
                Box::pin(unlock(context, request))
            }),
            (Method::POST, routes::BATCH, Door::Decided, |context, request| {
                Box::pin(batch(context, request))
            }),
            (Method::GET, routes::LOCKS, Door::Decided, |context, request| {
                Box::pin(list(context, request))
            }),
            (Method::GET, routes::TABLES, Door::Decided, |context, request| {
                Box::pin(tables(context, request))
            }),
            (Method::POST, routes::SESSIONS, Door::Decided, |context, request| {
                Box::pin(open_session(context, request))
            }),
            (Method::DELETE, routes::SESSIONS, Door::Decided, |context, request| {
                Box::pin(close_session(context, request))
            }),
            (Method::POST, routes::KEEPALIVE, Door::Decided, |context, request| {
                Box::pin(keep_alive(context, request))
            }),
            (Method::POST, routes::VERIFY, Door::Decided, |context, request| {
                Box::pin(verify(context, request))
            }),
            (Method::PUT, routes::LIMIT, Door::Decided, |context, request| {
                Box::pin(set_limit(context, request))
            }),
            (Method::GET, routes::DEADLOCKS, Door::Decided, |context, request| {
                Box::pin(deadlocks(context, request))
            }),
            (Method::PUT, routes::TABLE, Door::Decided, |context, request| {
                Box::pin(configure(context, request))
            }),
            (Method::DELETE, routes::TABLE, Door::Decided, |context, request| {
                Box::pin(delete(context, request))
            }),
            (Method::PUT, routes::ACCESS, Door::Decided, |context, request| {
                Box::pin(access::switch(context, request))
            }),
            (Method::POST, routes::ACCESS_BOOTSTRAP, Door::Decided, |context, request| {
                Box::pin(access::bootstrap(context, request))
            }),
            (Method::GET, routes::ACCESS_RULES, Door::Decided, |context, request| {
                Box::pin(access::rules(context, request))
            }),
            (Method::PUT, routes::ACCESS_RULES, Door::Decided, |context, request| {
                Box::pin(access::put_rule(context, request))
            }),
            (Method::DELETE, routes::ACCESS_RULES, Door::Decided, |context, request| {
                Box::pin(access::remove_rule(context, request))
            }),
            (Method::GET, routes::ACCESS_TOKENS, Door::Decided, |context, request| {
                Box::pin(access::tokens(context, request))
            }),
            (Method::POST, routes::ACCESS_TOKENS, Door::Decided, |context, request| {
                Box::pin(access::create_token(context, request))
            }),
            (Method::DELETE, routes::ACCESS_TOKENS, Door::Decided, |context, request| {
                Box::pin(access::revoke_token(context, request))
            }),
            (Method::GET, routes::ACCESS_WHOAMI, Door::Decided, |context, request| {
                Box::pin(access::whoami(context, request))
            }),
            (Method::POST, routes::ACCESS_CAN_I, Door::Decided, |context, request| {
                Box::pin(access::can_i(context, request))
            }),
            (Method::GET, routes::CLUSTER, Door::Known, |context, _| Box::pin(cluster(context))),
            (Method::GET, routes::BACKUP, Door::Admin, |context, request| {
                Box::pin(backup(context, request))
            }),
            (Method::GET, routes::HEALTHZ, Door::Open, |_, _| Box::pin(healthz())),
            (Method::GET, routes::READYZ, Door::Open, |context, _| Box::pin(readyz(context))),
            (Method::GET, routes::METRICS, Door::Observer, |context, _| Box::pin(metrics(context))),
            (Method::GET, routes::OPENAPI, Door::Open, |_, _| Box::pin(description())),
            (Method::GET, routes::ROOT, Door::Open, |context, request| {
                Box::pin(welcome(context, request))
            }),
            (Method::POST, routes::DEBUG_ADVANCE, Door::Admin, |context, request| {
                Box::pin(advance(context, request))
            }),
        ]
    }
}

/// A path with its operations.
pub(super) struct Route<S: 'static, B: 'static> {
    pub(super) path: &'static str,
    operations: &'static [Operation<S, B>],
}

/// Every path.
pub(super) fn all_routes<S: LockService, B: Arriving>() -> impl Iterator<Item = Route<S, B>> {
    let by_path = operations().chunk_by(|(_, one, ..), (_, other, ..)| one == other);
    by_path.map(|operations| Route { path: operations[0].1, operations })
}

impl<S, B> Route<S, B> {
    fn handler(&self, method: &Method) -> Option<(Door, Handler<S, B>)> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let found = self.operations.iter().find(|(known, ..)| known == method);
        found.map(|(_, _, door, handler)| (*door, *handler))
    }

    /// The methods of the path.
    #[cfg(test)]
    pub(super) fn methods(&self) -> impl Iterator<Item = &'static Method> + use<S, B> {
        self.operations.iter().map(|(method, ..)| method)
    }

    /// The methods of the path, as the `allow` header lists them.
    pub(super) fn allow(&self) -> String {
        let names = self.operations.iter().map(|(method, ..)| match *method {
            Method::GET => "GET,HEAD",
            ref method => method.as_str(),
        });
        names.collect::<Vec<_>>().join(",")
    }
}

/// The route of a path, with its number. A listener without a cluster, or without a clock for
/// tests, does not have the paths of those.
fn find<S: LockService, B: Arriving>(
    context: &Context<S>,
    path: &str,
) -> Option<(usize, Route<S, B>)> {
    let found = all_routes().enumerate().find(|(_, route)| route.path == path)?;
    let exists = match path {
        routes::CLUSTER | routes::BACKUP => context.node.status().is_some(),
        routes::DEBUG_ADVANCE => context.settings.debug_clock,
        _ => true,
    };
    exists.then_some(found)
}

/// Answers a request; `head` is the result of the checks of its head.
///
/// The server leaves the body of an answer to `HEAD` out, and keeps its length.
pub(super) async fn answer<S: LockService, B: Arriving>(
    context: &Context<S>,
    http: Request<B>,
    slot: Option<Arc<Slot>>,
    head: Result<(), Refusal>,
) -> Response {
    let trace_id = trace_id(http.headers());
    let found = find(context, http.uri().path());
    let route = found.as_ref().map(|(number, route)| (*number, route.path));
    let endpoint = Endpoint::new(http.method(), route);
    let share = Share::of(&http);
    let address = slot.as_ref().and_then(|slot| slot.from()).map(|from| from.ip());
    let judged = context.limiter.admit_address(address, share);
    let judged = judged.and_then(|()| Ok(context.judge_cluster(http.headers())?)).and(head);
    let answer = match (judged, found) {
        (Err(refusal), _) => refused(refusal),
        (Ok(()), None) => refused(no_such_path()),
        (Ok(()), Some((_, route))) => match route.handler(http.method()) {
            Some((door, handler)) => {
                let (trace_id, caller, slot) = (trace_id.clone(), None, slot.clone());
                let request = ClientRequest { http, trace_id, caller, slot, share };
                admitted(context, door, handler, request)
            }
            None => refused(([(ALLOW, route.allow())], method_not_allowed())),
        },
    };
    let response = observed(context, endpoint, trace_id, answer).await;
    if let Some(&Held(time)) = response.extensions().get() {
        // Nothing was done for it, so it may be evicted.
        let _pause = slot.as_ref().map(|slot| slot.pause());
        Box::pin(tokio::time::sleep(time)).await;
    }
    response
}

/// Finds out who makes a request, and calls its handler if the route may be used.
fn admitted<S: LockService, B: Arriving>(
    context: &Context<S>,
    mut door: Door,
    handler: Handler<S, B>,
    mut request: ClientRequest<B>,
) -> BoxFuture<'_, Answer> {
    if door == Door::Observer && context.settings.open_metrics {
        door = Door::Open;
    }
    if door == Door::Open {
        return handler(context, request);
    }
    let from = request.slot.as_ref().and_then(|slot| slot.from());
    let share = request.share;
    match identity::caller_of(context, &request.http) {
        Ok(Found::Caller(caller)) => {
            let principal = caller.as_ref().map(|caller| &*caller.principal);
            let judged = identity::judge(context, door, principal);
            let limiter = &context.limiter;
            let judged = judged.and_then(|()| limiter.admit_identity(principal, share));
            if let Err(refusal) = judged {
                return refused(noted(context, refusal, from));
            }
            request.caller = caller;
            handler(context, request)
        }
        Ok(Found::Unknown(hash)) => Box::pin(async move {
            let found = identity::look_up(context, hash).await;
            let caller = found.map_err(|refusal| noted(context, refusal, from))?;
            let judged = identity::judge(context, door, Some(&caller.principal));
            judged.map_err(|refusal| noted(context, refusal, from))?;
            context.limiter.admit_identity(Some(&caller.principal), share)?;
            request.caller = Some(caller);
            handler(context, request).await
        }),
        Err(refusal) => refused(noted(context, refusal, from)),
    }
}

/// Has a request noted whose maker could not be found out.
fn noted<S>(context: &Context<S>, refusal: Refusal, from: Option<SocketAddr>) -> Refusal {
    if let Some(why) = refusal.unauthorized() {
        context.node.unauthorized(why, from);
    }
    refusal
}

fn refused<'a>(answer: impl IntoResponse) -> BoxFuture<'a, Answer> {
    Box::pin(ready(Ok(answer.into_response())))
}

/// The refusal of a path that this listener does not have.
pub(super) fn no_such_path() -> Refusal {
    let detail = format!("there is nothing here; {} describes what there is", routes::OPENAPI);
    Refusal::new(Code::NoSuchPath, detail)
}

fn method_not_allowed() -> Refusal {
    Refusal::new(Code::MethodNotAllowed, "the allow header names the methods of this path")
}

impl<S: LockService> Answerer for Arc<Context<S>> {
    async fn answer(&self, request: Request<Incoming>, slot: &Arc<Slot>) -> Response {
        let head = head::check(&request, &self.settings.hosts);
        answer(self, request, Some(Arc::clone(slot)), head).await
    }
}
