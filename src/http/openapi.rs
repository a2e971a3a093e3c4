//! The API described by itself: generated from the handlers and the types they use.

use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Object, Ref, RefOr, Server, Type};
use utoipa::{IntoParams, IntoResponses, Modify, OpenApi};

use super::{access, backup, batch, handlers};
use crate::api::{PROBLEM_MEDIA_TYPE, Problem, schemas};

/// Headers that every operation on locks understands.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "read by the derive alone")]
pub(crate) struct CallHeaders {
    /// How long the caller waits in all, in milliseconds.
    #[param(rename = "Keyward-Timeout-Ms", value_type = u32, required = false,
        default = 5000, minimum = 1, maximum = 60000)]
    timeout_ms: Option<u32>,
    /// Why the caller asks, for the audit; at most 256 bytes.
    #[param(rename = "Keyward-Cause", value_type = String, required = false, max_length = 256)]
    cause: Option<String>,
    /// A `request_id` as a header, for clients that send one with every write; for a write only.
    #[param(rename = "Idempotency-Key", value_type = schemas::RequestId, required = false)]
    idempotency_key: Option<String>,
    /// `true` if the request only renews or releases what is held: then it is limited apart from
    /// other requests. A lock request must have a token then.
    #[param(rename = "Keyward-Keeps", value_type = bool, required = false)]
    keeps: Option<bool>,
    /// Follows the request through the logs of every node, and comes back in the answer: up to 128
    /// letters, digits and `-_.:/+=`. Anything else is replaced by a new one.
    #[param(rename = "X-Request-Id", value_type = String, required = false)]
    trace_id: Option<String>,
}

/// Problems that every write may end with.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the derive alone")]
pub(crate) enum WriteProblems {
    /// The request is wrong and always will be.
    #[response(status = 400)]
    BadRequest(Problem),
    /// Access control is on, and it is not known who asks; not done.
    #[response(status = 401)]
    Unauthorized(Problem),
    /// No access rule allows it; not done.
    #[response(status = 403)]
    NotAllowed(Problem),
    /// The body arrived too slowly; not done.
    #[response(status = 408)]
    Timeout(Problem),
    /// The `request_id` continues a lane that is not remembered; not done by this copy.
    #[response(status = 409)]
    LaneForgotten(Problem),
    /// The body is too large.
    #[response(status = 413)]
    TooLarge(Problem),
    /// The body is not declared to be JSON.
    #[response(status = 415)]
    UnsupportedMediaType(Problem),
    /// The client asks more often than this node allows; not done.
    #[response(status = 429)]
    TooManyRequests(Problem),
    /// Certainly not done; trying again is safe.
    #[response(status = 503)]
    Unavailable(Problem),
    /// May have been done; repeating is safe with the same `request_id`.
    #[response(status = 504)]
    Unknown(Problem),
}

/// Problems of a body.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the derive alone")]
pub(crate) enum BodyProblems {
    /// The body arrived too slowly.
    #[response(status = 408)]
    Timeout(Problem),
    /// The body is too large.
    #[response(status = 413)]
    TooLarge(Problem),
    /// The body is not declared to be JSON.
    #[response(status = 415)]
    UnsupportedMediaType(Problem),
}

/// Problems that every read may end with.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the derive alone")]
pub(crate) enum ReadProblems {
    /// The request is wrong and always will be.
    #[response(status = 400)]
    BadRequest(Problem),
    /// Access control is on, and it is not known who asks.
    #[response(status = 401)]
    Unauthorized(Problem),
    /// No access rule allows it.
    #[response(status = 403)]
    NotAllowed(Problem),
    /// The client asks more often than this node allows; not done.
    #[response(status = 429)]
    TooManyRequests(Problem),
    /// Not possible now; trying again is safe.
    #[response(status = 503)]
    Unavailable(Problem),
}

#[derive(OpenApi)]
#[openapi(
    modifiers(&EveryOperation),
    components(schemas(
        schemas::Mode,
        schemas::Name,
        schemas::RecordState,
        schemas::RequestId,
        schemas::SessionName,
        schemas::TimeToLive
    )),
    info(
        title = "Keyward",
        description = "Named locks with fencing tokens. Any node of the cluster takes any request. \
            Integers are milliseconds; remaining times are rounded down. Every answer that is not \
            a success is a problem document (RFC 9457) with a stable code."
    ),
    paths(
        handlers::lock,
        handlers::unlock,
        batch::batch,
        handlers::check,
        handlers::list,
        handlers::verify,
        handlers::set_limit,
        handlers::deadlocks,
        handlers::open_session,
        handlers::keep_alive,
        handlers::close_session,
        handlers::tables,
        handlers::configure_table,
        handlers::delete_table,
        access::switch,
        access::bootstrap,
        access::rules,
        access::put_rule,
        access::remove_rule,
        access::tokens,
        access::create_token,
        access::revoke_token,
        access::whoami,
        access::can_i,
        handlers::cluster,
        backup::backup,
        handlers::healthz,
        handlers::readyz,
        handlers::metrics,
        handlers::description,
    )
)]
struct Description;

/// Adds the parts that all operations share: the media type of problem documents, the headers of
/// answers, and the answer of last resort.
struct EveryOperation;

impl Modify for EveryOperation {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        document.servers = Some(vec![Server::new("/")]);
        if let Some(components) = &mut document.components {
            let bearer = Http::builder().scheme(HttpAuthScheme::Bearer).build();
            components.add_security_scheme("access_token", SecurityScheme::Http(bearer));
        }
        // A cluster without access control wants none.
        let none = SecurityRequirement::default();
        let token = SecurityRequirement::new::<_, [&str; 0], &str>("access_token", []);
        document.security = Some(vec![none, token]);
        for path in document.paths.paths.values_mut() {
            operations(path).for_each(complete);
        }
    }
}

fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, .. } = path;
    [get, put, post, delete].into_iter().flatten()
}

fn complete(operation: &mut Operation) {
    let decided = operation.tags.iter().flatten().any(|tag| tag == "locks" || tag == "sessions");
    let responses = &mut operation.responses.responses;
    responses.entry("default".to_owned()).or_insert_with(|| any_other_problem().into());
    for (status, response) in responses {
        let RefOr::T(response) = response else { continue };
        if !status.starts_with('2') {
            declare_as_problem(response);
        }
        add_headers(status, decided, response);
    }
}

/// The answer with any other status.
fn any_other_problem() -> Response {
    let problem = Content::new(Some(Ref::from_schema_name("Problem")));
    ResponseBuilder::new()
        .description("Any other problem; `code` says which")
        .content(PROBLEM_MEDIA_TYPE, problem)
        .build()
}

/// The derive macros know one media type for all bodies.
fn declare_as_problem(response: &mut Response) {
    if let Some(content) = response.content.shift_remove("application/json") {
        response.content.insert(PROBLEM_MEDIA_TYPE.to_owned(), content);
    }
}

fn add_headers(status: &str, decided: bool, response: &mut Response) {
    let mut add = |name: &str, header: Header| {
        response.headers.insert(name.to_owned(), header.into());
    };
    let trace_id = "The id under which the logs speak of the request: the one sent, or a new one";
    add("X-Request-Id", text(trace_id));
    if decided && matches!(status, "200" | "202" | "404" | "423") {
        let position = "Where in the replicated log it was decided, such as `42.0`";
        add("Keyward-Log-Position", text(position));
    }
    if status == "503" {
        let leader = "The client address of the node believed to lead, if one is known";
        add("Keyward-Leader", text(leader));
    }
    if matches!(status, "429" | "503") {
        let seconds = HeaderBuilder::new()
            .schema(Some(Object::with_type(Type::Integer)))
            .description(Some("After how many seconds to try again"));
        add("Retry-After", seconds.build());
    }
}

fn text(description: &str) -> Header {
    HeaderBuilder::new().description(Some(description)).build()
}

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    Description::openapi()
}
