//! The API described by itself: generated from the handlers and the types they use.

use utoipa::{IntoParams, IntoResponses, OpenApi};

use super::{batch, handlers};
use crate::api::Problem;

/// Headers that every operation on locks understands.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "read by the derive alone")]
pub(crate) struct CallHeaders {
    /// How long the caller waits in all, in milliseconds.
    #[param(rename = "Keyward-Timeout-Ms", default = 5000, minimum = 1, maximum = 60000)]
    timeout_ms: Option<u32>,
    /// Why the caller asks, for the audit; at most 256 bytes.
    #[param(rename = "Keyward-Cause")]
    cause: Option<String>,
    /// Follows the request through the logs of every node, and comes back in the answer.
    #[param(rename = "X-Request-Id")]
    trace_id: Option<String>,
}

/// Problems that every write may end with.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the derive alone")]
pub(crate) enum WriteProblems {
    /// The request is wrong and always will be.
    #[response(status = 400)]
    BadRequest(Problem),
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
    /// Certainly not done; trying again is safe.
    #[response(status = 503)]
    Unavailable(Problem),
    /// May have been done; repeating is safe with the same `request_id`.
    #[response(status = 504)]
    Unknown(Problem),
}

/// Problems that every read may end with.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the derive alone")]
pub(crate) enum ReadProblems {
    /// The request is wrong and always will be.
    #[response(status = 400)]
    BadRequest(Problem),
    /// Not possible now; trying again is safe.
    #[response(status = 503)]
    Unavailable(Problem),
}

#[derive(OpenApi)]
#[openapi(
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
        handlers::tables,
        handlers::configure_table,
        handlers::delete_table,
        handlers::cluster,
        handlers::healthz,
        handlers::readyz,
        handlers::metrics,
        handlers::description,
    )
)]
struct Description;

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    Description::openapi()
}
