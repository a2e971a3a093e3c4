//! One run: nodes, clients, faults, healing, judgement.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyward::api::{ClusterStatus, routes};
use keyward::client::tls;
use tokio::task::JoinHandle;

use super::access::{self, Intrusion};
use super::boundary;
use super::fault::{Fault, Needs};
use super::fill::Fill;
use super::hooks::{Hook, Hooks};
use super::live::Live;
use super::nemesis::{Breaker, Disks, Nemesis, WallClocks};
use super::observe;
use super::plan::{self, Frame, Planned};
use super::progress::Progress;
use super::service::{Keyward, Subject};
use super::summary::{Quantiles, Summary, Verdict};
use super::workload::{Crew, Shared, Size, Workload};
use crate::check::{self, Conclusion, ReportError, Source, State};
use crate::cluster::{Cluster, ClusterOptions, NodeId};
use crate::history::{Header, HistoryError, PlannedFault, Recorder};
use crate::limits::Seen;
use crate::powercut::Disk;
use crate::register::Registers;
use crate::wait::Stopwatch;

/// The time after the last fault's end within which a fresh lock must be acquired.
const ALIVE: Duration = Duration::from_secs(10);

/// The time for which clients go on after the service is alive again.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// The timeout for the first acknowledgement.
const FIRST: Duration = Duration::from_secs(30);

/// The number of violations in the summary; all are in the report.
const SHOWN: usize = 10;

/// The most that a lock may be late under faults that must have no effect: longer than anything
/// waits on a busy machine, and next to nothing beside the effect of such a fault.
const LATE: Duration = Duration::from_secs(3);

/// The length from which a run must have reached every limit.
const LIMITS: Duration = Duration::from_secs(20);

/// The interval at which the leader is looked up.
const LOOK: Duration = Duration::from_millis(100);

/// The parameters of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed of every choice.
    pub seed: u64,
    /// The command that repeats the run.
    pub command: String,
    /// The time within which faults may begin.
    pub duration: Duration,
    /// The faults; without any, the run is undisturbed.
    pub faults: Vec<Fault>,
    /// Whether faults are a round of the sweep through the calls to disks, instead of drawn.
    pub sweep: bool,
    /// Whether the faults must have no effect at all: no other leader, and no lock that ends late.
    pub undisturbed: bool,
    /// The mean time between two faults of one lane.
    pub every: Duration,
    /// The workloads of the clients.
    pub workloads: Vec<Workload>,
    /// The amount of work.
    pub size: Size,
    /// The number of locks with long names that fill a table meanwhile; on Keyward's own nodes.
    pub fill: u64,
    /// ρ as configured in the service, in parts per million.
    pub rho_ppm: u32,
    /// The path of the history.
    pub history: PathBuf,
    /// The path of a page about the run, if one is written.
    pub report: Option<PathBuf>,
    /// Whether no progress is shown.
    pub quiet: bool,
}

/// The configuration of a cluster of Keyward.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// The number of nodes.
    pub count: u64,
    /// The program.
    pub program: PathBuf,
    /// The program that nodes are upgraded to.
    pub other_program: Option<PathBuf>,
    /// Whether they have TLS on both ports and access control, with intruders who ask.
    pub secured: bool,
    /// Further arguments of `keyward serve`.
    pub arguments: Vec<String>,
    /// The rate of each node's clock beside real time, in parts per million, from node 1 on.
    pub clock_rates: Vec<i64>,
}

/// The run could not begin, or broke off.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file cannot be written or read.
    #[error("{what}: {path}")]
    File {
        /// The action that failed.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The history cannot be judged.
    #[error("the history cannot be judged")]
    History(#[from] HistoryError),
    /// The page about the run cannot be written.
    #[error("the report cannot be written to {path}")]
    Report {
        /// The path of the page.
        path: PathBuf,
        /// The cause.
        #[source]
        source: ReportError,
    },
    /// The run cannot show anything here.
    #[error("{0}")]
    Impossible(String),
}

/// Runs Keyward's own nodes.
///
/// # Errors
/// If the run cannot be begun.
pub async fn keyward(options: &Options, nodes: &Nodes) -> Result<Summary, RunError> {
    let arguments = nodes.arguments.clone();
    let program = Some(nodes.program.clone());
    let service = format!("Keyward, {} nodes", nodes.count);
    let plan = draw(options)?;
    let run = Run::new(options, service, planned(&plan), plan, true, nodes.count)?;
    let tls = nodes.secured;
    let mut cluster =
        Cluster::prepare(ClusterOptions { nodes: nodes.count, arguments, program, tls }).await;
    for (id, rate) in (1..).zip(&nodes.clock_rates) {
        cluster.own(id).arguments = vec![format!("--debug-clock-rate={rate}")];
    }
    let disks = run.disks(&mut cluster)?;
    let wall_clocks = run.wall_clocks(&mut cluster);
    if nodes.secured {
        access::prepare(&mut cluster);
    }
    if !options.sweep {
        cluster.start_all().await;
    }
    let (credentials, intrusion) = if nodes.secured {
        let credentials = access::open(&cluster).await;
        (Some(credentials), Some(Intrusion::start(&cluster, options.seed).await))
    } else {
        (None, None)
    };
    let endpoints = cluster.endpoints();
    let watch = Leaders::watch(endpoints.clone(), cluster.http().clone(), run.recorder.clone());
    let (recorder, progress) = (run.recorder.clone(), run.progress.clone());
    let subject =
        Keyward::new(endpoints, recorder.clone(), progress.clone()).with_credentials(credentials);
    let fill = (options.fill > 0).then(|| Fill::start(subject.unrecorded(0), options.fill));
    let mut nemesis = Nemesis::new(cluster, recorder, progress)
        .with_disks(disks)
        .with_wall_clocks(wall_clocks)
        .with_other_program(nodes.other_program.clone());
    let worked = run.work(&subject, &mut nemesis).await;
    let changes = watch.stop();
    let intruded = match intrusion {
        Some(intrusion) => Some(intrusion.finish().await),
        None => None,
    };
    let filled = match fill {
        Some(fill) => fill.finish(&subject.unrecorded(1), options.fill / 2).await,
        None => (0, Vec::new()),
    };
    observe::amounts(nemesis.victim(), run.recorder.reach());
    if nemesis.findings().is_empty() {
        observe::nodes(nemesis.victim(), &run.recorder).await.map_err(RunError::Impossible)?;
    }
    let mut summary = run.judge(&nemesis, worked, changes)?;
    if let Some((intruders, wrong)) = intruded {
        summary.harness_errors.extend(intruders.lacks());
        summary.violations.extend(wrong);
        summary.intruders = Some(intruders);
    }
    let (taken, lost) = filled;
    summary.filled = taken;
    summary.violations.extend(lost);
    if options.fill > 0 {
        let missing = summary.reached.missing(Seen::FromOutside);
        summary.harness_errors.extend(missing);
        if summary.filled < options.fill / 2 {
            let why = format!("{} of {} locks were taken", summary.filled, options.fill);
            summary.harness_errors.push(why);
        }
    }
    summary.judge();
    Ok(summary)
}

/// Runs three nodes of another product, through its adapter.
///
/// # Errors
/// If the run cannot be begun.
#[cfg(feature = "peers")]
pub async fn peer(options: &Options, peer: super::peer::Peer) -> Result<Summary, RunError> {
    use super::peer::Peer;
    use super::service::Watched;
    use crate::peers::etcd::{Etcd, LeaseOf, Manner};
    use crate::peers::redis::Redis;
    use crate::peers::server::Servers;

    let only = [
        Fault::Kill,
        Fault::KillLeader,
        Fault::KillMany,
        Fault::Pause,
        Fault::Restart,
        Fault::LeaderChange,
    ];
    if let Some(fault) = options.faults.iter().find(|fault| !only.contains(fault)) {
        let known = only.map(Fault::name).join(", ");
        let why = format!("{fault} cannot be done to {peer} here; these can: {known}");
        return Err(RunError::Impossible(why));
    }
    let plan = draw(options)?;
    let run = Run::new(options, peer.to_string(), planned(&plan), plan, false, 0)?;
    let servers = Servers::start(peer.kind(), &std::env::temp_dir()).await;
    let servers = servers.map_err(RunError::Impossible)?;
    let (recorder, progress) = (run.recorder.clone(), run.progress.clone());
    let endpoints = servers.endpoints();
    let mut nemesis = Nemesis::new(servers, recorder.clone(), progress.clone());
    let worked = match peer {
        Peer::Etcd => {
            let etcd = Etcd::new(endpoints, Manner::Transaction, LeaseOf::TheLock);
            run.work(&Watched::new(etcd, recorder, progress), &mut nemesis).await
        }
        Peer::Redis => {
            let redis = Redis::new(endpoints.into_iter().take(1).collect());
            run.work(&Watched::new(redis, recorder, progress), &mut nemesis).await
        }
        Peer::Redlock => {
            let redlock = Watched::new(Redis::new(endpoints), recorder, progress);
            run.work(&redlock.with_vague_refusals(), &mut nemesis).await
        }
    };
    run.judge(&nemesis, worked, 0)
}

/// Runs the workloads against nodes that others started, with faults that others install.
///
/// # Errors
/// If the run cannot be begun.
pub async fn endpoints(
    options: &Options,
    endpoints: Vec<String>,
    hooks: Vec<Hook>,
) -> Result<Summary, RunError> {
    let service = format!("Keyward at {}", endpoints.join(", "));
    // The recorder exists only after the header, and the header needs the plan.
    let draw = |recorder| {
        Hooks::new(hooks.clone(), options.seed, options.duration, options.every, recorder)
    };
    let faults = draw(Recorder::in_memory()).planned();
    let run = Run::new(options, service, faults, Vec::new(), true, 0)?;
    let mut nemesis = draw(run.recorder.clone());
    let watch = Leaders::watch(endpoints.clone(), plain_http(), run.recorder.clone());
    let (recorder, progress) = (run.recorder.clone(), run.progress.clone());
    let worked = run.work(&Keyward::new(endpoints, recorder, progress), &mut nemesis).await;
    let changes = watch.stop();
    run.judge(&nemesis, worked, changes)
}

/// The result of the clients' work.
#[derive(Clone, Copy)]
struct Worked {
    /// The length of their work.
    took: Duration,
    /// Whether the outcome of every request is known.
    settled: bool,
}

/// The state that all runs share.
struct Run<'a> {
    options: &'a Options,
    plan: Vec<Planned>,
    service: String,
    recorder: Recorder,
    progress: Progress,
    registers: Registers,
    live: Live,
}

impl<'a> Run<'a> {
    fn new(
        options: &'a Options,
        service: String,
        faults: Vec<PlannedFault>,
        plan: Vec<Planned>,
        witnessed: bool,
        observed_nodes: u64,
    ) -> Result<Self, RunError> {
        let mut header = Header::new(options.seed, options.command.clone(), service.clone());
        header.clocks.rho_ppm = options.rho_ppm;
        header.plan.faults = faults;
        header.plan.min_successes = 2 * options.duration.as_secs().max(10);
        header.plan.alive_within_ms = 10_000;
        header.plan.witnessed = witnessed;
        header.plan.observed_nodes = observed_nodes;
        let path = &options.history;
        let file = |source| RunError::File {
            what: "cannot write the history",
            path: path.clone(),
            source,
        };
        let recorder = Recorder::to_file(path, &header).map_err(file)?;
        let progress = Progress::default();
        let live = Live::new(progress.clone(), options.duration, options.quiet);
        let registers = Registers::default();
        Ok(Self { options, plan, service, recorder, progress, registers, live })
    }

    /// Disks that lose unsynced data, if a fault needs them.
    fn disks(&self, cluster: &mut Cluster) -> Result<Disks, RunError> {
        let Some(fault) = self.options.faults.iter().find(|fault| fault.needs() == Needs::Fuse)
        else {
            return Ok(Disks::default());
        };
        Disk::possible()
            .and_then(|()| Disks::mount(cluster).map_err(|error| error.to_string()))
            .map_err(|why| RunError::Impossible(format!("{fault} is not possible here: {why}")))
    }

    /// Wall clocks that can be stepped, if a fault needs them.
    fn wall_clocks(&self, cluster: &mut Cluster) -> WallClocks {
        if self.options.faults.iter().any(|fault| fault.needs() == Needs::WallClocks) {
            WallClocks::prepare(cluster)
        } else {
            WallClocks::default()
        }
    }

    /// Runs clients and faults, and takes back every fault at the end.
    async fn work<S: Subject>(&self, subject: &S, nemesis: &mut impl Breaker) -> Worked {
        let shared = Shared {
            recorder: self.recorder.clone(),
            progress: self.progress.clone(),
            registers: self.registers.clone(),
            size: self.options.size,
        };
        let watch = Stopwatch::start();
        let crew = Crew::start(&self.options.workloads, subject, &shared, self.options.seed);
        let faults = async {
            nemesis.boot(&self.plan, &|words| self.live.say(&words)).await;
            self.progress.acknowledgement(FIRST).await;
            let begun = Stopwatch::start();
            nemesis.execute(&self.plan, &|words| self.live.say(&words)).await;
            // A sweep has no fixed length.
            if !self.options.sweep {
                tokio::time::sleep(self.options.duration.saturating_sub(begun.elapsed())).await;
            }
            self.live.say("healing");
            nemesis.heal().await;
            self.recorder.event("healed", "");
            // Refusals keep a service alive too, so the whole time is used only if nothing is
            // acknowledged.
            self.progress.acknowledgement(ALIVE).await;
            tokio::time::sleep(AFTERWARDS).await;
        };
        tokio::select! {
            () = faults => {}
            () = self.live.show() => {}
        }
        crew.stop().await;
        let took = watch.elapsed();
        Worked { took, settled: subject.settle().await }
    }

    fn judge(
        self,
        nemesis: &impl Breaker,
        Worked { took, settled }: Worked,
        leader_changes: u64,
    ) -> Result<Summary, RunError> {
        let path = self.options.history.clone();
        let file = |source| RunError::File { what: "cannot write the history", path, source };
        self.recorder.finish(settled).map_err(file)?;
        let mut summary = Summary {
            service: self.service.clone(),
            seed: self.options.seed,
            command: self.options.command.clone(),
            took,
            verdict: Verdict::HarnessError,
            violations: nemesis.findings().to_vec(),
            broken: 0,
            harness_errors: Vec::new(),
            checks: Vec::new(),
            counts: self.progress.counts(),
            done: nemesis.done(),
            deaths: nemesis.deaths().to_vec(),
            registers: self.registers.tally(),
            leader_changes,
            lateness: Quantiles::of(&self.progress.lateness()),
            failovers_ms: self.progress.failovers().iter().map(milliseconds).collect(),
            reached: self.recorder.reach().reached(),
            filled: 0,
            intruders: None,
        };
        summary.violations.extend(self.recorder.reach().broken());
        if self.options.undisturbed {
            summary.violations.extend(disturbed(&summary));
        }
        self.judge_history(&mut summary)?;
        let done = summary.done;
        if done.skipped + done.indeterminate > 0 {
            summary.harness_errors.push(format!(
                "{} faults were skipped and {} are indeterminate",
                done.skipped, done.indeterminate
            ));
        }
        if self.goes_to_limits() {
            summary.harness_errors.extend(summary.reached.missing(Seen::Asked));
        }
        let freezing = [Workload::Register, Workload::Freeze];
        if self.options.workloads.iter().any(|workload| freezing.contains(workload))
            && summary.counts.freezes == 0
        {
            summary.harness_errors.push(String::from("no holder froze: the run was too short"));
        }
        summary.judge();
        Ok(summary)
    }

    /// Whether clients reach all limits: those of the mix do, on Keyward, if there is time for it.
    fn goes_to_limits(&self) -> bool {
        let keyward = self.service.starts_with("Keyward");
        let mixed = self.options.workloads.contains(&Workload::Mix);
        keyward && mixed && self.options.duration >= LIMITS
    }

    /// Judges the history, and adds the results to the summary.
    fn judge_history(&self, summary: &mut Summary) -> Result<(), RunError> {
        let source = Source::File(&self.options.history);
        let verdict = check::check(source, check::Options::default())?;
        if let Some(path) = &self.options.report {
            let source = Source::File(&self.options.history);
            check::write_report(path, source, &verdict)
                .map_err(|source| RunError::Report { path: path.clone(), source })?;
        }
        for (name, state) in &verdict.checks {
            summary.checks.push(match state {
                State::Passed(what) => format!("{name}: passed ({what})"),
                State::Violated => format!("{name}: VIOLATED"),
                State::NotChecked(why) => format!("{name}: not checked ({why})"),
            });
        }
        summary.broken = verdict.violations.len() as u64;
        let shown = verdict.violations.iter().take(SHOWN).map(ToString::to_string);
        summary.violations.extend(shown);
        summary.harness_errors.extend(verdict.missing.iter().cloned());
        if verdict.conclusion == Conclusion::NothingShown && verdict.missing.is_empty() {
            let why = "neither check of linearizability could look at everything";
            summary.harness_errors.push(why.to_owned());
        }
        Ok(())
    }
}

/// The schedule of a run, with every kind of fault in it.
fn draw(options: &Options) -> Result<Vec<Planned>, RunError> {
    if options.sweep {
        return Ok(boundary::sweep(options.seed));
    }
    let frame = Frame {
        faults: options.faults.clone(),
        duration: options.duration,
        lease: options.size.lease,
        election: Duration::from_secs(1),
        every: options.every,
    };
    let plan = plan::draw(options.seed, &frame);
    let lacks = |&&fault: &&Fault| plan.iter().all(|one| one.fault != fault);
    match options.faults.iter().find(lacks) {
        None => Ok(plan),
        Some(missing) => Err(RunError::Impossible(format!(
            "{:?} is too short for a {missing}: give a longer --duration or a shorter --every",
            options.duration
        ))),
    }
}

/// The effects of faults that must have none. Whether a lock ended early is judged with the
/// history.
fn disturbed(summary: &Summary) -> Vec<String> {
    let mut found = Vec::new();
    if summary.leader_changes > 0 {
        let changes = summary.leader_changes;
        found.push(format!("{changes} changes of leader under faults that must cause none"));
    }
    let late = summary.lateness.max_ms;
    if late > milliseconds(&LATE) {
        found.push(format!("a lock was had {late:.0} ms late, beyond {LATE:?}"));
    }
    found
}

fn milliseconds(time: &Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The number of planned faults of each kind.
fn planned(plan: &[Planned]) -> Vec<PlannedFault> {
    let mut all: Vec<PlannedFault> = Vec::new();
    for one in plan {
        match all.iter_mut().find(|planned| planned.name == one.fault.name()) {
            Some(planned) => planned.at_least += 1,
            None => all.push(PlannedFault { name: one.fault.name().to_owned(), at_least: 1 }),
        }
    }
    all
}

/// Polls for the leader, and records every change.
struct Leaders {
    changes: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Leaders {
    fn watch(endpoints: Vec<String>, http: reqwest::Client, recorder: Recorder) -> Self {
        let changes = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(look(endpoints, http, recorder, Arc::clone(&changes)));
        Self { changes, task }
    }

    fn stop(self) -> u64 {
        self.task.abort();
        self.changes.load(Ordering::Relaxed)
    }
}

fn plain_http() -> reqwest::Client {
    tls::plain().build().expect("a client without TLS needs nothing")
}

async fn look(
    endpoints: Vec<String>,
    http: reqwest::Client,
    recorder: Recorder,
    changes: Arc<AtomicU64>,
) {
    let mut known: Option<(u64, NodeId)> = None;
    loop {
        for (place, endpoint) in (1..).zip(&endpoints) {
            let Ok(answer) =
                http.get(format!("{endpoint}{}", routes::CLUSTER)).timeout(LOOK * 3).send().await
            else {
                continue;
            };
            let Ok(status) = answer.json::<ClusterStatus>().await else { continue };
            let leads = status.leader == Some(place);
            if leads && known.is_none_or(|(term, _)| status.term > term) {
                if known.is_some() {
                    changes.fetch_add(1, Ordering::Relaxed);
                }
                known = Some((status.term, place));
                recorder.event("leader", format!("node {place}, term {}", status.term));
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The default path of a history.
pub fn history_in(folder: &Path) -> PathBuf {
    folder.join("history.jsonl")
}
