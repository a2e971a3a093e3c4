//! Rules, tokens, changes, questions and answers as bytes, for the log, for snapshots and for
//! messages between nodes. Each is a part of something that has a version.

use super::change::{Answer, Change, Question, Request, TokenInfo};
use super::principal::{AccessToken, TokenHash};
use super::rule::{Grantee, Pattern, Right, Rights, Rule, RuleName};
use crate::codec::{DecodeError, Encoding, Reader, flags, put_i64, put_str, put_u64};
use crate::principal::{Principal, TokenId};
use crate::types::DecidedAt;

/// The tags of grantees and of changes, questions and answers. A tag is never reused with another
/// meaning.
mod tag {
    pub(super) const IDENTITY: u8 = 1;
    pub(super) const GROUP: u8 = 2;

    pub(super) const PUT_RULE: u8 = 1;
    pub(super) const REMOVE_RULE: u8 = 2;
    pub(super) const PUT_TOKEN: u8 = 3;
    pub(super) const REVOKE_TOKEN: u8 = 4;
    pub(super) const SWITCH: u8 = 5;
    pub(super) const BOOTSTRAP: u8 = 6;

    pub(super) const STATUS: u8 = 1;
    pub(super) const RULES: u8 = 2;
    pub(super) const TOKENS: u8 = 3;
    pub(super) const CAN_I: u8 = 4;
    pub(super) const CREDENTIAL: u8 = 5;
}

/// Appends the part of a principal besides its identity.
pub fn put_details(out: &mut Vec<u8>, principal: &Principal) {
    put_texts(out, &principal.groups);
    principal.token.put(out);
}

/// Reads the encoding of [`put_details`]; the identity was read before.
///
/// # Errors
/// If the bytes are no such part.
pub fn read_details(identity: &str, reader: &mut Reader<'_>) -> Result<Principal, DecodeError> {
    let groups = read_texts(reader)?;
    Ok(Principal { identity: identity.into(), groups, token: Option::read(reader)? })
}

fn put_texts(out: &mut Vec<u8>, texts: &[Box<str>]) {
    put_u64(out, texts.len() as u64);
    for text in texts {
        put_str(out, text);
    }
}

fn read_texts(reader: &mut Reader<'_>) -> Result<Vec<Box<str>>, DecodeError> {
    // The count is not trusted with an allocation.
    let count = reader.u64()?;
    let mut texts = Vec::new();
    for _ in 0..count {
        texts.push(reader.str()?.into());
    }
    Ok(texts)
}

fn put_text(out: &mut Vec<u8>, text: Option<&str>) {
    if let Some(text) = text {
        put_str(out, text);
    }
}

fn read_text(reader: &mut Reader<'_>, present: bool) -> Result<Option<Box<str>>, DecodeError> {
    present.then(|| reader.str().map(Into::into)).transpose()
}

impl Encoding for Principal {
    fn put(&self, out: &mut Vec<u8>) {
        put_str(out, &self.identity);
        put_details(out, self);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let identity = reader.str()?;
        read_details(identity, reader)
    }
}

impl Encoding for TokenId {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_be_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.array().map(|bytes| Self(u64::from_be_bytes(bytes)))
    }
}

impl Encoding for TokenHash {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.array().map(Self)
    }
}

impl Encoding for AccessToken {
    fn put(&self, out: &mut Vec<u8>) {
        self.hash.put(out);
        put_str(out, &self.identity);
        put_texts(out, &self.groups);
        self.expires.put(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            hash: TokenHash::read(reader)?,
            identity: reader.str()?.into(),
            groups: read_texts(reader)?,
            expires: Option::read(reader)?,
        })
    }
}

impl Encoding for Right {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self as u8);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let code = usize::from(reader.u8()?);
        Self::ALL.get(code).copied().ok_or(reader.invalid())
    }
}

impl Encoding for RuleName {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(match self.grantee {
            Grantee::Identity(_) => tag::IDENTITY,
            Grantee::Group(_) => tag::GROUP,
        });
        put_str(out, self.grantee.name());
        out.push(flags([self.table.is_some(), self.pattern.open]));
        put_text(out, self.table.as_deref());
        put_str(out, &self.pattern.prefix);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = reader.u8()?;
        let name = reader.str()?.into();
        let grantee = match kind {
            tag::IDENTITY => Grantee::Identity(name),
            tag::GROUP => Grantee::Group(name),
            _ => return Err(reader.invalid()),
        };
        let [has_table, open] = reader.flags()?;
        let table = read_text(reader, has_table)?;
        Ok(Self { grantee, table, pattern: Pattern { prefix: reader.str()?.into(), open } })
    }
}

impl Encoding for Rule {
    fn put(&self, out: &mut Vec<u8>) {
        self.name.put(out);
        out.push(self.rights.0);
        put_i64(out, self.max_level);
        out.push(flags([self.signee.is_some()]));
        put_text(out, self.signee.as_deref());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let name = RuleName::read(reader)?;
        let rights = reader.u8()?;
        if rights & !Rights::EVERY.0 != 0 {
            return Err(reader.invalid());
        }
        let max_level = reader.i64()?;
        let [has_signee] = reader.flags()?;
        let signee = read_text(reader, has_signee)?;
        Ok(Self { name, rights: Rights(rights), max_level, signee })
    }
}

impl Encoding for Change {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::PutRule(rule) => {
                out.push(tag::PUT_RULE);
                rule.put(out);
            }
            Self::RemoveRule(name) => {
                out.push(tag::REMOVE_RULE);
                name.put(out);
            }
            Self::PutToken(token) => {
                out.push(tag::PUT_TOKEN);
                token.put(out);
            }
            Self::RevokeToken(id) => {
                out.push(tag::REVOKE_TOKEN);
                id.put(out);
            }
            Self::Switch(on) => {
                out.push(tag::SWITCH);
                on.put(out);
            }
            Self::Bootstrap { token, on } => {
                out.push(tag::BOOTSTRAP);
                token.put(out);
                on.put(out);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.u8()? {
            tag::PUT_RULE => Self::PutRule(Rule::read(reader)?),
            tag::REMOVE_RULE => Self::RemoveRule(RuleName::read(reader)?),
            tag::PUT_TOKEN => Self::PutToken(AccessToken::read(reader)?),
            tag::REVOKE_TOKEN => Self::RevokeToken(TokenId::read(reader)?),
            tag::SWITCH => Self::Switch(bool::read(reader)?),
            tag::BOOTSTRAP => {
                Self::Bootstrap { token: AccessToken::read(reader)?, on: bool::read(reader)? }
            }
            _ => return Err(reader.invalid()),
        })
    }
}

impl Encoding for Request {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { principal, right, table, signature, level, signee } = self;
        principal.put(out);
        right.put(out);
        put_str(out, table);
        put_str(out, signature);
        put_i64(out, *level);
        out.push(flags([signee.is_some()]));
        put_text(out, signee.as_deref());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (principal, right) = (Option::read(reader)?, Right::read(reader)?);
        let (table, signature) = (reader.str()?.into(), reader.str()?.into());
        let level = reader.i64()?;
        let [has_signee] = reader.flags()?;
        let signee = read_text(reader, has_signee)?;
        Ok(Self { principal, right, table, signature, level, signee })
    }
}

impl Encoding for Question {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Status => out.push(tag::STATUS),
            Self::Rules { after, limit } => {
                out.push(tag::RULES);
                put_u64(out, *after);
                limit.put(out);
            }
            Self::Tokens { after, limit } => {
                out.push(tag::TOKENS);
                after.put(out);
                limit.put(out);
            }
            Self::CanI(request) => {
                out.push(tag::CAN_I);
                request.put(out);
            }
            Self::Credential(hash) => {
                out.push(tag::CREDENTIAL);
                hash.put(out);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match reader.u8()? {
            tag::STATUS => Self::Status,
            tag::RULES => Self::Rules { after: reader.u64()?, limit: reader.u32()? },
            tag::TOKENS => Self::Tokens { after: Option::read(reader)?, limit: reader.u32()? },
            tag::CAN_I => Self::CanI(Request::read(reader)?),
            tag::CREDENTIAL => Self::Credential(TokenHash::read(reader)?),
            _ => return Err(reader.invalid()),
        })
    }
}

impl Encoding for TokenInfo {
    fn put(&self, out: &mut Vec<u8>) {
        self.id.put(out);
        put_str(out, &self.identity);
        put_texts(out, &self.groups);
        self.expires.put(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            id: TokenId::read(reader)?,
            identity: reader.str()?.into(),
            groups: read_texts(reader)?,
            expires: Option::read(reader)?,
        })
    }
}

/// A position of a state that was read.
struct At(Option<DecidedAt>);

impl Encoding for At {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(flags([self.0.is_some()]));
        if let Some(DecidedAt { index, position }) = self.0 {
            put_u64(out, index);
            put_u64(out, position.into());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let [is_there] = reader.flags()?;
        if !is_there {
            return Ok(Self(None));
        }
        Ok(Self(Some(DecidedAt { index: reader.u64()?, position: reader.u32()? })))
    }
}

impl Encoding for Answer {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Status { on, principal, is_admin, .. } => {
                out.extend([tag::STATUS, flags([*on, *is_admin])]);
                principal.put(out);
            }
            Self::Rules { rules, next, .. } => {
                out.push(tag::RULES);
                rules.put(out);
                next.put(out);
            }
            Self::Tokens { tokens, next, .. } => {
                out.push(tag::TOKENS);
                tokens.put(out);
                next.put(out);
            }
            Self::CanI { refused, .. } => {
                out.push(tag::CAN_I);
                refused.put(out);
            }
            Self::Credential(token) => {
                out.push(tag::CREDENTIAL);
                token.put(out);
            }
        }
        At(self.decided_at()).put(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut answer = match reader.u8()? {
            tag::STATUS => {
                let [on, is_admin] = reader.flags()?;
                let principal = Option::read(reader)?;
                Self::Status { on, principal, is_admin, decided_at: None }
            }
            tag::RULES => {
                let (rules, next) = (Vec::read(reader)?, Option::read(reader)?);
                Self::Rules { rules, next, decided_at: None }
            }
            tag::TOKENS => {
                let (tokens, next) = (Vec::read(reader)?, Option::read(reader)?);
                Self::Tokens { tokens, next, decided_at: None }
            }
            tag::CAN_I => Self::CanI { refused: Option::read(reader)?, decided_at: None },
            tag::CREDENTIAL => Self::Credential(Option::read(reader)?),
            _ => return Err(reader.invalid()),
        };
        let At(at) = At::read(reader)?;
        match &mut answer {
            Self::Status { decided_at, .. }
            | Self::Rules { decided_at, .. }
            | Self::Tokens { decided_at, .. }
            | Self::CanI { decided_at, .. } => *decided_at = at,
            Self::Credential(_) if at.is_some() => return Err(reader.invalid()),
            Self::Credential(_) => {}
        }
        Ok(answer)
    }
}
