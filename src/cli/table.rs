//! `keyward tables` and `keyward table`: named sets of locks, and their defaults.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::api::{DeleteAnswer, DoneAnswer, TableAnswer, TablesAnswer};
use crate::cli::client::{self, ClientArgs, Ended};
use crate::cli::duration;
use crate::cli::exit::{self, CLIENT_HELP, Failure, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::output::{self, Table};
use crate::client::Client;
use crate::service::{LockService, all_tables};
use crate::types::{
    DEFAULT_DURATION, DeleteStatus, KEPT_AFTER_EXPIRY, ReadOptions, TableDefaults, TableOptions,
    TimeToLive,
};

/// List the tables
///
/// A table is a named set of locks with its own defaults. It is there as soon as a lock is taken in
/// it or its defaults are set.
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
pub(crate) struct TablesArgs {
    /// Answer from the copy of the node that is asked, however old it is
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Configure or delete a table
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
pub(crate) struct TableArgs {
    #[command(subcommand)]
    command: TableCommand,
}

#[derive(Debug, Subcommand)]
enum TableCommand {
    Configure(ConfigureArgs),
    Delete(DeleteArgs),
}

/// Set what a table gives to later requests that leave it out
///
/// All defaults are set together: one that is left out goes back to what the service gives, 30s,
/// removal a day after a lock expired, no lock-delay and no longest hold. Locks that are held keep what
/// they have until they are renewed; a longest hold holds for them, too.
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
struct ConfigureArgs {
    /// The table's name
    table: String,
    /// The duration of a grant [default: 30s]
    #[arg(long, value_parser = duration::parse_positive)]
    duration: Option<Duration>,
    /// The least time until a record is removed; none is never [default: a day after it expired]
    #[arg(long, value_name = "DURATION|none", value_parser = duration::parse_time_to_live)]
    time_to_live: Option<TimeToLive>,
    /// How long nobody else has a lock after it expired, up to 60s [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    lock_delay: Option<Duration>,
    /// How long renewals keep a lock at most, so that a holder that hangs and still renews does not
    /// keep it for ever [default: no bound]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    max_hold: Option<Duration>,
    #[command(flatten)]
    cause: client::CauseArg,
    #[command(flatten)]
    client: ClientArgs,
}

/// Delete a table: its locks, held ones too, and its defaults
///
/// Whoever holds one of its locks loses it. Exit code 1 says that there is no such table. Tokens of later grants are larger than all before.
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
struct DeleteArgs {
    /// The table's name
    table: String,
    /// Do it: without this, nothing is deleted
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    cause: client::CauseArg,
    #[command(flatten)]
    client: ClientArgs,
}

/// `keyward tables`.
pub(crate) fn run_list(args: TablesArgs, logging: &LogArgs) -> Outcome {
    client::ask(args.client.json, logging, async {
        let service = args.client.connect()?;
        list(&service, args).await
    })
}

async fn list(service: &impl LockService, args: TablesArgs) -> Result<u8, Ended> {
    let options = ReadOptions { table: None, stale: args.stale, call: args.client.call() };
    let tables = all_tables(service, options).await?;
    if args.client.json {
        let tables = tables.iter().map(TableAnswer::from).collect();
        output::print_json(&TablesAnswer { tables, next: None });
    } else if tables.is_empty() {
        output::print("no tables: the first lock makes one\n");
    } else {
        let mut rows = Table::new(&[
            "TABLE",
            "LOCKS",
            "DURATION",
            "TIME TO LIVE",
            "LOCK-DELAY",
            "LONGEST HOLD",
        ]);
        for info in tables {
            let defaults = info.defaults;
            rows.row(&[
                output::visible(&info.table),
                info.locks.to_string(),
                duration::format(defaults.duration.unwrap_or(DEFAULT_DURATION)),
                time_to_live(defaults.time_to_live),
                output::cell(defaults.lock_delay.map(duration::format)),
                output::cell(defaults.max_hold.map(duration::format)),
            ]);
        }
        output::print(&rows.render());
    }
    Ok(exit::OK)
}

/// The time for which a record of a table is kept.
fn time_to_live(time_to_live: Option<TimeToLive>) -> String {
    match time_to_live {
        Some(TimeToLive::For(length)) => duration::format(length),
        Some(TimeToLive::Never) => TimeToLive::NEVER_WORD.to_owned(),
        None => format!("{} after expiry", duration::format(KEPT_AFTER_EXPIRY)),
    }
}

/// `keyward table`.
pub(crate) fn run(args: TableArgs, logging: &LogArgs) -> Outcome {
    match args.command {
        TableCommand::Configure(args) => client::ask(args.client.json, logging, async {
            let client = args.client.connect()?;
            configure(&client, args).await
        }),
        TableCommand::Delete(args) => client::ask(args.client.json, logging, async {
            if !args.yes {
                let name = output::visible(&args.table);
                let failure = Failure::usage(format!("table {name} would lose all its locks"));
                return Err(failure.advise("Nothing was deleted. Add --yes to do it.").into());
            }
            let service = args.client.connect()?;
            delete(&service, args).await
        }),
    }
}

async fn configure(client: &Client, args: ConfigureArgs) -> Result<u8, Ended> {
    let defaults = TableDefaults {
        duration: args.duration,
        time_to_live: args.time_to_live,
        lock_delay: args.lock_delay,
        max_hold: args.max_hold,
    };
    let options = TableOptions {
        table: Some(args.table.clone()),
        request_id: None,
        call: args.cause.call(&args.client.reach),
    };
    client::explained(client, client.configure_table(defaults, options).await).await?;
    done(&args.client, &format!("table {} is configured\n", output::visible(&args.table)));
    Ok(exit::OK)
}

async fn delete(service: &impl LockService, args: DeleteArgs) -> Result<u8, Ended> {
    let options = TableOptions {
        table: Some(args.table.clone()),
        request_id: None,
        call: args.cause.call(&args.client.reach),
    };
    let status = service.delete_table(options).await?;
    let name = output::visible(&args.table);
    if args.client.json {
        output::print_json(&DeleteAnswer::from(status));
    }
    match status {
        DeleteStatus::Ok => {
            if !args.client.json {
                output::print(&format!("table {name} is deleted\n"));
            }
            Ok(exit::OK)
        }
        DeleteStatus::NoTable => {
            let why = format!("there is no table {name}: nothing was deleted");
            Err(Failure::new(exit::REFUSED, why).into())
        }
    }
}

fn done(client: &ClientArgs, text: &str) {
    if client.json {
        output::print_json(&DoneAnswer::default());
    } else {
        output::print(text);
    }
}
