//! The passes over a history, and the verdict.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::figures::percentile;
use super::holders::{Found, Holders};
use super::plan::Alive;
use super::register::Registers;
use super::search::{Search, Searched};
use super::source::Source;
use super::step::Rules;
use super::survey::{Survey, is_judged, survey};
use super::turns::{Counts, Turns};
use super::verdict::{Conclusion, State, Verdict};
use super::violation::{Broken, Violation};
use super::witnessed::Witnessed;
use super::{nodes, plan};
use crate::history::{Entry, HistoryError, LockName, Operation};

/// The bounds of the search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// The most operations of the locks that are searched for an order: they are kept in memory, at
    /// about 450 bytes each.
    pub search_operations: u64,
    /// The most steps of the search for one lock; a step takes about a microsecond.
    pub search_steps: u64,
    /// The most steps of all searches together.
    pub all_search_steps: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { search_operations: 400_000, search_steps: 2_000_000, all_search_steps: 20_000_000 }
    }
}

const WITNESSED: &str = "witnessed linearizability";
const SEARCHED: &str = "linearizability without a witness";
const HOLDERS: &str = "holders and tokens";
const TURNS: &str = "turns and sessions";
const REGISTER: &str = "guarded register";
const LASTING: &str = "nothing acknowledged is lost";
const ALIVE: &str = "alive after healing";

/// Reads a history and judges it.
///
/// # Errors
/// If it is not a whole history.
pub fn check(source: Source<'_>, options: Options) -> Result<Verdict, HistoryError> {
    let survey = survey(&source)?;
    let mut passes = Passes::new(&survey, options);
    source.pass(|entry| {
        if let Entry::Operation(operation) = entry {
            passes.feed(operation);
        }
    })?;
    let (mut verdict, mut found) = passes.finish();
    fetch(&source, &mut found)?;
    verdict.violations.extend(found.into_iter().map(|(violation, _)| violation));
    verdict.violations.sort_by_key(|violation| (violation.window, violation.broken));
    verdict.conclude();
    Ok(verdict)
}

struct Passes<'a> {
    survey: &'a Survey,
    options: Options,
    witnessed: Witnessed,
    holders: Holders<'a>,
    turns: Turns<'a>,
    registers: Registers,
    alive: Alive,
    searched: HashMap<LockName, Search>,
}

impl<'a> Passes<'a> {
    fn new(survey: &'a Survey, options: Options) -> Self {
        let mut searched = HashMap::new();
        let mut left = options.search_operations;
        // Short ones first: more locks, and searches that end.
        let mut locks: Vec<_> = survey.locks.iter().collect();
        locks.sort_by_key(|(_, count)| **count);
        for (lock, count) in locks {
            let Some(rest) = left.checked_sub(*count) else { break };
            left = rest;
            searched.insert(lock.clone(), Search::default());
        }
        let applied = survey.applied.iter().map(|(_, operation)| operation);
        for operation in survey.unknown.iter().chain(applied) {
            if let Some(search) = searched.get_mut(operation.lock()) {
                search.add(Arc::new(operation.clone()));
            }
        }
        Self {
            survey,
            options,
            witnessed: Witnessed::new(survey),
            holders: Holders::new(survey),
            turns: Turns::new(survey),
            registers: Registers::default(),
            alive: Alive::new(survey),
            searched,
        }
    }

    fn feed(&mut self, operation: Operation) {
        let within = self.survey.header.plan.alive_within_ms.saturating_mul(1_000_000);
        self.alive.feed(&operation, within);
        self.registers.feed(&operation, self.survey.latency);
        let has_turns = self.survey.turns.contains(operation.lock());
        if has_turns {
            self.turns.feed(&operation);
        } else {
            self.holders.feed(&operation);
        }
        let operation = Arc::new(operation);
        if !has_turns {
            self.search(&operation);
        }
        self.witnessed.feed(operation);
    }

    fn search(&mut self, operation: &Arc<Operation>) {
        if !is_judged(operation) {
            return;
        }
        let repeated = operation.request_id.and_then(|id| self.survey.repeated.get(&id));
        let Some(search) = self.searched.get_mut(operation.lock()) else { return };
        match repeated {
            None => search.add(Arc::clone(operation)),
            Some(repeated) => search.add_repeated(operation, repeated.invoked),
        }
    }

    fn finish(self) -> (Verdict, Vec<(Violation, Vec<u64>)>) {
        let survey = self.survey;
        let mut verdict = Verdict {
            header: survey.header.clone(),
            conclusion: Conclusion::NothingShown,
            checks: Vec::new(),
            violations: Vec::new(),
            missing: Vec::new(),
            figures: survey.figures.clone(),
        };
        verdict.figures.finish();
        verdict.figures.locks = (survey.locks.len() + survey.turns.len()) as u64;
        plan::count(survey, &mut verdict.figures);
        verdict.witnessed(survey, self.witnessed);
        verdict.searched(survey, self.searched, self.options);
        let holders = self.holders.finish();
        let (turns, counts) = self.turns.finish();
        let registers = self.registers.finish();
        let (late, missing) = self.alive.finish(survey, &mut verdict.figures);
        let state = |found: &[Found], what: String| {
            if found.is_empty() { State::Passed(what) } else { State::Violated }
        };
        let figures = &verdict.figures;
        let tokens = format!("{} grants of {} locks", figures.grants, figures.locks);
        verdict.checks.push((HOLDERS, state(&holders, tokens)));
        if counts.locks > 0 {
            verdict.checks.push((TURNS, turns_state(survey, &turns, &counts)));
        }
        let figures = &verdict.figures;
        if figures.register_writes + figures.stale_writes_refused > 0 {
            let writes = format!(
                "{} updates, {} stale writes refused",
                figures.register_writes, figures.stale_writes_refused
            );
            verdict.checks.push((REGISTER, state(&registers, writes)));
        }
        if !verdict.figures.alive_after.is_empty() || survey.header.plan.alive_within_ms > 0 {
            let times = verdict.figures.alive_after.iter().map(|nanos| nanos / 1_000_000);
            let times = times.map(|ms| format!("{ms} ms")).collect::<Vec<_>>().join(", ");
            let state = match (late.is_empty(), missing.is_empty()) {
                (false, _) => State::Violated,
                (true, true) => State::Passed(times),
                (true, false) => State::NotChecked(missing.join("; ")),
            };
            verdict.checks.push((ALIVE, state));
        }
        verdict.violations.extend(late);
        verdict.missing.extend(missing);
        verdict.missing.extend(plan::missing(survey, &verdict.figures));
        let found = holders
            .into_iter()
            .chain(turns)
            .chain(registers)
            .map(|found| (Violation::new(found.broken, found.what, Vec::new()), found.ids));
        (verdict, found.collect())
    }
}

impl Verdict {
    fn witnessed(&mut self, survey: &Survey, witnessed: Witnessed) {
        let (violations, mut results, out_of_order) = witnessed.finish(survey);
        self.figures.expiries = results.expiries;
        self.figures.late_expiry_p99 = percentile(&mut results.lateness, 99);
        self.figures.late_expiry_max = results.lateness.last().copied().unwrap_or(0);
        if out_of_order > 0 {
            self.missing
                .push(format!("order: {out_of_order} lines are far from where they belong"));
        }
        let (lost, wrong): (Vec<_>, Vec<_>) = violations
            .into_iter()
            .partition(|violation| violation.broken == Broken::AcknowledgedLost);
        let state = match () {
            // Answers that are missing from the order make others look wrong.
            () if survey.with_place == 0 => {
                State::NotChecked(String::from("no answer names its place in a log"))
            }
            () if survey.without_place > 0 => {
                State::NotChecked(format!("{} answers name no place", survey.without_place))
            }
            () if !wrong.is_empty() => State::Violated,
            () if results.undecided > 0 => State::NotChecked(format!(
                "{} of {} locks: too many operations of unknown outcome",
                results.undecided, results.locks
            )),
            () => {
                State::Passed(format!("{} operations of {} locks", results.checked, results.locks))
            }
        };
        if survey.without_place == 0 {
            self.violations.extend(wrong);
        }
        self.checks.push((WITNESSED, state));
        self.lasting(survey, lost);
    }

    fn lasting(&mut self, survey: &Survey, lost: Vec<Violation>) {
        if survey.observations.is_empty() {
            return;
        }
        let differ = nodes::differences(survey);
        let count = survey.observations.len();
        let with_records = survey.observations.iter().filter(|seen| seen.records.is_some()).count();
        let state = match () {
            () if !lost.is_empty() || !differ.is_empty() => State::Violated,
            () => State::Passed(format!("{count} observations, {with_records} with all records")),
        };
        self.checks.push((LASTING, state));
        self.violations.extend(lost);
        self.violations.extend(differ);
    }

    fn searched(&mut self, survey: &Survey, searched: HashMap<LockName, Search>, options: Options) {
        let locks: BTreeMap<_, _> = searched.into_iter().collect();
        let (mut all, mut done, mut wrong) = (options.all_search_steps, 0_usize, Vec::new());
        let mut given_up = BTreeSet::new();
        for (lock, search) in locks {
            let mut budget = options.search_steps.min(all);
            let before = budget;
            match search.run(Rules::all(survey.header.clocks), &mut budget) {
                Searched::Linearizable => done += 1,
                Searched::Violated(violation) => wrong.push(*violation),
                Searched::OutOfBudget => {
                    given_up.insert(lock);
                }
            }
            all -= before - budget;
        }
        let state = if !wrong.is_empty() {
            State::Violated
        } else if done < survey.locks.len() {
            let left = survey.locks.len() - done;
            let budget = given_up.len();
            State::NotChecked(format!(
                "{left} of {} locks, {budget} of them because the budget was used up",
                survey.locks.len()
            ))
        } else {
            State::Passed(format!("{done} locks"))
        };
        self.violations.extend(wrong);
        self.checks.push((SEARCHED, state));
    }

    /// Concludes. A violation is one, whatever else the run shows. Without one, a pass needs a run
    /// that contains what was planned, and one of the two checks of linearizability complete; with
    /// turns, their check too.
    fn conclude(&mut self) {
        let passed = |name| {
            let is = |(other, state): &(&str, State)| {
                *other == name && matches!(state, State::Passed(_))
            };
            self.checks.iter().any(is)
        };
        let turns = !self.checks.iter().any(|(name, _)| *name == TURNS) || passed(TURNS);
        self.conclusion = if !self.violations.is_empty() {
            Conclusion::Violation
        } else if self.missing.is_empty() && turns && (passed(WITNESSED) || passed(SEARCHED)) {
            Conclusion::Pass
        } else {
            Conclusion::NothingShown
        };
    }
}

fn turns_state(survey: &Survey, found: &[Found], counts: &Counts) -> State {
    if !found.is_empty() {
        return State::Violated;
    }
    if survey.without_place > 0 {
        return State::NotChecked(format!("{} answers name no place", survey.without_place));
    }
    let Counts { locks, grants, places, sessions } = counts;
    State::Passed(format!("{grants} grants of {locks} locks, {places} places, {sessions} sessions"))
}

/// Reads the operations that violations name by their ids.
fn fetch(source: &Source<'_>, found: &mut [(Violation, Vec<u64>)]) -> Result<(), HistoryError> {
    if found.is_empty() {
        return Ok(());
    }
    let wanted: BTreeSet<u64> = found.iter().flat_map(|(_, ids)| ids).copied().collect();
    let mut operations = HashMap::new();
    source.pass(|entry| {
        if let Entry::Operation(operation) = entry
            && wanted.contains(&operation.id)
        {
            operations.insert(operation.id, operation);
        }
    })?;
    for (violation, ids) in found {
        let shown = ids.iter().filter_map(|id| operations.get(id).cloned()).collect();
        *violation = Violation::new(violation.broken, violation.found.clone(), shown);
    }
    Ok(())
}
