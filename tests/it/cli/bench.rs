//! `keyward bench`: its mistakes, and whole runs on clusters of three nodes.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::{Running, assert_code, keyward, output, stderr, stdout};

/// Options of every run here: long enough for each client to be answered, on any machine.
const SHORT: &str = "--duration 500ms --warmup 100ms --clients 8";

/// The three nodes of `keyward dev`.
struct Cluster {
    dev: Running,
    endpoints: String,
    _temp: TempDir,
}

impl Cluster {
    fn start() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let mut command = keyward("dev");
        command.env("TMPDIR", temp.path());
        let mut dev = Running::start(command);
        dev.line();
        let endpoint = |row: String| row.split_whitespace().nth(1).unwrap().to_owned();
        let endpoints: Vec<String> = (0..3).map(|_| endpoint(dev.line())).collect();
        Self { dev, endpoints: endpoints.join(","), _temp: temp }
    }

    fn run(&self, line: &str) -> std::process::Output {
        let mut command = keyward(line);
        command.env("KEYWARD_ENDPOINTS", &self.endpoints);
        output(command)
    }

    fn measure(&self, line: &str) -> Value {
        let run = self.run(&format!("bench {line} {SHORT} --json"));
        assert_code(&run, 0);
        serde_json::from_slice(&run.stdout).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed.
        let _ = self.dev.child.kill();
        let _ = self.dev.child.wait();
    }
}

#[test]
fn mistakes_are_told_before_anything_is_begun() {
    for (line, wrong) in [
        ("", "there is no cluster to measure"),
        ("--dev --endpoints http://a:1", "--dev starts a cluster, and --endpoints names another"),
        ("hold --rate 5 --dev", "`hold` takes its locks as fast as it can: it has no --rate"),
        ("sideways --dev", "possible values: pairs, contended, queue, renew, check, hold, mixed"),
        ("--dev --clients 0", "'0' for '--clients <CLIENTS>': 0 is not in 1..=4000"),
        ("--dev --clients 4001", "4001 is not in 1..=4000"),
        ("--dev --threads 257", "257 is not in 1..=256"),
        ("--dev --locks 0", "'--locks <LOCKS>'"),
        ("--dev --rate 0", "a rate is a number of operations a second"),
        ("--dev --rate fast", "a rate is a number of operations a second"),
        ("--dev --duration 10", "`10` has no unit"),
        ("--dev --duration 0s", "'--duration <DURATION>'"),
        ("--dev --warmup soon", "'--warmup <WARMUP>'"),
        ("--dev --retry-after 1", "`1` has no unit"),
        ("--dev --via pigeon", "possible values: http, client, shared"),
        ("--dev --node worst", "write `best`, `spread`, or the id of a node"),
        ("--data-dir x --endpoints http://a:1", "--dev"),
        ("--endpoints ftp://a", "--endpoints (KEYWARD_ENDPOINTS)"),
        ("--dev --report /no/such/folder/report.html", "--report /no/such/folder/report.html"),
        ("--endpoints http://a:1 --report /", "--report /: the report cannot be written"),
    ] {
        let refused = output(keyward(&format!("bench {line}")));
        assert_code(&refused, 2);
        assert!(stderr(&refused).contains(wrong), "{line}: {}", stderr(&refused));
        assert_eq!(stdout(&refused), "", "{line}");
    }
}

#[test]
fn nodes_of_its_own_are_not_kept_in_memory() {
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let refused = output(keyward(&format!("bench --dev --data-dir {}", memory.path().display())));
    assert_code(&refused, 2);
    assert!(stderr(&refused).contains("is in memory (tmpfs)"), "{}", stderr(&refused));
}

#[test]
fn where_nobody_listens_nothing_is_measured_and_an_older_report_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (new, old) = (folder.path().join("new.html"), folder.path().join("old.html"));
    std::fs::write(&old, "an older report").unwrap();
    for report in [&new, &old] {
        // Nothing can listen on port 0.
        let line = format!("bench --endpoints http://127.0.0.1:0 --report {}", report.display());
        let refused = output(keyward(&line));
        assert_code(&refused, 3);
        let err = stderr(&refused);
        assert!(err.contains("http://127.0.0.1:0 does not answer"), "{err}");
        assert!(err.contains("no node answers\n  Check --endpoints"), "{err}");
    }
    assert!(!new.exists(), "an empty report is left over");
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "an older report");
}

#[test]
fn each_workload_is_measured_and_its_table_deleted() {
    let cluster = Cluster::start();
    let table: [(&str, &[&str]); 6] = [
        ("pairs", &["acquire", "release"]),
        ("contended --retry-after 0ms", &["acquire", "release"]),
        ("renew", &["renew"]),
        ("check", &["check"]),
        ("mixed", &["acquire", "renew", "check", "release"]),
        ("hold --locks 200", &["acquire"]),
    ];
    for (line, operations) in table {
        let document = cluster.measure(line);
        assert_eq!(document["version"], env!("CARGO_PKG_VERSION"), "{line}");
        assert_eq!(document["via"], "http");
        // Only the leader gets requests.
        assert_eq!(document["endpoints"].as_array().unwrap().len(), 1, "{line}: {document}");
        assert_eq!(document.get("limit").or(document.get("ratio")), None, "{line}");
        let measured = &document["cluster"];
        assert_measured(line, measured, operations);
        // Each node is a process of its own.
        let nodes = measured["nodes"].as_array().unwrap().iter();
        let nodes: Vec<_> = nodes.map(|node| node["name"].as_str().unwrap()).collect();
        assert_eq!(nodes, ["node 1", "node 2", "node 3"], "{line}: {measured}");
        if line.starts_with("hold") {
            assert_eq!(measured["operations"][0]["count"], 200, "{measured}");
        }
        let tables = cluster.run("tables");
        assert_code(&tables, 0);
        assert!(!stdout(&tables).contains("bench-"), "{line} leaves {}", stdout(&tables));
    }
}

/// Asserts what holds for a run at any speed: everything was done, and nothing failed.
#[track_caller]
fn assert_measured(line: &str, measured: &Value, operations: &[&str]) {
    assert_eq!(measured["clients"], 8, "{line}");
    assert_eq!(measured["interrupted"], false, "{line}");
    assert_eq!(measured["never_begun"], 0, "{line}");
    let seen = measured["operations"].as_array().unwrap();
    let words: Vec<_> = seen.iter().map(|figures| figures["operation"].as_str().unwrap()).collect();
    assert_eq!(words, operations, "{line}");
    for figures in seen {
        let number = |name: &str| figures[name].as_u64().unwrap();
        assert!(number("count") > 0, "{line}: {figures}");
        assert_eq!((number("not_done"), number("unknown")), (0, 0), "{line}: {figures}");
        let times = ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"].map(number);
        assert!(times[0] > 0 && times.is_sorted(), "{line}: {figures}");
        let refused = line.starts_with("contended") && figures["operation"] == "acquire";
        assert_eq!(number("refused") > 0, refused, "{line}: {figures}");
        let bars = figures["distribution"]["bars"].as_array().unwrap();
        let counted: u64 = bars.iter().map(|bar| bar[1].as_u64().unwrap()).sum();
        assert_eq!(counted, number("count"), "{line}: {figures}");
    }
    let intervals = measured["intervals"].as_array().unwrap();
    let answered = |interval: &&Value| !interval["operations"].as_array().unwrap().is_empty();
    assert!(intervals.iter().any(|interval| answered(&interval)), "{line}: {measured}");
}

#[test]
fn a_cluster_is_asked_where_it_is_told_to_and_as_it_is_told_to() {
    let cluster = Cluster::start();
    let all: Vec<&str> = cluster.endpoints.split(',').collect();
    let spread = cluster.measure("pairs --node spread --via shared --rate 40");
    assert_eq!(spread["endpoints"], serde_json::json!(all));
    assert_eq!(spread["via"], "shared");
    assert_eq!(spread["cluster"]["pace"]["open"]["per_second"], 40.0);
    let one = cluster.measure("check --node 2 --via client");
    assert_eq!(one["endpoints"], serde_json::json!([all[1]]));
    assert_eq!(one["cluster"]["operations"][0]["not_done"], 0, "{one}");
    assert!(one["elections"].is_u64(), "{one}");
    let refused = cluster.run("bench --node 9");
    assert_code(&refused, 2);
    let err = stderr(&refused);
    assert!(err.contains("it is not known where clients reach node 9"), "{err}");
    assert!(err.contains("These nodes are known: 1, 2, 3."), "{err}");
    // With one contender nothing passes from hand to hand, but it is measured.
    let alone = cluster.run("bench contended --clients 1 --duration 300ms --warmup 0ms");
    assert_code(&alone, 0);
    assert!(stdout(&alone).contains("\n0.00 hand-offs/s\n"), "{}", stdout(&alone));
    assert!(stdout(&alone).contains("\nelections meanwhile: "), "{}", stdout(&alone));
}

#[test]
fn three_nodes_of_its_own_are_measured_beside_bare_http_with_a_report() {
    // In the target folder, which is on a disk wherever the temporary folders are.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (data, report) = (folder.path().join("data"), folder.path().join("report.html"));
    let line = format!(
        "bench pairs --dev --data-dir {} --limit --json {SHORT} --report {}",
        data.display(),
        report.display()
    );
    let run = output(keyward(&line));
    assert_code(&run, 0);
    let document: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_measured("pairs", &document["limit"], &["acquire", "release"]);
    assert_measured("pairs", &document["cluster"], &["acquire", "release"]);
    assert!(document["ratio"].as_f64().unwrap() > 0.0, "{document}");
    let nodes = document["cluster"]["nodes"].as_array().unwrap();
    let names: Vec<&str> = nodes.iter().map(|node| node["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["node 1", "node 2", "node 3"]);
    assert_eq!(nodes.iter().filter(|node| node["leads"] == true).count(), 1, "{document}");
    for node in nodes {
        assert!(node["resident_after_bytes"].as_u64().unwrap() > 0, "{node}");
        let pid = node["pid"].to_string();
        assert!(!super::runs(&pid), "{} still runs", node["name"]);
    }
    assert!(data.join("node-1").is_dir(), "the data is kept where it was named");
    assert_page(&report, &document["endpoints"]);
}

#[track_caller]
fn assert_page(report: &Path, endpoints: &Value) {
    let page = std::fs::read_to_string(report).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"), "{page}");
    // For each of the two measurements: rates, percentiles, and times of acquire and of release.
    let plots = |what: &str| page.matches(what).count();
    assert_eq!((plots("<figure>"), plots("<svg "), plots("</svg>")), (8, 8, 8), "{page}");
    for shown in ["<h2>The cluster</h2>", "<h2>HTTP alone</h2>", "node 1", "bare handler"] {
        assert!(page.contains(shown), "{shown} is not in {page}");
    }
    // Nothing is fetched: the only addresses are the names of the endpoint and of SVG itself.
    let endpoint = endpoints[0].as_str().unwrap();
    assert!(page.contains(&format!("<dd>{endpoint}</dd>")), "{page}");
    let rest = page.replace(endpoint, "").replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for loads in ["http://", "https://", "<script", "<link", "<img", "url(", "@import", "src="] {
        assert!(!rest.contains(loads), "{loads} is in {page}");
    }
}

#[test]
fn bare_http_is_measured_alone_if_there_is_no_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.html");
    let run =
        output(keyward(&format!("bench check --limit {SHORT} --report {}", report.display())));
    assert_code(&run, 0);
    assert!(stdout(&run).starts_with("HTTP alone\ncheck: 8 clients, closed loop, "), "{run:?}");
    assert!(!stdout(&run).contains("of what HTTP alone does"), "{}", stdout(&run));
    let page = std::fs::read_to_string(report).unwrap();
    assert!(!page.contains("<h2>The cluster</h2>"), "{page}");
    assert_eq!(page.matches("<svg ").count(), 3, "{page}");
}
