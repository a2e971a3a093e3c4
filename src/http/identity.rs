//! Authentication: who makes a request.
//!
//! A request comes with an access token (`Authorization: Bearer kw_…`), with a JWT of an issuer that
//! this node trusts ([`crate::jwt`]), or over a connection whose
//! client has proven by a certificate who it is. Here it is found out whose it is; what that one may do is judged where the request is decided, by the rules as they are there
//! ([`crate::access`]). Only routes that show this node and not the locks are judged here, by the
//! node's own copy of the rules.
//!
//! The node's copy may be behind. A token that it does not have is looked for at the leader; if it
//! still has one that was revoked, the request is refused where it is decided. So it makes a
//! difference which node is asked only for what a node answers by itself.
//!
//! No kind of credential can pass for another: an administrator chooses the identity of an access
//! token, that of a JWT begins with `jwt:` and its issuer's name, and that of a certificate is a
//! subject with its attributes, or a URI that does not begin so.
//!
//! Every kind of credential comes in at [`caller_of`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Request};

use super::Context;
use super::answer::Refusal;
use crate::access::{Access, AccessToken, Answer, Denied, Principal, Question, Secret, TokenHash};
use crate::api::{Code, CredentialWord};
use crate::clock::{CredentialClock, Deadline};
use crate::error::Error;
use crate::jwt::{self, Refused, Verified};
use crate::lock::Query;
use crate::service::LockService;
use crate::tls::PeerCertificate;
use crate::types::{CallOptions, DEFAULT_TIMEOUT, ReadOptions};

/// The number of tokens that are looked for at the leader at once: whoever sends made-up tokens
/// costs the cluster no more than that.
pub(super) const LOOKUPS: usize = 16;

/// The demand that a route makes before its handler is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Door {
    /// None: health, and the description of the API.
    Open,
    /// A credential. What the request may do is judged where it is decided.
    Decided,
    /// A credential, of whomever it is.
    Known,
    /// The right to observe every lock of every table.
    Observer,
    /// The right of an administrator.
    Admin,
}

/// The one that makes a request, and how that is known.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) principal: Arc<Principal>,
    /// The kind of its credential.
    pub(crate) credential: CredentialWord,
    /// The end of its credential, in seconds since 1970; `None` for never.
    pub(crate) expires: Option<u64>,
}

/// The credential of a request, as far as this node knows it.
#[derive(Debug)]
pub(super) enum Found {
    /// The one that makes the request; `None` if access control is off and nobody is named.
    Caller(Option<Caller>),
    /// A token that this node does not know.
    Unknown(TokenHash),
}

/// Finds out who makes a request. This is the one place where credentials of any kind come in.
pub(super) fn caller_of<S, B>(
    context: &Context<S>,
    request: &Request<B>,
) -> Result<Found, Refusal> {
    let Some(access) = context.node.access() else { return Ok(Found::Caller(None)) };
    let now = || context.settings.credential_clock.seconds();
    let Some(bearer) = bearer(request.headers(), access.is_on())? else {
        let shown = request.extensions().get::<Arc<PeerCertificate>>();
        let found = shown.map(|shown| certified(shown, now())).transpose();
        // While access control is off, one that names nobody does no harm.
        let found = if access.is_on() { found? } else { found.ok().flatten() };
        return Ok(Found::Caller(found));
    };
    if !bearer.starts_with(Secret::PREFIX) {
        return jwt(context, bearer, access.is_on()).map(Found::Caller);
    }
    let hash = bearer.parse::<Secret>().map_err(unauthorized)?.hash();
    match access.token(&hash) {
        Some(token) => known(token, &context.settings.credential_clock)
            .map(|caller| Found::Caller(Some(caller))),
        None => Ok(Found::Unknown(hash)),
    }
}

/// The caller of a request with a JWT. While access control is off, one that no issuer here has made
/// is none of ours: a proxy in front may have asked for it.
fn jwt<S>(context: &Context<S>, token: &str, is_on: bool) -> Result<Option<Caller>, Refusal> {
    let Some(issuers) = &context.settings.issuers else {
        // Three parts with dots between them, and the first one begins with `{"` in base64.
        let looks_like_one = token.starts_with("ey") && token.matches('.').count() == 2;
        let why = if looks_like_one {
            "this node takes no JWTs: it was started without a file of issuers (jwt_issuers)"
        } else {
            "an access token is kw_ and 64 hexadecimal digits"
        };
        return if is_on { Err(unauthorized(why)) } else { Ok(None) };
    };
    match issuers.judge(token, context.settings.credential_clock.seconds()) {
        Ok(verified) => Ok(Some(verified.into())),
        Err(Refused::Stranger(_)) if !is_on => Ok(None),
        Err(refused) => Err(unauthorized(&refused.to_string())),
    }
}

impl From<Verified> for Caller {
    fn from(Verified { principal, ends, .. }: Verified) -> Self {
        Self { principal, credential: CredentialWord::Jwt, expires: Some(ends) }
    }
}

/// Looks for a token at the leader.
pub(super) async fn look_up<S: LockService>(
    context: &Context<S>,
    hash: TokenHash,
) -> Result<Caller, Refusal> {
    let Ok(_permit) = context.lookups.try_acquire() else {
        let why = "this node is looking for as many unknown access tokens as it may; try again";
        return Err(Refusal::new(Code::Unavailable, why));
    };
    let query = Query::access(Question::Credential(hash), &ReadOptions::default());
    let deadline = Deadline::after(DEFAULT_TIMEOUT);
    let found = deadline.bound(context.service.read(query, CallOptions::within(DEFAULT_TIMEOUT)));
    let found = found.await.unwrap_or_else(|| Err(Error::unavailable("no answer in time")))?;
    if let Answer::Credential(Some(token)) = found.into_access()? {
        known(&token, &context.settings.credential_clock)
    } else {
        Err(unauthorized("the access token is unknown, or was revoked"))
    }
}

/// Judges what only this node knows: whether the route may be used at all.
pub(super) fn judge<S>(
    context: &Context<S>,
    door: Door,
    principal: Option<&Principal>,
) -> Result<(), Refusal> {
    if door == Door::Open {
        return Ok(());
    }
    let access = context.node.access();
    let is_on = access.as_ref().is_some_and(|access| access.is_on());
    // Also while the cluster does not know of access control yet.
    if !is_on && context.settings.access_required.load(Ordering::Acquire) {
        let why = "access control is being set up, and nothing is answered before";
        return Err(Refusal::new(Code::Unavailable, why));
    }
    let Some(access) = access else { return Ok(()) };
    // Decided where the newest rules are.
    if door == Door::Decided && principal.is_some() {
        return Ok(());
    }
    judge_here(&access, door, principal).map_err(|denied| Error::from(denied).into())
}

fn judge_here(access: &Access, door: Door, principal: Option<&Principal>) -> Result<(), Denied> {
    let Some(judge) = access.admit(principal)? else { return Ok(()) };
    match door {
        Door::Open | Door::Decided | Door::Known => Ok(()),
        Door::Observer if judge.observes_everything() => Ok(()),
        Door::Observer => Err(Denied::NotAllowed(format!(
            "{:?} does not have the right `observe` to every lock of every table",
            judge.identity()
        ))),
        Door::Admin => judge.must_be_admin("use this path"),
    }
}

/// The caller with a token, unless it has expired.
fn known(token: &AccessToken, clock: &CredentialClock) -> Result<Caller, Refusal> {
    if token.is_expired(|| clock.seconds()) {
        return Err(unauthorized("the access token has expired"));
    }
    // Its groups are those of its record, wherever the request is decided.
    let principal = Principal { token: Some(token.id()), ..Principal::named(&token.identity) };
    let (principal, credential) = (Arc::new(principal), CredentialWord::AccessToken);
    Ok(Caller { principal, credential, expires: token.expires })
}

/// The caller with a certificate: its identity is the subject, or else the
/// first URI among its names, and its groups are these URIs. Each has a form that the name of a token
/// hardly has (`CN=…`, `spiffe://…`), so that neither passes for the other by accident. A URI that
/// looks like an identity of a JWT is left out.
fn certified(shown: &PeerCertificate, now: u64) -> Result<Caller, Refusal> {
    // It was valid when the connection was opened.
    if shown.end <= now {
        return Err(unauthorized("the certificate has expired"));
    }
    let uris = || shown.uris().filter(|uri| !uri.starts_with(jwt::PREFIX));
    let subject = Some(&*shown.subject).filter(|subject| !subject.is_empty());
    let identity = subject.or_else(|| uris().next()).unwrap_or_default();
    let groups = uris().map(Into::into).collect();
    let principal = Principal { groups, ..Principal::named(identity) };
    match principal.validate() {
        Ok(()) => {
            let (principal, credential) = (Arc::new(principal), CredentialWord::Certificate);
            Ok(Caller { principal, credential, expires: Some(shown.end) })
        }
        Err(error) => Err(unauthorized(&format!("the certificate names nobody: {error}"))),
    }
}

/// The access token or JWT of a request. While access control is off, a credential of another kind
/// is none of ours: a proxy in front may have asked for it.
fn bearer(fields: &HeaderMap, is_on: bool) -> Result<Option<&str>, Refusal> {
    let mut values = fields.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(unauthorized("there is more than one authorization header"));
    }
    let text = value.to_str().unwrap_or_default();
    let token = text
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    match token {
        Some(token) => Ok(Some(token)),
        None if !is_on => Ok(None),
        None => Err(unauthorized(
            "the credential is sent as `Authorization: Bearer` and the access token or JWT",
        )),
    }
}

fn unauthorized(why: &str) -> Refusal {
    Refusal::new(Code::Unauthorized, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_its_subject_and_its_uris_are_its_groups() {
        let shown = |subject: &str, names: &[&str]| PeerCertificate {
            subject: subject.to_owned(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            begin: 0,
            end: 1000,
        };
        let certified = |shown: &PeerCertificate| certified(shown, 999);
        let names = ["worker-1.example", "10.0.0.1", "a@example.com", "spiffe://example/worker"];
        let worker = certified(&shown("O=jobs,CN=worker-1", &names)).unwrap();
        assert_eq!(worker.expires, Some(1000));
        let worker = worker.principal;
        assert_eq!(&*worker.identity, "O=jobs,CN=worker-1");
        assert_eq!(worker.groups, ["spiffe://example/worker".into()]);
        assert_eq!(worker.token, None);
        let nameless = certified(&shown("", &names[3..])).unwrap();
        assert_eq!(&*nameless.principal.identity, "spiffe://example/worker");
        // Nothing in a certificate is the identity or the group of a JWT.
        let as_jwt = ["jwt://ci", "jwt:ci:a://b", "spiffe://x"];
        let shown_as_jwt = certified(&shown("", &as_jwt)).unwrap().principal;
        assert_eq!(&*shown_as_jwt.identity, "spiffe://x");
        assert_eq!(shown_as_jwt.groups, ["spiffe://x".into()]);
        let expired = PeerCertificate { end: 999, ..shown("CN=a", &[]) };
        for bad in
            [shown("", &["admin"]), shown("", &as_jwt[..2]), shown(&"x".repeat(257), &[]), expired]
        {
            assert!(certified(&bad).unwrap_err().unauthorized().is_some(), "{bad:?}");
        }
    }
}
