//! The answer at `/`: a description of this node for a person who opens the port in a browser or
//! with `curl`.
//!
//! The page has no script, loads nothing, and may not be framed. Names and addresses come from the
//! configurations of all members: each is escaped, and none becomes a link.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::Context;
use super::answer::json;
use super::handlers::Answer;
use super::request::{Arriving, ClientRequest};
use crate::api::{ClusterStatus, routes};
use crate::service::LockService;

/// The service in one sentence, for somebody who does not know it.
const WHAT: &str = "Keyward is a lock service: programs ask it for a named lock over HTTP, a cluster \
    of nodes agrees on who holds it, and every holder gets a fencing token that only grows.";

/// The paths that a person may open, each with its description.
const LINKS: [(&str, &str); 5] = [
    (routes::READYZ, "whether this node can serve requests now"),
    (routes::HEALTHZ, "whether the process answers"),
    (routes::METRICS, "figures of this node for Prometheus"),
    (routes::CLUSTER, "the cluster as this node sees it"),
    (routes::OPENAPI, "the HTTP API, described for programs (OpenAPI)"),
];

/// The content security policy: nothing is loaded, no form is sent, and no other page may frame
/// this one.
const POLICY: &str =
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The answer as JSON.
#[derive(Debug, Serialize)]
struct Welcome {
    service: &'static str,
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    links: Vec<&'static str>,
}

/// Answers with the page if the client takes HTML, and with JSON otherwise. The path is for people
/// and not in the OpenAPI document; programs use `/v1/cluster`.
pub(super) async fn welcome<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    // Strangers are told nothing of the cluster while access control is on.
    let is_guarded = context.settings.access_required.load(Ordering::Acquire)
        || context.node.access().is_some_and(|access| access.is_on());
    let status = context.node.status().filter(|_| !is_guarded);
    let not_ready = context.node.ready().err();
    let mut response = if takes_html(request.http.headers()) {
        as_page(page(status.as_ref(), not_ready.as_deref()))
    } else {
        json(&document(status, not_ready), None)
    };
    response.headers_mut().insert(VARY, HeaderValue::from(ACCEPT));
    Ok(response)
}

/// Whether the client accepts HTML by name, as every browser does and `curl` does not.
fn takes_html(fields: &HeaderMap) -> bool {
    let accepts = fields.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepts.flat_map(|text| text.split(',')).any(|range| {
        let media_type = range.split(';').next().unwrap_or_default().trim();
        media_type.eq_ignore_ascii_case("text/html")
    })
}

fn document(status: Option<ClusterStatus>, not_ready: Option<String>) -> Welcome {
    let links = links(status.is_some()).map(|(path, _)| path).collect();
    Welcome {
        service: "keyward",
        version: env!("CARGO_PKG_VERSION"),
        node: status.as_ref().map(|status| status.id),
        cluster_id: status.and_then(|status| status.cluster_id),
        ready: not_ready.is_none(),
        reason: not_ready,
        links,
    }
}

/// The links; a listener that knows no cluster has no `/v1/cluster`.
fn links(has_cluster: bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    LINKS.into_iter().filter(move |(path, _)| has_cluster || *path != routes::CLUSTER)
}

fn as_page(text: String) -> Response {
    let fields: [(HeaderName, HeaderValue); 4] = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (fields, text).into_response()
}

fn page(status: Option<&ClusterStatus>, not_ready: Option<&str>) -> String {
    let title = match status {
        Some(status) => format!("Keyward node {}", status.id),
        None => "Keyward".to_owned(),
    };
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n</head>\n\
         <body>\n<h1>{title}</h1>\n<p>{WHAT}</p>\n<dl>\n"
    );
    for (term, value) in facts(status, not_ready) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "<dt>{term}</dt><dd>{}</dd>", escaped(&value));
    }
    text.push_str("</dl>\n<ul>\n");
    for (path, what) in links(status.is_some()) {
        let _ = writeln!(text, "<li><a href=\"{path}\">{path}</a>: {what}</li>");
    }
    text.push_str(
        "</ul>\n<p>To take a lock: <code>keyward lock NAME --signee ME</code>, or POST to \
         <code>/v1/lock</code>.</p>\n</body>\n</html>\n",
    );
    text
}

/// The facts about this node, each with its name.
fn facts(status: Option<&ClusterStatus>, not_ready: Option<&str>) -> Vec<(&'static str, String)> {
    let state = not_ready.map_or_else(|| "ready".to_owned(), |why| format!("not ready: {why}"));
    let mut facts = vec![("Version", env!("CARGO_PKG_VERSION").to_owned()), ("State", state)];
    let Some(status) = status else { return facts };
    let unknown = || "not known yet".to_owned();
    facts.push(("Cluster", status.cluster_id.clone().unwrap_or_else(unknown)));
    let leader = status.leader.map_or_else(unknown, |leader| match &status.leader_address {
        _ if leader == status.id => "this node".to_owned(),
        Some(address) => format!("node {leader} at {address}"),
        None => format!("node {leader}"),
    });
    facts.push(("Leader", leader));
    facts
}

/// The text as HTML shows it, also within quotation marks.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}
