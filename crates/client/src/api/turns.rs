//! The JSON bodies of answers about sessions, tokens, limits and deadlocks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::answers::HolderAnswer;
use super::{schemas, to_ms};
use keyward_core::types::{
    DeadlockEdge, DeadlocksResponse, DecidedAt, ForbiddenReason, InboxItem, Liveness, Loss, Mode,
    News, Seen, Session, SessionId, Token, VerifyResponse,
};

/// The answer to `POST /v1/sessions`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SessionAnswer {
    /// The name of the session.
    #[schema(value_type = schemas::SessionName)]
    pub session: SessionId,
    /// Its time to live.
    pub ttl_ms: u64,
    /// The time until it ends without a keep-alive; count it from before the request was sent.
    pub valid_ms: u64,
}

impl From<&Session> for SessionAnswer {
    fn from(session: &Session) -> Self {
        let Session { id, ttl, valid } = session;
        Self { session: *id, ttl_ms: to_ms(*ttl), valid_ms: to_ms(*valid) }
    }
}

impl From<SessionAnswer> for Session {
    fn from(answer: SessionAnswer) -> Self {
        let (ttl, valid) = (answer.ttl_ms, answer.valid_ms);
        let [ttl, valid] = [ttl, valid].map(Duration::from_millis);
        Self { id: answer.session, ttl, valid }
    }
}

/// The answer to `POST /v1/sessions/keepalive`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KeepAliveAnswer {
    /// One answer for each session, in their order.
    pub sessions: Vec<LivenessAnswer>,
}

/// The state of a session that was to be kept alive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LivenessAnswer {
    /// The session.
    #[schema(value_type = schemas::SessionName)]
    pub session: SessionId,
    /// Whether it lives on; otherwise it is unknown or has ended.
    pub alive: bool,
    /// The time until it ends without another keep-alive.
    pub valid_ms: u64,
    /// The items of the inbox after those that were seen.
    #[serde(default)]
    pub inbox: Vec<InboxAnswer>,
    /// Whether more items follow these.
    #[serde(default)]
    pub more: bool,
    /// Whether items that were not seen are gone: list the locks of the session.
    #[serde(default)]
    pub overflow: bool,
}

/// A fact about one lock that the owner of a session must learn.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InboxAnswer {
    /// Its position in the log.
    #[schema(example = "42.0")]
    pub position: String,
    /// The table.
    pub table: String,
    /// The lock's name.
    pub signature: String,
    /// The owner within the session.
    pub signee: String,
    /// The run of the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The fact.
    pub kind: NewsWord,
    /// Of a grant that was given or lost: its token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    /// With `granted`: the level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<i64>,
    /// With `granted`: the mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Mode>)]
    pub mode: Option<Mode>,
    /// With `granted`: the number of the permit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// With `ended`: the reason of the refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reason: Option<ForbiddenReason>,
    /// With `lost`: the way in which it was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub loss: Option<Loss>,
}

/// The kind of a fact of an inbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(utoipa::ToSchema)]
pub enum NewsWord {
    /// A place was granted.
    Granted,
    /// A place has ended without a grant.
    Ended,
    /// A grant was lost, or a grant or a place has moved out of the session.
    Lost,
}

impl From<&InboxItem> for InboxAnswer {
    fn from(item: &InboxItem) -> Self {
        let mut answer = Self {
            position: item.position.to_string(),
            table: item.table.clone(),
            signature: item.signature.clone(),
            signee: item.signee.clone(),
            instance: item.instance.clone(),
            kind: NewsWord::Lost,
            token: None,
            level: None,
            mode: None,
            slot: None,
            reason: None,
            loss: None,
        };
        match item.news {
            News::Granted { token, level, mode, slot } => {
                answer.kind = NewsWord::Granted;
                answer.token = Some(token.0);
                answer.level = Some(level);
                answer.mode = Some(mode);
                answer.slot = slot;
            }
            News::Ended(reason) => {
                answer.kind = NewsWord::Ended;
                answer.reason = Some(reason);
            }
            News::Lost { token, reason } => {
                answer.token = token.map(|token| token.0);
                answer.loss = Some(reason);
            }
        }
        answer
    }
}

impl InboxAnswer {
    /// The item as a type of the contract; `None` if it is not whole.
    fn into_words(self) -> Option<InboxItem> {
        let news = match self.kind {
            NewsWord::Granted => News::Granted {
                token: Token(self.token?),
                level: self.level?,
                mode: self.mode.unwrap_or_default(),
                slot: self.slot,
            },
            NewsWord::Ended => News::Ended(self.reason?),
            NewsWord::Lost => News::Lost { token: self.token.map(Token), reason: self.loss? },
        };
        Some(InboxItem {
            position: self.position.parse().ok()?,
            table: self.table,
            signature: self.signature,
            signee: self.signee,
            instance: self.instance,
            news,
        })
    }
}

impl KeepAliveAnswer {
    /// The wire form of the answers about these sessions.
    pub fn new(asked: &[Seen], sessions: &[Liveness]) -> Self {
        let one = |(seen, liveness): (&Seen, &Liveness)| match liveness {
            Liveness::Alive { valid, inbox, more, overflow } => LivenessAnswer {
                session: seen.session,
                alive: true,
                valid_ms: to_ms(*valid),
                inbox: inbox.iter().map(InboxAnswer::from).collect(),
                more: *more,
                overflow: *overflow,
            },
            Liveness::Lost => LivenessAnswer {
                session: seen.session,
                alive: false,
                valid_ms: 0,
                inbox: Vec::new(),
                more: false,
                overflow: false,
            },
        };
        Self { sessions: asked.iter().zip(sessions).map(one).collect() }
    }

    /// The answers as types of the contract; `None` if one is not whole.
    pub fn into_words(self) -> Option<Vec<Liveness>> {
        let one = |answer: LivenessAnswer| {
            if !answer.alive {
                return Some(Liveness::Lost);
            }
            let items = answer.inbox.into_iter().map(InboxAnswer::into_words);
            let inbox: Option<Vec<InboxItem>> = items.collect();
            let valid = Duration::from_millis(answer.valid_ms);
            let (more, overflow) = (answer.more, answer.overflow);
            Some(Liveness::Alive { valid, inbox: inbox?, more, overflow })
        };
        self.sessions.into_iter().map(one).collect()
    }
}

/// The result of a session's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(utoipa::ToSchema)]
pub enum CloseStatusWord {
    /// It was open and is closed.
    Ok,
    /// There was no such session.
    NoSession,
}

/// The answer to `DELETE /v1/sessions`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CloseAnswer {
    /// The result.
    pub status: CloseStatusWord,
}

/// The result of a change of a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(utoipa::ToSchema)]
pub enum LimitStatusWord {
    /// The limit is changed.
    Ok,
    /// Nobody holds the lock or waits for it in mode permits.
    NoLimit,
}

/// The answer to `PUT /v1/limit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LimitAnswer {
    /// The result.
    pub status: LimitStatusWord,
}

/// The answer to `POST /v1/verify`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VerifyAnswer {
    /// Whether the grant with the token is held.
    pub live: bool,
    /// Its holder, if there is such a grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<HolderAnswer>,
    /// The time until the grant expires; 0 if it is not live.
    #[serde(default)]
    #[schema(required = true)]
    pub valid_ms: u64,
}

impl From<&VerifyResponse> for VerifyAnswer {
    fn from(response: &VerifyResponse) -> Self {
        let holder = response.holder.as_ref().map(HolderAnswer::from);
        let valid = response.holder.as_ref().filter(|_| response.live);
        let valid_ms = valid.map_or(0, |holder| to_ms(holder.expires_in));
        Self { live: response.live, holder, valid_ms }
    }
}

impl VerifyAnswer {
    /// The answer as a type of the contract.
    pub fn into_words(self, decided_at: Option<DecidedAt>) -> VerifyResponse {
        VerifyResponse { live: self.live, holder: self.holder.map(Into::into), decided_at }
    }
}

/// One step of a cycle: an owner, and the lock that it waits for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeadlockAnswer {
    /// The owner.
    pub signee: String,
    /// The run of the owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The table of the lock that it waits for.
    pub table: String,
    /// The lock that it waits for.
    pub signature: String,
}

/// The answer to `GET /v1/deadlocks`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeadlocksAnswer {
    /// The cycles: each owner waits for a lock that the next one holds.
    pub cycles: Vec<Vec<DeadlockAnswer>>,
    /// Whether the search ended early because there were too many waits.
    pub cut: bool,
}

impl From<&DeadlocksResponse> for DeadlocksAnswer {
    fn from(response: &DeadlocksResponse) -> Self {
        let step = |edge: &DeadlockEdge| DeadlockAnswer {
            signee: edge.signee.clone(),
            instance: edge.instance.clone(),
            table: edge.table.clone(),
            signature: edge.signature.clone(),
        };
        let cycles = response.cycles.iter().map(|cycle| cycle.iter().map(step).collect());
        Self { cycles: cycles.collect(), cut: response.cut }
    }
}

impl DeadlocksAnswer {
    /// The answer as a type of the contract.
    pub fn into_words(self, decided_at: Option<DecidedAt>) -> DeadlocksResponse {
        let edge = |step: DeadlockAnswer| DeadlockEdge {
            signee: step.signee,
            instance: step.instance,
            table: step.table,
            signature: step.signature,
        };
        let cycles = self.cycles.into_iter().map(|cycle| cycle.into_iter().map(edge).collect());
        DeadlocksResponse { cycles: cycles.collect(), cut: self.cut, decided_at }
    }
}
