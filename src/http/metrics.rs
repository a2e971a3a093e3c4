//! The page at `/metrics`.
//!
//! Each listener has a recorder of its own, and none is installed for the process, so that several
//! nodes in one process do not mix. Requests are recorded as they end; the node's figures are read
//! each time the page is.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::Method;
use metrics::{Counter, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::Context;
use super::flood::Flood;
use super::rates::Refused;
use super::slots::{SlotFigures, Slots};
use crate::api::{Code, HistogramFigures, NodeFigures};
use crate::audit::AuditFigures;
use crate::budget::Budget;
use crate::jwt;
use crate::processes;
use crate::tls::Tls;

/// Upper bounds in seconds. A commit takes from half a millisecond on a good disk to a few
/// election times; finer or wider bounds would not help an operator.
const LATENCY_BUCKETS: [f64; 14] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// The interval at which recorded latencies are folded into their buckets, so that they do not pile
/// up when nobody reads the page.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

const METADATA: Metadata<'static> = Metadata::new("keyward", Level::INFO, None);

/// The methods that are labels. They are few and fixed, as the routes are: a client's input never
/// becomes a label.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "other"];

/// The method and route of a request, by which the metrics distinguish requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Endpoint {
    /// Index into [`METHODS`].
    method: usize,
    /// The number of the route and its path; `None` is every other path.
    route: Option<(usize, &'static str)>,
}

impl Endpoint {
    pub(crate) fn new(method: &Method, route: Option<(usize, &'static str)>) -> Self {
        let known = METHODS.iter().position(|known| *known == method.as_str());
        Self { method: known.unwrap_or(METHODS.len() - 1), route }
    }

    pub(crate) fn method(self) -> &'static str {
        METHODS[self.method]
    }

    pub(crate) fn route(self) -> &'static str {
        self.route.map_or("other", |(_, path)| path)
    }
}

/// The outcome of a request, in the word that metrics and logs use.
pub(crate) fn outcome_word(code: Option<Code>) -> &'static str {
    code.map_or("ok", Code::word)
}

/// The series of one endpoint; an endpoint without requests has none.
struct Series {
    seconds: Histogram,
    /// The counters by outcome: success, then the codes in their order.
    totals: [OnceLock<Counter>; OUTCOMES],
}

/// The number of outcomes: every code, and success.
const OUTCOMES: usize = Code::Other as usize + 2;

/// The figures of one listener.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    /// By route and method. Looked up once: a lookup by name and labels would cost a request more
    /// than its parsing.
    series: Vec<[OnceLock<Series>; METHODS.len()]>,
    /// Requests inside batches, as [`Series::totals`].
    items: [OnceLock<Counter>; OUTCOMES],
    handle: PrometheusHandle,
    in_flight: Arc<AtomicU64>,
    slots: Arc<Slots>,
    budget: Budget,
    flood: Flood,
}

/// One request in flight; counted until it is dropped, answered or not.
pub(crate) struct InFlight(Arc<AtomicU64>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Figures of requests for this many routes, and for all other paths.
    pub(crate) fn new(routes: usize, slots: Arc<Slots>, budget: Budget) -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&LATENCY_BUCKETS)
            .expect("there are buckets")
            .build_recorder();
        recorder.describe_counter(
            "keyward_requests_total".into(),
            None,
            "Requests by method, route and outcome.".into(),
        );
        recorder.describe_counter(
            "keyward_batch_requests_total".into(),
            None,
            "Requests inside batches by outcome.".into(),
        );
        recorder.describe_histogram(
            "keyward_request_seconds".into(),
            None,
            "How long requests took, from their head to their answer.".into(),
        );
        let handle = recorder.handle();
        let series = (0..=routes).map(|_| Default::default()).collect();
        let (in_flight, flood) = (Arc::default(), Flood::default());
        Self {
            recorder,
            items: Default::default(),
            series,
            handle,
            in_flight,
            slots,
            budget,
            flood,
        }
    }

    /// Limits which refusals are logged.
    pub(crate) fn flood(&self) -> &Flood {
        &self.flood
    }

    /// Counts a request as in flight until the guard is dropped.
    pub(crate) fn in_flight(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(&self.in_flight))
    }

    /// Records a request that was answered.
    pub(crate) fn observe(&self, endpoint: Endpoint, code: Option<Code>, took: Duration) {
        let route = endpoint.route.map_or(self.series.len() - 1, |(number, _)| number);
        let series = &self.series[route][endpoint.method];
        let series = series.get_or_init(|| self.register(endpoint));
        series.seconds.record(took);
        let total = &series.totals[code.map_or(0, |code| code as usize + 1)];
        total.get_or_init(|| self.register_total(endpoint, code)).increment(1);
    }

    fn register(&self, endpoint: Endpoint) -> Series {
        let key = Key::from_parts("keyward_request_seconds", labels(endpoint));
        let seconds = self.recorder.register_histogram(&key, &METADATA);
        Series { seconds, totals: Default::default() }
    }

    fn register_total(&self, endpoint: Endpoint, code: Option<Code>) -> Counter {
        let mut labels = labels(endpoint);
        labels.push(Label::from_static_parts("outcome", outcome_word(code)));
        let key = Key::from_parts("keyward_requests_total", labels);
        self.recorder.register_counter(&key, &METADATA)
    }

    /// Records one request of a batch.
    pub(crate) fn observe_item(&self, code: Option<Code>) {
        let total = &self.items[code.map_or(0, |code| code as usize + 1)];
        let register = || {
            let outcome = Label::from_static_parts("outcome", outcome_word(code));
            let key = Key::from_parts("keyward_batch_requests_total", vec![outcome]);
            self.recorder.register_counter(&key, &METADATA)
        };
        total.get_or_init(register).increment(1);
    }

    /// The page.
    pub(crate) fn render(
        &self,
        figures: Option<(&NodeFigures, AuditFigures)>,
        certificates: &[Arc<Tls>],
        jwts: Option<&jwt::Figures>,
        limited: Refused,
    ) -> String {
        let mut page = self.handle.render();
        let help = "The version of the program, as a label.";
        let version = env!("CARGO_PKG_VERSION");
        line(
            &mut page,
            format_args!(
                "# HELP keyward_build_info {help}\n# TYPE keyward_build_info gauge\n\
                 keyward_build_info{{version=\"{version}\"}} 1"
            ),
        );
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        gauge(&mut page, "keyward_requests_in_flight", "Requests being answered.", in_flight);
        render_slots(&mut page, self.slots.figures());
        render_certificates(&mut page, certificates);
        // Also without issuers: an alert is about every node.
        render_jwts(&mut page, jwts.unwrap_or(&jwt::Figures::default()));
        let help = "Requests refused because of a rate, by whose it is.";
        let by = [("address", limited.by_address), ("identity", limited.by_identity)];
        counters_by(&mut page, ("keyward_requests_limited_total", "rate_of"), help, &by);
        let help = "Bytes of large requests being read and answers being written.";
        gauge(&mut page, "keyward_buffered_bytes", help, self.budget.used());
        let help = "Large requests and answers refused because too many bytes were buffered.";
        counter(&mut page, "keyward_buffer_refusals_total", help, self.budget.refusals());
        if let Some(figures) = processes::own_figures() {
            render_process(&mut page, &figures);
        }
        if let Some((figures, audit)) = figures {
            render_node(&mut page, figures);
            render_audit(&mut page, audit);
        }
        page
    }
}

fn labels(endpoint: Endpoint) -> Vec<Label> {
    vec![
        Label::from_static_parts("method", endpoint.method()),
        Label::from_static_parts("route", endpoint.route()),
    ]
}

/// Folds latencies into buckets for as long as it is polled.
pub(crate) async fn upkeep<S>(context: &Context<S>) -> Infallible {
    loop {
        tokio::time::sleep(UPKEEP_EVERY).await;
        context.metrics.handle.run_upkeep();
        context.metrics.flood.tell();
    }
}

fn render_slots(page: &mut String, figures: &SlotFigures) {
    let value = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
    gauge(page, "keyward_connections", "Open client connections.", value(&figures.open));
    let help = "Client connections accepted.";
    counter(page, "keyward_connections_accepted_total", help, value(&figures.accepted));
    let help = "Waiting client connections that had to make room.";
    counter(page, "keyward_connections_evicted_total", help, value(&figures.evicted));
    let help = "Client connections refused because every slot was at work.";
    counter(page, "keyward_connections_refused_total", help, value(&figures.refused));
    let help = "Client connections refused because their address had as many as it may.";
    counter(page, "keyward_connections_limited_total", help, value(&figures.limited));
}

fn render_certificates(page: &mut String, all: &[Arc<Tls>]) {
    let loaded: Vec<_> = all.iter().flat_map(|tls| tls.loaded()).collect();
    if loaded.is_empty() {
        return;
    }
    let name = "keyward_certificate_expiry_timestamp_seconds";
    let help = "When the first certificate of each use expires, in seconds since 1970.";
    line(page, format_args!("# HELP {name} {help}\n# TYPE {name} gauge"));
    let mut first = BTreeMap::new();
    for certificate in loaded {
        let end = first.entry(certificate.purpose).or_insert(certificate.expires);
        *end = certificate.expires.min(*end);
    }
    for (purpose, end) in first {
        line(page, format_args!("{name}{{use=\"{purpose}\"}} {end}"));
    }
}

fn render_jwts(page: &mut String, figures: &jwt::Figures) {
    let help = "JWTs that came with requests: `checked` and `remembered` ones were taken.";
    let results = [
        ("checked", figures.checked),
        ("remembered", figures.remembered),
        ("refused", figures.refused),
    ];
    counters_by(page, ("keyward_jwt_requests_total", "result"), help, &results);
    let (name, help) = ("keyward_jwt_keys", "Keys of each issuer that can check JWTs.");
    line(page, format_args!("# HELP {name} {help}\n# TYPE {name} gauge"));
    for (issuer, keys) in &figures.keys {
        line(page, format_args!("{name}{{issuer=\"{issuer}\"}} {keys}"));
    }
    let help = "1 if the files of issuers and keys cannot be used, and older content is in use.";
    gauge(page, "keyward_jwt_files_unusable", help, u64::from(figures.is_outdated));
}

/// Renders the process's figures, under the names of Prometheus' own client libraries.
fn render_process(page: &mut String, figures: &processes::Figures) {
    let help = "Processor time of the process, in seconds.";
    one(page, "process_cpu_seconds_total", "counter", help, figures.cpu_seconds);
    gauge(page, "process_resident_memory_bytes", "Resident memory.", figures.resident_bytes);
    gauge(page, "process_virtual_memory_bytes", "Address space.", figures.virtual_bytes);
    gauge(page, "process_open_fds", "Open descriptors.", figures.open_descriptors);
    let help = "Descriptors that may be open.";
    optional_gauge(page, "process_max_fds", help, figures.max_descriptors);
    let help = "When the process began, in seconds since 1970.";
    one(page, "process_start_time_seconds", "gauge", help, figures.started_seconds);
    gauge(page, "process_threads", "Threads of the process.", figures.threads);
}

fn render_audit(page: &mut String, figures: AuditFigures) {
    counter(page, "keyward_audit_lines_total", "Lines of the audit written.", figures.lines);
    counter(page, "keyward_audit_dropped_total", "Lines of the audit dropped.", figures.dropped);
    let help = "Whether the audit cannot be written now.";
    gauge(page, "keyward_audit_failing", help, u64::from(figures.is_failing));
}

fn render_node(page: &mut String, figures: &NodeFigures) {
    gauge(page, "keyward_locks_held", "Unexpired grants.", figures.locks_held);
    gauge(page, "keyward_records", "Records, expired ones included.", figures.records);
    gauge(page, "keyward_request_lanes", "Request lanes remembered.", figures.lanes);
    let help = "Request lanes forgotten within a minute of their last use: there are too many.";
    counter(page, "keyward_lanes_evicted_young_total", help, figures.lanes_evicted_young);
    counter(page, "keyward_expiries_total", "Grants that ended by expiry.", figures.expiries);
    let help = "Records removed by their time_to_live.";
    counter(page, "keyward_removals_total", help, figures.removals);
    render_ends(page, figures);
    render_waits(page, figures);
    gauge(page, "keyward_raft_term", "The Raft term.", figures.term);
    let help = "The id of the node believed to lead; 0 is none.";
    gauge(page, "keyward_raft_leader_id", help, figures.leader.unwrap_or(0));
    let help = "1 if this node leads.";
    gauge(page, "keyward_raft_is_leader", help, u64::from(figures.is_leader));
    let help = "The last entry known to be on the disks of a majority.";
    optional_gauge(page, "keyward_raft_committed_index", help, figures.committed_index);
    let help = "The last entry the state contains.";
    optional_gauge(page, "keyward_raft_applied_index", help, figures.applied_index);
    let help = "Bytes of the log since the last snapshot.";
    gauge(page, "keyward_log_bytes", help, figures.log_bytes);
    let help = "1 if a snapshot is due that could not be written.";
    gauge(page, "keyward_snapshot_postponed", help, u64::from(figures.snapshot_postponed));
    render_contact(page, figures);
    let help = "Requests sent on to the leader.";
    counter(page, "keyward_forwarded_requests_total", help, figures.forwarded);
    if let Some(fsync) = &figures.fsync_seconds {
        let help = "How long each fdatasync of the log took.";
        histogram(page, "keyward_log_fsync_seconds", help, fsync);
    }
}

/// Renders how grants ended. The node that proposed the entry counts it, so that the figures of all
/// nodes may be added.
fn render_ends(page: &mut String, figures: &NodeFigures) {
    let help = "How long grants were held, in cluster time, by how they ended; counted by the node \
                that led then.";
    histograms_by_end(page, "keyward_hold_seconds", help, &figures.held_seconds);
    let help =
        "Grants that ended without being released, by reason; counted by the node that led then.";
    counters_by(page, ("keyward_locks_lost_total", "reason"), help, &figures.locks_lost);
}

/// Renders who waits, who lives in sessions, and how waits and sessions ended. The node that
/// proposed the entry counts an end.
fn render_waits(page: &mut String, figures: &NodeFigures) {
    gauge(page, "keyward_places", "Requests that wait in queues.", figures.places);
    let help = "Requests that may wait at most; more are refused.";
    gauge(page, "keyward_places_max", help, figures.places_max);
    let help = "How long places stood in queues, in cluster time, by how they ended; counted by \
                the node that led then.";
    histograms_by_end(page, "keyward_wait_seconds", help, &figures.wait_seconds);
    gauge(page, "keyward_sessions", "Open sessions.", figures.sessions);
    let help = "Sessions that may be open at most; more are refused.";
    gauge(page, "keyward_sessions_max", help, figures.sessions_max);
    let help = "Sessions that ended, by how; counted by the node that led then.";
    counters_by(page, ("keyward_sessions_ended_total", "end"), help, &figures.sessions_ended);
}

fn histograms_by_end(
    page: &mut String,
    name: &str,
    help: &str,
    figures: &[(&'static str, HistogramFigures)],
) {
    line(page, format_args!("# HELP {name} {help}\n# TYPE {name} histogram"));
    for (end, figures) in figures {
        buckets(page, name, &format!("end=\"{end}\""), figures);
    }
}

/// Counters of one name, by the value of a label.
fn counters_by(
    page: &mut String,
    (name, label): (&str, &str),
    help: &str,
    figures: &[(&'static str, u64)],
) {
    line(page, format_args!("# HELP {name} {help}\n# TYPE {name} counter"));
    for (value, count) in figures {
        line(page, format_args!("{name}{{{label}=\"{value}\"}} {count}"));
    }
}

fn render_contact(page: &mut String, figures: &NodeFigures) {
    let help = "1 if the node can serve requests: it is in contact with a majority.";
    gauge(page, "keyward_ready", help, u64::from(figures.ready));
    if let Some(seconds) = figures.majority_silence_seconds {
        let help = "Time since the node was last in contact with a majority.";
        one(page, "keyward_majority_silence_seconds", "gauge", help, seconds);
    }
    let help = "Times that another leader came to be known.";
    counter(page, "keyward_raft_leader_changes_total", help, figures.leader_changes);
    let help = "Bytes left for the node's data.";
    optional_gauge(page, "keyward_data_free_bytes", help, figures.data_free_bytes);
    let help = "Entries that a member is behind; told by the leader.";
    let lags = figures.peers.iter().filter_map(|peer| Some((peer.id, peer.lag?)));
    by_peer(page, "keyward_peer_lag_entries", help, lags);
    let help = "Time since a member last acknowledged anything; told by the leader.";
    let silences = figures.peers.iter().filter_map(|peer| Some((peer.id, peer.silence_seconds?)));
    by_peer(page, "keyward_peer_silence_seconds", help, silences);
}

fn by_peer<V: Display>(
    page: &mut String,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (u64, V)>,
) {
    line(page, format_args!("# HELP {name} {help}\n# TYPE {name} gauge"));
    for (peer, value) in values {
        line(page, format_args!("{name}{{peer=\"{peer}\"}} {value}"));
    }
}

fn optional_gauge(page: &mut String, name: &str, help: &str, value: Option<u64>) {
    if let Some(value) = value {
        gauge(page, name, help, value);
    }
}

fn gauge(page: &mut String, name: &str, help: &str, value: u64) {
    one(page, name, "gauge", help, value);
}

fn counter(page: &mut String, name: &str, help: &str, value: u64) {
    one(page, name, "counter", help, value);
}

fn one(page: &mut String, name: &str, kind: &str, help: &str, value: impl Display) {
    line(page, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"));
}

fn histogram(page: &mut String, name: &str, help: &str, figures: &HistogramFigures) {
    line(page, format_args!("# HELP {name} {help}\n# TYPE {name} histogram"));
    buckets(page, name, "", figures);
}

/// The series of one histogram; `label` may be empty.
fn buckets(page: &mut String, name: &str, label: &str, figures: &HistogramFigures) {
    let (comma, labels) = match label {
        "" => ("", String::new()),
        label => (",", format!("{{{label}}}")),
    };
    for (bound, count) in &figures.buckets {
        line(page, format_args!("{name}_bucket{{{label}{comma}le=\"{bound}\"}} {count}"));
    }
    let HistogramFigures { sum, count, .. } = figures;
    line(page, format_args!("{name}_bucket{{{label}{comma}le=\"+Inf\"}} {count}"));
    line(page, format_args!("{name}_sum{labels} {sum}\n{name}_count{labels} {count}"));
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a String takes everything");
    page.push('\n');
}
