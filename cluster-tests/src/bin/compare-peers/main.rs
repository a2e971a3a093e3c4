//! Measures Keyward beside etcd, ZooKeeper and Redis, and writes the table of
//! `docs/performance.md`.
//!
//! Every service has three nodes on this machine, with its default durability and its data on the
//! same disk. All run at the same time; those that are not measured are idle. Each is warmed up
//! after its start until it gets no faster: a virtual machine compiles code that is called often. A
//! round measures each in turn, so that other work of the machine falls on all of them. Ratios are
//! of one run's medians. [`rows`] defines the loads, [`failover`] kills leaders, [`results`] has
//! the goals.

mod failover;
mod results;
mod rows;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use cluster_tests::peers::etcd::{Etcd, LeaseOf, Manner as EtcdManner};
use cluster_tests::peers::redis::Redis;
use cluster_tests::peers::server::{Kind, Servers};
use cluster_tests::peers::zookeeper::{Manner as ZooKeeperManner, ZooKeeper};
use keyward::Client;
use keyward::bench::{
    self, Failure, Http, Measurement, NodeUsage, Observer, Operation, Plan, Services, Usage,
    Workload,
};
use tokio::runtime::Runtime;

use results::{Cell, Figure, Results, RowResults};
use rows::{Load, Row, Service};

const ANSWER: Duration = Duration::from_secs(10);

/// A `ZooKeeper` session outlives any stall of a busy machine; it ends locks of clients that died.
const SESSION: Duration = Duration::from_secs(30);

/// The length of each load of the warm-up.
const WARM_UP_SECONDS: u64 = 5;

/// A service is warm when this many loads in a row were not faster than those before by
/// [`STILL_WARMING`].
const WARM_AFTER: u32 = 2;
const STILL_WARMING: f64 = 1.05;

/// The most loads for the warm-up of a service that gets faster and faster.
const WARM_UP_LOADS: u32 = 12;

const HELD: u64 = 100_000;
const MANY: u64 = 1_000_000;
const SOAK_SECONDS: u64 = 600;

/// The marks around the table in the documentation.
const BEGIN: &str = "<!-- compare-peers: begin -->";
const END: &str = "<!-- compare-peers: end -->";
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md");

/// Measure Keyward beside etcd, `ZooKeeper` and Redis, on this machine
///
/// `KEYWARD_BIN` names the program. A service that is not installed is skipped, with a message.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these rows [default: all but `million` and `soak`]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Row>,
    /// How many rounds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// How long each load is measured, after a second of warm-up
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How often the leader of each service is killed
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    kills: u64,
    /// How many locks the row `held` takes
    #[arg(long, default_value_t = HELD, value_parser = clap::value_parser!(u64).range(1..))]
    locks: u64,
    /// Where the data is, below which each node has a folder; it must be on a disk
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    data_dir: PathBuf,
    /// The file of results, as JSON. Rows of an earlier run that are not measured now are kept
    #[arg(long, default_value = "docs/compare-peers.json")]
    results: PathBuf,
    /// Write the table into docs/performance.md
    #[arg(long)]
    write: bool,
    /// Measure nothing: only show (or write) the table of earlier results
    #[arg(long, conflicts_with = "only")]
    table: bool,
}

fn main() -> ExitCode {
    match compare(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("compare-peers: {why}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &Arguments) -> Result<(), String> {
    let runtime = Runtime::new().map_err(|error| error.to_string())?;
    let stop = Arc::new(AtomicBool::new(false));
    runtime.spawn(stop_on_signal(Arc::clone(&stop)));
    let mut results = Results::read(&arguments.results)?;
    let mut bench = Bench { arguments, runtime, stop, running: BTreeMap::new() };
    let rows = match (arguments.table, arguments.only.is_empty()) {
        (true, _) => Vec::new(),
        (false, true) => Row::USUAL.to_vec(),
        (false, false) => arguments.only.clone(),
    };
    for row in rows {
        eprintln!("== {}", row.title());
        let measured = bench.row(row, &mut results)?;
        results.rows.insert(row, measured);
        // Written after each row: a result is not lost if the next row fails.
        results.write(&arguments.results)?;
    }
    let markdown = results.markdown();
    println!("{markdown}");
    if arguments.write { write_document(&markdown) } else { Ok(()) }
}

async fn stop_on_signal(stop: Arc<AtomicBool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    stop.store(true, Ordering::SeqCst);
}

/// The running services and the arguments of the measurement.
struct Bench<'a> {
    arguments: &'a Arguments,
    runtime: Runtime,
    stop: Arc<AtomicBool>,
    running: BTreeMap<Service, Servers>,
}

impl Bench<'_> {
    fn row(&mut self, row: Row, results: &mut Results) -> Result<RowResults, String> {
        let mut measured = RowResults { command: self.command(row), ..RowResults::default() };
        let mut present = Vec::new();
        for service in row.services() {
            match kind(*service).installed() {
                Ok(()) => present.push(*service),
                Err(why) => {
                    eprintln!("   {} is SKIPPED: {why}", service.name());
                    measured.skipped.insert(*service, why);
                }
            }
        }
        let rounds =
            if row.load().is_some() || row == Row::HttpAlone { self.arguments.rounds } else { 1 };
        for _ in 0..rounds {
            for service in &present {
                let cell = self.cell(row, *service, results)?;
                if self.stop.load(Ordering::SeqCst) {
                    return Err("interrupted; rows that were measured before are kept".to_owned());
                }
                eprintln!("   {}: {}", service.name(), shown(&cell));
                let all = measured.services.entry(*service).or_default();
                for (figure, values) in cell {
                    all.entry(figure).or_default().extend(values);
                }
            }
        }
        Ok(measured)
    }

    /// Measures a row on one service, once.
    fn cell(&mut self, row: Row, service: Service, results: &mut Results) -> Result<Cell, String> {
        if let Some(load) = row.load() {
            self.start(service, results)?;
            return self.loaded(service, load);
        }
        match row {
            Row::HttpAlone => {
                self.start(service, results)?;
                self.beside_http_alone()
            }
            Row::Failover => {
                let servers = self.fresh(service, results)?;
                let (kills, stop) = (self.arguments.kills, &self.stop);
                let times = failover::kill_leaders(servers, service, kills, stop);
                let times = self.runtime.block_on(times)?;
                Ok(Cell::from([(Figure::NextLockSeconds, times)]))
            }
            Row::Held => self.held(service, results),
            Row::Million => self.million(service, results),
            Row::Soak => {
                self.start(service, results)?;
                let load = Row::Pairs64.load().expect("it is a load");
                let servers = &self.running[&service];
                let seen = self.measure(servers, service, load, &load.plan(SOAK_SECONDS))?;
                let acquire = seen.of(Operation::Acquire).ok_or("nothing was acquired")?;
                let mut cell = cell_of(&seen);
                cell.insert(Figure::P999Ms, vec![ms(acquire.p999_us)]);
                cell.insert(Figure::MaxMs, vec![ms(acquire.max_us)]);
                Ok(cell)
            }
            Row::Pairs1
            | Row::Pairs64
            | Row::Pairs64Spread
            | Row::Pairs256
            | Row::Pairs256Spread
            | Row::Library256
            | Row::Contended
            | Row::Renewals
            | Row::RenewalsLibrary => Err("it is a load".to_owned()),
        }
    }

    fn loaded(&self, service: Service, load: Load) -> Result<Cell, String> {
        let plan = load.plan(self.arguments.seconds);
        self.measure(&self.running[&service], service, load, &plan).map(|seen| cell_of(&seen))
    }

    fn held(&self, service: Service, results: &mut Results) -> Result<Cell, String> {
        let servers = self.fresh(service, results)?;
        let seen = self.hold(&servers, service, self.arguments.locks)?;
        // Memory is measured once the others have caught up and had time to tidy up.
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_secs(1)).await });
        let resident = servers.usages().iter().map(|usage| usage.resident_bytes).max().unwrap_or(0);
        Ok(Cell::from([
            (Figure::TakenSeconds, vec![seen.measured_seconds]),
            (Figure::ResidentMib, vec![mib(resident)]),
            (Figure::Failures, vec![count(seen.failures())]),
        ]))
    }

    fn million(&self, service: Service, results: &mut Results) -> Result<Cell, String> {
        let servers = self.fresh(service, results)?;
        let load = Row::Pairs64.load().expect("it is a load");
        let plan = load.plan(self.arguments.seconds * 2);
        let before = self.measure(&servers, service, load, &plan)?;
        let held = self.hold(&servers, service, MANY)?;
        let after = self.measure(&servers, service, load, &plan)?;
        Ok(Cell::from([
            (Figure::Ratio, vec![after.per_second() / before.per_second()]),
            (Figure::TakenSeconds, vec![held.measured_seconds]),
            (Figure::PerSecond, vec![after.per_second()]),
        ]))
    }

    fn hold(&self, servers: &Servers, service: Service, locks: u64) -> Result<Measurement, String> {
        let load =
            Load { workload: Workload::Hold { locks }, clients: 64, spread: false, shared: false };
        let day = Duration::from_secs(24 * 60 * 60);
        let plan = Plan { lock_duration: day, ..load.plan(1) };
        self.measure(servers, service, load, &plan)
    }

    /// The program measures both by itself, one after the other.
    fn beside_http_alone(&self) -> Result<Cell, String> {
        let endpoints = self.running[&Service::Keyward].endpoints().join(",");
        let seconds = format!("{}s", self.arguments.seconds);
        let output = std::process::Command::new(program())
            .args(["bench", "pairs", "--limit", "--clients", "64", "--warmup", "1s", "--json"])
            .args(["--duration", &seconds, "--endpoints", &endpoints])
            .output()
            .map_err(|error| format!("keyward bench does not start: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let document: serde_json::Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("keyward bench --json: {error}"))?;
        let ratio = document["ratio"].as_f64().ok_or("keyward bench gives no ratio")?;
        Ok(Cell::from([(Figure::Ratio, vec![ratio])]))
    }

    fn measure(
        &self,
        servers: &Servers,
        service: Service,
        load: Load,
        plan: &Plan,
    ) -> Result<Measurement, String> {
        let leader = self.runtime.block_on(servers.leader());
        let endpoints =
            if load.spread { servers.endpoints() } else { vec![servers.endpoint(leader)] };
        let mut watch = Watch { servers, leader, stop: &self.stop };
        let queued = load.workload == Workload::Queue;
        let seen = match service {
            Service::Keyward | Service::KeywardFast if load.shared => {
                let client = Client::builder().endpoints(endpoints).timeout(ANSWER).build();
                let target = Services::new(vec![client.map_err(say)?], "compare");
                // One client's connections belong to one runtime.
                bench::run(&Arc::new(target), &Plan { threads: 1, ..plan.clone() }, &mut watch)
            }
            Service::Keyward | Service::KeywardFast => {
                let target = Http::new(&endpoints, "compare", ANSWER).map_err(say)?;
                bench::run(&Arc::new(target), plan, &mut watch)
            }
            Service::Etcd => {
                // The lock service where callers queue; a transaction, which is faster, where none
                // do.
                let manner = if queued { EtcdManner::LockService } else { EtcdManner::Transaction };
                let target = Etcd::new(endpoints, manner, LeaseOf::TheSession);
                bench::run(&Arc::new(target), plan, &mut watch)
            }
            Service::ZooKeeper => {
                let manner =
                    if queued { ZooKeeperManner::Recipe } else { ZooKeeperManner::Ephemeral };
                let target = ZooKeeper::new(endpoints, manner, SESSION);
                bench::run(&Arc::new(target), plan, &mut watch)
            }
            Service::Redlock => {
                let target = Redis::new(servers.endpoints());
                bench::run(&Arc::new(target), plan, &mut watch)
            }
        };
        seen.map_err(|failure: Failure| format!("{}: {failure}", service.name()))
    }

    /// Ensures that a service runs and is warm; it stays until the end.
    fn start(&mut self, service: Service, results: &mut Results) -> Result<(), String> {
        if !self.running.contains_key(&service) {
            let servers = self.fresh(service, results)?;
            self.warm_up(&servers, service)?;
            self.running.insert(service, servers);
        }
        Ok(())
    }

    /// Puts a load on a service until it gets no faster.
    fn warm_up(&self, servers: &Servers, service: Service) -> Result<(), String> {
        let load = Row::Pairs64.load().expect("it is a load");
        let mut rates = Vec::new();
        let mut best = 0.0_f64;
        let mut in_a_row = 0;
        for _ in 0..WARM_UP_LOADS {
            let rate =
                self.measure(servers, service, load, &load.plan(WARM_UP_SECONDS))?.per_second();
            rates.push(format!("{rate:.0}"));
            in_a_row = if rate > best * STILL_WARMING { 0 } else { in_a_row + 1 };
            best = best.max(rate);
            if in_a_row == WARM_AFTER || self.stop.load(Ordering::SeqCst) {
                break;
            }
        }
        eprintln!("   {} is warmed up: {} pairs/s", service.name(), rates.join(", "));
        Ok(())
    }

    /// Starts a service with nothing in it.
    fn fresh(&self, service: Service, results: &mut Results) -> Result<Servers, String> {
        let started = Servers::start(kind(service), &self.arguments.data_dir);
        let servers = self.runtime.block_on(started)?;
        let version = self.runtime.block_on(servers.version());
        results.versions.insert(service, version);
        results.commands.insert(service, servers.command_line(0));
        Ok(servers)
    }

    /// The command that measures this row again.
    fn command(&self, row: Row) -> String {
        let Arguments { rounds, seconds, kills, .. } = self.arguments;
        let only = row.word();
        match row {
            Row::Failover => format!("scripts/compare-peers --only {only} --kills {kills}"),
            Row::Held | Row::Soak => format!("scripts/compare-peers --only {only}"),
            Row::Million => format!("scripts/compare-peers --only {only} --seconds {seconds}"),
            Row::Pairs1
            | Row::Pairs64
            | Row::Pairs64Spread
            | Row::Pairs256
            | Row::Pairs256Spread
            | Row::Library256
            | Row::Contended
            | Row::Renewals
            | Row::RenewalsLibrary
            | Row::HttpAlone => {
                format!("scripts/compare-peers --only {only} --rounds {rounds} --seconds {seconds}")
            }
        }
    }
}

/// Watches the nodes for a measurement.
struct Watch<'a> {
    servers: &'a Servers,
    leader: usize,
    stop: &'a AtomicBool,
}

impl Observer for Watch<'_> {
    fn usage(&mut self) -> Vec<NodeUsage> {
        let usages = self.servers.usages().into_iter().zip(0_u32..);
        usages
            .map(|(usage, number)| NodeUsage {
                name: format!("node {}", number + 1),
                leads: usize::try_from(number) == Ok(self.leader),
                pid: number,
                usage: Usage {
                    cpu: usage.cpu,
                    resident_bytes: usage.resident_bytes,
                    written_bytes: usage.written_bytes,
                },
            })
            .collect()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

fn kind(service: Service) -> Kind {
    let arguments = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match service {
        Service::Keyward => Kind::Keyward { program: program(), arguments: Vec::new() },
        Service::KeywardFast => {
            Kind::Keyward { program: program(), arguments: arguments(&["--profile", "fast"]) }
        }
        Service::ZooKeeper => Kind::ZooKeeper,
        Service::Etcd => Kind::Etcd,
        Service::Redlock => Kind::Redis,
    }
}

fn program() -> PathBuf {
    std::env::var_os("KEYWARD_BIN").map_or_else(|| PathBuf::from("keyward"), PathBuf::from)
}

fn cell_of(seen: &Measurement) -> Cell {
    let mut cell = Cell::from([
        (Figure::PerSecond, vec![seen.per_second()]),
        (Figure::Failures, vec![count(seen.failures())]),
    ]);
    if let Some(cpu) = seen.server_cpu_per_1000() {
        cell.insert(Figure::CpuPer1000, vec![cpu]);
    }
    let asked = seen.of(Operation::Acquire).or_else(|| seen.of(Operation::Renew));
    if let Some(asked) = asked {
        cell.insert(Figure::P50Ms, vec![ms(asked.p50_us)]);
        cell.insert(Figure::P99Ms, vec![ms(asked.p99_us)]);
    }
    cell
}

fn shown(cell: &Cell) -> String {
    let figures = cell.iter().map(|(figure, values)| {
        let values: Vec<_> = values.iter().map(|value| format!("{value:.3}")).collect();
        format!("{figure:?} {}", values.join(" "))
    });
    figures.collect::<Vec<_>>().join(", ")
}

#[allow(clippy::needless_pass_by_value, reason = "errors are given away where they end")]
fn say(error: keyward::Error) -> String {
    error.to_string()
}

#[expect(clippy::cast_precision_loss, reason = "a time to read")]
fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "a size to read")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

#[expect(clippy::cast_precision_loss, reason = "a count of failures")]
fn count(failures: u64) -> f64 {
    failures as f64
}

impl Results {
    /// Reads the results of an earlier run; they are empty if there was none.
    fn read(path: &std::path::Path) -> Result<Self, String> {
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| format!("{}: {error}; remove it", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    fn write(&self, path: &std::path::Path) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(self).map_err(|error| error.to_string())?;
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Puts the table between its two marks.
fn write_document(table: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(DOCUMENT).map_err(|error| format!("{DOCUMENT}: {error}"))?;
    let text = between_marks(&text, table)
        .ok_or_else(|| format!("{DOCUMENT} has no marks {BEGIN} and {END}"))?;
    std::fs::write(DOCUMENT, text).map_err(|error| format!("{DOCUMENT}: {error}"))
}

fn between_marks(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let expected = format!("before\n{BEGIN}\n\nnew\n{END}\nafter\n");
        assert_eq!(between_marks(&text, "new").as_deref(), Some(&*expected));
        assert_eq!(between_marks("no marks", "new"), None);
    }

    #[test]
    fn the_documentation_has_the_marks() {
        let text = std::fs::read_to_string(DOCUMENT).expect("it is there");
        assert!(between_marks(&text, "").is_some());
    }
}
