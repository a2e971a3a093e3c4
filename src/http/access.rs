//! The handlers of access control: rules, tokens, who one is and what one may do.
//!
//! The secret of a token is drawn here, shown in the answer, and kept nowhere: the log has its hash.

use super::answer::{Refusal, json};
use super::handlers::{Answer, decide, read};
use super::request::{Arriving, Call, ClientRequest};
use super::{Context, openapi};
use crate::access::{AccessToken, Change, Question, Secret};
use crate::api::{
    BootstrapBody, CanIAnswer, CanIBody, ChangedAnswer, RuleBody, RuleQuery, RulesAnswer,
    RulesQuery, SwitchBody, TokenAnswer, TokenBody, TokenQuery, TokensAnswer, TokensQuery,
    WhoamiAnswer, routes,
};
use crate::error::Error;
use crate::lock::{Command, Operation, Query, Subject};
use crate::random;
use crate::service::LockService;

/// Switches access control on or off. While it is on, each request needs a credential.
#[utoipa::path(put, path = routes::ACCESS, tag = "access", request_body = SwitchBody,
    params(openapi::CallHeaders),
    responses(
        (status = 200, description = "Done", body = ChangedAnswer),
        openapi::WriteProblems,
    ))]
pub(crate) async fn switch<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, body): (_, SwitchBody) = request.body(&context.settings).await?;
    change(context, call, Change::Switch(body.enabled)).await
}

/// Makes the first administrator and its access token, once: refused when there is a token, or when
/// access control is on. The answer shows the secret, and nothing else ever does.
#[utoipa::path(post, path = routes::ACCESS_BOOTSTRAP, tag = "access", request_body = BootstrapBody,
    params(openapi::CallHeaders),
    responses(
        (status = 200, description = "The token, with its secret", body = TokenAnswer),
        openapi::WriteProblems,
    ))]
pub(crate) async fn bootstrap<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, body): (_, BootstrapBody) = request.body(&context.settings).await?;
    let identity = body.identity.as_deref().unwrap_or(BootstrapBody::DEFAULT_IDENTITY);
    let secret = draw();
    let token = AccessToken {
        hash: secret.hash(),
        identity: identity.into(),
        groups: Vec::new(),
        expires: None,
    };
    let first = Change::Bootstrap { token: token.clone(), on: false };
    make(context, call, first, &token, &secret).await
}

/// Makes a rule, or replaces the one of the same grantee, table and prefix.
#[utoipa::path(put, path = routes::ACCESS_RULES, tag = "access", request_body = RuleBody,
    params(openapi::CallHeaders),
    responses(
        (status = 200, description = "Done", body = ChangedAnswer),
        openapi::WriteProblems,
    ))]
pub(crate) async fn put_rule<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, body): (_, RuleBody) = request.body(&context.settings).await?;
    change(context, call, Change::PutRule(body.into_rule()?)).await
}

/// Removes a rule.
#[utoipa::path(delete, path = routes::ACCESS_RULES, tag = "access",
    params(RuleQuery, openapi::CallHeaders),
    responses(
        (status = 200, description = "There is no such rule any more", body = ChangedAnswer),
        openapi::WriteProblems,
    ))]
pub(crate) async fn remove_rule<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, query): (_, RuleQuery) = request.query()?;
    change(context, call, query.into_change()?).await
}

/// Reads a page of the rules. Pages are not one snapshot.
#[utoipa::path(get, path = routes::ACCESS_RULES, tag = "access",
    params(RulesQuery, openapi::CallHeaders),
    responses(
        (status = 200, description = "The page", body = RulesAnswer),
        openapi::ReadProblems,
    ))]
pub(crate) async fn rules<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, query): (_, RulesQuery) = request.query()?;
    ask(context, call, query.into(), RulesAnswer::new).await
}

/// Makes an access token. The answer shows the secret, and nothing else ever does.
#[utoipa::path(post, path = routes::ACCESS_TOKENS, tag = "access", request_body = TokenBody,
    params(openapi::CallHeaders),
    responses(
        (status = 200, description = "The token, with its secret", body = TokenAnswer),
        openapi::WriteProblems,
    ))]
pub(crate) async fn create_token<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, body): (_, TokenBody) = request.body(&context.settings).await?;
    let now = || context.settings.credential_clock.seconds();
    let expires = match body.expires_in_s {
        Some(0) => return Err(Error::bad_request("expires_in_s is at least 1").into()),
        Some(seconds) => Some(now().saturating_add(seconds)),
        None => None,
    };
    let secret = draw();
    let token = AccessToken {
        hash: secret.hash(),
        identity: body.identity.into(),
        groups: body.groups.into_iter().map(Into::into).collect(),
        expires,
    };
    make(context, call, Change::PutToken(token.clone()), &token, &secret).await
}

/// Revokes an access token: on every node at one position of the log.
#[utoipa::path(delete, path = routes::ACCESS_TOKENS, tag = "access",
    params(TokenQuery, openapi::CallHeaders),
    responses(
        (status = 200, description = "There is no such token any more", body = ChangedAnswer),
        openapi::WriteProblems,
    ))]
pub(crate) async fn revoke_token<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, query): (_, TokenQuery) = request.query()?;
    change(context, call, query.into_change()?).await
}

/// Reads a page of the access tokens, without their secrets. Pages are not one snapshot.
#[utoipa::path(get, path = routes::ACCESS_TOKENS, tag = "access",
    params(TokensQuery, openapi::CallHeaders),
    responses(
        (status = 200, description = "The page", body = TokensAnswer),
        openapi::ReadProblems,
    ))]
pub(crate) async fn tokens<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, query): (_, TokensQuery) = request.query()?;
    ask(context, call, query.into_question()?, TokensAnswer::new).await
}

/// Who the caller is, and whether access control is on.
#[utoipa::path(get, path = routes::ACCESS_WHOAMI, tag = "access", params(openapi::CallHeaders),
    responses(
        (status = 200, description = "The caller", body = WhoamiAnswer),
        openapi::ReadProblems,
    ))]
pub(crate) async fn whoami<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let call = request.call_without_query()?;
    let caller = request.caller;
    // Only this node has seen the credential.
    let told = |answer: &_| {
        let told = WhoamiAnswer::new(answer)?;
        let credential = caller.as_ref().map(|caller| caller.credential);
        let expires = caller.as_ref().and_then(|caller| caller.expires);
        Some(WhoamiAnswer { credential, expires, ..told })
    };
    ask(context, call, Question::Status, told).await
}

/// Whether the rules allow a request, whether access control is on or off. Only an administrator may
/// ask about others.
#[utoipa::path(post, path = routes::ACCESS_CAN_I, tag = "access", request_body = CanIBody,
    params(openapi::CallHeaders),
    responses(
        (status = 200, description = "Whether it is allowed", body = CanIAnswer),
        openapi::BodyProblems,
        openapi::ReadProblems,
    ))]
pub(crate) async fn can_i<S: LockService, B: Arriving>(
    context: &Context<S>,
    request: ClientRequest<B>,
) -> Answer {
    let (call, body): (_, CanIBody) = request.body(&context.settings).await?;
    ask(context, call, body.into_question()?, CanIAnswer::new).await
}

/// A secret that nobody can guess.
fn draw() -> Secret {
    let mut bits = [0; 32];
    random::fill(&mut bits);
    Secret::of_bits(bits)
}

async fn change<S: LockService>(context: &Context<S>, call: Call, change: Change) -> Answer {
    let command = Command::from(Operation::Access(Box::new(change)));
    let decision = decide(context, call, command).await?;
    let decided_at = decision.decided_at;
    Ok(json(&ChangedAnswer::from(decision.into_changed()?), decided_at))
}

/// Makes a token, and shows its secret.
async fn make<S: LockService>(
    context: &Context<S>,
    call: Call,
    change: Change,
    token: &AccessToken,
    secret: &Secret,
) -> Answer {
    let command = Command::from(Operation::Access(Box::new(change)));
    let decision = decide(context, call, command).await?;
    let decided_at = decision.decided_at;
    decision.into_changed()?;
    Ok(json(&TokenAnswer::new(token, secret.reveal().to_owned()), decided_at))
}

async fn ask<S: LockService, T: serde::Serialize>(
    context: &Context<S>,
    call: Call,
    question: Question,
    told: impl FnOnce(&crate::access::Answer) -> Option<T>,
) -> Answer {
    let query = Query { stale: false, principal: None, subject: Subject::Access(question) };
    let answer = read(context, call, query).await?.into_access()?;
    let mixed_up = || Refusal::from(Error::unavailable("the answer is one to another question"));
    Ok(json(&told(&answer).ok_or_else(mixed_up)?, answer.decided_at()))
}
