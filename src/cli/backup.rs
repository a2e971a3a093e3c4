//! `keyward backup`: reads the whole state of a cluster into a file, once or again and again.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::cli::client::{self, ClientArgs, Ended};
use crate::cli::duration;
use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::output;
use crate::cli::signals::Signals;
use crate::client::{BackupDownload, Client};
use crate::lock::FEATURE_LEVEL;
use crate::raft::backup::Backup;
use crate::storage::io_may_pass;

const HELP: &str = "\
Examples:
  keyward backup monday.backup
  keyward backup --dir /var/backups/keyward --every 1h --keep 48
  keyward backup - | age -r KEY > monday.backup.age
  keyward inspect monday.backup                     what is in it
  keyward restore --help                            how it is used

A backup has the locks, the tables, the access rules and the hashes of the access tokens; no secret, but
names. It is written for its owner alone (mode 0600), read back and checked before it gets its name, and never
overwrites a file. With access control on, it takes an administrator.

Exit codes:
  0  the backup is written; --every: ended by a signal
  2  the command line is wrong, or the file exists already
  3  no node answered, the backup broke off, or the disk is full: trying again later is safe
  5  unauthorized: no access token or a wrong one, or not an administrator's

Environment:
  KEYWARD_ENDPOINTS, KEYWARD_TIMEOUT, KEYWARD_TOKEN_FILE, KEYWARD_LOG: see the options.";

/// Read the whole state of a cluster into a file
///
/// Any node can be asked, and goes on with its work. The backup has everything that was acknowledged
/// before the command began; with --stale, what the node that is asked knows, which needs no
/// majority.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct BackupArgs {
    /// The file; `-` is standard output
    #[arg(value_name = "FILE", required_unless_present = "dir", conflicts_with = "dir")]
    file: Option<PathBuf>,
    /// A folder for backups that are named after their cluster and log position
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Go on, with a backup this often; one that fails is tried again after a minute at most
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive, requires = "dir")]
    every: Option<Duration>,
    /// How many backups stay in the folder: older ones are removed [default: all]
    #[arg(long, value_name = "N", requires = "dir")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    /// What the node that is asked knows, without asking the others
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// The pause after a backup that failed.
const AGAIN: Duration = Duration::from_secs(60);

/// The end of the names of backups in a folder.
const ENDING: &str = ".backup";

/// A backup that was written.
#[derive(Debug, Serialize)]
struct Written {
    file: String,
    cluster: Option<String>,
    position: Option<u64>,
    bytes: u64,
    locks: u64,
    tables: u64,
}

/// Runs the command.
pub(crate) fn run(args: &BackupArgs, logging: &LogArgs) -> Outcome {
    client::ask(args.client.json, logging, async {
        let client = args.client.connect()?;
        match (&args.file, &args.dir) {
            (Some(file), _) if file == Path::new("-") => to_output(&client, args).await,
            (Some(file), _) => {
                let written = to_file(&client, args, file).await?;
                told(args, &written);
                Ok(exit::OK)
            }
            (None, Some(dir)) => match args.every {
                None => into_folder(&client, args, dir).await.map(|()| exit::OK),
                Some(every) => again_and_again(&client, args, dir, every).await,
            },
            (None, None) => unreachable!("one of the two is required"),
        }
    })
}

async fn again_and_again(
    client: &Client,
    args: &BackupArgs,
    dir: &Path,
    every: Duration,
) -> Result<u8, Ended> {
    let mut signals = Signals::to_stop()?;
    loop {
        let round = async {
            let pause = match into_folder(client, args, dir).await {
                Ok(()) => every,
                Err(ended) => {
                    output::say(&format!("no backup: {}\n", Failure::from(ended)));
                    every.min(AGAIN)
                }
            };
            tokio::time::sleep(pause).await;
        };
        tokio::select! {
            () = round => {}
            _ = signals.next() => return Ok(exit::OK),
        }
    }
}

async fn begin(client: &Client, args: &BackupArgs) -> Result<BackupDownload, Ended> {
    Ok(client.backup(args.stale, args.client.call()).await?)
}

async fn to_output(client: &Client, args: &BackupArgs) -> Result<u8, Ended> {
    let mut download = begin(client, args).await?;
    let mut out = io::stdout().lock();
    while let Some(part) = download.next().await? {
        out.write_all(&part).map_err(|error| unwritten(Path::new("standard output"), &error))?;
    }
    out.flush().map_err(|error| unwritten(Path::new("standard output"), &error))?;
    Ok(exit::OK)
}

async fn to_file(client: &Client, args: &BackupArgs, file: &Path) -> Result<Written, Ended> {
    // Before a node has the work with it.
    if file.symlink_metadata().is_ok() {
        return Err(exists(file).into());
    }
    let draft = read(client, args, folder_of(file)).await?;
    keep(draft, file)
}

async fn into_folder(client: &Client, args: &BackupArgs, dir: &Path) -> Result<(), Ended> {
    fs::create_dir_all(dir).map_err(|error| unwritten(dir, &error))?;
    let draft = read(client, args, dir).await?;
    let Backup { cluster, last, .. } = &draft.backup;
    let cluster = cluster.map_or_else(String::new, |cluster| cluster.to_string());
    let index = last.map_or(0, |last| last.index);
    let name = format!("keyward-{}-{index:012}{ENDING}", cluster.get(..8).unwrap_or(&cluster));
    let file = dir.join(name);
    // If it is there, nothing was written to the log since.
    if !file.exists() {
        told(args, &keep(draft, &file)?);
    }
    if let Some(most) = args.keep {
        remove_older(dir, most as usize).map_err(|error| unwritten(dir, &error))?;
    }
    Ok(())
}

/// Removes all but the newest backups of the folder.
fn remove_older(dir: &Path, most: usize) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("keyward-") && name.ends_with(ENDING) {
            found.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    found.sort();
    let older = found.len().saturating_sub(most);
    found.iter().take(older).try_for_each(|(_, path)| fs::remove_file(path))
}

/// A backup that is whole, under a name of its own.
struct Draft {
    file: NamedTempFile,
    bytes: u64,
    backup: Backup,
}

/// Reads a backup into a file of the folder, and checks it.
async fn read(client: &Client, args: &BackupArgs, folder: &Path) -> Result<Draft, Ended> {
    let mut file = tempfile::Builder::new()
        .prefix(".keyward-backup-")
        .tempfile_in(folder)
        .map_err(|error| unwritten(folder, &error))?;
    let mut download = begin(client, args).await?;
    let mut bytes = 0;
    while let Some(part) = download.next().await? {
        file.write_all(&part).map_err(|error| unwritten(folder, &error))?;
        bytes += part.len() as u64;
    }
    file.as_file().sync_all().map_err(|error| unwritten(folder, &error))?;
    let backup = Backup::read(file.path(), FEATURE_LEVEL).map_err(|error| {
        let wrong =
            format!("the backup that arrived cannot be used: {}", exit::with_causes(&error));
        Failure::new(exit::UNAVAILABLE, wrong)
    })?;
    Ok(Draft { file, bytes, backup })
}

/// Gives the file its name, durably.
fn keep(draft: Draft, file: &Path) -> Result<Written, Ended> {
    let Draft { file: beside, bytes, backup } = draft;
    beside.persist_noclobber(file).map_err(|error| {
        let there = error.error.kind() == io::ErrorKind::AlreadyExists;
        if there { exists(file) } else { unwritten(file, &error.error) }
    })?;
    let folder = fs::File::open(folder_of(file));
    folder.and_then(|folder| folder.sync_all()).map_err(|error| unwritten(file, &error))?;
    let counts = backup.state.counts();
    Ok(Written {
        file: file.display().to_string(),
        cluster: backup.cluster.map(|cluster| cluster.to_string()),
        position: backup.last.map(|last| last.index),
        bytes,
        locks: counts.records,
        tables: counts.tables,
    })
}

fn told(args: &BackupArgs, written: &Written) {
    if args.client.json {
        output::print_json(written);
        return;
    }
    let Written { file, position, bytes, locks, tables, .. } = written;
    output::print(&format!(
        "{}: {bytes} bytes, {locks} locks of {tables} tables, as of log entry {}\n",
        output::visible(file),
        output::cell(*position)
    ));
}

fn folder_of(file: &Path) -> &Path {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

fn exists(file: &Path) -> Failure {
    let shown = file.display();
    Failure::usage(format!("{shown} exists already")).advise("Name another file, or remove it.")
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    let code = if io_may_pass(error) { exit::UNAVAILABLE } else { exit::USAGE };
    Failure::new(code, format!("cannot write {}: {error}", path.display()))
}
