//! The book of rules and tokens, and its changes.
//!
//! Rules stand in one ordered map, under keys whose byte order puts those of one grantee and one
//! table together, in the order of their prefixes. So `judge.rs` finds the rules that are about a
//! name by a few searches, however many others there are. The maps share their structure: a copy
//! costs next to nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;

use super::change::{Answer, Change, Changed, TokenInfo};
use super::principal::{AccessToken, TokenHash};
use super::rule::{Grantee, Right, Rights, Rule, RuleName};
use crate::limits;
use crate::principal::TokenId;
use crate::types::DecidedAt;

/// The key of a rule: its grantee, its table and its pattern, so that the byte order is that of
/// (grantee, table, prefix, kind of the pattern).
pub type RuleKey = Arc<[u8]>;

/// Rules, tokens, and whether they count.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Access {
    pub(super) on: bool,
    pub(super) rules: OrdMap<RuleKey, Arc<Rule>>,
    /// The number of rules of each grantee that contain each right.
    tallies: OrdMap<Box<[u8]>, Tally>,
    pub(super) tokens: OrdMap<TokenId, Arc<AccessToken>>,
}

/// The number of rules that contain each right, in the order of [`Right::ALL`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Tally([u32; 6]);

impl Tally {
    fn rights(self) -> Rights {
        Right::ALL.into_iter().filter(|right| self.0[*right as usize] > 0).collect()
    }
}

/// The numbers of rules and tokens that are allowed; tests have smaller ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// The maximum number of rules.
    pub rules: usize,
    /// The maximum number of tokens.
    pub tokens: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { rules: limits::MAX_RULES, tokens: limits::MAX_ACCESS_TOKENS }
    }
}

/// The beginning of a key: the grantee.
pub(super) fn grantee_key(out: &mut Vec<u8>, is_group: bool, name: &str) {
    out.push(if is_group { b'g' } else { b'i' });
    out.extend_from_slice(name.as_bytes());
    out.push(0);
}

/// The part of a key behind the grantee: the table, of which the empty text is every table.
pub(super) fn table_key(out: &mut Vec<u8>, table: Option<&str>) {
    out.extend_from_slice(table.unwrap_or_default().as_bytes());
    out.push(0);
}

impl Grantee {
    fn key(&self) -> Vec<u8> {
        let mut key = Vec::new();
        grantee_key(&mut key, matches!(self, Self::Group(_)), self.name());
        key
    }
}

impl RuleName {
    /// The key of the rule with this name. A name with a NUL has none that is its own.
    pub fn key(&self) -> RuleKey {
        let mut key = self.grantee.key();
        table_key(&mut key, self.table.as_deref());
        key.extend_from_slice(self.pattern.prefix.as_bytes());
        key.extend([0, u8::from(self.pattern.open)]);
        key.into()
    }
}

impl Access {
    /// Whether it is switched on.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Whether nothing was ever set up: it is off, and has neither rules nor tokens.
    pub fn is_empty(&self) -> bool {
        !self.on && self.rules.is_empty() && self.tokens.is_empty()
    }

    /// The number of rules and tokens, which are a record each.
    pub fn records(&self) -> u64 {
        (self.rules.len() + self.tokens.len()) as u64
    }

    /// The token with this hash.
    pub fn token(&self, hash: &TokenHash) -> Option<&AccessToken> {
        self.tokens.get(&hash.id()).map(|token| &**token).filter(|token| token.hash == *hash)
    }

    /// The token with this name.
    pub fn token_named(&self, id: TokenId) -> Option<&AccessToken> {
        self.tokens.get(&id).map(|token| &**token)
    }

    /// The rule with this key.
    pub fn rule(&self, key: &[u8]) -> Option<&Rule> {
        self.rules.get(key).map(|rule| &**rule)
    }

    /// Every rule, in the order of the keys.
    pub fn rules(&self) -> impl Iterator<Item = (&RuleKey, &Rule)> {
        self.rules.iter().map(|(key, rule)| (key, &**rule))
    }

    /// Every token, in the order of their names.
    pub fn tokens(&self) -> impl Iterator<Item = (TokenId, &AccessToken)> {
        self.tokens.iter().map(|(id, token)| (*id, &**token))
    }

    /// The rights that the rules of a grantee contain, wherever.
    pub(super) fn rights_of(&self, grantee: &[u8]) -> Rights {
        self.tallies.get(grantee).map_or_else(Rights::default, |tally| tally.rights())
    }

    /// Makes a change.
    ///
    /// # Errors
    /// The reason why it is refused; nothing is changed then.
    pub fn change(&mut self, change: &Change, bounds: Bounds) -> Result<Changed, String> {
        match change {
            Change::PutRule(rule) => {
                if let Some(flaw) = rule.flaw() {
                    return Err(flaw.to_owned());
                }
                let key = rule.name.key();
                if self.rules.len() >= bounds.rules && !self.rules.contains_key(&*key) {
                    return Err(format!("there are {} rules already", self.rules.len()));
                }
                self.guarded("the rule", |book| book.put_rule(rule.clone()))?;
                Ok(Changed::Done)
            }
            Change::RemoveRule(name) => {
                let key = name.key();
                if name.flaw().is_some() || !self.rules.contains_key(&*key) {
                    return Ok(Changed::Nothing);
                }
                self.guarded("the rule", |book| book.drop_rule(&key))?;
                Ok(Changed::Done)
            }
            Change::PutToken(token) => self.put_token(token, bounds).map(|()| Changed::Done),
            Change::RevokeToken(id) => {
                if !self.tokens.contains_key(id) {
                    return Ok(Changed::Nothing);
                }
                self.guarded("the token", |book| {
                    book.tokens.remove(id);
                })?;
                Ok(Changed::Done)
            }
            Change::Switch(on) => {
                if *on && !self.has_administrator() {
                    return Err("there is no token of an administrator, and nobody could do \
                                anything any more: make one with `keyward access bootstrap`"
                        .to_owned());
                }
                self.on = *on;
                Ok(Changed::Done)
            }
            Change::Bootstrap { token, on } => {
                if self.on || !self.tokens.is_empty() {
                    let why = "there is a first administrator already: a token exists, or access \
                               control is on";
                    return Err(why.to_owned());
                }
                let rule = Rule::admin(Grantee::Identity(token.identity.clone()));
                if let Some(flaw) = rule.flaw() {
                    return Err(flaw.to_owned());
                }
                self.put_token(token, bounds)?;
                self.put_rule(rule);
                self.on = *on;
                Ok(Changed::Done)
            }
        }
    }

    fn put_token(&mut self, token: &AccessToken, bounds: Bounds) -> Result<(), String> {
        let names = std::iter::once(&token.identity).chain(&token.groups);
        if names.into_iter().any(|name| name.is_empty() || name.contains('\0')) {
            return Err("a name of the token is empty or contains a NUL byte".to_owned());
        }
        if self.tokens.contains_key(&token.id()) {
            return Err(format!("there is a token {} already", token.id()));
        }
        if self.tokens.len() >= bounds.tokens {
            return Err(format!("there are {} tokens already", self.tokens.len()));
        }
        self.tokens.insert(token.id(), Arc::new(token.clone()));
        Ok(())
    }

    /// Makes a change that may take the last administrator away, unless it does so while access
    /// control is on: then nobody could undo it.
    fn guarded(&mut self, what: &str, change: impl FnOnce(&mut Self)) -> Result<(), String> {
        let mut after = self.clone();
        change(&mut after);
        if self.on && !after.has_administrator() {
            return Err(format!(
                "{what} is that of the last administrator with a token, and nobody could undo \
                 this: make another first, or disable access control"
            ));
        }
        *self = after;
        Ok(())
    }

    fn has_administrator(&self) -> bool {
        let is_admin = |is_group, name: &str| {
            let mut key = Vec::new();
            grantee_key(&mut key, is_group, name);
            self.rights_of(&key).contain(Right::Admin)
        };
        self.tokens.values().any(|token| {
            is_admin(false, &token.identity) || token.groups.iter().any(|name| is_admin(true, name))
        })
    }

    fn put_rule(&mut self, rule: Rule) {
        let key = rule.name.key();
        self.drop_rule(&key);
        let grantee = rule.name.grantee.key();
        let mut tally = self.tallies.get(&*grantee).copied().unwrap_or_default();
        for right in rule.rights.iter() {
            tally.0[right as usize] += 1;
        }
        self.tallies.insert(grantee.into(), tally);
        self.rules.insert(key, Arc::new(rule));
    }

    fn drop_rule(&mut self, key: &[u8]) {
        let Some(rule) = self.rules.remove(key) else { return };
        let grantee = rule.name.grantee.key();
        let Some(tally) = self.tallies.get_mut(&*grantee) else { return };
        for right in rule.rights.iter() {
            tally.0[right as usize] -= 1;
        }
        if *tally == Tally::default() {
            self.tallies.remove(&*grantee);
        }
    }

    /// Adds a rule while a state is loaded; `false` if it cannot stand there.
    pub fn load_rule(&mut self, key: &[u8], rule: Rule) -> bool {
        let is_new = rule.flaw().is_none() && *rule.name.key() == *key;
        let is_new = is_new && !self.rules.contains_key(key);
        if is_new {
            self.put_rule(rule);
        }
        is_new
    }

    /// Adds a token while a state is loaded; `false` if it cannot stand there.
    pub fn load_token(&mut self, id: TokenId, token: AccessToken) -> bool {
        id == token.id() && self.tokens.insert(id, Arc::new(token)).is_none()
    }

    /// Sets whether it is on while a state is loaded.
    pub fn load_switch(&mut self, on: bool) {
        self.on = on;
    }

    /// A page of the rules.
    pub(super) fn rules_page(
        &self,
        after: u64,
        limit: u32,
        decided_at: Option<DecidedAt>,
    ) -> Answer {
        let skip = usize::try_from(after).unwrap_or(usize::MAX);
        let rules = self.rules.values().skip(skip).take(limit as usize);
        let rules: Vec<Rule> = rules.map(|rule| Rule::clone(rule)).collect();
        let passed = after.saturating_add(rules.len() as u64);
        let next = (passed < self.rules.len() as u64 && !rules.is_empty()).then_some(passed);
        Answer::Rules { rules, next, decided_at }
    }

    /// A page of the tokens.
    pub(super) fn tokens_page(
        &self,
        after: Option<TokenId>,
        limit: u32,
        decided_at: Option<DecidedAt>,
    ) -> Answer {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let mut range = self.tokens.range((from, Unbounded)).map(|(_, token)| token);
        let tokens = range.by_ref().take(limit as usize);
        let tokens: Vec<TokenInfo> = tokens.map(|token| TokenInfo::from(&**token)).collect();
        let next = tokens.last().map(|last| last.id).filter(|_| range.next().is_some());
        Answer::Tokens { tokens, next, decided_at }
    }

    /// Asserts that the tallies agree with the rules.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_invariants(&self) {
        let mut tallies: BTreeMap<Vec<u8>, Tally> = BTreeMap::new();
        for (key, rule) in &self.rules {
            assert_eq!(**key, *rule.name.key(), "{rule:?}");
            assert_eq!(rule.flaw(), None, "{rule:?}");
            let tally = tallies.entry(rule.name.grantee.key()).or_default();
            rule.rights.iter().for_each(|right| tally.0[right as usize] += 1);
        }
        assert!(
            self.tallies
                .iter()
                .map(|(key, tally)| (&**key, tally))
                .eq(tallies.iter().map(|(key, tally)| (key.as_slice(), tally)))
        );
        assert!(self.tokens.iter().all(|(id, token)| *id == token.id()));
    }
}
