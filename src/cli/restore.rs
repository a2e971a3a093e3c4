//! `keyward restore`: makes the data folder of a member of a new cluster from a backup.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::logging::{self, LogArgs};
use crate::cli::output;
use crate::lock::{Counts, FEATURE_LEVEL, TOKEN_GAP};
use crate::raft::backup::{self, Backup, RestoreError};

const HELP: &str = "\
Examples, on the machines of a cluster of three:
  keyward restore monday.backup --id 1 --data-dir /var/lib/keyward
  keyward restore monday.backup --id 2 --data-dir /var/lib/keyward
  keyward restore monday.backup --id 3 --data-dir /var/lib/keyward
and then `keyward serve` on each as at a first start. The other members wait for the last one.

A cluster that has lost its majority goes on from the folder of a node that is left. Stop that node, copy
its folder to the machines of all members, and on each:
  keyward restore --from-data-dir /var/lib/keyward.old --id 1 --data-dir /var/lib/keyward
If several are left, take the one whose log is longest: `keyward inspect` shows its last entry.

The members form a new cluster: the old one must never run again. Every token that it grants is more
than a million million above the old ones. Tables, access rules and access tokens are kept, and locks
with the time that they had left when the backup was made; sessions and places in queues are not. Whoever
holds a lock in the new cluster may have lost it in the old one after the backup: with --drop-locks
nobody holds any.

Exit codes:
  0  the folder is made
  2  the command line is wrong, the backup cannot be used, or the folder is not empty
  3  the disk is full, or a process uses the folder: trying again later may help";

/// Make the data folder of a member of a new cluster from a backup
///
/// A folder appears whole or not at all. Each member needs its own, from the same backup and with the
/// same options; they form a cluster only then.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE", required_unless_present = "from_data_dir")]
    #[arg(conflicts_with = "from_data_dir")]
    file: Option<PathBuf>,
    /// The data folder of a node of the old cluster that has stopped, in place of a backup
    #[arg(long, value_name = "DIR")]
    from_data_dir: Option<PathBuf>,
    /// The id of the member
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// The folder to make: one that does not exist, or is empty
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Keep no lock: everybody asks again
    #[arg(long)]
    drop_locks: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What was restored.
#[derive(Debug, Serialize)]
struct Restored {
    data_dir: String,
    id: u64,
    /// The digest of the state, the same for all members.
    state: String,
    /// The cluster that the backup was of, and the last entry in it.
    old_cluster: Option<String>,
    position: Option<u64>,
    /// The last entry that the folder knew to be committed.
    committed: Option<u64>,
    locks: u64,
    tables: u64,
    dropped_locks: u64,
    dropped_sessions: u64,
    dropped_places: u64,
    rules: u64,
    access_tokens: u64,
}

/// Runs the command.
pub(crate) fn run(args: &RestoreArgs, logging: &LogArgs) -> Outcome {
    logging::start(logging, "warn")?;
    let backup = match (&args.file, &args.from_data_dir) {
        (Some(file), _) => Backup::read(file, FEATURE_LEVEL),
        (None, Some(folder)) => Backup::of_folder(folder, FEATURE_LEVEL),
        (None, None) => unreachable!("one of the two is required"),
    };
    let backup = backup.map_err(|error| failure(&error))?;
    let state = backup.state.restored(!args.drop_locks);
    let state = state.map_err(|error| failure(&error.into()))?;
    let digest =
        backup::restore(&state, &args.data_dir, args.id).map_err(|error| failure(&error))?;
    let (before, after): (Counts, Counts) = (backup.state.counts(), state.counts());
    let restored = Restored {
        data_dir: args.data_dir.display().to_string(),
        id: args.id,
        state: digest.to_string(),
        old_cluster: backup.cluster.map(|cluster| cluster.to_string()),
        position: backup.last.map(|last| last.index),
        committed: backup.committed.map(|last| last.index),
        locks: after.records,
        tables: after.tables,
        dropped_locks: before.records - after.records,
        dropped_sessions: before.sessions,
        dropped_places: before.waiting,
        rules: state.access().rules().count() as u64,
        access_tokens: state.access().tokens().count() as u64,
    };
    if args.json {
        output::print_json(&restored);
    } else {
        output::print(&restored.describe(args));
    }
    Ok(exit::OK)
}

impl Restored {
    fn describe(&self, args: &RestoreArgs) -> String {
        let Self { id, state, locks, tables, rules, access_tokens, .. } = self;
        let folder = output::visible(&self.data_dir);
        let mut text = format!(
            "{folder} is the data folder of member {id} of a new cluster, with the state {state}:\n  \
             {locks} locks, {tables} tables, {rules} access rules, {access_tokens} access tokens, as of \
             log entry {} of the old cluster\n",
            output::cell(self.position)
        );
        let dropped = [
            (self.dropped_locks, "locks"),
            (self.dropped_sessions, "sessions"),
            (self.dropped_places, "places in queues"),
        ];
        let dropped = dropped.iter().filter(|(count, _)| *count > 0);
        let dropped: Vec<_> = dropped.map(|(count, what)| format!("{count} {what}")).collect();
        if !dropped.is_empty() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  not kept: {}", dropped.join(", "));
        }
        if args.from_data_dir.is_some() {
            text += &self.doubts();
        }
        let _ = writeln!(
            text,
            "Every new token is more than {TOKEN_GAP} above the old ones. Make the folders of the other \
             members in the same way, each with its own --id, then start all of them. The old \
             cluster must never run again."
        );
        text
    }

    /// What may be missing or too much in the folder of one node.
    fn doubts(&self) -> String {
        let mut text =
            "  What other members acknowledged and this folder never received is lost: it \
                        cannot know of it.\n"
                .to_owned();
        if self.committed < self.position {
            let _ = writeln!(
                text,
                "  It knew its entries up to {} to be committed. Those behind are kept, as others may \
                 have acknowledged them.",
                output::cell(self.committed)
            );
        }
        text
    }
}

fn failure(error: &RestoreError) -> Failure {
    let code = if error.may_pass() { exit::UNAVAILABLE } else { exit::USAGE };
    Failure::new(code, exit::with_causes(error)).advise("Nothing was changed.")
}
