//! Whether a run shows anything at all, and whether the service came back.
//!
//! A run without successes, or without the faults that were planned, violates nothing and proves
//! nothing: it is an error of the harness.

use super::figures::Figures;
use super::survey::Survey;
use super::violation::{Broken, Violation};
use crate::history::{Action, FaultState, Operation, Status};

/// The events named `healed`, each with its time, whether a lock was requested in time after it,
/// and the earliest fresh grant.
#[derive(Debug)]
pub(super) struct Alive {
    healed: Vec<Healed>,
}

#[derive(Debug)]
struct Healed {
    at: u64,
    asked: bool,
    given: Option<u64>,
}

impl Alive {
    pub(super) fn new(survey: &Survey) -> Self {
        let healed = survey.events.iter().filter(|event| event.name == "healed");
        let healed = healed.map(|event| Healed { at: event.at, asked: false, given: None });
        Self { healed: healed.collect() }
    }

    pub(super) fn feed(&mut self, operation: &Operation, within: u64) {
        if !matches!(operation.action, Action::Lock(_)) {
            return;
        }
        let fresh = operation.granted().is_some_and(|granted| granted.status != Status::Renewed);
        for healed in &mut self.healed {
            if operation.invoked < healed.at {
                continue;
            }
            healed.asked |= operation.invoked <= healed.at.saturating_add(within);
            if let (true, Some(returned)) = (fresh, operation.returned) {
                healed.given = Some(healed.given.map_or(returned, |given| given.min(returned)));
            }
        }
    }

    /// Returns the times to the first lock, the events without one, and those without a request.
    pub(super) fn finish(
        self,
        survey: &Survey,
        figures: &mut Figures,
    ) -> (Vec<Violation>, Vec<String>) {
        let within_ms = survey.header.plan.alive_within_ms;
        let within = within_ms.saturating_mul(1_000_000);
        let (mut violations, mut missing) = (Vec::new(), Vec::new());
        if within > 0 && self.healed.is_empty() {
            missing.push(String::from("no event says when the last fault was gone"));
        }
        for Healed { at, asked, given } in self.healed {
            let after = given.map(|given| given - at);
            figures.alive_after.extend(after);
            if within == 0 || after.is_some_and(|after| after <= within) {
                continue;
            }
            let when = super::violation::seconds(at);
            if !asked {
                missing
                    .push(format!("nobody asked for a lock after the faults were gone at {when}"));
                continue;
            }
            let found = match after {
                Some(after) => format!("after {} ms", after / 1_000_000),
                None => String::from("never"),
            };
            let found = format!(
                "the faults were gone at {when}, and a fresh lock was given {found}, not within \
                 {within_ms} ms",
            );
            let mut violation = Violation::new(Broken::NotAlive, found, Vec::new());
            violation.window = (at, at.saturating_add(within));
            violations.push(violation);
        }
        (violations, missing)
    }
}

/// The parts of the plan that the run lacks.
pub(super) fn missing(survey: &Survey, figures: &Figures) -> Vec<String> {
    let plan = &survey.header.plan;
    let mut missing = Vec::new();
    let mut wants = |what: &str, least: u64, found: u64| {
        if found < least {
            missing.push(format!("{what}: {found}, and {least} were planned"));
        }
    };
    wants("successes", plan.min_successes.max(1), figures.successes);
    wants("changes of leader", plan.min_leader_changes, figures.leader_changes);
    wants("stale writes refused", plan.min_stale_writes_refused, figures.stale_writes_refused);
    wants("expiries", plan.min_expiries, figures.expiries);
    for fault in &plan.faults {
        let installed = figures.faults.get(&fault.name).copied().unwrap_or(0);
        wants(&format!("faults installed of {}", fault.name), fault.at_least, installed);
    }
    let mut nodes: Vec<_> =
        survey.observations.iter().map(|observation| &observation.node).collect();
    nodes.sort();
    nodes.dedup();
    wants("nodes observed at the end", plan.observed_nodes, nodes.len() as u64);
    if plan.witnessed && survey.without_place > 0 {
        missing.push(format!("places in the log: {} answers name none", survey.without_place));
    }
    missing
}

/// Counts faults by name, and changes of leader.
pub(super) fn count(survey: &Survey, figures: &mut Figures) {
    for fault in &survey.faults {
        let installed = u64::from(fault.state == FaultState::Installed);
        *figures.faults.entry(fault.name.to_string()).or_default() += installed;
    }
    let leaders = survey.events.iter().filter(|event| event.name == "leader").count() as u64;
    figures.leader_changes = leaders.saturating_sub(1);
}
