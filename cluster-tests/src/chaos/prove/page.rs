//! The page, written from the results.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::sweep;
use super::{Comparison, Item, Results, Simulated};
use crate::chaos::summary::{Quantiles, Summary, Verdict};
use crate::limits::{Reached, Seen};

/// The page, from the results. It names the items that were not run.
///
/// # Errors
/// If the results, or a table that is included, cannot be read.
pub fn page(results: &Results, docs: &Path) -> io::Result<String> {
    let mut page = String::from(HEAD);
    page.push_str(
        "| what | goal | done | violations | rounds | requests done | clients at work |\n",
    );
    page.push_str("|---|---|---|---|---|---|---|\n");
    for item in Item::ALL {
        let rounds: Vec<Summary> = results.of(item.name())?;
        let (what, goal) = item.goal();
        let done: u64 = rounds.iter().map(|round| item.done(round)).sum();
        let broken = rounds.iter().filter(|round| round.verdict == Verdict::Violation).count();
        let errors = rounds.iter().filter(|round| round.verdict == Verdict::HarnessError).count();
        let requests: u64 = rounds.iter().map(|round| round.counts.ok).sum();
        let seconds: u64 = rounds.iter().map(|round| round.took.as_secs()).sum();
        let verdict = match (rounds.len(), broken, errors) {
            (0, ..) => String::from("not run"),
            (_, broken, 0) => broken.to_string(),
            (_, broken, errors) => format!("{broken}, and {errors} rounds that show nothing"),
        };
        let _ = writeln!(
            page,
            "| {what} (`scripts/prove {}`) | {goal} | {done} | {verdict} | {} | {requests} | {} min |",
            item.name(),
            rounds.len(),
            seconds.div_ceil(60),
        );
    }
    simulation(&mut page, results)?;
    real_limits(&mut page, results)?;
    details(&mut page, results)?;
    sweep::section(&mut page, results)?;
    peers(&mut page, results)?;
    if docs.join("run.png").exists() {
        page.push_str(
            "\n## A run, as the report shows it\n\n`check-history check FILE --report run.html` draws this of \
             any history; here holders freeze on Keyward, as in the table above.\n\n\
             ![A run](run.png)\n",
        );
    }
    for (title, file) in [("Bugs found", "bugs-found.md"), ("Mutations", "mutations.md")] {
        if docs.join(file).exists() {
            let _ =
                writeln!(page, "\n## {title}\n\nThey have a page of their own: [{file}]({file}).");
        }
    }
    Ok(page)
}

const HEAD: &str = "# Proof\n
This page is written by `scripts/prove` from the results of its runs; nobody typed a figure into it.
Each run starts three real nodes, lets clients work, breaks things by a schedule that its seed
draws, heals, and judges the history of every request with the eight checks that
[chaos.md](chaos.md) tells of. The command behind each line runs it again. The summary of every round is in
[proof/](proof/), whose README names the one that stands for runs of which only the sums are left;
`scripts/prove --results docs/proof` goes on where it ends.\n
";

fn simulation(page: &mut String, results: &Results) -> io::Result<()> {
    page.push_str("\n## Simulated clusters\n\n");
    let rounds: Vec<Simulated> = results.of("simulation")?;
    if rounds.is_empty() {
        page.push_str("None were run.\n");
        return Ok(());
    }
    let sum = |of: fn(&Simulated) -> u64| rounds.iter().map(of).sum::<u64>();
    let hours = |of: fn(&Simulated) -> Duration| {
        rounds.iter().map(of).sum::<Duration>().as_secs_f64() / 3600.0
    };
    let failed: Vec<String> =
        rounds.iter().flat_map(|round| &round.failed).map(ToString::to_string).collect();
    let (simulated, took) = (hours(|round| round.simulated), hours(|round| round.took));
    let _ = writeln!(
        page,
        "The production code above disk, network and clocks, on virtual time \
         ([simulation.md](simulation.md)); the goal is {SIMULATED_SEEDS} seeds and {SIMULATED_HOURS} \
         simulated hours.\n\n\
         | seeds | simulated | took | requests | faults | failed |\n|---|---|---|---|---|---|\n\
         | {} | {simulated:.1} h | {took:.2} h | {} | {} | {} |",
        sum(|round| round.runs),
        sum(|round| round.operations),
        sum(|round| round.faults),
        if failed.is_empty() { "none".to_owned() } else { failed.join(", ") },
    );
    let mut reached = Reached::default();
    for round in rounds {
        reached.add(&round.reached);
    }
    page.push_str("\nWhere they went, of the limits of the service ([limits.md](limits.md)):\n\n");
    limits(page, &reached, Seen::All);
    Ok(())
}

/// The limits that runs reached, and those that they should have reached and did not.
fn limits(page: &mut String, reached: &Reached, seen: Seen) {
    let _ = write!(page, "{reached}");
    let missing = reached.missing(seen);
    if !missing.is_empty() {
        let _ = writeln!(page, "\n**Nothing is shown of these**: {}.", missing.join("; "));
    }
}

/// The goal for the number of seeds, and for their length in simulated time.
const SIMULATED_SEEDS: u64 = 10_000;
const SIMULATED_HOURS: u64 = 200;

/// The limits that real processes reached.
fn real_limits(page: &mut String, results: &Results) -> io::Result<()> {
    let mut reached = Reached::default();
    for item in Item::ALL {
        for round in results.of::<Summary>(item.name())? {
            reached.add(&round.reached);
        }
    }
    page.push_str("\n## Limits that real processes were taken to\n\n");
    limits(page, &reached, Seen::FromOutside);
    Ok(())
}

fn details(page: &mut String, results: &Results) -> io::Result<()> {
    let kills: Vec<Summary> = results.of(Item::Kills.name())?;
    let sum = |rounds: &[Summary], of: fn(&Summary) -> u64| rounds.iter().map(of).sum::<u64>();
    page.push_str("\n## In more detail\n\n");
    if !kills.is_empty() {
        let leaders = sum(&kills, |round| round.done.leader_kills);
        let _ = writeln!(page, "- **kills**: {leaders} of the single kills hit the leader.");
    }
    let cuts: Vec<Summary> = results.of(Item::PowerCuts.name())?;
    if !cuts.is_empty() {
        let nodes = sum(&cuts, |round| round.done.power_cuts);
        let _ = writeln!(
            page,
            "- **power-cuts**: {nodes} nodes lost what they had not synced; each started again."
        );
    }
    let updates: Vec<Summary> = results.of(Item::Updates.name())?;
    if !updates.is_empty() {
        let (lost, stale) = (
            sum(&updates, |round| round.registers.lost),
            sum(&updates, |round| round.registers.refused),
        );
        let freezes = sum(&updates, |round| round.counts.freezes);
        let _ = writeln!(
            page,
            "- **updates**: {freezes} holders froze between check and write; {stale} stale reads and \
             writes were refused for their token; {lost} updates were lost."
        );
    }
    for round in results.of::<Summary>(Item::Expiries.name())?.iter().take(1) {
        let Quantiles { p50_ms, p99_ms, max_ms, .. } = round.lateness;
        let _ = writeln!(
            page,
            "- **expiries**: clocks 10 % fast, 10 % slow and 5 % fast, ρ = 10 %. In the first round \
             locks were had {p50_ms:.0} ms (p50), {p99_ms:.0} ms (p99), {max_ms:.0} ms (max) after \
             their duration of real time; up to 2ρ of a duration of 150 to 300 ms is what wrong \
             clocks cost."
        );
    }
    let clocks: Vec<Summary> = results.of(Item::WallClock.name())?;
    if !clocks.is_empty() {
        let max = |of: fn(&Summary) -> f64| clocks.iter().map(of).fold(0.0, f64::max);
        let _ = writeln!(
            page,
            "- **wall-clock**: {} steps of a node's wall clock by an hour, each seen in its log; {} expiries, at most \
              {:.0} ms (p99 of the worst round) and {:.0} ms (max) late; {} changes of \
             leader. The steps are libfaketime's: what a program asks libc. What Keyward decides by it asks \
             the kernel past libc, and is the machine's monotonic clock either way.",
            sum(&clocks, |round| round.done.clock_steps),
            sum(&clocks, |round| round.counts.takeovers),
            max(|round| round.lateness.p99_ms),
            max(|round| round.lateness.max_ms),
            sum(&clocks, |round| round.leader_changes),
        );
    }
    let mut failovers: Vec<Duration> = results
        .of::<Summary>(Item::Failovers.name())?
        .iter()
        .flat_map(|round| round.failovers_ms.clone())
        .map(|ms| Duration::from_secs_f64(ms / 1000.0))
        .collect();
    failovers.sort_unstable();
    if !failovers.is_empty() {
        let Quantiles { count, p50_ms, p99_ms, max_ms } = Quantiles::of(&failovers);
        let _ = writeln!(
            page,
            "- **failovers** (fast profile): {count} leaders killed; the next lock that was asked for \
             after it was had after {p50_ms:.0} ms (p50), {p99_ms:.0} ms (p99), {max_ms:.0} ms (max). The \
             proxies between the nodes go on accepting for one that has ended, so its end is noticed by \
             its silence, as that of a machine is; a process whose port is closed is noticed sooner \
             ([performance.md](performance.md))."
        );
    }
    Ok(())
}

fn peers(page: &mut String, results: &Results) -> io::Result<()> {
    page.push_str(
        "\n## The same command on other services\n\nThe register that the lock guards looks at the token that \
         the service's lock interface hands to its holders: Keyward's does, the others' ordinary use has \
         none. *Two holders at once*: a holder wrote while a later one, who had read already, had not given the \
         lock up. No lease can keep a holder that froze from trying; a token keeps it from \
         succeeding.\n",
    );
    for comparison in Comparison::ALL {
        let what = match comparison {
            Comparison::Freeze => {
                "Holders freeze for longer than their lock lasts, between check and write"
            }
            Comparison::Kill => "Nobody freezes; nodes are killed with -9 and started again",
        };
        let _ = writeln!(
            page,
            "\n{what} (`keyward-chaos run --service … {} --lease 2s --duration 30s --seed 1`):\n\n\
             | service | verdict | updates | lost | two holders at once: tried, succeeded | stale writes \
             refused | what the checks found |\n|---|---|---|---|---|---|---|",
            comparison.words()
        );
        for round in results.of::<Summary>(comparison.name())? {
            let first = round.violations.first().map_or("nothing", String::as_str);
            let first = first.lines().next().unwrap_or_default().replace('|', "\\|");
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} | {}, {} | {} | {} violations: {first} |",
                round.service,
                round.verdict,
                round.registers.written,
                round.registers.lost,
                round.registers.two_at_once,
                round.registers.two_wrote,
                round.registers.refused,
                round.broken
            );
        }
    }
    Ok(())
}
