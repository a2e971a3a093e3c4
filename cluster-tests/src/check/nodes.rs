//! The check that nodes which applied the same log are equal.

use super::survey::Survey;
use super::violation::{Broken, Violation};
use crate::history::{Observation, RecordSeen};

/// Compares the states of nodes at equal applied indexes.
pub(super) fn differences(survey: &Survey) -> Vec<Violation> {
    let mut found = Vec::new();
    for (place, one) in survey.observations.iter().enumerate() {
        for other in &survey.observations[..place] {
            if one.applied == other.applied
                && let Some(what) = difference(one, other)
            {
                let what = format!(
                    "nodes {} and {} differ at index {}: {what}",
                    other.node, one.node, one.applied,
                );
                let mut violation = Violation::new(Broken::NodesDiffer, what, Vec::new());
                violation.window = (other.at.min(one.at), other.at.max(one.at));
                found.push(violation);
            }
        }
    }
    found
}

fn difference(one: &Observation, other: &Observation) -> Option<String> {
    if let (Some(a), Some(b)) = (&one.state_hash, &other.state_hash)
        && a != b
    {
        return Some(format!("their states are {b} and {a}"));
    }
    let (Some(a), Some(b)) = (&one.records, &other.records) else { return None };
    let sorted = |records: &[RecordSeen]| {
        let mut records = records.to_vec();
        records.sort_by(|a, b| (&a.lock, a.token).cmp(&(&b.lock, b.token)));
        records
    };
    let (a, b) = (sorted(a), sorted(b));
    let differing = a.iter().find(|record| !b.contains(record));
    let differing = differing.or_else(|| b.iter().find(|record| !a.contains(record)))?;
    Some(format!("only one has {} with token {}", differing.lock, differing.token))
}
