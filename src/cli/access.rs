//! `keyward access`: who may do what. Rules, access tokens, and the switch.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::access::{
    Answer, Change, Changed, Grantee, Question, Request, Right, Rule, RuleName, TokenId, TokenInfo,
};
use crate::api::{
    BootstrapBody, CanIAnswer, ChangedAnswer, CredentialWord, RuleBody, RulesAnswer, TokenAnswer,
    TokenBody, TokenItem, TokensAnswer, WhoamiAnswer,
};
use crate::cli::client::{self, ClientArgs, Ended};
use crate::cli::duration;
use crate::cli::exit::{self, CLIENT_HELP, Failure, Outcome};
use crate::cli::logging::LogArgs;
use crate::cli::output::{self, Table};
use crate::client::Client;
use crate::clock::CredentialClock;
use crate::error::Error;
use crate::lock::{Command, Query};
use crate::service::LockService as _;
use crate::types::{CallOptions, DEFAULT_TABLE, ReadOptions};

const HELP: &str = "\
Set it up:
  umask 077
  keyward access bootstrap > admin.token             the first administrator, once
  export KEYWARD_TOKEN_FILE=admin.token
  keyward access token create ci > ci.token          an access token for a program
  keyward access rule add --identity ci jobs --right acquire
  keyward access enable                              from now on each request needs a token

Rights, each with what it includes:
  observe    see locks, their holders and their queues; included in all others
  acquire    take, renew, wait for and release locks, at levels up to 0
  preempt    the same at higher levels, up to --max-level
  force      take locks whoever holds them, and end grants and places of others
  configure  change the limits of locks; with the prefix *, the defaults of the table
  admin      everything, everywhere; also rules, access tokens and the sessions of others

Prefixes:
  jobs/a     that lock, and all below it: jobs/a/1, not jobs/abc
  jobs/a*    every name that begins so
  *          every lock of the table

An access token proves who asks. It has nothing to do with the fencing token of a lock, which is
handed to the resource that the lock guards.";

/// Say who may do what: rules, access tokens, and the switch
///
/// While access control is off, everybody who reaches the cluster may do everything. While it is on,
/// each request needs an access token or a client certificate, and a rule that allows it.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct AccessArgs {
    #[command(subcommand)]
    command: AccessCommand,
}

#[derive(Debug, Subcommand)]
enum AccessCommand {
    Bootstrap(BootstrapArgs),
    Enable(SwitchArgs),
    Disable(SwitchArgs),
    Token(TokenArgs),
    Rule(RuleArgs),
    Whoami(WhoamiArgs),
    CanI(CanIArgs),
}

/// Make the first administrator and print its access token, once
///
/// Refused when there is an access token already, or when access control is on. The token is printed
/// on standard output, and shown nowhere else.
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
struct BootstrapArgs {
    /// The administrator's name
    #[arg(long, value_name = "NAME", default_value = BootstrapBody::DEFAULT_IDENTITY)]
    identity: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// Switch access control
///
/// It takes effect for every request that is decided after this one, on every node.
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
struct SwitchArgs {
    #[command(flatten)]
    cause: client::CauseArg,
    #[command(flatten)]
    client: ClientArgs,
}

/// Make, list and revoke access tokens
#[derive(Debug, Args)]
struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    Create(CreateArgs),
    List(ListArgs),
    Revoke(RevokeArgs),
}

/// Make an access token and print it
///
/// Whoever comes with it is this identity, and a member of these groups. It is printed on standard
/// output, and shown nowhere else: the cluster keeps only its hash.
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
struct CreateArgs {
    /// The identity
    identity: String,
    /// A group; may be given several times
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// How long it is valid, by the wall clocks of the nodes [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    expires: Option<Duration>,
    #[command(flatten)]
    cause: client::CauseArg,
    #[command(flatten)]
    client: ClientArgs,
}

/// List the access tokens, without their secrets
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
struct ListArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Revoke an access token, on every node at once
///
/// Locks that were taken with it stay until they are released or expire. Exit code 1 says that there
/// is no such token.
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
struct RevokeArgs {
    /// The name of the token, as it is listed: 16 hexadecimal digits
    #[arg(value_parser = parse_id)]
    id: TokenId,
    #[command(flatten)]
    cause: client::CauseArg,
    #[command(flatten)]
    client: ClientArgs,
}

/// Add, remove and list rules
#[derive(Debug, Args)]
struct RuleArgs {
    #[command(subcommand)]
    command: RuleCommand,
}

#[derive(Debug, Subcommand)]
enum RuleCommand {
    Add(AddArgs),
    Remove(RemoveArgs),
    List(ListRulesArgs),
}

/// The grantee and the locks of a rule.
#[derive(Debug, Args)]
struct NameArgs {
    /// The locks: jobs/a is that lock and all below it, jobs/a* every name that begins so, * every lock
    prefix: String,
    /// The identity that it is for
    #[arg(long, value_name = "NAME", required_unless_present = "group", conflicts_with = "group")]
    identity: Option<String>,
    /// The group that it is for
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// The table; * is every table
    #[arg(long, env = "KEYWARD_TABLE", hide_env_values = true, default_value = DEFAULT_TABLE)]
    table: String,
}

impl NameArgs {
    fn body(&self) -> RuleBody {
        RuleBody {
            identity: self.identity.clone(),
            group: self.group.clone(),
            table: Some(self.table.clone()),
            prefix: self.prefix.clone(),
            ..RuleBody::default()
        }
    }
}

/// Add a rule, or replace the one of the same grantee, table and prefix
#[derive(Debug, Args)]
#[command(after_help = HELP)]
struct AddArgs {
    #[command(flatten)]
    name: NameArgs,
    /// A right; may be given several times
    #[arg(long = "right", value_name = "RIGHT", required = true)]
    rights: Vec<Right>,
    /// With preempt, the highest level
    #[arg(long, value_name = "LEVEL")]
    max_level: Option<i64>,
    /// Lock and unlock in this name alone; {identity} stands for the identity
    #[arg(long, value_name = "NAME")]
    signee: Option<String>,
    #[command(flatten)]
    cause: client::CauseArg,
    #[command(flatten)]
    client: ClientArgs,
}

/// Remove a rule
///
/// Locks that were taken by it stay until they are released or expire. Exit code 1 says that there is
/// no such rule.
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
struct RemoveArgs {
    #[command(flatten)]
    name: NameArgs,
    #[command(flatten)]
    cause: client::CauseArg,
    #[command(flatten)]
    client: ClientArgs,
}

/// List the rules
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
struct ListRulesArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Say who one is, and whether access control is on
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
struct WhoamiArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Say whether a request would be allowed, whether access control is on or off
///
/// Exit code 1 says that it would not.
#[derive(Debug, Args)]
#[command(after_help = CLIENT_HELP)]
struct CanIArgs {
    /// The right: observe, acquire, preempt, force, configure or admin
    right: Right,
    /// The lock; left out, the whole table
    signature: Option<String>,
    /// The level
    #[arg(long, allow_negative_numbers = true, default_value_t = 0)]
    #[arg(value_parser = client::parse_level)]
    level: i64,
    /// The signee [default: any]
    #[arg(long)]
    signee: Option<String>,
    /// Somebody else, for administrators
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// A group of somebody else; may be given several times
    #[arg(long = "group", value_name = "NAME", requires = "identity")]
    groups: Vec<String>,
    #[command(flatten)]
    table: client::TableArg,
    #[command(flatten)]
    client: ClientArgs,
}

fn parse_id(text: &str) -> Result<TokenId, String> {
    text.parse().map_err(|error: crate::access::InvalidTokenId| error.to_string())
}

/// `keyward access`.
pub(crate) fn run(args: AccessArgs, logging: &LogArgs) -> Outcome {
    let client = args.command.client().clone();
    client::ask(client.json, logging, async {
        let service = client.connect()?;
        let answer = execute(&service, args.command, &client).await;
        client::explained_at(&service, Command::ACCESS_LEVEL, answer).await
    })
}

impl AccessCommand {
    fn client(&self) -> &ClientArgs {
        match self {
            Self::Bootstrap(args) => &args.client,
            Self::Enable(args) | Self::Disable(args) => &args.client,
            Self::Token(args) => match &args.command {
                TokenCommand::Create(args) => &args.client,
                TokenCommand::List(args) => &args.client,
                TokenCommand::Revoke(args) => &args.client,
            },
            Self::Rule(args) => match &args.command {
                RuleCommand::Add(args) => &args.client,
                RuleCommand::Remove(args) => &args.client,
                RuleCommand::List(args) => &args.client,
            },
            Self::Whoami(args) => &args.client,
            Self::CanI(args) => &args.client,
        }
    }
}

async fn execute(
    service: &Client,
    command: AccessCommand,
    client: &ClientArgs,
) -> Result<u8, Ended> {
    match command {
        AccessCommand::Bootstrap(args) => {
            let body = BootstrapBody { identity: Some(args.identity) };
            let made = service.bootstrap_access(&body, client.call()).await?;
            show_secret(&made, client.json);
            Ok(exit::OK)
        }
        AccessCommand::Enable(args) => {
            let done = "access control is on: each request needs an access token";
            change(service, Change::Switch(true), &args.cause, (client, done)).await
        }
        AccessCommand::Disable(args) => {
            let done = "access control is off: everybody may do everything";
            change(service, Change::Switch(false), &args.cause, (client, done)).await
        }
        AccessCommand::Token(args) => token(service, args.command, client).await,
        AccessCommand::Rule(args) => rule(service, args.command, client).await,
        AccessCommand::Whoami(_) => whoami(service, client).await,
        AccessCommand::CanI(args) => can_i(service, args, client).await,
    }
}

async fn token(service: &Client, command: TokenCommand, client: &ClientArgs) -> Result<u8, Ended> {
    match command {
        TokenCommand::Create(args) => {
            let body = TokenBody {
                identity: args.identity,
                groups: args.groups,
                expires_in_s: args.expires.map(|length| length.as_secs().max(1)),
            };
            let call = args.cause.call(&client.reach);
            let made = service.create_access_token(&body, call).await?;
            show_secret(&made, client.json);
            Ok(exit::OK)
        }
        TokenCommand::List(_) => list_tokens(service, client).await,
        TokenCommand::Revoke(args) => {
            let done = format!("the access token {} is revoked", args.id);
            let revoke = Change::RevokeToken(args.id);
            change(service, revoke, &args.cause, (client, &done)).await
        }
    }
}

async fn rule(service: &Client, command: RuleCommand, client: &ClientArgs) -> Result<u8, Ended> {
    match command {
        RuleCommand::Add(args) => {
            let body = RuleBody {
                rights: args.rights,
                max_level: args.max_level,
                signee: args.signee,
                ..args.name.body()
            };
            let rule = body.into_rule()?;
            let done = format!("{} has a rule for {}", rule.name.grantee, rule.name.locks());
            change(service, Change::PutRule(rule), &args.cause, (client, &done)).await
        }
        RuleCommand::Remove(args) => {
            let body = RuleBody { rights: vec![Right::Observe], ..args.name.body() };
            let name = body.into_rule()?.name;
            let done = format!("{} has no rule for {} any more", name.grantee, name.locks());
            change(service, Change::RemoveRule(name), &args.cause, (client, &done)).await
        }
        RuleCommand::List(_) => list_rules(service, client).await,
    }
}

/// Makes a change, and says that it is done.
async fn change(
    service: &Client,
    change: Change,
    cause: &client::CauseArg,
    (client, done): (&ClientArgs, &str),
) -> Result<u8, Ended> {
    let call = cause.call(&client.reach);
    let options = CallOptions { timeout: call.timeout, ..CallOptions::default() };
    let decision = service.decide_one(Command::access(change, call), options).await?;
    let changed = decision.into_changed()?;
    if client.json {
        output::print_json(&ChangedAnswer::from(changed));
    }
    match changed {
        Changed::Done if client.json => Ok(exit::OK),
        Changed::Done => {
            output::print(&format!("{}\n", output::visible(done)));
            Ok(exit::OK)
        }
        Changed::Nothing => {
            Err(Failure::new(exit::REFUSED, "there is no such rule or token").into())
        }
    }
}

/// Prints the secret alone on standard output, so that it can go into a file.
fn show_secret(made: &TokenAnswer, json: bool) {
    if json {
        return output::print_json(made);
    }
    output::print(&format!("{}\n", made.token));
    output::say(&format!(
        "this is the access token {} of {}; it is shown nowhere else",
        made.id,
        output::visible(&made.identity)
    ));
}

async fn ask(service: &Client, question: Question, client: &ClientArgs) -> Result<Answer, Error> {
    let query = Query::access(question, &ReadOptions::default());
    service.read(query, client.call()).await?.into_access()
}

async fn list_tokens(service: &Client, client: &ClientArgs) -> Result<u8, Ended> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = Question::Tokens { after, limit: Question::MAX_LIMIT };
        let Answer::Tokens { tokens, next, .. } = ask(service, page, client).await? else {
            return Err(mixed_up().into());
        };
        all.extend(tokens);
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    if client.json {
        let tokens = all.iter().map(TokenItem::from).collect();
        output::print_json(&TokensAnswer { tokens, next: None });
    } else if all.is_empty() {
        output::print("no access tokens: `keyward access bootstrap` makes the first one\n");
    } else {
        let mut rows = Table::new(&["TOKEN", "IDENTITY", "GROUPS", "EXPIRES"]);
        let now = CredentialClock::default().seconds();
        for token in &all {
            rows.row(&[
                token.id.to_string(),
                output::visible(&token.identity),
                output::visible(&token.groups.join(" ")),
                expires(token, now),
            ]);
        }
        output::print(&rows.render());
    }
    Ok(exit::OK)
}

fn expires(token: &TokenInfo, now: u64) -> String {
    match token.expires {
        None => "never".to_owned(),
        Some(end) if end <= now => "expired".to_owned(),
        Some(end) => format!("in {}", duration::format_short(Duration::from_secs(end - now))),
    }
}

async fn list_rules(service: &Client, client: &ClientArgs) -> Result<u8, Ended> {
    let (mut all, mut after) = (Vec::new(), 0);
    loop {
        let page = Question::Rules { after, limit: Question::MAX_LIMIT };
        let Answer::Rules { rules, next, .. } = ask(service, page, client).await? else {
            return Err(mixed_up().into());
        };
        all.extend(rules);
        match next {
            Some(next) => after = next,
            None => break,
        }
    }
    if client.json {
        let rules = all.iter().map(RuleBody::from).collect();
        output::print_json(&RulesAnswer { rules, next: None });
    } else if all.is_empty() {
        output::print("no rules: with access control on, nobody may do anything\n");
    } else {
        let heads = ["IDENTITY", "GROUP", "TABLE", "PREFIX", "RIGHTS", "MAX LEVEL", "SIGNEE"];
        let mut rows = Table::new(&heads);
        for rule in &all {
            rows.row(&row(rule));
        }
        output::print(&rows.render());
    }
    Ok(exit::OK)
}

fn row(rule: &Rule) -> [String; 7] {
    let Rule { name: RuleName { grantee, table, pattern }, rights, max_level, signee } = rule;
    let (identity, group) = match grantee {
        Grantee::Identity(name) => (output::visible(name), String::new()),
        Grantee::Group(name) => (String::new(), output::visible(name)),
    };
    let rights: Vec<&str> = rights.iter().map(Right::word).collect();
    [
        identity,
        group,
        output::visible(table.as_deref().unwrap_or(RuleName::EVERY_TABLE)),
        output::visible(&pattern.to_string()),
        rights.join(" "),
        if *max_level == 0 { String::new() } else { max_level.to_string() },
        output::visible(signee.as_deref().unwrap_or_default()),
    ]
}

async fn whoami(service: &Client, client: &ClientArgs) -> Result<u8, Ended> {
    let told = service.whoami(client.call()).await?;
    if client.json {
        output::print_json(&told);
        return Ok(exit::OK);
    }
    let state = if told.enabled { "on" } else { "off: everybody may do everything" };
    let mut text = match &told.identity {
        Some(identity) => output::visible(identity),
        None => "nobody: the request had no credential".to_owned(),
    };
    if !told.groups.is_empty() {
        text.push_str(", in ");
        text.push_str(&output::visible(&told.groups.join(", ")));
    }
    if told.admin {
        text.push_str(", an administrator");
    }
    text.push_str(&shown_credential(&told, CredentialClock::default().seconds()));
    output::print(&format!("{text}\naccess control is {state}\n"));
    Ok(exit::OK)
}

/// The credential of a caller, in words.
fn shown_credential(told: &WhoamiAnswer, now: u64) -> String {
    let mut text = match told.credential {
        Some(CredentialWord::AccessToken) => {
            format!(" with the access token {}", told.token.as_deref().unwrap_or_default())
        }
        Some(CredentialWord::Certificate) => " with a client certificate".to_owned(),
        Some(CredentialWord::Jwt) => " with a JWT".to_owned(),
        Some(CredentialWord::Other) => " with a credential of another kind".to_owned(),
        None => return String::new(),
    };
    if let Some(end) = told.expires {
        let left = Duration::from_secs(end.saturating_sub(now));
        text.push_str(", which ends in ");
        text.push_str(&duration::format_short(left));
    }
    text
}

async fn can_i(service: &Client, args: CanIArgs, client: &ClientArgs) -> Result<u8, Ended> {
    let groups: Vec<Box<str>> = args.groups.into_iter().map(Into::into).collect();
    let principal = args.identity.map(|identity| crate::access::Principal {
        groups,
        ..crate::access::Principal::named(&identity)
    });
    let request = Request {
        principal,
        table: args.table.table.into(),
        level: args.level,
        signee: args.signee.map(Into::into),
        ..Request::new(args.right, args.signature.as_deref().unwrap_or_default())
    };
    let answer = ask(service, Question::CanI(request), client).await?;
    let told = CanIAnswer::new(&answer).ok_or_else(mixed_up)?;
    if client.json {
        output::print_json(&told);
    } else if told.allowed {
        output::print("yes\n");
    } else {
        let why = told.reason.as_deref().unwrap_or_default();
        output::print(&format!("no: {}\n", output::visible(why)));
    }
    Ok(if told.allowed { exit::OK } else { exit::REFUSED })
}

fn mixed_up() -> Error {
    Error::unavailable("the answer is one to another question")
}
