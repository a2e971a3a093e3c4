//! Every workload, on locks in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use keyward_core::MemoryLocks;

fn plan(workload: Workload, clients: usize) -> Plan {
    Plan {
        warmup: Duration::from_millis(50),
        duration: Duration::from_millis(200),
        threads: 2,
        retry_after: Duration::ZERO,
        ..Plan::new(workload, clients)
    }
}

fn measured(locks: &MemoryLocks, plan: &Plan) -> Measurement {
    let target = Services::new(vec![locks.clone()], "bench");
    run(&Arc::new(target), plan, &mut ()).expect("locks in memory are always there")
}

fn kinds(measurement: &Measurement) -> Vec<Operation> {
    measurement.operations.iter().map(|figures| figures.operation).collect()
}

#[test]
fn each_workload_does_its_operations_and_leaves_no_lock() {
    use Operation::{Acquire, Check, Release, Renew};
    let table: [(Workload, &[Operation]); 6] = [
        (Workload::Pairs, &[Acquire, Release]),
        (Workload::Contended, &[Acquire, Release]),
        (Workload::Queue, &[Acquire, Release]),
        (Workload::Renew, &[Renew]),
        (Workload::Check, &[Check]),
        (Workload::Mixed, &[Acquire, Renew, Check, Release]),
    ];
    for (workload, operations) in table {
        let locks = MemoryLocks::new();
        let seen = measured(&locks, &plan(workload, 5));
        assert_eq!(kinds(&seen), operations, "{workload}");
        assert!(seen.per_second() > 0.0, "{workload}: {seen}");
        assert_eq!((seen.failures(), seen.never_begun), (0, 0), "{workload}: {seen}");
        assert!((0.19..0.3).contains(&seen.measured_seconds), "{workload}: {seen}");
        assert_eq!(locks.counts().records, 0, "{workload} leaves locks");
    }
}

#[test]
fn held_locks_are_as_many_as_were_asked_for() {
    let locks = MemoryLocks::new();
    let seen = measured(&locks, &plan(Workload::Hold { locks: 1234 }, 7));
    assert_eq!(seen.of(Operation::Acquire).map(|figures| figures.count), Some(1234));
    assert_eq!(locks.counts().records, 1234);
}

#[test]
fn contended_hand_offs_are_counted_between_clients_only() {
    for workload in [Workload::Contended, Workload::Queue] {
        let alone = measured(&MemoryLocks::new(), &plan(workload, 1));
        assert!(alone.handovers_per_second.abs() < f64::EPSILON, "{alone}");
        assert!(alone.of(Operation::Acquire).is_some_and(|figures| figures.count > 100));
    }
}

/// A service that stalls once for a while, and answers at once otherwise.
struct Stalls {
    asked: AtomicU32,
    stall: Duration,
}

struct StallsOwner(Arc<Stalls>);

struct StallsTarget(Arc<Stalls>);

impl Target for StallsTarget {
    type Owner = StallsOwner;

    async fn owner(&self, _client: usize) -> Result<StallsOwner, Failure> {
        Ok(StallsOwner(Arc::clone(&self.0)))
    }
}

impl Owner for StallsOwner {
    type Held = ();

    async fn acquire(&mut self, _signature: &str, _duration: Duration) -> Result<(), Failure> {
        Ok(())
    }

    async fn renew(
        &mut self,
        _signature: &str,
        _held: &mut (),
        _duration: Duration,
    ) -> Result<(), Failure> {
        Ok(())
    }

    async fn release(&mut self, _signature: &str, _held: ()) -> Result<(), Failure> {
        Ok(())
    }

    async fn check(&mut self, _signature: &str) -> Result<bool, Failure> {
        if self.0.asked.fetch_add(1, Ordering::Relaxed) == 100 {
            tokio::time::sleep(self.0.stall).await;
        }
        Ok(true)
    }

    fn token(_held: &()) -> Option<u64> {
        None
    }
}

/// With one client, 1000 checks a second are due; one of them stalls for 300 ms. All that were due
/// meanwhile have waited, on average half of it: a tenth of all, not one of a thousand.
#[test]
fn an_open_loop_counts_everyone_who_waited_for_a_stall() {
    let stall = Duration::from_millis(300);
    let stalls = Arc::new(Stalls { asked: AtomicU32::new(0), stall });
    let plan = Plan {
        pace: Pace::Open { per_second: 1000.0 },
        warmup: Duration::ZERO,
        duration: Duration::from_secs(2),
        threads: 1,
        ..Plan::new(Workload::Check, 1)
    };
    let seen = run(&Arc::new(StallsTarget(stalls)), &plan, &mut ()).expect("it runs");
    let checks = seen.of(Operation::Check).expect("there were checks");
    assert!(checks.p90_us > 50_000, "{seen}");
    assert!(checks.max_us >= 300_000, "{seen}");
    // The last one's timer may fire when the time is up.
    assert!((1999..=2000).contains(&checks.count), "{seen}");
}

/// Twice as many operations are due as the service does: the half that is never begun is reported
/// and counted.
#[test]
fn what_was_due_and_never_begun_counts_with_the_time_it_waited() {
    struct Slow;
    struct SlowOwner;
    impl Target for Slow {
        type Owner = SlowOwner;
        async fn owner(&self, _client: usize) -> Result<SlowOwner, Failure> {
            Ok(SlowOwner)
        }
    }
    impl Owner for SlowOwner {
        type Held = ();
        async fn acquire(&mut self, _: &str, _: Duration) -> Result<(), Failure> {
            Ok(())
        }
        async fn renew(&mut self, _: &str, _held: &mut (), _: Duration) -> Result<(), Failure> {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(())
        }
        async fn release(&mut self, _: &str, _held: ()) -> Result<(), Failure> {
            Ok(())
        }
        async fn check(&mut self, _: &str) -> Result<bool, Failure> {
            Ok(true)
        }
        fn token(_held: &()) -> Option<u64> {
            None
        }
    }
    let plan = Plan {
        pace: Pace::Open { per_second: 100.0 },
        warmup: Duration::ZERO,
        duration: Duration::from_secs(2),
        threads: 1,
        ..Plan::new(Workload::Renew, 1)
    };
    let seen = run(&Arc::new(Slow), &plan, &mut ()).expect("it runs");
    let renewals = seen.of(Operation::Renew).expect("there were renewals");
    assert!(seen.never_begun >= 90, "{seen}");
    assert!((199..=200).contains(&renewals.count), "{seen}");
    // If only begun operations were counted, the median would be half of what it is.
    assert!(renewals.p50_us > 450_000, "{seen}");
}
