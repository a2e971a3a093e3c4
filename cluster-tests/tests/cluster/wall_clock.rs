//! Wall clocks that are stepped by an hour, without any effect.

use std::time::Duration;

use cluster_tests::binary;
use cluster_tests::chaos::prove::{Item, Programs};
use cluster_tests::chaos::run;
use cluster_tests::chaos::summary::Verdict;
use cluster_tests::seed::seeded;
use cluster_tests::walltime::WallClock;
use rand::Rng;

#[tokio::test(flavor = "multi_thread")]
async fn a_step_of_the_wall_clock_ends_no_lock_and_no_leadership() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    if let Err(missing) = WallClock::new(folder.path().join("clock")) {
        println!("NOT TESTED: steps of wall clocks: {missing}");
        return;
    }
    let program = binary::keyward().to_owned();
    let programs = Programs { first: program.clone(), second: program };
    let seed = seeded("wall clocks").random_range(1..1000);
    let mut round = Item::WallClock.round(seed, Duration::from_secs(6), folder.path(), &programs);
    // Other tests may run beside this one: a stable leader is shown where nothing else runs.
    round.options.undisturbed = false;
    let summary = run::keyward(&round.options, &round.nodes).await.expect("a run");
    assert_eq!(summary.verdict, Verdict::Pass, "{summary}");
    assert!(summary.done.clock_steps >= 2, "{summary}");
    assert!(summary.counts.takeovers >= 20, "{summary}");
}
