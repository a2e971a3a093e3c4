//! Checks of a request's head, the same for every path.
//!
//! The HTTP library reads heads leniently where RFC 9112 lets a server choose. These checks refuse
//! heads that a proxy in between might read in another way, and requests that a browser may have
//! been tricked into.

use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HOST, ORIGIN, TRANSFER_ENCODING};
use axum::http::header::{HeaderName, USER_AGENT};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Version};

use super::answer::Refusal;
use crate::api::{Code, headers, routes};

/// Headers with the options of a request. If one is repeated with different values, each reader may
/// use another one.
const SAID_ONCE: [HeaderName; 7] = [
    HeaderName::from_static(headers::TIMEOUT_MS),
    HeaderName::from_static(headers::CAUSE),
    HeaderName::from_static(headers::IDEMPOTENCY_KEY),
    HeaderName::from_static(headers::CLUSTER),
    HeaderName::from_static(headers::KEEPS),
    CONTENT_TYPE,
    CONTENT_ENCODING,
];

/// The paths of probes, which may name any host: their answers are of no use to an attacker.
const PROBES: [&str; 2] = [routes::HEALTHZ, routes::READYZ];

/// Refuses a head that is ambiguous, requires a feature that this listener does not have, or comes
/// from a browser that takes this node for another host.
pub(super) fn check<B>(request: &Request<B>, hosts: &[String]) -> Result<(), Refusal> {
    let fields = request.headers();
    let host = host(fields, request.version())?;
    for (name, known) in [(TRANSFER_ENCODING, "chunked"), (EXPECT, "100-continue")] {
        let known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(known.as_bytes());
        if !fields.get_all(&name).iter().all(known) {
            return refuse(format!("this listener does not know what {name} asks for"));
        }
    }
    for name in &SAID_ONCE {
        let mut values = fields.get_all(name).iter();
        let first = values.next();
        if values.any(|value| Some(value) != first) {
            return refuse(format!("{name} is there twice, with different values"));
        }
    }
    if is_of_a_browser(request)
        && !PROBES.contains(&request.uri().path())
        && !host.is_some_and(|host| may_be_called(host, hosts))
    {
        return refuse(
            "a browser may call this node by an IP address, localhost, or a name that it was \
             started with (--allowed-hosts)",
        );
    }
    Ok(())
}

fn refuse<T>(detail: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(Code::BadRequest, detail))
}

/// The host that the request names, without its port. HTTP/1.1 demands exactly one (RFC 9112,
/// section 3.2), HTTP/1.0 none.
fn host(fields: &HeaderMap, version: Version) -> Result<Option<&str>, Refusal> {
    let mut values = fields.get_all(HOST).iter();
    let (value, more) = (values.next(), values.next());
    let Some(value) = value else {
        return if version < Version::HTTP_11 {
            Ok(None)
        } else {
            refuse("a request of HTTP/1.1 must have a host header")
        };
    };
    if more.is_some() {
        return refuse("a request must have one host header only");
    }
    match value.to_str() {
        Ok("") => Ok(None),
        Ok(text) if is_authority(text) => Ok(Some(without_port(text))),
        Ok(_) | Err(_) => refuse("the host header is not a host"),
    }
}

fn is_authority(text: &str) -> bool {
    !text.contains('@') && text.parse::<Authority>().is_ok()
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        // The colons of an IPv6 address are within its brackets.
        Some((host, port)) if !port.contains(']') => host,
        Some(_) | None => authority,
    }
}

/// Whether a request comes from a browser. A page of any origin becomes one of this node's own if
/// its name is made to resolve to this address (DNS rebinding). A request that a browser sends for
/// a page has one of these headers, and no page can suppress all of them: over plain HTTP a read
/// has neither of the first two. The agent of `PowerShell` begins like that of a browser.
fn is_of_a_browser<B>(request: &Request<B>) -> bool {
    let fields = request.headers();
    let agent = fields.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    fields.contains_key(ORIGIN)
        || fields.contains_key("sec-fetch-site")
        || (reads && agent.starts_with("Mozilla/") && !agent.contains("PowerShell"))
}

/// Whether a person meant to open a page of this host here: nobody else can make a page whose host
/// is an address.
fn may_be_called(host: &str, hosts: &[String]) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let named = |name: &String| name.eq_ignore_ascii_case(host);
    host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
        || bare.parse::<std::net::IpAddr>().is_ok()
        || hosts.iter().any(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(fields: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().uri("/v1/lock");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap(), &["Locks.example".to_owned()]).is_err()
    }

    #[test]
    fn a_head_that_two_readers_may_read_differently_is_refused() {
        let table: &[(&[(&str, &str)], bool)] = &[
            (&[("host", "a")], false),
            (&[("host", "a:7420")], false),
            (&[("host", "[::1]:7420")], false),
            (&[("host", "")], false),
            (&[], true),
            (&[("host", "a"), ("host", "a")], true),
            (&[("host", "a/b")], true),
            (&[("host", "a@b")], true),
            (&[("host", "a"), ("transfer-encoding", "chunked")], false),
            (&[("host", "a"), ("transfer-encoding", "gzip, chunked")], true),
            (
                &[("host", "a"), ("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")],
                true,
            ),
            (&[("host", "a"), ("expect", "100-Continue")], false),
            (&[("host", "a"), ("expect", "fish")], true),
            (&[("host", "a"), ("keyward-timeout-ms", "1"), ("keyward-timeout-ms", "1")], false),
            (&[("host", "a"), ("keyward-timeout-ms", "1"), ("keyward-timeout-ms", "2")], true),
            (&[("host", "a"), ("keyward-cause", "x"), ("keyward-cause", "y")], true),
        ];
        for (fields, expected) in table {
            assert_eq!(refused(fields), *expected, "{fields:?}");
        }
        let old = Request::builder().version(Version::HTTP_10).body(()).unwrap();
        assert!(check(&old, &[]).is_ok(), "HTTP/1.0 has no host");
    }

    #[test]
    fn a_browser_must_call_the_node_by_one_of_its_names() {
        let signs = [
            ("origin", "http://evil.example"),
            ("sec-fetch-site", "same-origin"),
            ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"),
        ];
        for sign in signs {
            for good in ["127.0.0.1:7420", "[::1]:7420", "localhost", "LOCKS.example:7420"] {
                assert!(!refused(&[("host", good), sign]), "{good} {sign:?}");
            }
            for bad in ["evil.example", "locks.example.evil.example", "127.0.0.1.evil.example", ""]
            {
                assert!(refused(&[("host", bad), sign]), "{bad} {sign:?}");
            }
        }
        assert!(!refused(&[("host", "any.service.name"), ("user-agent", "curl/8.5.0")]));
    }
}
