//! Judging: whether the rules let a principal do something.
//!
//! The rules about a name are found from the end: the last key that is not after the name's is that
//! of the longest prefix of the name that a rule has, or it shares a shorter beginning with the
//! name, and the search goes on from there. Each step is one search in an ordered map, and most
//! names take two or three for each grantee.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Bound;

use super::book::{Access, grantee_key, table_key};
use super::change::{Answer, Question, Request};
use super::rule::{Right, Rule};
use crate::principal::Principal;
use crate::types::DecidedAt;

/// The reason why somebody may not do something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Denied {
    /// It is not known who asks.
    Unauthorized(String),
    /// It is known, and no rule allows it.
    NotAllowed(String),
}

/// The permission that a request needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Need<'a> {
    /// The right.
    pub right: Right,
    /// The table.
    pub table: &'a str,
    /// The lock; empty for the whole table.
    pub name: &'a str,
    /// The level, if the right is to preempt.
    pub level: i64,
    /// The owner in whose name the request is made.
    pub signee: Option<&'a str>,
}

impl<'a> Need<'a> {
    /// A right to a lock, or with an empty name to a whole table.
    pub fn new(right: Right, table: &'a str, name: &'a str) -> Self {
        Self { right, table, name, level: 0, signee: None }
    }

    /// The right to take a lock at this level, for this owner.
    pub fn acquire(table: &'a str, name: &'a str, level: i64, signee: Option<&'a str>) -> Self {
        let right = if level > 0 { Right::Preempt } else { Right::Acquire };
        Self { right, table, name, level, signee }
    }
}

/// A principal before the rules: it answers what that one may do.
#[derive(Clone, Debug)]
pub struct Judge<'a> {
    access: &'a Access,
    identity: &'a str,
    groups: &'a [Box<str>],
}

/// The result of looking at one rule more closely.
enum Verdict {
    Allowed,
    /// The rule is about the lock, and gives the right only up to a level.
    LevelTooHigh(i64),
    /// The rule is about the lock, and gives the right for another signee.
    OtherSignee(String),
    /// The rule does not give the right.
    No,
}

impl Access {
    /// Finds who asks. `None` while access control is off: everybody may do everything then.
    ///
    /// # Errors
    /// `Unauthorized` if there is no principal, or its token was revoked.
    pub fn admit<'a>(
        &'a self,
        principal: Option<&'a Principal>,
    ) -> Result<Option<Judge<'a>>, Denied> {
        if !self.on {
            return Ok(None);
        }
        let Some(principal) = principal else {
            let why = "access control is on, and the request has no credential";
            return Err(Denied::Unauthorized(why.to_owned()));
        };
        self.identify(principal).map(Some)
    }

    /// The principal with the groups that the state knows, whether access control is on or off.
    fn identify<'a>(&'a self, principal: &'a Principal) -> Result<Judge<'a>, Denied> {
        let identity = &*principal.identity;
        let groups = match principal.token {
            None => &principal.groups,
            Some(id) => match self.token_named(id).filter(|token| &*token.identity == identity) {
                Some(token) => &token.groups,
                None => return Err(Denied::Unauthorized("the access token was revoked".into())),
            },
        };
        Ok(Judge { access: self, identity, groups })
    }

    /// Answers a question about rules and tokens.
    ///
    /// # Errors
    /// If whoever asks may not know.
    pub fn answer(
        &self,
        question: &Question,
        principal: Option<&Principal>,
        decided_at: Option<DecidedAt>,
    ) -> Result<Answer, Denied> {
        if let Question::Credential(hash) = question {
            return Ok(Answer::Credential(self.token(hash).cloned()));
        }
        let judge = self.admit(principal)?;
        match question {
            Question::Status => {
                let known = principal.map(|principal| self.identify(principal)).transpose()?;
                let whole = |judge: &Judge<'_>| Principal {
                    identity: judge.identity.into(),
                    groups: judge.groups.to_vec(),
                    token: principal.and_then(|principal| principal.token),
                };
                let is_admin = known.as_ref().is_some_and(Judge::is_admin);
                let principal = known.as_ref().map(whole);
                Ok(Answer::Status { on: self.on, principal, is_admin, decided_at })
            }
            Question::Rules { after, limit } => {
                judge.map_or(Ok(()), |judge| judge.must_be_admin("list the rules"))?;
                Ok(self.rules_page(*after, *limit, decided_at))
            }
            Question::Tokens { after, limit } => {
                judge.map_or(Ok(()), |judge| judge.must_be_admin("list the access tokens"))?;
                Ok(self.tokens_page(*after, *limit, decided_at))
            }
            Question::CanI(request) => {
                let refused = self.would_refuse(request, principal, judge.as_ref())?;
                Ok(Answer::CanI { refused, decided_at })
            }
            Question::Credential(_) => unreachable!("answered above"),
        }
    }

    /// The reason why a request would be refused, by the rules as they are, on or off.
    fn would_refuse(
        &self,
        request: &Request,
        asker: Option<&Principal>,
        judge: Option<&Judge<'_>>,
    ) -> Result<Option<String>, Denied> {
        if request.principal.is_some()
            && let Some(judge) = judge
        {
            judge.must_be_admin("ask what others may do")?;
        }
        let Some(principal) = request.principal.as_ref().or(asker) else {
            return Ok(Some("nobody is named, and the question has no credential".to_owned()));
        };
        let judge = self.identify(principal)?;
        let Request { right, level, .. } = *request;
        let right = if right == Right::Acquire && level > 0 { Right::Preempt } else { right };
        let (table, name) = (&*request.table, &*request.signature);
        let need = Need { right, table, name, level, signee: request.signee.as_deref() };
        Ok(match judge.may(&need) {
            Ok(()) => None,
            Err(Denied::NotAllowed(why) | Denied::Unauthorized(why)) => Some(why),
        })
    }
}

impl<'a> Judge<'a> {
    /// The identity.
    pub fn identity(&self) -> &'a str {
        self.identity
    }

    /// Whether it is an administrator, who may do everything.
    pub fn is_admin(&self) -> bool {
        let mut key = Vec::new();
        self.grantees().any(|(is_group, name)| {
            key.clear();
            grantee_key(&mut key, is_group, name);
            self.access.rights_of(&key).contain(Right::Admin)
        })
    }

    /// Refuses whoever is not an administrator.
    ///
    /// # Errors
    /// `NotAllowed`.
    pub fn must_be_admin(&self, what: &str) -> Result<(), Denied> {
        if self.is_admin() {
            return Ok(());
        }
        let identity = self.identity;
        Err(Denied::NotAllowed(format!(
            "{identity:?} may not {what}: no rule gives it the right `admin`"
        )))
    }

    /// Whether some rule gives the right, on whatever locks.
    ///
    /// # Errors
    /// `NotAllowed` if none does.
    pub fn may_somewhere(&self, right: Right, what: &str) -> Result<(), Denied> {
        let mut key = Vec::new();
        let gives = self.grantees().any(|(is_group, name)| {
            key.clear();
            grantee_key(&mut key, is_group, name);
            self.access.rights_of(&key).give(right)
        });
        if gives {
            return Ok(());
        }
        let identity = self.identity;
        Err(Denied::NotAllowed(format!(
            "{identity:?} may not {what}: no rule gives it the right `{right}` to any lock"
        )))
    }

    /// Judges a need.
    ///
    /// # Errors
    /// `NotAllowed`, which names the right that is missing.
    pub fn may(&self, need: &Need<'_>) -> Result<(), Denied> {
        let (mut level, mut signee) = (None, None);
        let mut scratch = Vec::with_capacity(64 + need.name.len());
        for (is_group, name) in self.grantees() {
            scratch.clear();
            grantee_key(&mut scratch, is_group, name);
            if !self.access.rights_of(&scratch).give(need.right) {
                continue;
            }
            let grantee = scratch.len();
            for table in [Some(need.table), None] {
                scratch.truncate(grantee);
                table_key(&mut scratch, table);
                let mut about = Matching::new(self.access, &mut scratch, need.name);
                while let Some(rule) = about.next() {
                    match self.judge_rule(rule, need) {
                        Verdict::Allowed => return Ok(()),
                        Verdict::LevelTooHigh(most) => level = level.max(Some(most)),
                        Verdict::OtherSignee(bound) => signee = Some(bound),
                        Verdict::No => {}
                    }
                }
            }
        }
        Err(self.denied(need, level, signee))
    }

    fn judge_rule(&self, rule: &Rule, need: &Need<'_>) -> Verdict {
        if !rule.rights.give(need.right) {
            return Verdict::No;
        }
        if rule.rights.contain(Right::Admin) {
            return Verdict::Allowed;
        }
        if need.right == Right::Preempt && need.level > rule.max_level {
            return Verdict::LevelTooHigh(rule.max_level);
        }
        if !rule.allows_signee(self.identity, need.signee) {
            return Verdict::OtherSignee(rule.signee_of(self.identity).unwrap_or_default());
        }
        Verdict::Allowed
    }

    fn denied(&self, need: &Need<'_>, level: Option<i64>, signee: Option<String>) -> Denied {
        let identity = self.identity;
        let Need { right, table, name, .. } = need;
        let what: Cow<'_, str> = match *name {
            "" => format!("the whole table {table:?}").into(),
            name => format!("{name:?} in table {table:?}").into(),
        };
        let why = match (level, signee) {
            (_, Some(signee)) => format!("a rule gives it for the signee {signee:?} alone"),
            (Some(most), None) => format!("rules give it up to level {most}"),
            (None, None) => "no rule gives it".to_owned(),
        };
        let at_level = if *right == Right::Preempt {
            format!(" at level {}", need.level)
        } else {
            String::new()
        };
        Denied::NotAllowed(format!(
            "{identity:?} does not have the right `{right}`{at_level} to {what}: {why}"
        ))
    }

    /// Whether the lock may be observed, which every right to it includes.
    pub fn observes(&self, table: &str, name: &str) -> bool {
        let mut scratch = Vec::with_capacity(64 + name.len());
        self.grantees().any(|(is_group, grantee)| {
            scratch.clear();
            grantee_key(&mut scratch, is_group, grantee);
            let grantee = scratch.len();
            !self.access.rights_of(&scratch).is_empty()
                && [Some(table), None].into_iter().any(|table| {
                    scratch.truncate(grantee);
                    table_key(&mut scratch, table);
                    Matching::new(self.access, &mut scratch, name).next().is_some()
                })
        })
    }

    /// Whether every lock of the table may be observed.
    pub fn observes_all(&self, table: &str) -> bool {
        self.observes(table, "")
    }

    /// Whether every lock of every table may be observed.
    pub fn observes_everything(&self) -> bool {
        // No table has the empty name.
        self.observes("", "")
    }

    /// The tables of which every lock may be observed; `None` for every table.
    pub fn observed_tables(&self) -> Option<BTreeSet<&'a str>> {
        if self.observes_everything() {
            return None;
        }
        let mut tables = BTreeSet::new();
        let mut key = Vec::new();
        for (is_group, grantee) in self.grantees() {
            key.clear();
            grantee_key(&mut key, is_group, grantee);
            let range = (Bound::Included(key.as_slice()), Bound::Unbounded);
            let rules = self.access.rules.range::<_, [u8]>(range);
            let rules =
                rules.take_while(|(other, _)| other.starts_with(&key)).map(|(_, rule)| rule);
            let whole = rules.filter(|rule| rule.name.pattern.is_every());
            tables.extend(whole.filter_map(|rule| rule.name.table.as_deref()));
        }
        Some(tables)
    }

    /// The next text after this name, which may not be observed itself, at which names begin that
    /// may be. It stands in a rule of the principal's own, and so tells it nothing.
    pub fn next_observed(&self, table: &str, name: &str) -> Option<String> {
        let mut scratch = Vec::with_capacity(64 + name.len());
        let mut next: Option<String> = None;
        for (is_group, grantee) in self.grantees() {
            for table in [Some(table), None] {
                scratch.clear();
                grantee_key(&mut scratch, is_group, grantee);
                table_key(&mut scratch, table);
                let scope = scratch.len();
                let below = Matching::new(self.access, &mut scratch, name).next_below();
                scratch.truncate(scope);
                let behind = self.next_prefix(&mut scratch, name);
                for found in below.into_iter().chain(behind) {
                    if next.as_ref().is_none_or(|next| found < *next) {
                        next = Some(found);
                    }
                }
            }
        }
        next
    }

    /// The first prefix behind a name in the scope that the key begins with.
    fn next_prefix(&self, key: &mut Vec<u8>, name: &str) -> Option<String> {
        let scope = key.len();
        key.extend_from_slice(name.as_bytes());
        key.extend([0, u8::MAX]);
        let rules = &self.access.rules;
        let range = (Bound::Excluded(key.as_slice()), Bound::Unbounded);
        let (found, rule) = rules.range::<_, [u8]>(range).next()?;
        found.starts_with(&key[..scope]).then(|| rule.name.pattern.prefix.to_string())
    }

    /// The grantees that the principal is: itself and its groups.
    fn grantees(&self) -> impl Iterator<Item = (bool, &'a str)> {
        let groups = self.groups.iter().map(|group| (true, &**group));
        std::iter::once((false, self.identity)).chain(groups)
    }
}

/// The rules of one grantee and one table that are about a name, the longest prefix first.
struct Matching<'a, 'k> {
    access: &'a Access,
    /// The grantee and the table, then the part of the name that the search has come to.
    key: &'k mut Vec<u8>,
    scope: usize,
    name: &'k str,
    is_over: bool,
}

impl<'a, 'k> Matching<'a, 'k> {
    /// A search in the scope that the key ends with.
    fn new(access: &'a Access, key: &'k mut Vec<u8>, name: &'k str) -> Self {
        let scope = key.len();
        key.extend_from_slice(name.as_bytes());
        // Behind every kind of pattern with this prefix.
        key.extend([0, u8::MAX]);
        Self { access, key, scope, name, is_over: false }
    }

    fn next(&mut self) -> Option<&'a Rule> {
        while let Some(rule) = self.next_beginning() {
            if rule.name.pattern.matches(self.name) {
                return Some(rule);
            }
        }
        None
    }

    /// The first name behind this one that a rule about a part of its path is about. Every rule
    /// whose prefix the name begins with is looked at.
    fn next_below(&mut self) -> Option<String> {
        let mut next: Option<String> = None;
        while let Some(rule) = self.next_beginning() {
            let below = format!("{}/", rule.name.pattern.prefix);
            if !rule.name.pattern.open
                && *below > *self.name
                && next.as_ref().is_none_or(|next| below < *next)
            {
                next = Some(below);
            }
        }
        next
    }

    /// The next rule whose prefix the name begins with.
    fn next_beginning(&mut self) -> Option<&'a Rule> {
        while !self.is_over {
            let range = (Bound::Unbounded, Bound::Excluded(self.key.as_slice()));
            let last = self.access.rules.range::<_, [u8]>(range).next_back();
            let found = last.filter(|(key, _)| key.starts_with(&self.key[..self.scope]));
            let Some((key, rule)) = found else {
                self.is_over = true;
                return None;
            };
            let prefix = rule.name.pattern.prefix.as_bytes();
            if self.name.as_bytes().starts_with(prefix) {
                self.key.clear();
                self.key.extend_from_slice(key);
                return Some(rule);
            }
            // Only what both begin with can be the beginning of a shorter prefix.
            let name = self.name.as_bytes();
            let same = prefix.iter().zip(name).take_while(|(one, other)| one == other).count();
            self.key.truncate(self.scope);
            self.key.extend_from_slice(&name[..same]);
            self.key.extend([0, u8::MAX]);
        }
        None
    }
}
