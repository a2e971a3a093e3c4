//! `keyward show`: one lock with its holders and its queue.

use std::fmt::Write as _;

use clap::Args;

use crate::api::CheckAnswer;
use crate::cli::check;
use crate::cli::client::{self, ClientArgs, Ended};
use crate::cli::duration::format_short;
use crate::cli::exit::{self, CLIENT_HELP, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::output::{self, Table};
use crate::lock::Query;
use crate::service::LockService;
use crate::types::{LockRecord, Place};

const EXAMPLES: &str = "\
Examples:
  keyward show jobs/nightly
  keyward show jobs/nightly --after 100          the next hundred places
  keyward show jobs/nightly --all --json | jq '.places[].signee'
";

/// Show one lock: its holders and its queue
///
/// For each holder the level, the token, the mode or the slot of its permit, and the time until it
/// expires; for each place its position, how long it has waited, and its name, which `keyward
/// release` takes. It tells what was when the cluster answered. Exit code 1 says that nobody holds
/// the lock, has let it expire, or waits for it.
#[derive(Debug, Args)]
#[command(after_help = help())]
pub(crate) struct ShowArgs {
    /// The lock's name
    signature: String,
    /// Only places after this position
    #[arg(long, value_name = "POSITION", default_value_t = 0, hide_default_value = true)]
    after: u64,
    /// Read on until the last place; they are not one moment's picture
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    read: client::ReadArgs,
    #[command(flatten)]
    client: ClientArgs,
}

fn help() -> String {
    format!("{EXAMPLES}\n{CLIENT_HELP}")
}

pub(crate) fn run(args: ShowArgs, logging: &LogArgs) -> Outcome {
    client::ask(args.client.json, logging, async {
        let service = args.client.connect()?;
        execute(&service, args).await
    })
}

async fn execute(service: &impl LockService, args: ShowArgs) -> Result<u8, Ended> {
    let mut record = match page(service, &args, args.after).await {
        Ok(record) => record,
        Err(error) => return Err(check::explain(error, &args.signature, args.client.json)),
    };
    while args.all && follows(&record, args.after) {
        let shown = args.after.saturating_add(record.places.len() as u64);
        match page(service, &args, shown).await {
            Ok(page) if !page.places.is_empty() => record.places.extend(page.places),
            // All that were left have gone meanwhile.
            Ok(_) | Err(crate::error::Error::NotFound { .. }) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if args.client.json {
        output::print_json(&CheckAnswer::from(&record));
    } else {
        output::print(&describe(&record, &args));
    }
    Ok(exit::OK)
}

async fn page(
    service: &impl LockService,
    args: &ShowArgs,
    after: u64,
) -> Result<LockRecord, crate::error::Error> {
    let options = args.read.options(&args.client);
    let query = Query::check_places(args.signature.clone(), after, &options);
    Ok(service.read(query, options.call).await?.into_check()?.record)
}

/// Whether places follow those that were read.
fn follows(record: &LockRecord, after: u64) -> bool {
    after.saturating_add(record.places.len() as u64) < record.waiting
}

fn describe(record: &LockRecord, args: &ShowArgs) -> String {
    let name = output::visible(&record.signature);
    let mut text = name.clone();
    // Writing to a string does not fail.
    if let Some(limit) = record.limit {
        // Those that are not shown come behind a thousand live ones.
        let shown = record.holders.iter().filter(|holder| !holder.expired).count();
        let held = shown as u64 + record.more_holders;
        let _ = write!(text, ": {held} of {limit} permits held");
    } else {
        let held =
            if record.holders.iter().any(|holder| !holder.expired) { "held" } else { "not held" };
        let _ = write!(text, ": {held}");
    }
    let _ = writeln!(text, ", {} waiting", record.waiting);
    if !record.holders.is_empty() {
        text.push('\n');
        text.push_str(&holders(record));
    }
    if record.more_holders > 0 {
        let _ = writeln!(text, "and {} more hold it", record.more_holders);
    }
    if !record.places.is_empty() {
        text.push('\n');
        text.push_str(&places(&record.places));
    }
    if follows(record, args.after) {
        let shown = args.after.saturating_add(record.places.len() as u64);
        let _ = writeln!(text, "more wait: --after {shown} for the next page, --all for all");
    }
    text
}

fn holders(record: &LockRecord) -> String {
    let mut table = Table::new(&[
        "HOLDER", "INSTANCE", "LEVEL", "TOKEN", "MODE", "EXPIRES", "REMOVED", "SESSION",
    ]);
    for holder in &record.holders {
        let [owner, instance, level, token, mode, expires, removed] = output::holder_cells(holder);
        let session = output::cell(holder.session);
        table.row(&[owner, instance, level, token, mode, expires, removed, session]);
    }
    table.render()
}

/// Places in their order.
pub(crate) fn places(places: &[Place]) -> String {
    let mut table = Table::new(&[
        "POSITION", "WAITS", "INSTANCE", "LEVEL", "MODE", "SINCE", "PLACE", "SESSION",
    ]);
    for place in places {
        table.row(&[
            place.position.to_string(),
            output::visible(&place.signee),
            output::cell(place.instance.as_deref().map(output::visible)),
            place.level.to_string(),
            place.mode.word().to_owned(),
            format_short(place.since),
            place.place.to_string(),
            output::cell(place.session),
        ]);
    }
    table.render()
}
