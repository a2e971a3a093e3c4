//! `GET /v1/backup`: the whole state, in the format of a snapshot.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

use super::Context;
use super::handlers::{Answer, read};
use super::openapi;
use super::request::{Arriving, ClientRequest};
use crate::access::Question;
use crate::api::{BackupQuery, headers, routes};
use crate::lock::{Query, Subject};
use crate::node::BackupStream;
use crate::service::LockService;
use crate::types::{ReadOptions, TablesRequest};

/// Reads the whole state, to be restored elsewhere. It takes an administrator.
#[utoipa::path(get, path = routes::BACKUP, tag = "node", params(BackupQuery, openapi::CallHeaders),
    responses(
        (status = 200, description = "A snapshot file; its checksums tell whether it is whole",
            body = Vec<u8>, content_type = "application/octet-stream"),
        openapi::ReadProblems,
    ))]
pub(super) async fn backup<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, query): (_, BackupQuery) = request.query()?;
    let deadline = call.deadline;
    let at_least = if query.stale {
        None
    } else {
        if call.principal.is_some() {
            // This node may not have heard yet that somebody is no administrator any more.
            let (call, _): (_, BackupQuery) = request.query()?;
            let rules = Question::Rules { after: 0, limit: 1 };
            read(context, call, Query::access(rules, &ReadOptions::default())).await?;
        }
        let subject = Subject::Tables(TablesRequest { after: None, limit: 1 });
        let position =
            read(context, call, Query { stale: false, principal: None, subject }).await?;
        position.into_tables()?.decided_at.map(|position| position.index)
    };
    let BackupStream { position, parts } = context.node.backup(at_least, deadline).await?;
    let mut response = Body::from_stream(parts).into_response();
    set_headers(&mut response, &position.to_string());
    Ok(response)
}

fn set_headers(response: &mut Response, position: &str) {
    let fields = response.headers_mut();
    let name = format!("attachment; filename=\"keyward-{position}.backup\"");
    for (field, value) in [
        (CONTENT_TYPE, "application/octet-stream"),
        (CACHE_CONTROL, "no-store"),
        (CONTENT_DISPOSITION, name.as_str()),
        (HeaderName::from_static(headers::LOG_POSITION), position),
    ] {
        fields.insert(field, HeaderValue::try_from(value).expect("digits, dots and known words"));
    }
}
