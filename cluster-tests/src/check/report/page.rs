//! The page around the pictures.

use keyward::report::{self, visible};
use maud::{Markup, html};
use smol_str::SmolStr;

use super::svg::colour;
use super::timeline::Timeline;
use super::{Drawn, Verdict};
use crate::check::figures::Figures;
use crate::check::violation::seconds;
use crate::check::{Conclusion, State, Violation, Words};
use crate::history::Action;

/// Kinds of operations, by the class that colours them.
const KINDS: &[(&str, &str)] = &[
    ("ok", "lock or renewal"),
    ("release", "release"),
    ("read", "read"),
    ("write", "guarded write"),
    ("stale", "stale write refused"),
    ("refused", "refused"),
    ("unavailable", "unavailable: not done"),
    ("unknown", "unknown: open for ever"),
    ("fault", "fault"),
];

/// The page as HTML.
pub(super) fn page(verdict: &Verdict, drawn: &Drawn) -> String {
    let title = format!("{}: {}", verdict.header.service, verdict.conclusion);
    let kinds: Vec<_> =
        KINDS.iter().map(|(class, what)| (*what, format!("var(--{class})"))).collect();
    let kinds = kinds.iter().map(|(what, colour)| (*what, colour.as_str()));
    let body = html! {
        (head(verdict))
        (checks(verdict))
        (figures(&verdict.figures))
        @if !verdict.violations.is_empty() {
            h2 { "What was broken" }
            @for one in verdict.violations.iter().take(20) { (violation(one)) }
        }
        h2 { "The run" }
        .card {
            (drawn.overview.draw(&drawn.faults, &drawn.events))
            .legend { (report::legend(kinds)) }
        }
        (timelines(verdict, drawn))
    };
    report::page(&title, include_str!("style.css"), &body)
}

fn head(verdict: &Verdict) -> Markup {
    let class = match verdict.conclusion {
        Conclusion::Pass => "pass",
        Conclusion::Violation => "violation",
        Conclusion::NothingShown => "nothing",
    };
    let header = &verdict.header;
    html! {
        .head {
            span.badge.(class) { (verdict.conclusion) }
            h1 { (visible(&header.service)) }
        }
        p.sub {
            "Seed " (header.seed)
            @if !header.started.is_empty() { ", " (visible(&header.started)) }
            ". Repeat it with " code { (visible(&header.command)) }
        }
    }
}

fn checks(verdict: &Verdict) -> Markup {
    html! {
        h2 { "What was checked" }
        .card {
            table {
                @for (name, state) in &verdict.checks {
                    @match state {
                        State::Passed(what) => (row(("good", "passed"), name, what)),
                        State::Violated => (row(("bad", "violated"), name, "")),
                        State::NotChecked(why) => (row(("void", "not checked"), name, why)),
                    }
                }
                @for what in &verdict.missing { (row(("void", "missing"), "the plan", what)) }
            }
        }
    }
}

fn row((class, word): (&str, &str), name: &str, what: &str) -> Markup {
    html! {
        tr { td.state.(class) { (word) } td { (name) } td { (visible(what)) } }
    }
}

fn figures(figures: &Figures) -> Markup {
    let faults: u64 = figures.faults.values().sum();
    let alive = figures.alive_after.iter().max().copied();
    let all = [
        ("operations", Some(thousands(figures.operations))),
        ("answered with a success", Some(thousands(figures.successes))),
        ("refused", Some(thousands(figures.refused))),
        ("unknown outcomes", Some(thousands(figures.unknown))),
        ("unavailable", Some(thousands(figures.unavailable))),
        ("grants", Some(thousands(figures.grants))),
        ("renewals", Some(thousands(figures.renewals))),
        ("preempted or forced", Some(thousands(figures.preemptions))),
        ("expiries seen", Some(thousands(figures.expiries))),
        ("late expiry, p99", (figures.expiries > 0).then(|| time(figures.late_expiry_p99))),
        ("guarded updates", Some(thousands(figures.register_writes))),
        ("stale writes refused", Some(thousands(figures.stale_writes_refused))),
        ("faults installed", Some(thousands(faults))),
        ("changes of leader", Some(thousands(figures.leader_changes))),
        ("to the first lock after healing", alive.map(time)),
        ("locks", Some(thousands(figures.locks))),
        ("clients", Some(thousands(figures.clients))),
        ("length of the run", Some(time(figures.length))),
        ("latency, p50", Some(time(figures.latency_p50))),
        ("latency, p99", Some(time(figures.latency_p99))),
    ];
    let shown = all.into_iter().filter_map(|(name, value)| Some((name, value?)));
    html! {
        h2 { "Figures" }
        .figures {
            @for (name, value) in shown.filter(|(_, value)| value != "0") {
                .figure { b { (value) } span { (name) } }
            }
        }
    }
}

fn violation(violation: &Violation) -> Markup {
    let lock = violation.lock.as_ref().map_or(String::new(), |lock| format!(" · {lock}"));
    let last = violation.operations.len().saturating_sub(1);
    html! {
        .card.bad {
            h3 { "Broken: " (violation.broken) (visible(&lock)) }
            p { (visible(&violation.found)) }
            @if !violation.operations.is_empty() {
                table {
                    tr { th { "invoked" } th { "returned" } th { "place" } th {} }
                    @for (place, operation) in violation.operations.iter().enumerate() {
                        tr class=[(place == last).then_some("last")] {
                            td.num { (seconds(operation.invoked)) }
                            td.num {
                                (operation.returned.map_or_else(|| String::from("never"), seconds))
                            }
                            td.num { @if let Some(at) = operation.decided_at { (at) } }
                            td { (visible(&Words(operation).to_string())) }
                        }
                    }
                }
            }
        }
    }
}

fn timelines(verdict: &Verdict, drawn: &Drawn) -> Markup {
    let mut owners: Vec<SmolStr> = Vec::new();
    let operations = drawn.timelines.iter().flat_map(|timeline| &timeline.operations);
    for operation in operations {
        if let Action::Lock(asked) = &operation.action
            && !owners.contains(&asked.signee)
        {
            owners.push(asked.signee.clone());
        }
    }
    owners.sort();
    let colours: Vec<String> = (0..owners.len()).map(colour).collect();
    let legend = owners.iter().map(SmolStr::as_str).zip(colours.iter().map(String::as_str));
    let (broken, others): (Vec<_>, Vec<_>) =
        drawn.timelines.iter().partition(|timeline| timeline.window.is_some());
    let section = |title: &str, timelines: &[&Timeline]| {
        html! {
            @if !timelines.is_empty() { h2 { (title) } }
            @for timeline in timelines {
                .card {
                    h3 { (visible(&timeline.lock.to_string())) }
                    (timeline.draw(verdict, &drawn.faults, &owners))
                }
            }
        }
    };
    html! {
        (section("Locks that broke something, around the smallest window that shows it", &broken))
        (section("A sample of the locks, from their beginning", &others))
        @if owners.len() > 1 && owners.len() <= 24 { .legend { (report::legend(legend)) } }
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn time(nanos: u64) -> String {
    match nanos {
        10_000_000_000.. => format!("{} s", nanos / 1_000_000_000),
        1_000_000_000.. => format!("{}.{:02} s", nanos / 1_000_000_000, nanos / 10_000_000 % 100),
        10_000_000.. => format!("{} ms", nanos / 1_000_000),
        _ => format!("{}.{:02} ms", nanos / 1_000_000, nanos / 10_000 % 100),
    }
}
