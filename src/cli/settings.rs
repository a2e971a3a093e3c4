//! A node's settings: from flags and variables, then from the file, checked together.
//!
//! Nothing is touched until every setting has been read and all of them agree: no port is bound and
//! no folder made for a configuration that is wrong. A flag wins over a variable (clap sees to
//! that), a variable over the file. The file's unknown keys are refused, because a misspelt key is
//! a setting that silently has its default.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use crate::cli::duration;
use crate::cli::exit::Failure;
use crate::cli::logging::{LogArgs, LogFormat};
use crate::cli::serve::ServeArgs;

/// Where clients connect when nothing is said.
pub(crate) const CLIENT_PORT: u16 = 7420;

/// How long a graceful stop may take: a leader transfer takes well under a second, requests under
/// way at most five.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// How soon a dead leader is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Profile {
    /// Waits longer; suits busy or distant machines.
    #[default]
    Stable,
    /// Suits one quiet network.
    Fast,
}

/// A duration as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DurationText(pub(crate) Duration);

impl FromStr for DurationText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        duration::parse_positive(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

/// By how much clocks may differ in speed, in parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rho {
    pub(crate) parts_per_million: u32,
}

impl Default for Rho {
    fn default() -> Self {
        Self { parts_per_million: 10_000 }
    }
}

impl FromStr for Rho {
    type Err = String;

    /// `1%`, `0.5%`: more than nothing, at most 10 %.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a share such as 1% or 0.5%, above 0% and up to 10%");
        let percent = text.trim().strip_suffix('%').ok_or_else(wrong)?.trim();
        let (whole, fraction) = percent.split_once('.').unwrap_or((percent, ""));
        if fraction.len() > 4 {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        // Four digits behind the point of a percentage are millionths.
        let fraction: u32 = format!("{fraction:0<4}").parse().map_err(|_| wrong())?;
        let parts_per_million = whole
            .checked_mul(10_000)
            .and_then(|ppm| ppm.checked_add(fraction))
            .ok_or_else(wrong)?;
        if (1..=100_000).contains(&parts_per_million) {
            Ok(Self { parts_per_million })
        } else {
            Err(wrong())
        }
    }
}

impl<'de> Deserialize<'de> for Rho {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

/// Every node of the cluster: its id and the address its peers reach it at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Members(pub(crate) BTreeMap<u64, String>);

impl Members {
    fn build(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, String> {
        let mut members = BTreeMap::new();
        for (id, address) in pairs {
            let number = match id.parse::<u64>() {
                Ok(number) if number > 0 => number,
                _ => return Err(format!("`{id}` is not a node id: ids count from 1")),
            };
            check_host_port(&address)?;
            if members.values().any(|other| *other == address) {
                return Err(format!("two members have the address {address}"));
            }
            if members.insert(number, address).is_some() {
                return Err(format!("two members have the id {number}"));
            }
        }
        if members.is_empty() {
            return Err("no member is named".to_owned());
        }
        Ok(Self(members))
    }
}

impl FromStr for Members {
    type Err = String;

    /// `1=a:7421,2=b:7421,3=c:7421`
    fn from_str(text: &str) -> Result<Self, String> {
        let pairs = text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
            .map(|pair| match pair.split_once('=') {
                Some((id, address)) => Ok((id.trim().to_owned(), address.trim().to_owned())),
                None => Err(format!("`{pair}` is not ID=HOST:PORT, such as 1=a.example:7421")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        Self::build(pairs)
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table such as { 1 = \"a:7421\", 2 = \"b:7421\" }")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry::<String, String>()? {
                    pairs.push(pair);
                }
                Members::build(pairs).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

fn from_text<'de, T: FromStr<Err = String>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

/// Splits `host:port`, `[v6]:port`.
fn check_host_port(address: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("`{address}` is not HOST:PORT, such as a.example:7421 or 10.0.0.1:7421");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let plain = bare.is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok())
        || (!host.is_empty()
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')));
    if plain { Ok((host, port)) } else { Err(wrong()) }
}

/// What the file may hold: the options of `serve`, with `_` for `-`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSettings {
    id: Option<u64>,
    members: Option<Members>,
    data_dir: Option<PathBuf>,
    client_listen: Option<String>,
    peer_listen: Option<String>,
    advertise_client: Option<String>,
    profile: Option<Profile>,
    rho: Option<Rho>,
    snapshot_every: Option<u64>,
    shutdown_timeout: Option<DurationText>,
    log: Option<String>,
    log_format: Option<LogFormat>,
}

/// What a node runs with, complete and in agreement.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) id: u64,
    pub(crate) members: BTreeMap<u64, String>,
    pub(crate) data_dir: PathBuf,
    pub(crate) client_listen: SocketAddr,
    pub(crate) peer_listen: SocketAddr,
    pub(crate) advertise_client: Option<String>,
    pub(crate) profile: Profile,
    pub(crate) rho: Rho,
    pub(crate) snapshot_every: Option<u64>,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) debug_clock: bool,
    pub(crate) log: LogArgs,
}

impl Settings {
    /// Reads the file if one is named, fills in what flags and variables left out, and checks all.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first.
    pub(crate) fn resolve(args: ServeArgs, log: &LogArgs) -> Result<Self, Failure> {
        let file = match &args.config {
            Some(path) => read_file(path)?,
            None => FileSettings::default(),
        };
        Self::merge(args, log, file).map_err(|problems| {
            Failure::usage(problems.join("\n  "))
                .advise("See `keyward serve --help` for the settings; nothing was started.")
        })
    }

    fn merge(args: ServeArgs, log: &LogArgs, file: FileSettings) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let id = args.id.or(file.id);
        let members = args.members.or(file.members);
        let data_dir = args.data_dir.or(file.data_dir);
        for (missing, name, example) in [
            (id.is_none(), "id", "--id 1"),
            (members.is_none(), "members", "--members 1=a:7421,2=b:7421,3=c:7421"),
            (data_dir.is_none(), "data_dir", "--data-dir /var/lib/keyward"),
        ] {
            if missing {
                let variable = name.to_uppercase();
                problems.push(format!(
                    "the setting {name} is missing: give {example}, KEYWARD_{variable}, or {name} \
                     in the file"
                ));
            }
        }
        let own = match (id, &members) {
            (Some(id), Some(Members(members))) => match members.get(&id) {
                Some(own) => Some(own.clone()),
                None => {
                    problems.push(not_a_member(id, members));
                    None
                }
            },
            _ => None,
        };
        let (host, port) = own.as_deref().map_or(("", 0), |own| {
            check_host_port(own).expect("members were checked when they were read")
        });
        let interfaces = if is_loopback(host) { [127, 0, 0, 1] } else { [0, 0, 0, 0] };
        let client_listen = listen_address(
            "client_listen",
            args.client_listen.or(file.client_listen),
            SocketAddr::from((interfaces, CLIENT_PORT)),
            &mut problems,
        );
        let peer_listen = listen_address(
            "peer_listen",
            args.peer_listen.or(file.peer_listen),
            SocketAddr::from((interfaces, port)),
            &mut problems,
        );
        if client_listen == peer_listen && client_listen.port() != 0 {
            problems.push(format!(
                "clients and peers cannot share {client_listen}: give them different ports"
            ));
        }
        let advertise_client = args.advertise_client.or(file.advertise_client);
        if let Some(url) = &advertise_client
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            problems.push(format!("advertise_client `{url}` is not a URL such as http://a:7420"));
        }
        let snapshot_every = args.snapshot_every.or(file.snapshot_every);
        if snapshot_every == Some(0) {
            problems.push("snapshot_every must be at least 1".to_owned());
        }
        let (Some(id), Some(Members(members)), Some(data_dir), true) =
            (id, members, data_dir, problems.is_empty())
        else {
            return Err(problems);
        };
        Ok(Self {
            id,
            members,
            data_dir,
            client_listen,
            peer_listen,
            advertise_client,
            profile: args.profile.or(file.profile).unwrap_or_default(),
            rho: args.rho.or(file.rho).unwrap_or_default(),
            snapshot_every,
            shutdown_timeout: args
                .shutdown_timeout
                .or(file.shutdown_timeout)
                .map_or(SHUTDOWN_TIMEOUT, |timeout| timeout.0),
            debug_clock: args.debug_clock,
            log: LogArgs {
                log: log.log.clone().or(file.log),
                log_format: log.log_format.or(file.log_format),
            },
        })
    }
}

fn not_a_member(id: u64, members: &BTreeMap<u64, String>) -> String {
    let known = members.keys().map(u64::to_string).collect::<Vec<_>>().join(", ");
    format!("id {id} is not among the members ({known}): every node is a member, this one too")
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Reads an address to listen on, or takes the default; a problem is noted and the default stands
/// in, so that the rest can still be checked.
fn listen_address(
    name: &str,
    text: Option<String>,
    default: SocketAddr,
    problems: &mut Vec<String>,
) -> SocketAddr {
    let Some(text) = text else { return default };
    text.parse().unwrap_or_else(|_| {
        problems.push(format!(
            "{name} `{text}` is not ADDRESS:PORT with a numeric address, such as 0.0.0.0:7420 or \
             [::]:7420"
        ));
        default
    })
}

/// Reads the file; what is wrong is said with its line.
fn read_file(path: &Path) -> Result<FileSettings, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!("cannot read the configuration {}: {error}", path.display()))
    })?;
    parse_file(&text).map_err(|(line, what)| {
        Failure::usage(format!("{}:{line}: {what}", path.display()))
            .advise("See `keyward serve --help` for the file's keys; nothing was started.")
    })
}

/// The settings, or the line and what is wrong there.
fn parse_file(text: &str) -> Result<FileSettings, (usize, String)> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
        (line, error.message().to_owned())
    })
}
