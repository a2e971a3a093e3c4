//! The results of the sweep through the calls to disks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;

use super::{Item, Results};
use crate::chaos::boundary::{Death, First, Moment};
use crate::chaos::summary::Summary;
use crate::powercut::{Call, Kept, Side};

/// The section of the page; nothing if it was not run.
pub(super) fn section(page: &mut String, results: &Results) -> io::Result<()> {
    let rounds: Vec<Summary> = results.of(Item::IoSweep.name())?;
    let deaths: Vec<&Death> = rounds.iter().flat_map(|round| &round.deaths).collect();
    if deaths.is_empty() {
        return Ok(());
    }
    let led = deaths.iter().filter(|death| death.led).count();
    let lost = deaths.iter().filter(|death| death.at.kept == Kept::Nothing).count();
    let kept = deaths.iter().filter(|death| death.at.kept == Kept::Everything).count();
    let places: BTreeSet<(Call, &str, Side)> =
        deaths.iter().map(|death| (death.call, death.part(), death.at.side)).collect();
    let _ = writeln!(
        page,
        "\n## Deaths at calls to the disk\n\nA file system that the nodes' folders are on ends a node's process right before or \
         right after one of the calls that change the disk or make a change durable. Small thresholds have \
         snapshots, purges, new segments and checkpoints come all the time. Each node must start again, be ready, and \
         have applied within 20 s what the others have. {} deaths, {led} of a node that led; {lost} took with \
         them all that was not synced, {kept} nothing, the others left some sectors of it. They hit {} \
         different places (kind of call, part of the folder, side).\n",
        deaths.len(),
        places.len(),
    );
    moments(page, &deaths);
    calls(page, &deaths);
    Ok(())
}

/// The range of calls that was swept for each moment.
fn moments(page: &mut String, deaths: &[&Death]) {
    page.push_str(
        "| calls counted from | deaths | different boundaries | without a gap up to call |\n|---|---|---|---|\n",
    );
    for moment in Moment::ALL {
        let of: Vec<&Death> =
            deaths.iter().copied().filter(|death| death.at.moment == moment).collect();
        let boundaries: BTreeSet<(First, u64, Side)> =
            of.iter().map(|death| (death.at.first, death.at.number, death.at.side)).collect();
        let firsts: BTreeSet<First> = of.iter().map(|death| death.at.first).collect();
        let both = |&number: &u64| {
            firsts.iter().all(|&first| {
                let hit = |side| boundaries.contains(&(first, number, side));
                hit(Side::Before) && hit(Side::After)
            })
        };
        let most = boundaries.iter().map(|(_, number, _)| *number).max().unwrap_or(0);
        let whole = (1..=most).take_while(both).last().unwrap_or(0);
        let _ = writeln!(page, "| {moment} | {} | {} | {whole} |", of.len(), boundaries.len());
    }
}

/// The calls that were hit, by kind of call and part of the data folder.
fn calls(page: &mut String, deaths: &[&Death]) {
    let mut parts: BTreeMap<&str, BTreeMap<(Call, Side), usize>> = BTreeMap::new();
    for death in deaths {
        *parts.entry(death.part()).or_default().entry((death.call, death.at.side)).or_default() +=
            1;
    }
    page.push_str("\nDeaths before, after each kind of call:\n\n| part of the folder |");
    for call in Call::ALL {
        let _ = write!(page, " {call} |");
    }
    let _ = writeln!(page, "\n|---|{}", "---|".repeat(Call::ALL.len()));
    let row = |page: &mut String, name: &str, of: &dyn Fn(Call, Side) -> usize| {
        let _ = write!(page, "| {name} |");
        for call in Call::ALL {
            match (of(call, Side::Before), of(call, Side::After)) {
                (0, 0) => page.push_str(" |"),
                (before, after) => {
                    let _ = write!(page, " {before}, {after} |");
                }
            }
        }
        page.push('\n');
    };
    for (part, counts) in &parts {
        row(page, part, &|call, side| counts.get(&(call, side)).copied().unwrap_or(0));
    }
    row(page, "all", &|call, side| {
        deaths.iter().filter(|death| (death.call, death.at.side) == (call, side)).count()
    });
}
