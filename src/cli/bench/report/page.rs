//! The page around the plots.

use clap::ValueEnum as _;
use maud::{Markup, PreEscaped, html};

use super::plots::{Plot, plots};
use crate::bench::Measurement;
use crate::cli::bench::document::Document;
use crate::report::{self, visible};

/// The page as HTML.
pub(super) fn page(document: &Document) -> String {
    let measured = document.cluster.as_ref().or(document.limit.as_ref());
    let workload = measured.map_or_else(String::new, |measured| measured.workload.to_string());
    let title = format!("keyward bench: {workload}");
    let part = document.ratio.map(|ratio| format!("{ratio:.3} of what HTTP alone does"));
    let body = html! {
        h1 { (title) }
        (facts(document))
        @if let Some(cluster) = &document.cluster {
            (section("The cluster", cluster, part.as_deref()))
        }
        @if let Some(limit) = &document.limit {
            (section("HTTP alone", limit, Some("a bare handler that answers at once")))
        }
    };
    report::page(&title, include_str!("style.css"), &body)
}

/// The facts of a run: its settings and its endpoints.
fn facts(document: &Document) -> Markup {
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
    html! {
        .card {
            dl { @for (name, what) in facts { dt { (name) } dd { (visible(&what)) } } }
        }
    }
}

/// One measurement: its rate, its tables, its plots.
fn section(title: &str, measured: &Measurement, remark: Option<&str>) -> Markup {
    let failures = measured.failures_in_words().into_iter().chain(measured.never_begun_in_words());
    html! {
        section {
            h2 { (title) }
            p.rate {
                (measured.rate_in_words()) " "
                small {
                    (measured.time_in_words())
                    @if let Some(remark) = remark { "; " (remark) }
                }
            }
            .card {
                (table(&measured.operation_rows()))
                (said(failures))
            }
            .plots { @for plot in plots(measured) { (figure(&plot)) } }
            .card {
                (table(&measured.node_rows()))
                (said(measured.costs_in_words()))
            }
        }
    }
}

/// A table of rows, of which the first is the heading; nothing if there are none.
fn table(rows: &[Vec<String>]) -> Markup {
    let Some((heading, rows)) = rows.split_first() else { return html! {} };
    html! {
        table {
            tr { @for text in heading { th { (visible(text)) } } }
            @for row in rows { tr { @for text in row { td { (visible(text)) } } } }
        }
    }
}

fn said(sentences: impl IntoIterator<Item = String>) -> Markup {
    html! { @for sentence in sentences { p.said { (visible(&sentence)) } } }
}

fn figure(plot: &Plot) -> Markup {
    let legend = plot.legend.iter().map(|(name, colour)| (name.as_str(), colour.as_str()));
    html! {
        figure {
            figcaption.legend { b { (plot.title) } (report::legend(legend)) }
            (PreEscaped(&plot.svg))
        }
    }
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
            "&lt;script src='http://x'&gt;\\u{202e}&amp;; the slowest after 10.0 s",
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
