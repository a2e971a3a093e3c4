//! The oracle's access control: a list of rules and a list of tokens, all of which are looked at for
//! each request.

use keyward_core::access::{
    AccessToken, Change, Changed, Grantee, Principal, Right, Rule, RuleName,
};
use keyward_core::lock::{Command, Operation};

/// Rules and tokens, and whether they count.
#[derive(Clone, Default, Debug)]
pub(crate) struct Gate {
    on: bool,
    rules: Vec<Rule>,
    tokens: Vec<AccessToken>,
}

/// Why somebody may not do something: it is not known who asks, or no rule allows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    Stranger,
    NotAllowed,
}

/// Somebody who is known: a name, and groups.
pub(crate) struct Known {
    pub(crate) name: String,
    groups: Vec<String>,
}

impl Known {
    fn is(&self, grantee: &Grantee) -> bool {
        match grantee {
            Grantee::Identity(name) => **name == *self.name,
            Grantee::Group(name) => self.groups.iter().any(|group| **group == **name),
        }
    }
}

fn covers(name: &RuleName, table: &str, lock: &str) -> bool {
    let written = name.pattern.to_string();
    let is_table = name.table.as_ref().is_none_or(|named| **named == *table);
    let is_lock = match written.strip_suffix('*') {
        Some(beginning) => lock.starts_with(beginning),
        None if written.ends_with('/') => lock.starts_with(&written),
        None => lock == written || lock.starts_with(&(written.clone() + "/")),
    };
    is_table && is_lock
}

impl Gate {
    /// Who asks; `None` if nobody has to say.
    pub(crate) fn admit(&self, principal: Option<&Principal>) -> Result<Option<Known>, Refused> {
        if !self.on {
            return Ok(None);
        }
        let principal = principal.ok_or(Refused::Stranger)?;
        let mut groups = &principal.groups;
        if let Some(id) = principal.token {
            let token = self.tokens.iter().find(|token| token.id() == id);
            let token = token.filter(|token| token.identity == principal.identity);
            groups = &token.ok_or(Refused::Stranger)?.groups;
        }
        let groups = groups.iter().map(ToString::to_string).collect();
        Ok(Some(Known { name: principal.identity.to_string(), groups }))
    }

    fn is_admin(&self, known: &Known) -> bool {
        let rules = self.rules.iter().filter(|rule| known.is(&rule.name.grantee));
        rules.into_iter().any(|rule| rule.rights.contain(Right::Admin))
    }

    /// Whether somebody has a right to a lock, or to a whole table with the empty name.
    fn has(&self, known: &Known, right: Right, (table, lock): (&str, &str)) -> bool {
        self.has_at(known, right, (table, lock), 0, None)
    }

    fn has_at(
        &self,
        known: &Known,
        right: Right,
        (table, lock): (&str, &str),
        level: i64,
        signee: Option<&str>,
    ) -> bool {
        let gives = |rule: &&Rule| match right {
            Right::Observe => true,
            Right::Acquire => {
                rule.rights.contain(Right::Acquire) || rule.rights.contain(Right::Preempt)
            }
            Right::Preempt | Right::Force | Right::Configure | Right::Admin => {
                rule.rights.contain(right)
            }
        };
        let mut rules = self.rules.iter().filter(|rule| known.is(&rule.name.grantee));
        self.is_admin(known)
            || rules.any(|rule| {
                let bound =
                    rule.signee.as_ref().map(|bound| bound.replace("{identity}", &known.name));
                covers(&rule.name, table, lock)
                    && gives(&rule)
                    && (right != Right::Preempt || level <= rule.max_level)
                    && (bound.is_none() || signee.is_none() || bound.as_deref() == signee)
            })
    }

    pub(crate) fn observes(&self, known: &Known, table: &str, lock: &str) -> bool {
        self.has(known, Right::Observe, (table, lock))
    }

    /// Whether a command may be made. `signee` and `level` are those of a lock request, `opener` who
    /// has opened the session that is to be closed; an error if there is no such session.
    pub(crate) fn judge(
        &self,
        command: &Command,
        (signee, level): (Option<&str>, i64),
        opener: Result<Option<&str>, ()>,
    ) -> Result<(), Refused> {
        let operation = &command.operation;
        if matches!(
            operation,
            Operation::Advance | Operation::RaiseFeatureLevel(_) | Operation::Leave(_)
        ) {
            return Ok(());
        }
        let Some(known) = self.admit(command.principal.as_deref())? else { return Ok(()) };
        let whole = |table: &str, right| self.has(&known, right, (table, ""));
        let allowed = match operation {
            Operation::Lock(lock) => {
                let name = (&*lock.table, &*lock.signature);
                let right = if level > 0 { Right::Preempt } else { Right::Acquire };
                self.has_at(&known, right, name, level, signee)
                    && (!lock.force || self.has(&known, Right::Force, name))
            }
            Operation::Unlock(unlock) => {
                let name = (&*unlock.table, &*unlock.signature);
                if unlock.force {
                    self.has(&known, Right::Force, name)
                } else {
                    self.has_at(&known, Right::Acquire, name, 0, Some(&unlock.signee))
                }
            }
            Operation::SetLimit(limit) => {
                self.has(&known, Right::Configure, (&limit.table, &limit.signature))
            }
            Operation::ConfigureTable(command) => whole(&command.table, Right::Configure),
            Operation::DeleteTable { table } => {
                whole(table, Right::Configure) && whole(table, Right::Force)
            }
            Operation::OpenSession(_) => {
                let acquires = |rule: &Rule| {
                    [Right::Acquire, Right::Preempt, Right::Admin]
                        .into_iter()
                        .any(|right| rule.rights.contain(right))
                };
                self.rules.iter().any(|rule| known.is(&rule.name.grantee) && acquires(rule))
            }
            Operation::CloseSession(_) => {
                opener.map_or(true, |opener| opener == Some(&known.name)) || self.is_admin(&known)
            }
            Operation::Access(_) => self.is_admin(&known),
            Operation::KeepAlive(_)
            | Operation::Advance
            | Operation::RaiseFeatureLevel(_)
            | Operation::Leave(_) => true,
        };
        if allowed { Ok(()) } else { Err(Refused::NotAllowed) }
    }

    fn has_administrator(&self) -> bool {
        self.tokens.iter().any(|token| {
            let groups = token.groups.iter().map(ToString::to_string).collect();
            self.is_admin(&Known { name: token.identity.to_string(), groups })
        })
    }

    /// Makes a change; `None` if it is refused.
    pub(crate) fn change(&mut self, change: &Change) -> Option<Changed> {
        let mut after = self.clone();
        let changed = after.make(change)?;
        if self.on && after.on && !after.has_administrator() && changed == Changed::Done {
            return None;
        }
        *self = after;
        Some(changed)
    }

    fn make(&mut self, change: &Change) -> Option<Changed> {
        let removed =
            |before, after| if before == after { Changed::Nothing } else { Changed::Done };
        match change {
            Change::PutRule(rule) => {
                self.rules.retain(|other| other.name != rule.name);
                self.rules.push(rule.clone());
            }
            Change::RemoveRule(name) => {
                let before = self.rules.len();
                self.rules.retain(|rule| rule.name != *name);
                return Some(removed(before, self.rules.len()));
            }
            Change::PutToken(token) => {
                if self.tokens.iter().any(|other| other.id() == token.id()) {
                    return None;
                }
                self.tokens.push(token.clone());
            }
            Change::RevokeToken(id) => {
                let before = self.tokens.len();
                self.tokens.retain(|token| token.id() != *id);
                return Some(removed(before, self.tokens.len()));
            }
            Change::Switch(on) => {
                if *on && !self.has_administrator() {
                    return None;
                }
                self.on = *on;
            }
            Change::Bootstrap { token, on } => {
                if self.on || !self.tokens.is_empty() {
                    return None;
                }
                self.tokens.push(token.clone());
                let rule = Rule::admin(Grantee::Identity(token.identity.clone()));
                self.rules.retain(|other| other.name != rule.name);
                self.rules.push(rule);
                self.on = *on;
            }
        }
        Some(Changed::Done)
    }
}
