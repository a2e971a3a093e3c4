//! Nodes that die right before or right after a call to their disk.

use std::time::Duration;

use cluster_tests::binary;
use cluster_tests::chaos::boundary::Moment;
use cluster_tests::chaos::prove::{Item, Programs};
use cluster_tests::chaos::run;
use cluster_tests::chaos::summary::{Summary, Verdict};
use cluster_tests::powercut::Disk;
use cluster_tests::seed::seeded;
use rand::Rng;

/// A round of the sweep, which has boundaries of every moment.
async fn round(seed: u64) -> Summary {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = binary::keyward().to_owned();
    let programs = Programs { first: program.clone(), second: program };
    let length = Duration::from_secs(10);
    let round = Item::IoSweep.round(seed, length, folder.path(), &programs);
    run::keyward(&round.options, &round.nodes).await.expect("a run")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_at_calls_to_its_disk_comes_back_with_what_it_acknowledged() {
    if let Err(missing) = Disk::possible() {
        println!("NOT TESTED: deaths at calls to disks: {missing}");
        return;
    }
    let summary = round(seeded("deaths at calls to disks").random_range(1..12)).await;
    assert_eq!(summary.verdict, Verdict::Pass, "{summary}");
    for moment in Moment::ALL {
        let deaths = summary.deaths.iter().filter(|death| death.at.moment == moment).count();
        assert!(deaths >= 3, "{deaths} deaths since {moment}: {summary}");
    }
}
