//! Runs a plan: threads with clients, a common start, and a look at the counters each second.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use futures::stream::{StreamExt as _, TryStreamExt as _, iter};
use tokio::sync::watch;

use super::counts::{Counts, Operation, Shard, Window};
use super::measurement::{Interval, Measurement, NodeFigures, OperationFigures, per_second};
use super::plan::{Plan, Workload};
use super::target::{Failure, Target};
use super::worker::{Schedule, Shared, Worker};
use crate::processes::{self, Usage};
use keyward_core::clock::{Clock, SystemClock};

/// The time between two points of the curves.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often the observer is polled for a stop.
const LOOK: Duration = Duration::from_millis(50);

/// How long all clients may take to connect and to take what they need.
const OPENING: Duration = Duration::from_secs(120);

/// The time from the start signal until the first operation is due: enough for every thread to
/// receive it.
const RUN_UP: Duration = Duration::from_millis(20);

/// How many clients a thread connects at a time: few enough that no listener's queue overflows.
const OPENING_AT_A_TIME: usize = 16;

/// One node's use of the machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeUsage {
    /// The node's name for a person.
    pub name: String,
    /// Whether it leads.
    pub leads: bool,
    /// Its process.
    pub pid: u32,
    /// The resources that the process has used.
    pub usage: Usage,
}

/// Watches a run. Its methods are called on the thread that called [`run`] and should be quick.
pub trait Observer {
    /// Called about once a second, with the results since the last time.
    fn interval(&mut self, _interval: &Interval) {}

    /// Called when the measured time begins and when it ends: the resources that the nodes on this
    /// machine have used.
    fn usage(&mut self) -> Vec<NodeUsage> {
        Vec::new()
    }

    /// Whether to end the run now.
    fn stopped(&self) -> bool {
        false
    }
}

/// No observer.
impl Observer for () {}

/// A message of a thread.
enum News {
    Ready(Result<(), Failure>),
    Finished,
}

/// Runs a plan on a service, on threads of its own; the calling one waits.
///
/// # Errors
/// If a client cannot connect, or cannot take the lock that it needs.
///
/// # Panics
/// If a thread cannot be started.
pub fn run<T: Target>(
    target: &Arc<T>,
    plan: &Plan,
    observer: &mut impl Observer,
) -> Result<Measurement, Failure> {
    let shared = Arc::new(Shared::new(plan.clone()));
    let threads = plan.threads.clamp(1, plan.clients.max(1));
    let shards: Vec<_> = (0..threads).map(|_| Arc::new(Shard::new())).collect();
    let (tell, news) = channel();
    let (go, _) = watch::channel(None);
    let handles: Vec<_> = shards
        .iter()
        .enumerate()
        .map(|(number, shard)| {
            let clients = (number..plan.clients).step_by(threads).collect();
            let crew = Crew {
                target: Arc::clone(target),
                shared: Arc::clone(&shared),
                shard: Arc::clone(shard),
                clients,
                tell: tell.clone(),
                go: go.subscribe(),
            };
            std::thread::Builder::new()
                .name(format!("bench-{number}"))
                .spawn(move || crew.work())
                .expect("a thread can be started")
        })
        .collect();
    drop(tell);
    let ready = wait_ready(&news, threads, observer);
    let measured = ready.map(|()| {
        let schedule = schedule(plan);
        // A thread that has ended has reported it already.
        let _ = go.send(Some(schedule));
        let clients = Watch {
            news: &news,
            threads,
            finished: 0,
            shards: &shards,
            start: schedule.start,
            last: schedule.start,
            intervals: Vec::new(),
            interrupted: false,
            observer,
        };
        watch(clients, &shared, schedule)
    });
    // A thread that still waits for the start signal learns here that it will not come.
    drop(go);
    for handle in handles {
        handle.join().expect("a client does not panic");
    }
    measured.map(|seen| seen.finish(&shared, &shards))
}

fn schedule(plan: &Plan) -> Schedule {
    let start = SystemClock.raw() + RUN_UP;
    let window = match plan.workload {
        // It is measured from the first lock to the last, whenever that is.
        Workload::Hold { .. } => Window { open: start, close: Duration::MAX },
        Workload::Pairs
        | Workload::Contended
        | Workload::Queue
        | Workload::Renew
        | Workload::Check
        | Workload::Mixed => {
            let open = start + plan.warmup;
            Window { open, close: open + plan.duration }
        }
    };
    Schedule { start, window }
}

fn wait_ready(
    news: &Receiver<News>,
    threads: usize,
    observer: &impl Observer,
) -> Result<(), Failure> {
    let until = SystemClock.raw() + OPENING;
    let mut ready = 0;
    while ready < threads {
        if observer.stopped() {
            return Err(Failure::Unavailable("stopped before it began".to_owned()));
        }
        match news.recv_timeout(LOOK) {
            Ok(News::Ready(result)) => {
                result?;
                ready += 1;
            }
            Ok(News::Finished) => {}
            Err(RecvTimeoutError::Timeout) if SystemClock.raw() < until => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let why = format!("the clients were not connected within {OPENING:?}");
                return Err(Failure::Unavailable(why));
            }
        }
    }
    Ok(())
}

/// One thread's clients.
struct Crew<T: Target> {
    target: Arc<T>,
    shared: Arc<Shared>,
    shard: Arc<Shard>,
    clients: Vec<usize>,
    tell: Sender<News>,
    go: watch::Receiver<Option<Schedule>>,
}

impl<T: Target> Crew<T> {
    fn work(self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        runtime.block_on(self.run());
        // Background tasks of the services' clients are not awaited.
        runtime.shutdown_background();
    }

    async fn run(mut self) {
        let opened: Result<Vec<_>, _> = iter(self.clients.clone())
            .map(|client| {
                let (target, shared) = (Arc::clone(&self.target), Arc::clone(&self.shared));
                Worker::open(target, shared, Arc::clone(&self.shard), client)
            })
            .buffer_unordered(OPENING_AT_A_TIME)
            .try_collect()
            .await;
        let workers = match opened {
            Ok(workers) => {
                // The receiver is gone once another thread has failed.
                let _ = self.tell.send(News::Ready(Ok(())));
                workers
            }
            Err(failure) => {
                let _ = self.tell.send(News::Ready(Err(failure)));
                return;
            }
        };
        let Ok(schedule) = self.go.wait_for(Option::is_some).await.map(|schedule| *schedule) else {
            return;
        };
        let schedule = schedule.expect("it was waited for");
        let now = SystemClock.raw();
        tokio::time::sleep(schedule.start.saturating_sub(now)).await;
        let tasks: Vec<_> =
            workers.into_iter().map(|worker| tokio::spawn(worker.run(schedule))).collect();
        // Connections stay open until the usage of the nodes was read: some services' locks end with
        // them.
        let mut owners = Vec::new();
        for task in tasks {
            owners.push(task.await.expect("a client does not panic"));
        }
        let _ = self.tell.send(News::Finished);
        while self.go.changed().await.is_ok() {}
    }
}

/// The state of the watching thread, while the clients work.
struct Watch<'a, O> {
    news: &'a Receiver<News>,
    threads: usize,
    finished: usize,
    shards: &'a [Arc<Shard>],
    start: Duration,
    /// The time of the last point of the curves.
    last: Duration,
    intervals: Vec<Interval>,
    interrupted: bool,
    observer: &'a mut O,
}

impl<O: Observer> Watch<'_, O> {
    /// Adds a point each second until `end`, or until all clients have finished.
    fn until(&mut self, end: Duration, warmup: bool) {
        while self.last < end && self.finished < self.threads && !self.interrupted {
            let next = self.last.saturating_add(INTERVAL).min(end);
            self.wait_until(next);
            self.point(warmup);
        }
    }

    fn wait_until(&mut self, time: Duration) {
        while self.finished < self.threads && !self.interrupted {
            let left = time.saturating_sub(SystemClock.raw());
            if left.is_zero() {
                return;
            }
            match self.news.recv_timeout(left.min(LOOK)) {
                Ok(News::Finished) => self.finished += 1,
                Ok(News::Ready(_)) | Err(RecvTimeoutError::Timeout) => {}
                // Every thread is gone, and joining them tells why.
                Err(RecvTimeoutError::Disconnected) => self.finished = self.threads,
            }
            self.interrupted |= self.observer.stopped();
        }
    }

    /// Adds a point to the curves.
    fn point(&mut self, warmup: bool) {
        let now = SystemClock.raw();
        let mut recent = Counts::new();
        for shard in self.shards {
            shard.drain_recent(&mut recent);
        }
        let from = self.last.saturating_sub(self.start);
        let interval = Interval::new(&recent, from, now.saturating_sub(self.last), warmup);
        self.observer.interval(&interval);
        self.intervals.push(interval);
        self.last = now;
    }
}

/// The results of the watching thread.
struct Seen {
    schedule: Schedule,
    intervals: Vec<Interval>,
    /// When the measured time was over.
    ended: Duration,
    nodes: Vec<NodeFigures>,
    generator_cpu: Duration,
    interrupted: bool,
}

fn watch<O: Observer>(mut watch: Watch<'_, O>, shared: &Shared, schedule: Schedule) -> Seen {
    let window = schedule.window;
    watch.until(window.open, true);
    let before = watch.observer.usage();
    let own_before = processes::own_cpu();
    watch.until(window.close, false);
    shared.stop.store(true, Ordering::Relaxed);
    let own_after = processes::own_cpu();
    let after = watch.observer.usage();
    Seen {
        schedule,
        intervals: watch.intervals,
        ended: watch.last.min(window.close),
        nodes: NodeFigures::between(&before, &after),
        generator_cpu: own_after.saturating_sub(own_before),
        interrupted: watch.interrupted,
    }
}

impl Seen {
    fn finish(self, shared: &Shared, shards: &[Arc<Shard>]) -> Measurement {
        let mut counts = Counts::new();
        for shard in shards {
            shard.add_total(&mut counts);
        }
        let never_begun = self.count_never_begun(shared, &mut counts);
        Measurement {
            workload: shared.plan.workload,
            clients: shared.plan.clients,
            threads: shards.len(),
            pace: shared.plan.pace,
            warmup_seconds: shared.plan.warmup.as_secs_f64(),
            measured_seconds: self.measured().as_secs_f64(),
            interrupted: self.interrupted,
            operations: OperationFigures::all(&counts, self.measured()),
            handovers_per_second: per_second(counts.handovers, self.measured()),
            never_begun,
            generator_cpu_seconds: self.generator_cpu.as_secs_f64(),
            nodes: self.nodes,
            intervals: self.intervals,
        }
    }

    fn measured(&self) -> Duration {
        self.ended.saturating_sub(self.schedule.window.open)
    }

    /// Counts the operations that were due in the window and never begun, with the time that they
    /// had waited.
    fn count_never_begun(&self, shared: &Shared, counts: &mut Counts) -> u64 {
        let Schedule { start, window } = self.schedule;
        let pace = shared.plan.pace;
        let begun = shared.tickets.load(Ordering::Relaxed);
        let due = pace.due_before(self.ended.saturating_sub(start));
        let tally = counts.of_mut(first_operation(shared.plan.workload));
        let mut never_begun = 0;
        for time in (begun..due).filter_map(|number| pace.due(number)) {
            if start + time >= window.open {
                never_begun += 1;
                tally.note_waiting(self.ended.saturating_sub(start + time));
            }
        }
        never_begun
    }
}

/// The first operation of a turn of this workload.
fn first_operation(workload: Workload) -> Operation {
    match workload {
        Workload::Pairs
        | Workload::Contended
        | Workload::Queue
        | Workload::Hold { .. }
        | Workload::Mixed => Operation::Acquire,
        Workload::Renew => Operation::Renew,
        Workload::Check => Operation::Check,
    }
}
