//! One lock over time: its holders, their tokens, and all requests and answers.

use std::collections::BTreeMap;

use maud::Markup;
use smol_str::SmolStr;

use super::overview::draw_bands;
use super::svg::{Axis, LEFT, Svg, colour};
use super::{MAX_DRAWN, Verdict};
use crate::check::Words;
use crate::history::{
    Action, Answer, Fault, Granted, LockName, Operation, Outcome, Refusal, Status,
};

const ROW: f64 = 17.0;
const HOLDER: f64 = 24.0;

/// A lock and its drawn operations.
#[derive(Debug)]
pub(super) struct Timeline {
    pub(super) lock: LockName,
    pub(super) operations: Vec<Operation>,
    /// The smallest window that shows a violation.
    pub(super) window: Option<(u64, u64)>,
}

/// A grant as it is drawn.
struct Bar {
    token: u64,
    owner: SmolStr,
    from: u64,
    until: u64,
}

impl Timeline {
    pub(super) fn new(
        lock: LockName,
        mut operations: Vec<Operation>,
        window: Option<(u64, u64)>,
    ) -> Self {
        operations.sort_by_key(|operation| (operation.invoked, operation.id));
        let surplus = operations.len().saturating_sub(MAX_DRAWN);
        operations.drain(..surplus);
        Self { lock, operations, window }
    }

    /// The picture, in which the operations of violations are marked.
    #[allow(clippy::cast_precision_loss, reason = "a picture's precision is a tenth of a unit")]
    pub(super) fn draw(&self, verdict: &Verdict, faults: &[Fault], owners: &[SmolStr]) -> Markup {
        let axis = self.axis();
        let mut clients: Vec<_> = self.operations.iter().map(|one| one.client.clone()).collect();
        clients.sort();
        clients.dedup();
        let (bars, lanes) = lanes(self.bars(axis));
        let top = HOLDER * lanes as f64 + 12.0;
        let bottom = top + ROW * clients.len() as f64;
        let mut svg = Svg::default();
        draw_bands(&mut svg, axis, faults, (0.0, bottom));
        if let Some((begin, end)) = self.window {
            let (from, to) = (axis.x(begin), axis.x(end));
            svg.bar("window", (from - 2.0, 1.0), (to - from + 4.0, bottom - 1.0), "");
        }
        axis.draw(&mut svg, 0.0, bottom);
        svg.text("name", (LEFT - 8.0, 15.0), "held by");
        for (lane, bar) in &bars {
            let (from, to) = (axis.x(bar.from), axis.x(bar.until));
            let place = owners.iter().position(|owner| *owner == bar.owner).unwrap_or(0);
            let at = (from, HOLDER * *lane as f64 + 2.0);
            let title = format!("{} holds it with token {}", bar.owner, bar.token);
            svg.styled_bar("holder", Some(&colour(place)), at, (to - from, HOLDER - 4.0), &title);
            let label = format!("{} · {}", bar.owner, bar.token);
            if to - from > 7.0 * label.len() as f64 {
                svg.text("label", (from + 5.0, at.1 + 14.0), &label);
            } else if to - from > 9.0 * bar.token.to_string().len() as f64 {
                svg.text("label", (from + 2.0, at.1 + 14.0), &bar.token.to_string());
            }
        }
        let marked: Vec<_> =
            verdict.violations.iter().flat_map(|one| &one.operations).map(|one| one.id).collect();
        for (row, client) in clients.iter().enumerate() {
            let y = top + ROW * row as f64;
            svg.text("name", (LEFT - 8.0, y + 12.0), client);
            for operation in self.operations.iter().filter(|one| one.client == *client) {
                let end = operation.returned.unwrap_or(axis.end);
                let (from, to) = (axis.x(operation.invoked), axis.x(end));
                let mut class = String::from(class(operation));
                if marked.contains(&operation.id) {
                    class.push_str(" marked");
                }
                let place = operation.decided_at.map_or(String::new(), |at| format!(" at {at}"));
                let title = format!("{}{place}", Words(operation));
                let size = ((to - from).max(3.0), ROW - 6.0);
                svg.bar(&class, (from, y + 3.0), size, &title);
            }
        }
        svg.finish(bottom + 22.0, &format!("the lock {} over time", self.lock))
    }

    fn axis(&self) -> Axis {
        let begin = self.operations.first().map_or(0, |operation| operation.invoked);
        let ends = self
            .operations
            .iter()
            .map(|operation| operation.returned.or(operation.gave_up).unwrap_or(operation.invoked));
        let end = ends.max().unwrap_or(begin + 1);
        // Twice the length of a window on both sides is enough to understand it.
        let (begin, end) = match self.window {
            Some((from, to)) => {
                let around = (to - from).max(1_000_000) * 2;
                (begin.max(from.saturating_sub(around)), end.min(to.saturating_add(around)))
            }
            None => (begin, end),
        };
        let margin = (end.saturating_sub(begin) / 50).max(1);
        Axis { begin: begin.saturating_sub(margin), end: end.max(begin).saturating_add(margin) }
    }

    /// Every grant in an answer, from the answer that granted it to its release, its loss or its
    /// end.
    fn bars(&self, axis: Axis) -> Vec<Bar> {
        let mut bars: BTreeMap<u64, Bar> = BTreeMap::new();
        for operation in &self.operations {
            let (Action::Lock(asked), Some(granted)) = (&operation.action, operation.granted())
            else {
                continue;
            };
            let Granted { token, status, .. } = granted;
            let returned = operation.returned.unwrap_or(operation.invoked);
            let lasts = asked.duration_ms.saturating_mul(1_000_000);
            let bar = bars.entry(*token).or_insert_with(|| Bar {
                token: *token,
                owner: asked.signee.clone(),
                from: returned,
                until: 0,
            });
            bar.from = bar.from.min(returned);
            bar.until = bar.until.max(returned.saturating_add(lasts)).min(axis.end);
            // A takeover ends the grants before it; a grant of a free lock does not.
            if let Status::Transferred { .. } = status {
                for (_, before) in bars.range_mut(..*token) {
                    before.until = before.until.min(returned.max(before.from));
                }
            }
        }
        for operation in &self.operations {
            let released = operation.outcome == Outcome::Ok(Answer::Released);
            if let (Action::Unlock(asked), true, Some(returned)) =
                (&operation.action, released, operation.returned)
            {
                let mine = bars.values_mut().filter(|bar| {
                    bar.owner == asked.signee
                        && asked.token.is_none_or(|token| token == bar.token)
                        && bar.from <= operation.invoked
                });
                for bar in mine {
                    bar.until = bar.until.min(returned);
                }
            }
        }
        bars.into_values().filter(|bar| bar.until > axis.begin && bar.from < axis.end).collect()
    }
}

/// Puts overlapping bars below one another; in a run without violations one lane is enough.
fn lanes(bars: Vec<Bar>) -> (Vec<(usize, Bar)>, usize) {
    let mut ends: Vec<u64> = vec![0];
    let mut placed = Vec::new();
    let mut bars = bars;
    bars.sort_by_key(|bar| bar.from);
    for bar in bars {
        let lane = ends.iter().position(|end| *end <= bar.from).unwrap_or(ends.len());
        if lane == ends.len() {
            ends.push(0);
        }
        ends[lane] = bar.until;
        placed.push((lane, bar));
    }
    (placed, ends.len())
}

fn class(operation: &Operation) -> &'static str {
    match (&operation.outcome, &operation.action) {
        (Outcome::Ok(_), Action::Lock(_)) => "ok",
        (Outcome::Ok(_), Action::Unlock(_)) => "release",
        (Outcome::Ok(_), Action::Write(_)) => "write",
        (Outcome::Ok(_), _) => "read",
        (Outcome::Refused(Refusal::Stale), _) => "stale",
        (Outcome::Refused(_), _) => "refused",
        (Outcome::Unavailable, _) => "unavailable",
        (Outcome::Unknown, _) => "unknown",
    }
}
