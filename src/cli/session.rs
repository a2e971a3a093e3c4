//! `keyward session`: liveness that many locks share, opened and kept alive command by command.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::api::{
    CloseAnswer, CloseStatusWord, KeepAliveAnswer, ListAnswer, Problem, SessionAnswer,
};
use crate::cli::client::{self, ClientArgs, Ended};
use crate::cli::duration::{self, format_short};
use crate::cli::exit::{self, CLIENT_HELP, Failure, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::output::{self, Table};
use crate::cli::refusal;
use crate::error::Error;
use crate::service::LockService as _;
use crate::types::{
    CloseStatus, DecidedAt, InboxItem, Liveness, News, ReadOptions, Seen, SessionId,
    SessionLocksRequest, SessionLocksResponse, SessionOptions, SessionRequest, SessionStatus,
};

const EXAMPLES: &str = "\
Examples:
  ID=$(keyward session open --signee worker-1 --ttl 1m)
  keyward lock orders --session $ID && keyward lock stock --session $ID
  keyward lock reports --session $ID --wait --queued     stand in the queue and go on
  keyward session keepalive $ID                          once a third of the ttl; shows the inbox
  keyward session show $ID                               its grants and places
  keyward session close $ID                              releases all of them
";

/// Hold many locks on one keep-alive
///
/// A session lives for its time to live after each keep-alive, and with it all grants and places
/// that were asked for with --session. When it is closed they are released; when it is not kept
/// alive they expire. A lock request does not keep it alive. Its id is a name, not a secret.
///
/// A program does better with the Rust client, which keeps its session alive by itself.
#[derive(Debug, Args)]
#[command(after_help = help())]
pub(crate) struct SessionArgs {
    #[command(subcommand)]
    command: SessionCommand,
}

#[derive(Debug, Subcommand)]
enum SessionCommand {
    Open(OpenArgs),
    Keepalive(KeepaliveArgs),
    Show(ShowArgs),
    Close(CloseArgs),
}

/// Open a session and print its id
#[derive(Debug, Args)]
#[command(after_help = help())]
struct OpenArgs {
    /// The owner of locks that are asked for in the session without naming one
    #[arg(long, env = "KEYWARD_SIGNEE", hide_env_values = true)]
    signee: String,
    /// The run of the owner; only one with a stable name takes over the locks of its former session
    /// [default: the session's id]
    #[arg(long, env = "KEYWARD_INSTANCE", hide_env_values = true)]
    instance: Option<String>,
    /// How long it lives on without a keep-alive, 1s to 24h
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    #[arg(default_value = "30s")]
    ttl: Duration,
    #[command(flatten)]
    cause: client::CauseArg,
    #[command(flatten)]
    client: ClientArgs,
}

/// Keep sessions alive, and show their inboxes
///
/// An inbox says what became of the session's places, and which of its grants were lost without a
/// release: the latest fact of each lock and signee, until --seen says that it was read. Exit code
/// 1 says that a session is unknown or has ended; the others were kept alive.
#[derive(Debug, Args)]
#[command(after_help = help())]
struct KeepaliveArgs {
    /// The ids of the sessions
    #[arg(required = true, value_name = "ID", value_parser = client::parse_session)]
    sessions: Vec<SessionId>,
    /// Drop what stands in the inbox up to this position; for one session
    #[arg(long, value_name = "POSITION", value_parser = client::parse_position)]
    seen: Option<DecidedAt>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Show the grants and places of a session
#[derive(Debug, Args)]
#[command(after_help = help())]
struct ShowArgs {
    /// The id of the session
    #[arg(value_name = "ID", value_parser = client::parse_session)]
    session: SessionId,
    /// At most this many locks, 1 to 1000
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only locks that follow this one, in byte order of table and name
    #[arg(long, num_args = 2, value_names = ["TABLE", "NAME"])]
    after: Option<Vec<String>>,
    /// Read all pages
    #[arg(long)]
    all: bool,
    /// Answer from the copy of the node that is asked, however old it is
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Close a session: its grants are released and its places left
///
/// A session that is not open is a success: it says `no_session`.
#[derive(Debug, Args)]
#[command(after_help = help())]
struct CloseArgs {
    /// The id of the session
    #[arg(value_name = "ID", value_parser = client::parse_session)]
    session: SessionId,
    #[command(flatten)]
    cause: client::CauseArg,
    #[command(flatten)]
    client: ClientArgs,
}

fn help() -> String {
    format!("{EXAMPLES}\n{CLIENT_HELP}")
}

pub(crate) fn run(args: SessionArgs, logging: &LogArgs) -> Outcome {
    match args.command {
        SessionCommand::Open(args) => client::ask(args.client.json, logging, open(args)),
        SessionCommand::Keepalive(args) => client::ask(args.client.json, logging, keep_alive(args)),
        SessionCommand::Show(args) => client::ask(args.client.json, logging, show(args)),
        SessionCommand::Close(args) => client::ask(args.client.json, logging, close(args)),
    }
}

async fn open(args: OpenArgs) -> Result<u8, Ended> {
    let client = args.client.connect()?;
    let request = SessionRequest { signee: args.signee, ttl: args.ttl };
    let options = SessionOptions {
        instance: args.instance,
        request_id: None,
        call: args.cause.call(&args.client.reach),
    };
    let opened = client.open_session(request, options).await;
    let session = match client::explained(&client, opened).await? {
        SessionStatus::Open(session) => session,
        SessionStatus::Failed(forbidden) => {
            if args.client.json {
                output::print_json(&Problem::forbidden(&forbidden));
            }
            let why = format!("no session was opened: {}", forbidden.reason.describe());
            let failure = Failure::new(exit::REFUSED, why);
            return Err(match refusal::advice(forbidden.reason) {
                Some(advice) => failure.advise(advice).into(),
                None => failure.into(),
            });
        }
    };
    if args.client.json {
        output::print_json(&SessionAnswer::from(&session));
    } else {
        // The id alone, for `$(…)`.
        output::print(&format!("{}\n", session.id));
        if std::io::stderr().is_terminal() {
            let left = format_short(session.valid);
            output::say(&format!("it ends in {left} unless it is kept alive"));
        }
    }
    Ok(exit::OK)
}

async fn keep_alive(args: KeepaliveArgs) -> Result<u8, Ended> {
    if args.seen.is_some() && args.sessions.len() > 1 {
        let failure = Failure::usage("--seen is a position in the inbox of one session");
        return Err(failure.advise("Name one session, or leave --seen out.").into());
    }
    let client = args.client.connect()?;
    let sessions: Vec<Seen> =
        args.sessions.iter().map(|&session| Seen { session, seen: args.seen }).collect();
    let kept = client.keep_alive(sessions.clone(), args.client.call()).await;
    let states = client::explained(&client, kept).await?;
    if args.client.json {
        output::print_json(&KeepAliveAnswer::new(&sessions, &states));
    } else {
        let text: String =
            sessions.iter().zip(&states).map(|(of, state)| tell(of, state)).collect();
        output::print(&text);
    }
    let lost: Vec<String> = sessions
        .iter()
        .zip(&states)
        .filter(|(_, state)| **state == Liveness::Lost)
        .map(|(of, _)| of.session.to_string())
        .collect();
    if lost.is_empty() {
        return Ok(exit::OK);
    }
    let why = format!("unknown or ended: {}", lost.join(", "));
    let advice = "Its locks are not held any more. Open another with `keyward session open`.";
    Err(Failure::new(exit::REFUSED, why).advise(advice).into())
}

/// The state of a session in sentences; nothing if it is lost, which is an error.
fn tell(of: &Seen, state: &Liveness) -> String {
    let Liveness::Alive { valid, inbox, more, overflow } = state else { return String::new() };
    let session = of.session;
    let mut text = format!("{session} lives for {}\n", format_short(*valid));
    for item in inbox {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {}", fact(item));
    }
    if *overflow {
        let _ = writeln!(text, "  older facts are gone: read `keyward session show {session}`");
    }
    if let Some(last) = inbox.last() {
        let what = if *more { "read on with" } else { "drop them with" };
        let _ = writeln!(text, "  {what} --seen {}", last.position);
    }
    text
}

/// A fact of an inbox in a sentence.
fn fact(item: &InboxItem) -> String {
    let (name, signee) = (output::visible(&item.signature), output::visible(&item.signee));
    let what = match &item.news {
        News::Granted { token, level, slot, .. } => {
            let slot = slot.map(|slot| format!(", slot {slot}")).unwrap_or_default();
            format!("granted to {signee}: token {token}, level {level}{slot}")
        }
        News::Ended(reason) => format!("not granted to {signee}: {}", reason.describe()),
        News::Lost { token: Some(token), reason } => {
            format!("lost by {signee}, with token {token}: {}", reason.word())
        }
        News::Lost { token: None, reason } => {
            format!("not waited for by {signee} any more: {}", reason.word())
        }
    };
    format!("{}  {name} (table {}) {what}", item.position, output::visible(&item.table))
}

async fn show(args: ShowArgs) -> Result<u8, Ended> {
    let client = args.client.connect()?;
    let after = args.after.map(|names| {
        let mut names = names.into_iter();
        (names.next().unwrap_or_default(), names.next().unwrap_or_default())
    });
    let mut request = SessionLocksRequest { session: args.session, after, limit: args.limit };
    let options = ReadOptions { table: None, stale: args.stale, call: args.client.call() };
    let mut found = SessionLocksResponse { locks: Vec::new(), next: None, decided_at: None };
    loop {
        let page = match client.session_locks(request.clone(), options.clone()).await {
            Ok(page) => page,
            Err(error @ Error::NotFound { .. }) => {
                if args.client.json {
                    output::print_json(&Problem::from(&error));
                }
                let why =
                    format!("there is no session {}: it is unknown or has ended", args.session);
                return Err(Failure::new(exit::REFUSED, why).into());
            }
            Err(error) => return Err(error.into()),
        };
        found.locks.extend(page.locks);
        found.next = page.next;
        if !args.all || found.next.is_none() {
            break;
        }
        request.after.clone_from(&found.next);
    }
    if args.client.json {
        output::print_json(&ListAnswer::from(&found));
    } else {
        output::print(&describe(&found));
    }
    Ok(exit::OK)
}

fn describe(found: &SessionLocksResponse) -> String {
    if found.locks.is_empty() && found.next.is_none() {
        return "the session has no locks and waits for none\n".to_owned();
    }
    let mut table =
        Table::new(&["TABLE", "LOCK", "STATE", "OWNER", "LEVEL", "MODE", "TOKEN", "PLACE"]);
    for lock in &found.locks {
        let names = || [output::visible(&lock.table), output::visible(&lock.signature)];
        let missing = || output::cell(None::<String>);
        for holder in &lock.holders {
            let [table_name, name] = names();
            let state = if holder.expired { "expired" } else { "held" }.to_owned();
            let [_, _, level, token, mode, ..] = output::holder_cells(holder);
            let owner = output::visible(&holder.signee);
            table.row(&[table_name, name, state, owner, level, mode, token, missing()]);
        }
        for place in &lock.places {
            let [table_name, name] = names();
            let owner = output::visible(&place.signee);
            let (level, mode) = (place.level.to_string(), place.mode.word().to_owned());
            let (state, at) = ("waiting".to_owned(), place.place.to_string());
            table.row(&[table_name, name, state, owner, level, mode, missing(), at]);
        }
    }
    let mut text = table.render();
    if let Some((table, name)) = &found.next {
        let (table, name) = (output::visible(table), output::visible(name));
        // Writing to a string does not fail.
        let _ =
            writeln!(text, "more follow: --after '{table}' '{name}' for the next, --all for all");
    }
    text
}

async fn close(args: CloseArgs) -> Result<u8, Ended> {
    let client = args.client.connect()?;
    let options =
        SessionOptions { call: args.cause.call(&args.client.reach), ..SessionOptions::default() };
    let closed = client.close_session(args.session, options).await;
    let status = client::explained(&client, closed).await?;
    let session = args.session;
    let (status, text) = match status {
        CloseStatus::Ok => (CloseStatusWord::Ok, format!("session {session} is closed\n")),
        CloseStatus::NoSession => {
            (CloseStatusWord::NoSession, format!("there was no session {session}\n"))
        }
    };
    if args.client.json {
        output::print_json(&CloseAnswer { status });
    } else {
        output::print(&text);
    }
    Ok(exit::OK)
}
