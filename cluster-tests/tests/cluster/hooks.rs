//! `keyward-chaos check` on nodes that it did not start, with faults that are installed by
//! commands.

use std::fs;

use cluster_tests::chaos::summary::{Summary, Verdict};
use cluster_tests::cluster::{Cluster, ClusterOptions};
use tokio::process::Command;

async fn check(cluster: &Cluster, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyward-chaos"));
    command.args([
        "check",
        "--quiet",
        "--json",
        "--seed",
        "5",
        "--lease",
        "500ms",
        "--clients",
        "3",
    ]);
    command.args(["--endpoints", &cluster.endpoints().join(",")]).args(arguments);
    let output = command.output().await.expect("the program was built");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn summary(printed: &str) -> Summary {
    serde_json::from_str(printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_somebody_elses_is_checked_under_faults_of_somebody_elses() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let report = folder.path().join("report.html");
    let (victim, cut) = (cluster.process_id(1), cluster.process_id(2));
    let (code, printed, said) = check(
        &cluster,
        &[
            "--duration=8s",
            "--every=1s",
            &format!("--fault-cmd=freeze=kill -STOP {victim}"),
            &format!("--heal-cmd=freeze=kill -CONT {victim}"),
            &format!("--fault-cmd=stall=kill -STOP {cut}"),
            &format!("--heal-cmd=stall=kill -CONT {cut}"),
            &format!("--report={}", report.display()),
        ],
    )
    .await;
    assert_eq!(code, Some(0), "{printed}\n{said}");
    let summary = summary(&printed);
    assert_eq!(summary.verdict, Verdict::Pass);
    assert!(summary.done.installed >= 2, "{summary}");
    assert!(summary.checks.iter().any(|check| check.starts_with("witnessed")), "{summary}");
    let page = fs::read_to_string(report).expect("the report was written");
    assert!(page.contains("freeze") && page.contains("stall"), "the faults are drawn");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_whose_command_fails_shows_nothing() {
    let cluster = Cluster::start(ClusterOptions::default()).await;
    let (code, printed, said) =
        check(&cluster, &["--duration=3s", "--every=1s", "--fault-cmd=freeze=exit 7"]).await;
    assert_eq!(code, Some(3), "{printed}\n{said}");
    let summary = summary(&printed);
    assert_eq!(summary.verdict, Verdict::HarnessError);
    assert_eq!(summary.done.installed, 0);
    assert!(summary.harness_errors.iter().any(|error| error.contains("skipped")), "{summary}");
}
