//! The page around the pictures.

use std::fmt::Write;

use smol_str::SmolStr;

use super::svg::{colour, escape};
use super::timeline::Timeline;
use super::{Drawn, Verdict};
use crate::check::figures::Figures;
use crate::check::violation::seconds;
use crate::check::{Conclusion, State, Violation, Words};
use crate::history::Action;

const STYLE: &str = include_str!("style.css");

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
    let mut out = String::new();
    let title = format!("{}: {}", verdict.header.service, verdict.conclusion);
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{}</title><style>{STYLE}</style></head><body><main>",
        escape(&title)
    );
    head(&mut out, verdict);
    checks(&mut out, verdict);
    figures(&mut out, &verdict.figures);
    if !verdict.violations.is_empty() {
        out.push_str("<h2>What was broken</h2>");
        verdict.violations.iter().take(20).for_each(|one| violation(&mut out, one));
    }
    out.push_str("<h2>The run</h2><div class=\"card\">");
    out.push_str(&drawn.overview.draw(&drawn.faults, &drawn.events));
    legend(&mut out);
    out.push_str("</div>");
    timelines(&mut out, verdict, drawn);
    out.push_str("</main></body></html>\n");
    out
}

fn head(out: &mut String, verdict: &Verdict) {
    let class = match verdict.conclusion {
        Conclusion::Pass => "pass",
        Conclusion::Violation => "violation",
        Conclusion::NothingShown => "nothing",
    };
    let header = &verdict.header;
    let started =
        if header.started.is_empty() { String::new() } else { format!(", {}", header.started) };
    let _ = write!(
        out,
        "<div class=\"head\"><span class=\"badge {class}\">{}</span><h1>{}</h1></div>\
         <p class=\"sub\">Seed {}{}. Repeat it with <code>{}</code></p>",
        verdict.conclusion,
        escape(&header.service),
        header.seed,
        escape(&started),
        escape(&header.command),
    );
}

fn checks(out: &mut String, verdict: &Verdict) {
    out.push_str("<h2>What was checked</h2><div class=\"card\"><table>");
    for (name, state) in &verdict.checks {
        let (class, word, what) = match state {
            State::Passed(what) => ("good", "passed", what.as_str()),
            State::Violated => ("bad", "violated", ""),
            State::NotChecked(why) => ("void", "not checked", why.as_str()),
        };
        row(out, (class, word), name, what);
    }
    for what in &verdict.missing {
        row(out, ("void", "missing"), "the plan", what);
    }
    out.push_str("</table></div>");
}

fn row(out: &mut String, (class, word): (&str, &str), name: &str, what: &str) {
    let _ = write!(
        out,
        "<tr><td class=\"state {class}\">{word}</td><td>{}</td><td>{}</td></tr>",
        escape(name),
        escape(what)
    );
}

fn figures(out: &mut String, figures: &Figures) {
    out.push_str("<h2>Figures</h2><div class=\"figures\">");
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
    for (name, value) in all {
        let Some(value) = value.filter(|value| value != "0") else { continue };
        let _ = write!(out, "<div class=\"figure\"><b>{value}</b><span>{name}</span></div>");
    }
    out.push_str("</div>");
}

fn violation(out: &mut String, violation: &Violation) {
    let lock = violation.lock.as_ref().map_or(String::new(), |lock| format!(" · {lock}"));
    let _ = write!(
        out,
        "<div class=\"card bad\"><h3>Broken: {}{}</h3><p>{}</p>",
        violation.broken,
        escape(&lock),
        escape(&violation.found),
    );
    if !violation.operations.is_empty() {
        out.push_str("<table><tr><th>invoked</th><th>returned</th><th>place</th><th></th></tr>");
        for (place, operation) in violation.operations.iter().enumerate() {
            let last = place + 1 == violation.operations.len();
            let _ = write!(
                out,
                "<tr{}><td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td>\
                 <td>{}</td></tr>",
                if last { " class=\"last\"" } else { "" },
                seconds(operation.invoked),
                operation.returned.map_or_else(|| String::from("never"), seconds),
                operation.decided_at.map_or_else(String::new, |at| at.to_string()),
                escape(&Words(operation).to_string()),
            );
        }
        out.push_str("</table>");
    }
    out.push_str("</div>");
}

fn legend(out: &mut String) {
    out.push_str("<div class=\"legend\">");
    for (class, what) in KINDS {
        let _ = write!(out, "<span><i style=\"background:var(--{class})\"></i>{what}</span>");
    }
    out.push_str("</div>");
}

fn timelines(out: &mut String, verdict: &Verdict, drawn: &Drawn) {
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
    let (broken, others): (Vec<_>, Vec<_>) =
        drawn.timelines.iter().partition(|timeline| timeline.window.is_some());
    let mut section = |title: &str, timelines: &[&Timeline]| {
        if timelines.is_empty() {
            return;
        }
        let _ = write!(out, "<h2>{title}</h2>");
        for timeline in timelines {
            let lock = escape(&timeline.lock.to_string());
            let picture = timeline.draw(verdict, &drawn.faults, &owners);
            let _ = write!(out, "<div class=\"card\"><h3>{lock}</h3>{picture}</div>");
        }
    };
    section("Locks that broke something, around the smallest window that shows it", &broken);
    section("A sample of the locks, from their beginning", &others);
    if owners.len() > 1 && owners.len() <= 24 {
        out.push_str("<div class=\"legend\">");
        for (place, owner) in owners.iter().enumerate() {
            let colour = colour(place);
            let owner = escape(owner);
            let _ = write!(out, "<span><i style=\"background:{colour}\"></i>{owner}</span>");
        }
        out.push_str("</div>");
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
