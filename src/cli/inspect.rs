//! `keyward inspect`: prints a data folder or a backup readably, offline.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::api::{CheckAnswer, TableAnswer};
use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::logging::{self, LogArgs};
use crate::cli::output;
use crate::lock::{ClusterTime, FEATURE_LEVEL, State};
use crate::raft::backup::Backup;
use crate::raft::describe;
use crate::storage::inspect::{Part, Report};
use crate::storage::{self, LogEntry, inspect};
use crate::types::{Holder, ListRequest, TableInfo, TablesRequest};

const HELP: &str = "\
Examples:
  keyward inspect /var/lib/keyward
  keyward inspect /var/lib/keyward --entries 1000 --json
  keyward inspect monday.backup

Exit codes:
  0  printed, and nothing is damaged
  1  printed, and something is damaged: the report says which file
  2  there is no such folder or file, or it is no node's and no backup";

/// Print the log, the vote, the snapshot and the state of a data folder, or what is in a backup
///
/// Reads only, and changes nothing; the node need not be stopped, but a running one may write while
/// this reads. What is damaged is shown as damaged, never skipped.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct InspectArgs {
    /// The data folder of a node, or a file that `keyward backup` has written
    #[arg(value_name = "DATA-DIR|FILE")]
    data_dir: PathBuf,
    /// How many of the newest log entries to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    entries: usize,
    /// How many locks of each table to show, at most 1000
    #[arg(long, value_name = "N", default_value_t = 20)]
    locks: u32,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Prints the report.
pub(crate) fn run(args: &InspectArgs, logging: &LogArgs) -> Outcome {
    logging::start(logging, "warn")?;
    if args.data_dir.is_file() {
        return inspect_backup(args);
    }
    let shown = args.data_dir.display();
    if let Err(error) = std::fs::read_dir(&args.data_dir) {
        return Err(Failure::usage(format!("cannot read the folder {shown}: {error}")));
    }
    let describe = |entry: &LogEntry| describe::payload(&entry.payload);
    let mut report = storage::inspect(&args.data_dir, &describe);
    if is_empty(&report) {
        let wrong = format!("{shown} is no data folder: it has none of a node's files");
        return Err(Failure::usage(wrong));
    }
    let entries = cut(&mut report, args.entries);
    let state = StateReport::read(&args.data_dir, &report, args.locks);
    if args.json {
        let mut document = serde_json::to_value(&report).expect("a report has string keys");
        document["log_entries"] = entries.into();
        document["state"] = serde_json::to_value(&state).expect("a report has string keys");
        document["damage"] = damage(&report, &state).into();
        output::print_json(&document);
    } else {
        let mut text = report.to_string();
        if let Part::Found(log) = &report.log
            && log.entries.len() < entries
        {
            let newest = log.entries.len();
            // Writing to a string does not fail.
            let _ = writeln!(text, "  (the newest {newest} of {entries} entries; --entries N)");
        }
        output::print(&(text + &state.describe()));
    }
    let damage = damage(&report, &state);
    if damage.is_empty() {
        return Ok(exit::OK);
    }
    Err(Failure::new(exit::REFUSED, format!("damaged: {}", damage.join("\n  ")))
        .advise("Nothing was changed. See `What to do when` in docs/operations.md."))
}

/// Prints the state in a backup.
fn inspect_backup(args: &InspectArgs) -> Outcome {
    let backup = Backup::read(&args.data_dir, FEATURE_LEVEL).map_err(|error| {
        let code = if error.is_damage() { exit::REFUSED } else { exit::USAGE };
        Failure::new(code, exit::with_causes(&error))
    })?;
    let Backup { cluster, last, state, .. } = &backup;
    let source = format!("of a backup, as of entry {}", output::cell(*last));
    let report = StateReport::of(state, source, args.locks);
    if args.json {
        let cluster = cluster.map(|cluster| cluster.to_string());
        output::print_json(&serde_json::json!({ "cluster": cluster, "state": report }));
    } else {
        let cluster = output::cell(*cluster);
        output::print(&format!("backup of cluster {cluster}\n{}", report.describe()));
    }
    Ok(exit::OK)
}

/// Whether the folder has no files of a node.
fn is_empty(report: &Report) -> bool {
    matches!(report.identity, Part::Absent)
        && matches!(report.vote, Part::Absent)
        && matches!(report.log, Part::Absent)
        && matches!(report.checkpoint, Part::Absent)
        && report.snapshots.is_empty()
}

/// The damage, one line for each part.
fn damage(report: &Report, state: &StateReport) -> Vec<String> {
    let mut damage = report.damage();
    damage.extend(state.damage.clone());
    damage
}

/// Truncates the report to the newest entries; returns how many there were.
fn cut(report: &mut Report, newest: usize) -> usize {
    let Part::Found(log) = &mut report.log else { return 0 };
    let all = log.entries.len();
    log.entries.drain(..all.saturating_sub(newest));
    all
}

/// The lock machine's state in the checkpoint or the snapshot.
#[derive(Debug, Default, Serialize)]
struct StateReport {
    /// The file it was read from, and the last applied entry.
    source: Option<String>,
    /// The reason why it could not be read.
    damage: Option<String>,
    /// The cluster clock, in microseconds.
    clock_us: u64,
    feature_level: u32,
    records: u64,
    unexpired: u64,
    lanes: u64,
    tables: Vec<TableReport>,
}

/// A table and its first locks.
#[derive(Debug, Serialize)]
struct TableReport {
    #[serde(flatten)]
    info: TableAnswer,
    shown: Vec<CheckAnswer>,
}

impl StateReport {
    fn read(folder: &Path, report: &Report, locks: u32) -> Self {
        let (source, state) = match read_state(folder, report) {
            None => return Self::default(),
            Some((source, Ok(state))) => (source, state),
            Some((source, Err(error))) => {
                let damage = Some(format!("{source}: the state cannot be read: {error}"));
                return Self { source: Some(source), damage, ..Self::default() };
            }
        };
        Self::of(&state, source, locks)
    }

    fn of(state: &State, source: String, locks: u32) -> Self {
        let counts = state.counts();
        let page = ListRequest { limit: locks.min(ListRequest::MAX_LIMIT), ..Default::default() };
        let tables = all_tables(state).into_iter().map(|info| TableReport {
            shown: match page.limit {
                0 => Vec::new(),
                _ => state.list(&info.table, &page).0.iter().map(CheckAnswer::from).collect(),
            },
            info: TableAnswer::from(&info),
        });
        Self {
            source: Some(source),
            damage: None,
            clock_us: state.clock().0,
            feature_level: state.feature_level(),
            records: counts.records,
            unexpired: counts.unexpired,
            lanes: counts.lanes,
            tables: tables.collect(),
        }
    }

    fn describe(&self) -> String {
        let Some(source) = &self.source else {
            return "state: neither a checkpoint nor a snapshot holds one\n".to_owned();
        };
        if let Some(damage) = &self.damage {
            return format!("state: DAMAGED: {damage}\n");
        }
        let clock = ClusterTime(self.clock_us);
        let mut text = format!(
            "state: {source}\n  cluster clock {clock} s, feature level {}, {} records ({} not \
             expired), {} request lanes\n",
            self.feature_level, self.records, self.unexpired, self.lanes
        );
        for table in &self.tables {
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "  table {}: {} locks",
                output::visible(&table.info.table),
                table.info.locks
            );
            for lock in &table.shown {
                for holder in lock.holders.iter().cloned().map(Holder::from) {
                    let name = output::visible(&lock.signature);
                    let _ = writeln!(text, "    {name}: {}", output::holder(&holder));
                }
            }
            let hidden = table.info.locks - table.shown.len() as u64;
            if hidden > 0 {
                let _ = writeln!(text, "    ({hidden} more; --locks N)");
            }
        }
        text
    }
}

/// The state of the checkpoint, which is the newest one, or else of the newest snapshot.
fn read_state(folder: &Path, report: &Report) -> Option<(String, Result<State, String>)> {
    if let Part::Found(checkpoint) = &report.checkpoint {
        let source = format!("of the checkpoint, as of entry {}", checkpoint.applied);
        let state = inspect::load_checkpoint(folder, |meta, records| {
            State::from_records(&meta.state, records).map_err(|error| error.to_string())
        });
        return Some((source, state));
    }
    let whole = report.snapshots.iter().rev().find_map(|snapshot| match &snapshot.contents {
        Part::Found(contents) => Some((&snapshot.file, contents)),
        Part::Absent | Part::Damaged(_) => None,
    });
    let (file, contents) = whole?;
    let last = output::cell(contents.last);
    let state = inspect::snapshot_body(folder, file)
        .map_err(|error| error.to_string())
        .and_then(|body| State::decode(&body).map_err(|error| error.to_string()));
    Some((format!("of the snapshot {file}, as of entry {last}"), state))
}

fn all_tables(state: &State) -> Vec<TableInfo> {
    let mut request = TablesRequest { limit: TablesRequest::MAX_LIMIT, after: None };
    let mut tables = Vec::new();
    loop {
        let (page, next) = state.tables(&request);
        tables.extend(page);
        match next {
            Some(next) => request.after = Some(next),
            None => return tables,
        }
    }
}
