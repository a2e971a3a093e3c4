//! The page around the plots.

use std::fmt::Write as _;

use clap::ValueEnum as _;

use super::plots::{Plot, plots};
use crate::bench::Measurement;
use crate::cli::bench::document::Document;
use crate::cli::output::visible;

const STYLE: &str = include_str!("style.css");

/// The content security policy: nothing is fetched and nothing runs, even after an injection.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The page as HTML.
pub(super) fn page(document: &Document) -> String {
    let measured = document.cluster.as_ref().or(document.limit.as_ref());
    let workload = measured.map_or_else(String::new, |measured| measured.workload.to_string());
    let title = format!("keyward bench: {workload}");
    let mut out = String::new();
    // Writing to a string does not fail, here and below.
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main>\n<h1>{title}</h1>\n",
    );
    facts(&mut out, document);
    if let Some(cluster) = &document.cluster {
        let part = document.ratio.map(|ratio| format!("{ratio:.3} of what HTTP alone does"));
        section(&mut out, "The cluster", cluster, part.as_deref());
    }
    if let Some(limit) = &document.limit {
        section(&mut out, "HTTP alone", limit, Some("a bare handler that answers at once"));
    }
    out.push_str("</main></body></html>\n");
    out
}

/// The facts of a run: its settings and its endpoints.
fn facts(out: &mut String, document: &Document) {
    let mut facts = vec![("Version", format!("keyward {}", document.version))];
    if let Some(measured) = document.cluster.as_ref().or(document.limit.as_ref()) {
        let threads = measured.threads;
        facts.extend([
            ("Workload", measured.workload.to_string()),
            ("Clients", format!("{} (threads: {threads})", measured.clients_in_words())),
            ("Pace", measured.pace.to_string()),
        ]);
    }
    if document.cluster.is_some() {
        let via = document.via.to_possible_value();
        let via = via.map_or_else(String::new, |via| via.get_name().to_owned());
        facts.extend([("Via", via), ("Asked", document.endpoints.join(", "))]);
        facts.push(("Elections meanwhile", document.elections_in_words()));
    }
    out.push_str("<div class=\"card\"><dl>");
    for (name, what) in facts {
        let _ = write!(out, "<dt>{name}</dt><dd>{}</dd>", escape(&what));
    }
    out.push_str("</dl></div>\n");
}

/// One measurement: its rate, its tables, its plots.
fn section(out: &mut String, title: &str, measured: &Measurement, remark: Option<&str>) {
    let remark = remark.map_or_else(String::new, |remark| format!("; {remark}"));
    let _ = write!(
        out,
        "<section><h2>{title}</h2>\n<p class=\"rate\">{} <small>{}{remark}</small></p>\n",
        measured.rate_in_words(),
        measured.time_in_words(),
    );
    out.push_str("<div class=\"card\">");
    table(out, &measured.operation_rows());
    for sentence in measured.failures_in_words().into_iter().chain(measured.never_begun_in_words())
    {
        said(out, &sentence);
    }
    out.push_str("</div>\n<div class=\"plots\">");
    for plot in plots(measured) {
        figure(out, &plot);
    }
    out.push_str("</div>\n<div class=\"card\">");
    table(out, &measured.node_rows());
    for cost in measured.costs_in_words() {
        said(out, &cost);
    }
    out.push_str("</div></section>\n");
}

/// Writes a table of rows, of which the first is the heading; nothing if there are none.
fn table(out: &mut String, rows: &[Vec<String>]) {
    let Some((heading, rows)) = rows.split_first() else { return };
    out.push_str("<table>");
    line(out, "th", heading);
    for row in rows {
        line(out, "td", row);
    }
    out.push_str("</table>");
}

fn line(out: &mut String, cell: &str, row: &[String]) {
    out.push_str("<tr>");
    for text in row {
        let _ = write!(out, "<{cell}>{}</{cell}>", escape(text));
    }
    out.push_str("</tr>");
}

fn said(out: &mut String, sentence: &str) {
    let _ = write!(out, "<p class=\"said\">{}</p>", escape(sentence));
}

fn figure(out: &mut String, plot: &Plot) {
    let _ = write!(out, "<figure><figcaption><b>{}</b>", plot.title);
    for (name, colour) in &plot.legend {
        let _ = write!(out, "<span><i style=\"background:{colour}\"></i>{name}</span>");
    }
    let _ = writeln!(out, "</figcaption>{}</figure>", plot.svg);
}

/// Escapes text for HTML, including control characters.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in visible(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        Distribution, Interval, IntervalFigures, NodeFigures, Operation, OperationFigures, Pace,
        Workload,
    };
    use crate::cli::bench::Via;
    use crate::cli::bench::document::OfCluster;

    fn figures(operation: Operation) -> OperationFigures {
        OperationFigures {
            operation,
            per_second: 50.0,
            count: 100,
            mean_us: 1500.0,
            p50_us: 900,
            p90_us: 990,
            p99_us: 990,
            p999_us: 300_000,
            max_us: 300_000,
            refused: 0,
            not_done: 1,
            unknown: 0,
            slowest_failure_us: 10_000_000,
            first_failure: Some("not done: <script src='http://x'>\u{202e}&".to_owned()),
            distribution: Distribution { bars: vec![(1000, 99), (316_228, 1)] },
        }
    }

    /// A second of warm-up, one second that is measured, one in which nothing is answered, and one more.
    fn interval(at_seconds: u32) -> Interval {
        let figures = |operation| IntervalFigures {
            operation,
            per_second: 50.0,
            p50_us: 900,
            p99_us: 990,
            max_us: 300_000,
            refused: 0,
            failed: 1,
        };
        let answered = [Operation::Acquire, Operation::Release].map(figures);
        let operations = if at_seconds == 2 { Vec::new() } else { answered.to_vec() };
        let at_seconds = f64::from(at_seconds);
        Interval { at_seconds, seconds: 1.0, warmup: at_seconds < 1.0, operations }
    }

    fn document(operations: Vec<OperationFigures>, intervals: Vec<Interval>) -> Document {
        let node = NodeFigures {
            name: "node 1".to_owned(),
            leads: true,
            pid: 7,
            cpu_seconds: 1.5,
            resident_before_bytes: 1 << 20,
            resident_after_bytes: 2 << 20,
            written_bytes: 3 << 20,
        };
        let measured = Measurement {
            workload: Workload::Pairs,
            clients: 8,
            threads: 2,
            pace: Pace::Open { per_second: 50.0 },
            warmup_seconds: 1.0,
            measured_seconds: 3.0,
            interrupted: false,
            operations,
            handovers_per_second: 0.0,
            never_begun: 3,
            generator_cpu_seconds: 0.5,
            nodes: vec![node],
            intervals,
        };
        let limit = Measurement { nodes: Vec::new(), ..measured.clone() };
        let endpoints = vec!["http://a:7420/?<b>".to_owned()];
        let measured = OfCluster { measurement: measured, endpoints, elections: Some(2) };
        Document::new(Via::Http, Some(limit), Some(measured))
    }

    #[test]
    fn a_page_shows_both_measurements_and_escapes_what_comes_from_outside() {
        let operations = [Operation::Acquire, Operation::Release].map(figures).to_vec();
        let page = page(&document(operations, (0..4).map(interval).collect()));
        for shown in [
            "<dt>Workload</dt><dd>pairs</dd>",
            "<dt>Clients</dt><dd>8 clients (threads: 2)</dd>",
            "<dt>Pace</dt><dd>open loop at 50.0/s</dd>",
            "<dt>Via</dt><dd>http</dd>",
            "<dd>http://a:7420/?&lt;b&gt;</dd>",
            "<dt>Elections meanwhile</dt><dd>2</dd>",
            "3.0 s after 1.0 s of warm-up; 1.000 of what HTTP alone does",
            "<h2>HTTP alone</h2>",
            "<td>300 ms</td>",
            "3 operations were due and never begun",
            "&lt;script src=&#39;http://x&#39;&gt;\\u{202e}&amp;; the slowest after 10.0 s",
            "<td>node 1 (leads)</td><td>7</td><td>0.50</td>",
            "load generator: 0.17 cores",
        ] {
            assert!(page.contains(shown), "{shown} is not in {page}");
        }
        assert!(!page.contains("<script"), "{page}");
        // Rates, percentiles, and the times of two operations, for each of the two.
        assert_eq!(page.matches("<svg ").count(), 8);
        assert_eq!(page.matches("</svg>").count(), 8);
        assert_eq!(page.matches("<figure>").count(), 8);
    }

    #[test]
    fn where_nothing_was_answered_there_is_a_rate_and_no_time() {
        let plots = plots(
            &document(vec![figures(Operation::Acquire)], (0..4).map(interval).collect())
                .cluster
                .unwrap(),
        );
        let curves = |plot: &Plot| plot.svg.matches("opacity=\"0.85\"").count();
        let drawn: Vec<(&str, usize)> =
            plots.iter().map(|plot| (plot.title.as_str(), curves(plot))).collect();
        // One curve and that of the failures; one; three in two pieces each.
        let expected =
            [("Answers a second", 2), ("Times by percentile", 1), ("Times of acquire", 6)];
        assert_eq!(drawn, expected);
    }

    #[test]
    fn a_run_without_any_answer_is_a_page_too() {
        for intervals in [Vec::new(), vec![interval(2)]] {
            let page = page(&document(Vec::new(), intervals));
            assert_eq!(page.matches("<svg ").count(), 2, "{page}");
            assert!(page.contains("0.00 pairs/s"), "{page}");
        }
    }
}
