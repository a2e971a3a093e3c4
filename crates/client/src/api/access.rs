//! The JSON bodies and queries of access control: rules, tokens, who one is and what one may do.

use serde::{Deserialize, Serialize};

use super::schemas;
use keyward_core::access::{
    AccessToken, Answer, Change, Changed, Grantee, Principal, Question, Request, Right, Rule,
    RuleName, TokenId, TokenInfo,
};
use keyward_core::error::Error;
use keyward_core::types::{DEFAULT_TABLE, DecidedAt, ListRequest};

/// A rule: the body of `PUT /v1/access/rules`, and an item of its list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
pub struct RuleBody {
    /// The identity that it gives rights to; either this or `group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256, example = "ann")]
    pub identity: Option<String>,
    /// The group that it gives rights to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256)]
    pub group: Option<String>,
    /// The table, `default` if left out; `*` is every table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Name>)]
    pub table: Option<String>,
    /// The locks: `jobs/a` is that lock and all below it, `jobs/a*` is every name that begins so,
    /// `*` is every lock.
    #[schema(example = "jobs/a")]
    pub prefix: String,
    /// The rights: `observe`, `acquire`, `preempt`, `force`, `configure`, `admin`.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 6)]
    pub rights: Vec<Right>,
    /// With `preempt`: the highest level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991i64)]
    pub max_level: Option<i64>,
    /// The signee in whose name alone it lets lock and unlock; `{identity}` stands for the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Name>, example = "{identity}")]
    pub signee: Option<String>,
}

impl RuleBody {
    /// The rule.
    ///
    /// # Errors
    /// `BadRequest` if it is none.
    pub fn into_rule(self) -> Result<Rule, Error> {
        let Self { identity, group, table, prefix, rights, max_level, signee } = self;
        let name = rule_name(identity, group, table, &prefix)?;
        let rule = Rule {
            name,
            rights: rights.into_iter().collect(),
            max_level: max_level.unwrap_or(0),
            signee: signee.map(Into::into),
        };
        rule.validate()?;
        Ok(rule)
    }
}

impl From<&Rule> for RuleBody {
    fn from(rule: &Rule) -> Self {
        let Rule { name: RuleName { grantee, table, pattern }, rights, max_level, signee } = rule;
        let (identity, group) = match grantee {
            Grantee::Identity(name) => (Some(name.to_string()), None),
            Grantee::Group(name) => (None, Some(name.to_string())),
        };
        Self {
            identity,
            group,
            table: Some(table.as_deref().unwrap_or(RuleName::EVERY_TABLE).to_owned()),
            prefix: pattern.to_string(),
            rights: rights.iter().collect(),
            max_level: Some(*max_level).filter(|level| *level != 0),
            signee: signee.as_deref().map(str::to_owned),
        }
    }
}

/// The query of `DELETE /v1/access/rules`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RuleQuery {
    /// The identity of the rule; either this or `group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The group of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The table of the rule, `default` if left out; `*` is every table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The prefix of the rule, as it was written.
    pub prefix: String,
}

impl RuleQuery {
    /// The query for a rule.
    pub fn new(name: &RuleName) -> Self {
        let rule = Rule {
            name: name.clone(),
            rights: [Right::Observe].into_iter().collect(),
            max_level: 0,
            signee: None,
        };
        let RuleBody { identity, group, table, prefix, .. } = RuleBody::from(&rule);
        Self { identity, group, table, prefix }
    }

    /// The change that is requested.
    ///
    /// # Errors
    /// `BadRequest` if it names no rule.
    pub fn into_change(self) -> Result<Change, Error> {
        let Self { identity, group, table, prefix } = self;
        rule_name(identity, group, table, &prefix).map(Change::RemoveRule)
    }
}

fn rule_name(
    identity: Option<String>,
    group: Option<String>,
    table: Option<String>,
    prefix: &str,
) -> Result<RuleName, Error> {
    let grantee = match (identity, group) {
        (Some(name), None) => Grantee::Identity(name.into()),
        (None, Some(name)) => Grantee::Group(name.into()),
        (None, None) | (Some(_), Some(_)) => {
            return Err(Error::bad_request("a rule has either an identity or a group"));
        }
    };
    let table = table.unwrap_or_else(|| DEFAULT_TABLE.to_owned());
    let table = (table != RuleName::EVERY_TABLE).then(|| table.into());
    let pattern = prefix.parse().map_err(|error| Error::bad_request(format!("prefix: {error}")))?;
    Ok(RuleName { grantee, table, pattern })
}

/// The query of `GET /v1/access/rules`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RulesQuery {
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// The maximum number of rules: 1 to 1000, 100 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl From<RulesQuery> for Question {
    fn from(query: RulesQuery) -> Self {
        let limit = query.limit.unwrap_or(ListRequest::DEFAULT_LIMIT);
        Self::Rules { after: query.after.unwrap_or(0), limit }
    }
}

/// The answer to `GET /v1/access/rules`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RulesAnswer {
    /// The rules, in the order of grantee, table and prefix.
    pub rules: Vec<RuleBody>,
    /// The value of `after` for the next page; left out on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// The body of `POST /v1/access/tokens`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
pub struct TokenBody {
    /// The identity of whoever comes with the token.
    #[schema(min_length = 1, max_length = 256, example = "ann")]
    pub identity: String,
    /// The groups of whoever comes with the token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub groups: Vec<String>,
    /// The seconds until it expires, by the wall clocks of the nodes; never if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub expires_in_s: Option<u64>,
}

/// The body of `POST /v1/access/bootstrap`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
pub struct BootstrapBody {
    /// The identity of the first administrator, `admin` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub identity: Option<String>,
}

impl BootstrapBody {
    /// The identity of the first administrator, if none is named.
    pub const DEFAULT_IDENTITY: &str = "admin";
}

/// The answer to `POST /v1/access/tokens` and `POST /v1/access/bootstrap`. The secret is shown here
/// and nowhere else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenAnswer {
    /// The name of the token, by which it is listed and revoked.
    pub id: String,
    /// The secret: whoever sends it as `Authorization: Bearer …` is the identity.
    pub token: String,
    /// The identity.
    pub identity: String,
    /// The groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// When it expires, in seconds since 1970; left out for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// Without the secret, which must not come into a log by accident.
impl std::fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, identity, .. } = self;
        f.debug_struct("TokenAnswer")
            .field("id", id)
            .field("identity", identity)
            .finish_non_exhaustive()
    }
}

impl TokenAnswer {
    /// The answer that shows this secret.
    pub fn new(token: &AccessToken, secret: String) -> Self {
        let TokenItem { id, identity, groups, expires } = (&TokenInfo::from(token)).into();
        Self { id, token: secret, identity, groups, expires }
    }
}

/// The query of `DELETE /v1/access/tokens`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TokenQuery {
    /// The name of the token: 16 hexadecimal digits.
    pub id: String,
}

impl TokenQuery {
    /// The change that is requested.
    ///
    /// # Errors
    /// `BadRequest` if it names no token.
    pub fn into_change(self) -> Result<Change, Error> {
        token_id("id", &self.id).map(Change::RevokeToken)
    }
}

/// The query of `GET /v1/access/tokens`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TokensQuery {
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// The maximum number of tokens: 1 to 1000, 100 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl TokensQuery {
    /// The question that is asked.
    ///
    /// # Errors
    /// `BadRequest` if `after` names no token.
    pub fn into_question(self) -> Result<Question, Error> {
        let after = self.after.as_deref().map(|text| token_id("after", text)).transpose()?;
        let limit = self.limit.unwrap_or(ListRequest::DEFAULT_LIMIT);
        Ok(Question::Tokens { after, limit })
    }
}

fn token_id(field: &str, text: &str) -> Result<TokenId, Error> {
    text.parse().map_err(|error| Error::bad_request(format!("{field}: {error}")))
}

/// A token in a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenItem {
    /// The name of the token.
    pub id: String,
    /// The identity.
    pub identity: String,
    /// The groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// When it expires, in seconds since 1970; left out for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

impl From<&TokenInfo> for TokenItem {
    fn from(token: &TokenInfo) -> Self {
        Self {
            id: token.id.to_string(),
            identity: token.identity.to_string(),
            groups: texts(&token.groups),
            expires: token.expires,
        }
    }
}

/// The answer to `GET /v1/access/tokens`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokensAnswer {
    /// The tokens, in the order of their names, without their secrets.
    pub tokens: Vec<TokenItem>,
    /// The value of `after` for the next page; left out on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The body of `PUT /v1/access`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
pub struct SwitchBody {
    /// Whether each request needs a credential from now on.
    pub enabled: bool,
}

/// Whether there was anything to remove.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangedWord {
    /// It is done.
    Ok,
    /// There was nothing to remove: a success.
    Nothing,
}

/// The answer to a change of rules or tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ChangedAnswer {
    /// Whether there was anything to remove.
    pub status: ChangedWord,
}

impl From<Changed> for ChangedAnswer {
    fn from(changed: Changed) -> Self {
        let status = match changed {
            Changed::Done => ChangedWord::Ok,
            Changed::Nothing => ChangedWord::Nothing,
        };
        Self { status }
    }
}

impl From<ChangedAnswer> for Changed {
    fn from(answer: ChangedAnswer) -> Self {
        match answer.status {
            ChangedWord::Ok => Self::Done,
            ChangedWord::Nothing => Self::Nothing,
        }
    }
}

/// The answer to `GET /v1/access/whoami`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WhoamiAnswer {
    /// Whether access control is on.
    pub enabled: bool,
    /// The identity; left out if the request had no credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The name of the access token of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Whether it is an administrator.
    #[serde(default)]
    pub admin: bool,
    /// The kind of credential that the request had; left out if it had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialWord>,
    /// When that credential ends, in seconds since 1970; left out for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// A kind of credential.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialWord {
    /// An access token of the cluster.
    AccessToken,
    /// A client certificate.
    Certificate,
    /// A JWT of an issuer that the node trusts.
    Jwt,
    /// One of a kind that this program does not know.
    #[serde(other)]
    Other,
}

/// The body of `POST /v1/access/can-i`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[derive(utoipa::ToSchema)]
pub struct CanIBody {
    /// The right: `observe`, `acquire`, `preempt`, `force`, `configure`, `admin`.
    #[schema(value_type = String, example = "acquire")]
    pub right: Right,
    /// The lock; left out for a whole table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Name>)]
    pub signature: Option<String>,
    /// The table, `default` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Name>)]
    pub table: Option<String>,
    /// The level, 0 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<i64>,
    /// The signee; any if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schemas::Name>)]
    pub signee: Option<String>,
    /// The identity to ask about, for administrators; left out for oneself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The groups of that identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

impl CanIBody {
    /// The question that is asked.
    ///
    /// # Errors
    /// `BadRequest` if it names groups of nobody.
    pub fn into_question(self) -> Result<Question, Error> {
        let groups: Vec<Box<str>> = self.groups.into_iter().map(Into::into).collect();
        let principal = match self.identity {
            Some(identity) => Some(Principal { groups, ..Principal::named(&identity) }),
            None if groups.is_empty() => None,
            None => return Err(Error::bad_request("groups are those of an identity: name it")),
        };
        let table = self.table.unwrap_or_else(|| DEFAULT_TABLE.to_owned());
        Ok(Question::CanI(Request {
            principal,
            table: table.into(),
            level: self.level.unwrap_or(0),
            signee: self.signee.map(Into::into),
            ..Request::new(self.right, self.signature.as_deref().unwrap_or_default())
        }))
    }
}

impl From<&Request> for CanIBody {
    fn from(request: &Request) -> Self {
        let Request { principal, right, table, signature, level, signee } = request;
        Self {
            right: *right,
            signature: Some(signature.to_string()).filter(|name| !name.is_empty()),
            table: Some(table.to_string()),
            level: Some(*level),
            signee: signee.as_deref().map(str::to_owned),
            identity: principal.as_ref().map(|principal| principal.identity.to_string()),
            groups: principal
                .as_ref()
                .map(|principal| texts(&principal.groups))
                .unwrap_or_default(),
        }
    }
}

/// The answer to `POST /v1/access/can-i`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CanIAnswer {
    /// Whether the rules allow it, whether access control is on or off.
    pub allowed: bool,
    /// The reason why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

fn texts(names: &[Box<str>]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

impl RulesAnswer {
    /// The answer to a question for rules; `None` if it answers another question.
    pub fn new(answer: &Answer) -> Option<Self> {
        let Answer::Rules { rules, next, .. } = answer else { return None };
        Some(Self { rules: rules.iter().map(RuleBody::from).collect(), next: *next })
    }

    /// The answer in the contract's words.
    ///
    /// # Errors
    /// `BadRequest` if a rule is none.
    pub fn into_words(self, decided_at: Option<DecidedAt>) -> Result<Answer, Error> {
        let rules: Result<Vec<Rule>, Error> =
            self.rules.into_iter().map(RuleBody::into_rule).collect();
        Ok(Answer::Rules { rules: rules?, next: self.next, decided_at })
    }
}

impl TokensAnswer {
    /// The answer to a question for tokens; `None` if it answers another question.
    pub fn new(answer: &Answer) -> Option<Self> {
        let Answer::Tokens { tokens, next, .. } = answer else { return None };
        let tokens = tokens.iter().map(TokenItem::from).collect();
        Some(Self { tokens, next: next.map(|next| next.to_string()) })
    }

    /// The answer in the contract's words.
    ///
    /// # Errors
    /// `BadRequest` if a name is none.
    pub fn into_words(self, decided_at: Option<DecidedAt>) -> Result<Answer, Error> {
        let one = |item: TokenItem| {
            Ok(TokenInfo {
                id: token_id("id", &item.id)?,
                identity: item.identity.into(),
                groups: item.groups.into_iter().map(Into::into).collect(),
                expires: item.expires,
            })
        };
        let tokens: Result<Vec<TokenInfo>, Error> = self.tokens.into_iter().map(one).collect();
        let next = self.next.as_deref().map(|text| token_id("next", text)).transpose()?;
        Ok(Answer::Tokens { tokens: tokens?, next, decided_at })
    }
}

impl WhoamiAnswer {
    /// The answer to the question who one is, as far as the cluster knows; `None` if it answers another question.
    pub fn new(answer: &Answer) -> Option<Self> {
        let Answer::Status { on, principal, is_admin, .. } = answer else { return None };
        let principal = principal.as_ref();
        Some(Self {
            enabled: *on,
            identity: principal.map(|principal| principal.identity.to_string()),
            groups: principal.map(|principal| texts(&principal.groups)).unwrap_or_default(),
            token: principal.and_then(|principal| Some(principal.token?.to_string())),
            admin: *is_admin,
            credential: None,
            expires: None,
        })
    }

    /// The answer in the contract's words.
    pub fn into_words(self, decided_at: Option<DecidedAt>) -> Answer {
        let token = self.token.and_then(|text| text.parse().ok());
        let groups = self.groups.into_iter().map(Into::into).collect();
        let principal =
            self.identity.map(|identity| Principal { identity: identity.into(), groups, token });
        Answer::Status { on: self.enabled, principal, is_admin: self.admin, decided_at }
    }
}

impl CanIAnswer {
    /// The answer to the question what one may do; `None` if it answers another question.
    pub fn new(answer: &Answer) -> Option<Self> {
        let Answer::CanI { refused, .. } = answer else { return None };
        Some(Self { allowed: refused.is_none(), reason: refused.clone() })
    }

    /// The answer in the contract's words.
    pub fn into_words(self, decided_at: Option<DecidedAt>) -> Answer {
        let why = || self.reason.unwrap_or_else(|| "no rule allows it".to_owned());
        Answer::CanI { refused: (!self.allowed).then(why), decided_at }
    }
}
