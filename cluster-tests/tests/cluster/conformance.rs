//! The script suite, as a user runs it: the program's own command against three processes.

use std::process::Command;
use std::time::Duration;

use cluster_tests::binary;
use cluster_tests::cluster::{Cluster, ClusterOptions};
use cluster_tests::process::{Output, Process};

/// The clock is moved instead of waited for; the time is that of a debug build.
const SUITE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_through_every_node() {
    let cluster = Cluster::start(ClusterOptions::default().with(&["--debug-clock"])).await;
    for id in cluster.ids() {
        let output = Output::in_folder(cluster.folder(), &format!("conformance{id}"));
        let mut command = Command::new(binary::keyward());
        command.env_clear().args(["conformance", "--endpoints", &cluster.endpoint(id)]);
        let mut suite = Process::spawn(&mut command, output);
        let status = suite.wait(SUITE).await;
        let output = suite.output();
        assert!(
            status.success(),
            "through node {id}: {status}\n{}\n{}",
            output.printed(),
            output.logged()
        );
        assert!(!output.printed().is_empty(), "a suite that says nothing ran nothing");
    }
}
