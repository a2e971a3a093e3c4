//! The common parts of the client commands: their options, their connection and their exit.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::api::{ClusterStatus, Problem};
use crate::cli::duration;
use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::logging::{self, LogArgs};
use crate::cli::output;
use crate::client::tls::Tls;
use crate::client::{Client, ClientBuilder, with_port};
use crate::error::Error;
use crate::limits::MAX_CAUSE_BYTES;
use crate::lock::Command;
use crate::types::{
    CallOptions, DecidedAt, InvalidPosition, InvalidSessionId, ReadOptions, SessionId,
};

/// The way to a cluster.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ReachArgs {
    /// Where the nodes listen for clients; any of them takes any request
    #[arg(long, value_name = "URL,…", env = "KEYWARD_ENDPOINTS", hide_env_values = true)]
    #[arg(default_value = "http://127.0.0.1:7420")]
    endpoints: Vec<EndpointList>,
    /// How long to try before giving up; with --wait, from its end on
    #[arg(long, value_name = "DURATION", env = "KEYWARD_TIMEOUT", hide_env_values = true)]
    #[arg(value_parser = duration::parse_positive, default_value = "5s")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    tls: TlsArgs,
    /// A file with the access token or JWT, for a cluster with access control; it is read again when
    /// it has changed. Left out, the token is that of `KEYWARD_ACCESS_TOKEN`. It has nothing to do
    /// with the fencing token of a lock
    #[arg(long, value_name = "FILE", env = TOKEN_FILE_VARIABLE, hide_env_values = true)]
    token_file: Option<PathBuf>,
}

/// The certificates of a client.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct TlsArgs {
    /// The CAs that nodes' certificates are checked with (PEM), for https:// [default: those of the
    /// system]
    #[arg(long, value_name = "FILE", env = "KEYWARD_CACERT", hide_env_values = true)]
    cacert: Option<PathBuf>,
    /// The certificate (PEM) that is shown to nodes that ask for one
    #[arg(long, value_name = "FILE", env = "KEYWARD_CERT", hide_env_values = true)]
    cert: Option<PathBuf>,
    /// The private key of --cert (PEM)
    #[arg(long, value_name = "FILE", env = "KEYWARD_KEY", hide_env_values = true)]
    key: Option<PathBuf>,
}

impl TlsArgs {
    /// The TLS of connections, from the files.
    ///
    /// # Errors
    /// A file cannot be read or used, or one of a pair is missing.
    pub(crate) fn read(&self) -> Result<Tls, Failure> {
        let mut tls = Tls::default();
        if let Some(path) = &self.cacert {
            tls = tls.ca_certificates(read_file("--cacert (KEYWARD_CACERT)", path)?);
        }
        match (&self.cert, &self.key) {
            (None, None) => {}
            (Some(cert), Some(key)) => {
                let cert = read_file("--cert (KEYWARD_CERT)", cert)?;
                tls = tls.identity(cert, read_file("--key (KEYWARD_KEY)", key)?);
            }
            (Some(_), None) => {
                return Err(Failure::usage("--cert (KEYWARD_CERT) needs --key (KEYWARD_KEY)"));
            }
            (None, Some(_)) => {
                return Err(Failure::usage("--key (KEYWARD_KEY) needs --cert (KEYWARD_CERT)"));
            }
        }
        tls.config().map_err(|error| {
            let why = error.to_string();
            let why = why.strip_prefix("bad request: ").unwrap_or(&why);
            Failure::usage(format!("--cacert, --cert and --key: {why}"))
                .advise("Each is a PEM file; docs/tls.md says more.")
        })?;
        Ok(tls)
    }
}

fn read_file(option: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        Failure::usage(format!("{option}: cannot read {}: {error}", path.display()))
    })
}

/// The variable that has an access token. `run` does not pass it on.
pub(crate) const TOKEN_VARIABLE: &str = "KEYWARD_ACCESS_TOKEN";

/// The variable that names the file of an access token.
pub(crate) const TOKEN_FILE_VARIABLE: &str = "KEYWARD_TOKEN_FILE";

/// The place of the access token of a client.
#[derive(Clone, Debug)]
pub(crate) enum TokenSource {
    /// The file, which is read again when it has changed.
    File(PathBuf),
    /// The text of the variable. It is in no message.
    Variable(Hidden),
}

/// A text that is not printed.
#[derive(Clone)]
pub(crate) struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden(…)")
    }
}

impl TokenSource {
    /// The file, or else the variable, or neither.
    ///
    /// # Errors
    /// The variable is no text.
    fn find(file: Option<&Path>) -> Result<Option<Self>, Failure> {
        if let Some(path) = file {
            return Ok(Some(Self::File(path.to_owned())));
        }
        match std::env::var(TOKEN_VARIABLE) {
            Ok(token) if token.trim().is_empty() => Ok(None),
            Ok(token) => Ok(Some(Self::Variable(Hidden(token.trim().to_owned())))),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(Failure::usage(format!("{TOKEN_VARIABLE} is no text")))
            }
        }
    }

    /// The source that the environment names, for commands that have no option for it.
    ///
    /// # Errors
    /// As [`TokenSource::find`].
    pub(crate) fn of_environment() -> Result<Option<Self>, Failure> {
        Self::find(std::env::var_os(TOKEN_FILE_VARIABLE).map(PathBuf::from).as_deref())
    }

    /// The builder, with the access token of this source.
    pub(crate) fn give(self, builder: ClientBuilder) -> ClientBuilder {
        match self {
            Self::File(path) => builder.access_token_file(path),
            Self::Variable(Hidden(token)) => builder.access_token(token),
        }
    }
}

/// The access token of the environment as it is now, for commands that send it by themselves.
///
/// # Errors
/// As [`TokenSource::of_environment`], or the file cannot be read.
pub(crate) fn token_of_environment() -> Result<Option<String>, Failure> {
    Ok(match TokenSource::of_environment()? {
        None => None,
        Some(TokenSource::Variable(Hidden(token))) => Some(token),
        Some(TokenSource::File(path)) => {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                Failure::usage(format!("{TOKEN_FILE_VARIABLE} {}: {error}", path.display()))
            })?;
            Some(text.trim().to_owned()).filter(|token| !token.is_empty())
        }
    })
}

/// The builder of a client that sends the access token of the environment.
///
/// # Errors
/// As [`TokenSource::of_environment`].
pub(crate) fn builder() -> Result<ClientBuilder, Failure> {
    let source = TokenSource::of_environment()?;
    Ok(match source {
        Some(source) => source.give(Client::builder()),
        None => Client::builder(),
    })
}

/// Endpoints in one argument, separated by commas; a trailing comma is allowed, and a missing port
/// is the default one.
#[derive(Clone, Debug)]
pub(crate) struct EndpointList(Vec<String>);

impl EndpointList {
    /// The endpoints of all lists, each with its port.
    pub(crate) fn of(lists: &[Self]) -> Vec<String> {
        lists.iter().flat_map(|list| &list.0).cloned().collect()
    }
}

impl FromStr for EndpointList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = text.split(',').map(str::trim).filter(|endpoint| !endpoint.is_empty());
        let endpoints: Vec<String> = named.map(with_port).collect();
        if endpoints.is_empty() {
            Err("no endpoint is named".to_owned())
        } else {
            Ok(Self(endpoints))
        }
    }
}

/// The options of every command that asks a cluster once.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClientArgs {
    #[command(flatten)]
    pub(crate) reach: ReachArgs,
    /// Print one JSON document with the fields of the HTTP API, errors too
    #[arg(long)]
    pub(crate) json: bool,
}

/// Names the table.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct TableArg {
    /// The set of locks that the name belongs to
    #[arg(long, env = "KEYWARD_TABLE", hide_env_values = true, default_value = "default")]
    pub(crate) table: String,
}

/// The options of every read.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReadArgs {
    /// Answer from the copy of the node that is asked, however old it is. Left out, the answer
    /// holds everything that was acknowledged before the question
    #[arg(long)]
    pub(crate) stale: bool,
    #[command(flatten)]
    pub(crate) table: TableArg,
}

impl ReadArgs {
    /// The options of a read.
    pub(crate) fn options(&self, client: &ClientArgs) -> ReadOptions {
        ReadOptions {
            table: Some(self.table.table.clone()),
            stale: self.stale,
            call: client.call(),
        }
    }
}

impl ClientArgs {
    /// As [`ReachArgs::connect`].
    ///
    /// # Errors
    /// An endpoint is not a URL.
    pub(crate) fn connect(&self) -> Result<Client, Failure> {
        self.reach.connect()
    }

    /// As [`ReachArgs::call`].
    pub(crate) fn call(&self) -> CallOptions {
        self.reach.call()
    }
}

impl ReachArgs {
    /// The endpoints, each with its port.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        EndpointList::of(&self.endpoints)
    }

    /// A client of the cluster. Nothing is sent yet.
    ///
    /// # Errors
    /// An endpoint is not a URL, or the access token cannot be read.
    pub(crate) fn connect(&self) -> Result<Client, Failure> {
        let client = Client::builder().endpoints(self.endpoints()).timeout(self.timeout);
        let mut client = client.tls(self.tls.read()?);
        if let Some(source) = TokenSource::find(self.token_file.as_deref())? {
            client = source.give(client);
        }
        client.build().map_err(|error| {
            let text = error.to_string();
            if text.contains("access token") {
                return Failure::usage(format!(
                    "--token-file ({TOKEN_FILE_VARIABLE}) or {TOKEN_VARIABLE}: {text}"
                ))
                .advise("It is kw_ and 64 hexadecimal digits, or a JWT, alone in its file or variable.");
            }
            Failure::usage(format!("--endpoints (KEYWARD_ENDPOINTS): {error}"))
                .advise("Give URLs separated by commas, such as http://a:7420,http://b:7420; port 7420 may be left out.")
        })
    }

    /// The options of a call.
    pub(crate) fn call(&self) -> CallOptions {
        CallOptions { timeout: Some(self.timeout), ..CallOptions::default() }
    }
}

/// Names the reason of a write.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct CauseArg {
    /// Why, for the logs of the cluster: up to 256 bytes
    #[arg(long, value_name = "TEXT", value_parser = parse_cause)]
    pub(crate) cause: Option<String>,
}

impl CauseArg {
    /// The options of a call for this reason.
    pub(crate) fn call(&self, reach: &ReachArgs) -> CallOptions {
        CallOptions { cause: self.cause.clone(), ..reach.call() }
    }
}

/// The name of an owner that gave none: the host's and the process id.
pub(crate) fn usual_signee() -> String {
    let host = rustix::system::uname();
    format!("{}:{}", host.nodename().to_string_lossy(), std::process::id())
}

/// The advice to somebody whose cluster is [`too_old`].
pub(crate) const TOO_OLD: &str = "A member still runs an older program: `keyward cluster status` \
     shows their versions. Upgrade it; the leader then raises the level by itself.";

/// The longest time to read the level of a cluster, which only makes an error clearer.
const LEVEL_READ: Duration = Duration::from_millis(500);

/// The error that says so if a member's program is too old for requests that wait, for sessions and
/// for modes.
pub(crate) async fn too_old(client: &Client) -> Option<Error> {
    too_old_for(client, Command::TURNS_LEVEL).await
}

/// The same, for requests of this level.
async fn too_old_for(client: &Client, needed: u32) -> Option<Error> {
    // Locks that belong to no cluster have no level.
    below(&client.cluster(CallOptions::within(LEVEL_READ)).await.ok()?, needed)
}

/// As [`too_old`], of what a node has told.
pub(crate) fn too_old_at(status: &ClusterStatus) -> Option<Error> {
    below(status, Command::TURNS_LEVEL)
}

fn below(status: &ClusterStatus, needed: u32) -> Option<Error> {
    let level = status.feature_level;
    (level < needed).then(|| {
        Error::unavailable(format!(
            "the cluster has feature level {level}, and this needs {needed}"
        ))
    })
}

/// The answer; an error that comes from a member that is too old says that.
///
/// # Errors
/// That of the answer.
pub(crate) async fn explained<T>(client: &Client, answer: Result<T, Error>) -> Result<T, Ended> {
    match answer {
        Ok(answer) => Ok(answer),
        Err(error @ Error::Unavailable { .. }) => match too_old(client).await {
            Some(error) => Err(Ended::TooOld(error)),
            None => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// The end of a command that needs this feature level; an error that comes from a member that is too
/// old says that.
///
/// # Errors
/// That of the command.
pub(crate) async fn explained_at(
    client: &Client,
    needed: u32,
    ended: Result<u8, Ended>,
) -> Result<u8, Ended> {
    match ended {
        // Who is limited would be limited once more.
        Err(Ended::Refused(error @ Error::Unavailable { retry_after: None, .. })) => {
            let old = too_old_for(client, needed).await;
            Err(old.map_or(Ended::Refused(error), Ended::TooOld))
        }
        ended => ended,
    }
}

/// Runs a command that sends requests to a cluster, from start to exit code. An error of the
/// contract is printed as a problem document if a program reads the output.
pub(crate) fn ask<F>(json: bool, logging: &LogArgs, command: F) -> Outcome
where
    F: Future<Output = Result<u8, Ended>>,
{
    logging::start(logging, "warn")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::BROKEN, format!("cannot start: {error}")))?;
    runtime.block_on(command).map_err(|ended| {
        if let Ended::Refused(error) | Ended::TooOld(error) = &ended
            && json
        {
            output::print_json(&Problem::from(error));
        }
        ended.into()
    })
}

/// The end of a command that does not succeed.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The service answered with an error of the contract.
    Refused(Error),
    /// The cluster does not know this kind of request yet.
    TooOld(Error),
    /// Anything else.
    Failed(Failure),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<Ended> for Failure {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Refused(error) => error.into(),
            Ended::TooOld(error) => {
                Self::new(exit::code_of(&error), error.to_string()).advise(TOO_OLD)
            }
            Ended::Failed(failure) => failure,
        }
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Reads a level: an integer that every JSON implementation represents exactly.
///
/// # Errors
/// It is not one.
pub(crate) fn parse_level(text: &str) -> Result<i64, String> {
    let limit = i64::try_from(crate::types::MAX_SAFE_INTEGER).unwrap_or(i64::MAX);
    match text.parse::<i64>() {
        Ok(level) if (-limit..=limit).contains(&level) => Ok(level),
        _ => Err(format!("a level is an integer from -{limit} to {limit}")),
    }
}

/// Reads the reason of a write.
///
/// # Errors
/// It is longer than HTTP accepts, or has line breaks or other control characters.
pub(crate) fn parse_cause(text: &str) -> Result<String, String> {
    if text.len() > MAX_CAUSE_BYTES || text.chars().any(char::is_control) {
        return Err(format!("a cause is one line of up to {MAX_CAUSE_BYTES} bytes"));
    }
    Ok(text.to_owned())
}

/// Reads the name of a session.
///
/// # Errors
/// It is not one.
pub(crate) fn parse_session(text: &str) -> Result<SessionId, String> {
    text.parse().map_err(|error: InvalidSessionId| error.to_string())
}

/// Reads a log position, which names a place in a queue.
///
/// # Errors
/// It is not one.
pub(crate) fn parse_position(text: &str) -> Result<DecidedAt, String> {
    text.parse().map_err(|error: InvalidPosition| error.to_string())
}

/// Reads a fencing token.
///
/// # Errors
/// It is not one.
pub(crate) fn parse_token(text: &str) -> Result<crate::types::Token, String> {
    match text.parse() {
        Ok(token @ 1..=crate::types::MAX_SAFE_INTEGER) => Ok(crate::types::Token(token)),
        _ => Err("a token is an integer from 1 to 2^53 - 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_endpoints_may_end_with_a_comma_and_leave_ports_out() {
        let read = |text: &str| text.parse::<EndpointList>().map(|list| EndpointList::of(&[list]));
        let both = vec!["http://a:7420".to_owned(), "http://b:80".to_owned()];
        assert_eq!(read("http://a, http://b:80,"), Ok(both));
        assert_eq!(read("a"), Ok(vec!["a:7420".to_owned()]));
        for nothing in ["", ",", " , "] {
            assert!(read(nothing).is_err(), "{nothing:?}");
        }
    }
}
