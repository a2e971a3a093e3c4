//! `keyward list`: shows the locks of a table, page by page.

use std::fmt::Write as _;

use clap::Args;

use crate::api::ListAnswer;
use crate::cli::client::{self, ClientArgs, Ended};
use crate::cli::exit::{self, CLIENT_HELP, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::output::{self, Table};
use crate::service::LockService;
use crate::types::{ListRequest, ListResponse, RecordState};

const EXAMPLES: &str = "\
Examples:
  keyward list jobs/                       locks whose names begin with jobs/
  keyward list --all --json                every lock of the table, one JSON object
  keyward list --held                      locks that somebody holds now
  keyward list --expired jobs/             locks that nobody renewed and anybody may take
  keyward list --after jobs/k --limit 10   the ten locks that follow jobs/k
";

/// List the locks of a table
///
/// In byte order of their names; expired ones are included and marked, until their records are
/// removed: a day after they expired, if neither the request nor the table said otherwise. Pages are read one after the
/// other, so that a long list is not one moment's picture.
#[derive(Debug, Args)]
#[command(after_help = help())]
pub(crate) struct ListArgs {
    /// Only locks whose names begin with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// At most this many, 1 to 1000
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only locks that follow this name in byte order
    #[arg(long, value_name = "NAME")]
    after: Option<String>,
    /// Only locks that are held
    #[arg(long, conflicts_with = "expired")]
    held: bool,
    /// Only locks that are expired, whose records are not removed yet
    #[arg(long)]
    expired: bool,
    /// All pages, not only the first
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

pub(crate) fn run(args: ListArgs, logging: &LogArgs) -> Outcome {
    client::ask(args.client.json, logging, async {
        let service = args.client.connect()?;
        execute(&service, args).await
    })
}

async fn execute(service: &impl LockService, args: ListArgs) -> Result<u8, Ended> {
    let mut request = ListRequest {
        prefix: args.prefix.clone(),
        after: args.after.clone(),
        limit: args.limit,
        state: args.state(),
    };
    let mut found = ListResponse { locks: Vec::new(), next: None, decided_at: None };
    loop {
        let page = service.list(request.clone(), args.read.options(&args.client)).await?;
        // A page may be shorter than its limit although more follows: then the next one is
        // requested.
        let is_full = page.locks.len() >= usize::try_from(request.limit).unwrap_or(usize::MAX);
        if !args.all {
            let shown = u32::try_from(page.locks.len()).unwrap_or(u32::MAX);
            request.limit = request.limit.saturating_sub(shown);
        }
        found.locks.extend(page.locks);
        found.next = page.next;
        if (is_full && !args.all) || found.next.is_none() {
            break;
        }
        request.after.clone_from(&found.next);
    }
    if args.client.json {
        output::print_json(&ListAnswer::from(&found));
    } else {
        output::print(&describe(&found, &args));
    }
    Ok(exit::OK)
}

impl ListArgs {
    fn state(&self) -> Option<RecordState> {
        match (self.held, self.expired) {
            (true, _) => Some(RecordState::Held),
            (false, true) => Some(RecordState::Expired),
            (false, false) => None,
        }
    }
}

fn describe(found: &ListResponse, args: &ListArgs) -> String {
    if found.locks.is_empty() && found.next.is_none() {
        let which = match args.state() {
            Some(RecordState::Held) => "held locks",
            Some(RecordState::Expired) => "expired locks",
            None => "locks",
        };
        return format!("no {which} in table {}\n", output::visible(&args.read.table.table));
    }
    let mut table = Table::new(&[
        "LOCK", "HOLDER", "INSTANCE", "LEVEL", "TOKEN", "MODE", "EXPIRES", "REMOVED", "WAITING",
    ]);
    for record in &found.locks {
        let name = output::visible(&record.signature);
        // The places of a lock are counted once.
        let mut waiting = output::cell((record.waiting > 0).then_some(record.waiting));
        if record.holders.is_empty() {
            let missing = || output::cell(None::<String>);
            let [holder, instance, level, token, mode, expires, removed] =
                std::array::from_fn(|_| missing());
            table.row(&[name, holder, instance, level, token, mode, expires, removed, waiting]);
            continue;
        }
        for holder in &record.holders {
            let waiting = std::mem::replace(&mut waiting, output::cell(None::<String>));
            let [owner, instance, level, token, mode, expires, removed] =
                output::holder_cells(holder);
            let name = name.clone();
            table.row(&[name, owner, instance, level, token, mode, expires, removed, waiting]);
        }
        if record.more_holders > 0 {
            let others = format!("and {} more", record.more_holders);
            let [instance, level, token, mode, expires, removed, waiting] =
                std::array::from_fn(|_| output::cell(None::<String>));
            table.row(&[name, others, instance, level, token, mode, expires, removed, waiting]);
        }
    }
    let mut text = table.render();
    if let Some(next) = &found.next {
        let next = output::visible(next);
        // Writing to a string does not fail.
        let _ = writeln!(text, "more follow: --after '{next}' for the next page, --all for all");
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::types::{Holder, LockRecord, Mode, Token};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ListArgs,
    }

    #[test]
    fn a_lock_has_a_row_for_each_holder_and_one_if_it_has_none() {
        let permit = |slot| Holder {
            signee: format!("w{slot}"),
            token: Token(7),
            mode: Mode::Permits,
            slot: Some(slot),
            expired: true,
            ..Holder::default()
        };
        let record = |signature: &str, holders, more_holders, waiting| LockRecord {
            signature: signature.to_owned(),
            holders,
            more_holders,
            limit: None,
            waiting,
            places: Vec::new(),
        };
        let found = ListResponse {
            locks: vec![
                record("a", vec![permit(0), permit(1)], 7, 3),
                record("b", Vec::new(), 0, 2),
            ],
            next: None,
            decided_at: None,
        };
        let args = Line::parse_from(["list"]).args;
        let text = describe(&found, &args);
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["a", "w0", "-", "0", "7", "slot", "0", "expired", "-", "3"]);
        assert_eq!(rows[2], ["a", "w1", "-", "0", "7", "slot", "1", "expired", "-", "-"]);
        assert_eq!(rows[3][..4], ["a", "and", "7", "more"]);
        assert_eq!(rows[4], ["b", "-", "-", "-", "-", "-", "-", "-", "2"]);
        assert_eq!(rows.len(), 5);
    }
}
