//! The whole run in one picture: how much was answered, and how, under which faults.

use maud::Markup;

use super::svg::{Axis, LEFT, Svg, WIDTH};
use crate::history::{Event, Fault, FaultState, Operation, Outcome};

/// Columns of the picture.
const COLUMNS: usize = 230;
/// The height of the tallest column.
const HEIGHT: f64 = 110.0;
/// Kinds of faults that have a row of their own.
const MAX_ROWS: usize = 10;

/// Answers by column.
#[derive(Debug)]
pub(super) struct Overview {
    length: u64,
    columns: Vec<Column>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Column {
    ok: u64,
    refused: u64,
    unavailable: u64,
    unknown: u64,
}

impl Overview {
    pub(super) fn new(length: u64) -> Self {
        Self { length: length.max(1), columns: vec![Column::default(); COLUMNS] }
    }

    pub(super) fn count(&mut self, operation: &Operation) {
        let end = operation.returned.or(operation.gave_up).unwrap_or(operation.invoked);
        let place = u128::from(end) * COLUMNS as u128 / (u128::from(self.length) + 1);
        let place = usize::try_from(place).unwrap_or(0).min(COLUMNS - 1);
        let column = &mut self.columns[place];
        match operation.outcome {
            Outcome::Ok(_) => column.ok += 1,
            Outcome::Refused(_) => column.refused += 1,
            Outcome::Unavailable => column.unavailable += 1,
            Outcome::Unknown => column.unknown += 1,
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "a picture's precision is a tenth of a unit")]
    pub(super) fn draw(&self, faults: &[Fault], events: &[Event]) -> Markup {
        let mut svg = Svg::default();
        let axis = Axis { begin: 0, end: self.length };
        let mut names: Vec<_> = faults.iter().map(|fault| &fault.name).collect();
        names.sort();
        names.dedup();
        names.truncate(MAX_ROWS);
        let bottom = HEIGHT + 10.0;
        let all =
            |column: &Column| column.ok + column.refused + column.unavailable + column.unknown;
        let most = self.columns.iter().map(all).max().unwrap_or(0).max(1);
        let end = bottom + 8.0 + 18.0 * names.len() as f64;
        draw_bands(&mut svg, axis, faults, (0.0, bottom));
        axis.draw(&mut svg, 4.0, end + 18.0);
        let width = (WIDTH - LEFT - 10.0) / COLUMNS as f64;
        for (place, column) in self.columns.iter().enumerate() {
            let mut y = bottom;
            let parts = [
                ("ok", column.ok),
                ("refused", column.refused),
                ("unavailable", column.unavailable),
                ("unknown", column.unknown),
            ];
            for (class, count) in parts.into_iter().filter(|(_, count)| *count > 0) {
                let height = (HEIGHT * count as f64 / most as f64).max(1.0);
                y -= height;
                let at = (LEFT + width * place as f64, y);
                let title = format!("{count} {class}");
                svg.bar(class, at, ((width - 0.6).max(0.5), height), &title);
            }
        }
        svg.text("name", (LEFT - 8.0, bottom - HEIGHT / 2.0), "answers");
        for (row, name) in names.iter().enumerate() {
            let y = bottom + 8.0 + 18.0 * row as f64;
            svg.text("name", (LEFT - 8.0, y + 11.0), name);
            for fault in faults.iter().filter(|fault| fault.name == **name) {
                draw_fault(&mut svg, axis, fault, (y, 14.0));
            }
        }
        for event in events.iter().filter(|event| event.name == "leader") {
            let x = axis.x(event.at);
            svg.bar("leader", (x - 1.0, end), (2.0, 12.0), &format!("leader: {}", event.detail));
        }
        if events.iter().any(|event| event.name == "leader") {
            svg.text("name", (LEFT - 8.0, end + 10.0), "new leader");
        }
        svg.finish(end + 40.0, "what was answered over time, under which faults")
    }
}

/// The times of faults, faint behind everything.
pub(super) fn draw_bands(svg: &mut Svg, axis: Axis, faults: &[Fault], (top, bottom): (f64, f64)) {
    for fault in faults.iter().filter(|fault| fault.state == FaultState::Installed) {
        let end = fault.end.unwrap_or(axis.end);
        if end < axis.begin || fault.begin > axis.end {
            continue;
        }
        let (from, to) = (axis.x(fault.begin), axis.x(end));
        svg.bar("band", (from, top), (to - from, bottom - top), &in_words(fault));
    }
}

fn draw_fault(svg: &mut Svg, axis: Axis, fault: &Fault, (y, height): (f64, f64)) {
    let class = match fault.state {
        FaultState::Installed => "fault",
        FaultState::Skipped => "fault skipped",
        FaultState::Indeterminate => "fault indeterminate",
    };
    let (from, to) = (axis.x(fault.begin), axis.x(fault.end.unwrap_or(axis.end)));
    svg.bar(class, (from, y), ((to - from).max(2.0), height), &in_words(fault));
}

fn in_words(fault: &Fault) -> String {
    let state = match fault.state {
        FaultState::Installed => "",
        FaultState::Skipped => ", skipped",
        FaultState::Indeterminate => ", nobody knows whether it was there",
    };
    let detail = if fault.detail.is_empty() { "" } else { ": " };
    format!("{} {}{state}{detail}{}", fault.name, fault.target, fault.detail)
}
