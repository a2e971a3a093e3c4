//! A node's settings: from flags and variables, then from the file, checked together.
//!
//! Every setting is read and checked before anything is done: no port is bound and no folder made
//! for a wrong configuration. A flag overrides a variable (clap does that), and a variable
//! overrides the file. Unknown keys in the file are refused, because a misspelt key is a setting
//! that silently has its default.
//!
//! Each setting is declared once, in [`declared`]. [`Settings`] has those that were checked against
//! others beside the rest, which is used as it was declared.

mod declared;
mod exposure;
mod values;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::access::Secret;
use crate::cli::exit::Failure;
use crate::cli::logging::LogArgs;
use crate::files::parse_toml;
use crate::tls::Files;

pub(crate) use declared::Declared;
use exposure::Listener;
pub(crate) use values::{AuditFailure, ClientCertificates, Members, Profile};

/// The default port for clients.
pub(crate) const CLIENT_PORT: u16 = 7420;

/// The settings of a node, complete and consistent.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The id of the node.
    pub id: u64,
    /// The initial members' addresses for peers, this node's among them.
    pub members: BTreeMap<u64, String>,
    /// The data folder.
    pub data_dir: PathBuf,
    /// The address to listen at for clients.
    pub client_listen: SocketAddr,
    /// The address to listen at for peers.
    pub peer_listen: SocketAddr,
    /// The host of this node's own member address.
    pub(crate) own_host: String,
    /// The files of TLS for clients.
    pub(crate) client_tls: Option<Files>,
    /// The files of TLS between nodes.
    pub(crate) peer_tls: Option<Files>,
    /// The secret of the first administrator's access token.
    pub(crate) bootstrap: Option<Secret>,
    /// The settings that depend on no other.
    pub(crate) declared: Declared,
}

impl Settings {
    /// The bound on clock drift, in parts per million.
    pub fn rho_ppm(&self) -> u32 {
        self.declared.rho().parts_per_million
    }

    /// The number of log entries after which a snapshot is written.
    pub fn snapshot_every(&self) -> u64 {
        self.declared.snapshot_every()
    }

    /// The timeout of a graceful stop.
    pub fn shutdown_timeout(&self) -> Duration {
        self.declared.shutdown_timeout().0
    }

    /// The options of the log: those of the command line, then those of the file.
    pub(crate) fn log(&self, given: &LogArgs) -> LogArgs {
        LogArgs {
            log: given.log.clone().or_else(|| self.declared.log.clone()),
            log_format: given.log_format.or(self.declared.log_format),
        }
    }

    /// Reads the file if one is named, fills in what flags and variables left out, and checks all.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first.
    pub(crate) fn resolve(given: Declared, file: Option<&Path>) -> Result<Self, Failure> {
        let file = match file {
            Some(path) => read_file(path)?,
            None => Declared::default(),
        };
        Self::check(given.or(file)).map_err(|problems| {
            Failure::usage(problems.join("\n  "))
                .advise("See `keyward serve --help` for the settings; nothing was started.")
        })
    }

    fn check(declared: Declared) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let id = required(declared.id(), "id", "--id 1", &mut problems);
        let example = "--members 1=a:7421,2=b:7421,3=c:7421";
        let members = required(declared.members(), "members", example, &mut problems);
        let example = "--data-dir /var/lib/keyward";
        let data_dir = required(declared.data_dir(), "data_dir", example, &mut problems);

        let own = own_address(id.copied(), members, &mut problems);
        let (host, port) = own.as_ref().map_or(("", 0), |(host, port)| (host.as_str(), *port));
        let (client_listen, peer_listen) = listen_addresses(&declared, host, port, &mut problems);
        check_url(&declared, &mut problems);
        let client_tls = exposure::client_files(&declared, &mut problems);
        let peer_tls = exposure::peer_files(&declared, &mut problems);
        let clients = Listener {
            who: "clients",
            setting: "client_listen",
            address: client_listen,
            tls: "tls_cert and tls_key",
            has_tls: client_tls.is_some(),
        };
        let peers = Listener {
            who: "other nodes",
            setting: "peer_listen",
            address: peer_listen,
            tls: "peer_cert, peer_key and peer_ca",
            has_tls: peer_tls.is_some(),
        };
        exposure::check(&declared, &[clients, peers], &mut problems);
        if declared.snapshot_every() == 0 {
            problems.push("snapshot_every must be at least 1".to_owned());
        }
        if !(1..=MAX_BUFFER_MIB).contains(&declared.buffer_mib()) {
            problems.push(format!("buffer_mib must be at least 1 and at most {MAX_BUFFER_MIB}"));
        }
        if declared.address_connections() == Some(&0) {
            problems.push("address_connections must be at least 1".to_owned());
        }
        if !(1..=MAX_AUDIT_MIB).contains(&declared.audit_max_mib()) {
            problems.push(format!("audit_max_mib must be at least 1 and at most {MAX_AUDIT_MIB}"));
        }
        if declared.audit_kept() > MAX_AUDIT_KEPT {
            problems.push(format!("audit_kept must be at most {MAX_AUDIT_KEPT}"));
        }
        let bootstrap = declared.bootstrap_token_file().and_then(|path| match read_secret(path) {
            Ok(secret) => Some(secret),
            Err(problem) => {
                problems.push(problem);
                None
            }
        });
        if let Some(data_dir) = data_dir {
            problems.extend(check_folder(data_dir).err());
        }
        let (Some(id), Some(Members(members)), Some(data_dir), true) =
            (id, members, data_dir, problems.is_empty())
        else {
            return Err(problems);
        };
        Ok(Self {
            id: *id,
            members: members.clone(),
            data_dir: data_dir.clone(),
            client_listen,
            peer_listen,
            own_host: host.to_owned(),
            client_tls,
            peer_tls,
            bootstrap,
            declared,
        })
    }

    /// The names of this node: those of the setting, of all members, and of the advertised client
    /// address.
    pub(crate) fn hosts(&self) -> Vec<String> {
        let advertised = self.declared.advertise_client().into_iter().filter_map(|url| {
            let (_, rest) = url.split_once("://")?;
            Some(rest.split('/').next().unwrap_or(rest))
        });
        let named = self.members.values().map(String::as_str).chain(advertised);
        let named = named.map(|address| address.rsplit_once(':').map_or(address, |(host, _)| host));
        let allowed = self.declared.allowed_hosts().into_iter().flatten();
        allowed.map(String::as_str).chain(named).map(str::to_owned).collect()
    }
}

/// The most memory for large requests and answers, in MiB.
const MAX_BUFFER_MIB: u64 = 1 << 20;
/// The largest file of an audit, in MiB.
const MAX_AUDIT_MIB: u64 = 1 << 20;
/// The most renamed files of an audit.
const MAX_AUDIT_KEPT: u32 = 1000;

/// The addresses to listen at, for clients and for peers.
fn listen_addresses(
    declared: &Declared,
    host: &str,
    port: u16,
    problems: &mut Vec<String>,
) -> (SocketAddr, SocketAddr) {
    let interfaces = interfaces(host);
    let default = SocketAddr::from((interfaces, CLIENT_PORT));
    let clients = listen_address("client_listen", declared.client_listen(), default, problems);
    let default = SocketAddr::from((interfaces, port));
    let peers = listen_address("peer_listen", declared.peer_listen(), default, problems);
    if clients == peers && clients.port() != 0 {
        problems
            .push(format!("clients and peers cannot share {clients}: give them different ports"));
    }
    (clients, peers)
}

/// Records that a setting is missing, and how to set it.
fn required<T>(
    value: Option<T>,
    name: &str,
    example: &str,
    problems: &mut Vec<String>,
) -> Option<T> {
    if value.is_none() {
        problems.push(format!(
            "the setting {name} is missing: give {example}, KEYWARD_{}, or {name} in the file",
            name.to_uppercase()
        ));
    }
    value
}

/// The host and port of this node among the members.
fn own_address(
    id: Option<u64>,
    members: Option<&Members>,
    problems: &mut Vec<String>,
) -> Option<(String, u16)> {
    let (id, Members(members)) = (id?, members?);
    let Some(own) = members.get(&id) else {
        problems.push(not_a_member(id, members));
        return None;
    };
    let (host, port) =
        values::check_host_port(own).expect("members were checked when they were read");
    Some((host.to_owned(), port))
}

fn check_url(declared: &Declared, problems: &mut Vec<String>) {
    let Some(url) = declared.advertise_client() else { return };
    if !(url.starts_with("http://") || url.starts_with("https://")) {
        problems.push(format!("advertise_client `{url}` is not a URL such as http://a:7420"));
    } else if url.starts_with("http://") && declared.tls_cert().is_some() {
        problems.push(format!(
            "advertise_client `{url}` begins with http://, but with tls_cert clients connect with \
             https://"
        ));
    }
}

/// Reads the secret of an access token. Its text is in no message.
fn read_secret(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("bootstrap_token_file {shown} cannot be read: {error}"))?;
    text.trim().parse().map_err(|what| {
        format!(
            "bootstrap_token_file {shown} has no access token: {what}. Make one with \
             `echo kw_$(openssl rand -hex 32)`"
        )
    })
}

/// Checks whether the data folder can be used or made, without making it: the nearest existing
/// ancestor must be a folder and writable.
fn check_folder(folder: &Path) -> Result<(), String> {
    let shown = folder.display();
    if folder.as_os_str().is_empty() {
        return Err("data_dir is empty".to_owned());
    }
    let absolute = std::path::absolute(folder)
        .map_err(|error| format!("data_dir {shown} cannot be used: {error}"))?;
    let existing = absolute
        .ancestors()
        .find(|path| path.symlink_metadata().is_ok())
        .ok_or_else(|| format!("data_dir {shown} cannot be used: there is no such file system"))?;
    if !existing.is_dir() {
        return Err(format!(
            "data_dir {shown} cannot be used: {} is not a folder",
            existing.display()
        ));
    }
    let needed =
        rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(existing, needed).map_err(|error| {
        format!(
            "data_dir {shown} cannot be used: no access to {}: {}",
            existing.display(),
            std::io::Error::from(error)
        )
    })
}

fn not_a_member(id: u64, members: &BTreeMap<u64, String>) -> String {
    let known = members.keys().map(u64::to_string).collect::<Vec<_>>().join(", ");
    format!("id {id} is not among the members ({known}): every node is a member, this one too")
}

/// The default listening address of a member that its peers reach at `host`: the loopback interface
/// if `host` is on it, else all interfaces of the address's kind. `[::]` includes IPv4 on Linux.
fn interfaces(host: &str) -> IpAddr {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_loopback() => ip,
        Ok(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) if host == "localhost" => Ipv4Addr::LOCALHOST.into(),
        Ok(IpAddr::V4(_)) | Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// Reads an address to listen on, or returns the default. An error is recorded and replaced by the
/// default, so that the rest can still be checked.
fn listen_address(
    name: &str,
    text: Option<&String>,
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

/// Reads the file; an error names its line.
fn read_file(path: &Path) -> Result<Declared, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Failure::usage(format!(
            "cannot read the configuration {} (--config, KEYWARD_CONFIG): {error}",
            path.display()
        ))
    })?;
    parse_toml::<Declared>(&text).map_err(|(line, what)| {
        Failure::usage(format!("{}:{line}: {what}", path.display()))
            .advise("See `keyward serve --help` for the file's keys; nothing was started.")
    })
}

/// Reads and checks a configuration file's text as a start without flags and variables does.
///
/// # Errors
/// Everything that is wrong, or the line that is no setting.
pub fn read_settings(text: &str) -> Result<Settings, Vec<String>> {
    let file = parse_toml(text).map_err(|(line, what)| vec![format!("{line}: {what}")])?;
    Settings::check(file)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::logging::LogFormat;
    use crate::cli::settings::values::RateText;
    use crate::http::Rate;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: Declared,
    }

    fn args(line: &str) -> Declared {
        Line::try_parse_from(std::iter::once("serve").chain(line.split_whitespace()))
            .unwrap_or_else(|error| panic!("{line}: {error}"))
            .serve
    }

    fn merge(line: &str, file: &str) -> Result<Settings, Vec<String>> {
        let file = parse_toml(file).unwrap_or_else(|(line, what)| panic!("{line}: {what}"));
        Settings::check(args(line).or(file))
    }

    /// As [`merge`], on ports that may be open.
    fn open(line: &str, file: &str) -> Result<Settings, Vec<String>> {
        merge(&format!("{line} --insecure"), file)
    }

    const MEMBERS: &str = "--members 1=a:7421,2=b:7431,3=localhost:7441 --data-dir /tmp";

    #[test]
    fn three_machines_need_only_id_members_and_folder() {
        let settings = open(&format!("--id 2 {MEMBERS}"), "").unwrap();
        assert_eq!(settings.client_listen.to_string(), "0.0.0.0:7420");
        assert_eq!(settings.peer_listen.to_string(), "0.0.0.0:7431");
        assert_eq!(settings.own_host, "b");
        // A node whose peers are on this machine listens on this machine.
        let settings = open(&format!("--id 3 {MEMBERS}"), "").unwrap();
        assert_eq!(settings.client_listen.to_string(), "127.0.0.1:7420");
        assert_eq!(settings.peer_listen.to_string(), "127.0.0.1:7441");
    }

    #[test]
    fn a_member_listens_where_its_address_is() {
        let members =
            "--members 1=[::1]:7421,2=[2001:db8::2]:7431,3=127.0.0.2:7441 --data-dir /tmp";
        for (id, clients, peers) in [
            (1, "[::1]:7420", "[::1]:7421"),
            (2, "[::]:7420", "[::]:7431"),
            (3, "127.0.0.2:7420", "127.0.0.2:7441"),
        ] {
            let settings = open(&format!("--id {id} {members}"), "").unwrap();
            assert_eq!(settings.client_listen.to_string(), clients);
            assert_eq!(settings.peer_listen.to_string(), peers);
        }
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let file = "
            id = 1
            data_dir = '/tmp'
            members = { 1 = 'a:7421', 2 = 'b:7421' }
            client_listen = '127.0.0.1:1'
            profile = 'fast'
            rho = '2%'
            shutdown_timeout = '3s'
            idle_timeout = '90s'
            address_connections = 11
            address_rate = '100:500'
            identity_rate = '20'
            allowed_hosts = ['locks.example']
            buffer_mib = 7
            log = 'debug'
            log_format = 'json'
        ";
        let settings = open("--id 2 --profile stable", file).unwrap();
        assert_eq!(settings.id, 2);
        assert_eq!(settings.declared.profile(), Profile::Stable);
        assert_eq!(settings.rho_ppm(), 20_000);
        assert_eq!(settings.client_listen.to_string(), "127.0.0.1:1");
        assert_eq!(settings.shutdown_timeout(), Duration::from_secs(3));
        assert_eq!(settings.declared.idle_timeout().0, Duration::from_secs(90));
        assert_eq!(settings.declared.buffer_mib(), 7);
        assert_eq!(settings.declared.address_connections(), Some(&11));
        let rate = |per_second, burst| RateText(Rate { per_second, burst });
        assert_eq!(settings.declared.address_rate(), Some(&rate(100, 500)));
        assert_eq!(settings.declared.identity_rate(), Some(&rate(20, 20)));
        assert_eq!(settings.hosts(), ["locks.example", "a", "b"]);
        let log = settings.log(&LogArgs::default());
        assert_eq!(log.log.as_deref(), Some("debug"));
        assert_eq!(log.log_format, Some(LogFormat::Json));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let problems = merge("--members 1=a:7421 --client-listen nowhere", "").unwrap_err();
        let problems = problems.join("\n");
        assert!(problems.contains("the setting id is missing: give --id 1, KEYWARD_ID"));
        assert!(problems.contains("the setting data_dir is missing"));
        assert!(problems.contains("client_listen `nowhere` is not ADDRESS:PORT"));
    }

    #[test]
    fn settings_that_do_not_agree_are_refused() {
        let table = [
            ("--id 4", "id 4 is not among the members (1, 2, 3)"),
            ("--id 1 --client-listen 0.0.0.0:7421", "clients and peers cannot share 0.0.0.0:7421"),
            ("--id 1 --advertise-client a:7420", "advertise_client `a:7420` is not a URL"),
            ("--id 1 --snapshot-every 0", "snapshot_every must be at least 1"),
            ("--id 1 --buffer-mib 1 --advertise-client x", "advertise_client `x` is not a URL"),
        ];
        for (line, wrong) in table {
            let problems = open(&format!("{line} {MEMBERS}"), "").unwrap_err();
            assert!(problems.join("\n").starts_with(wrong), "{line}: {problems:?}");
        }
        let problems = merge("--id 1 --members 1=a:7421 --data-dir /dev/null/x", "").unwrap_err();
        assert!(problems.join("\n").contains("/dev/null is not a folder"), "{problems:?}");
    }

    #[test]
    fn an_address_that_others_reach_needs_tls_or_a_word() {
        let peer = "--peer-cert c --peer-key k --peer-ca a";
        let table = [
            (
                "",
                vec!["clients would be answered without TLS at 0.0.0.0:7420", "other nodes would"],
            ),
            ("--client-listen 127.0.0.1:1", vec!["other nodes would"]),
            ("--client-listen [::ffff:127.0.0.1]:1 --peer-listen [::1]:2", vec![]),
            ("--tls-cert c --tls-key k", vec!["other nodes would be answered without TLS"]),
            (peer, vec!["clients would"]),
            (&format!("--tls-cert c --tls-key k {peer}"), vec![]),
            ("--insecure", vec![]),
            ("--insecure=yes", vec![]),
            ("--insecure=no", vec!["clients would", "other nodes would"]),
        ];
        for (line, wrong) in table {
            let problems = merge(&format!("--id 1 {MEMBERS} {line}"), "").err().unwrap_or_default();
            assert_eq!(problems.len(), wrong.len(), "{line}: {problems:?}");
            for (problem, start) in problems.iter().zip(wrong) {
                assert!(problem.starts_with(start), "{line}: {problem}");
            }
        }
        let accepted = merge(&format!("--id 1 {MEMBERS}"), "insecure = true");
        assert!(accepted.is_ok(), "{accepted:?}");
    }

    #[test]
    fn the_files_of_tls_belong_together() {
        let table = [
            ("--tls-cert c", "tls_cert, tls_key belong together: tls_key is missing"),
            ("--peer-ca a", "peer_cert, peer_key, peer_ca belong together: peer_cert and peer_key"),
            ("--tls-client-ca a", "tls_client_ca needs tls_cert and tls_key"),
            (
                "--tls-cert c --tls-key k --tls-client-auth optional",
                "tls_client_auth needs tls_client_ca",
            ),
        ];
        for (line, wrong) in table {
            let problems = open(&format!("--id 1 {MEMBERS} {line}"), "").unwrap_err();
            assert!(problems[0].starts_with(wrong), "{line}: {problems:?}");
        }
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_line() {
        let table = [
            ("id = 1\nclient-listen = 'x'", 2, "unknown field `client-listen`, expected one of"),
            ("id = 1\n\nid = 2", 3, "duplicate key"),
            ("id = 'one'", 1, "invalid type"),
            ("id = -1", 1, "invalid value"),
            ("\nrho = '2'", 2, "`2` is not a share"),
            ("shutdown_timeout = '10'", 1, "`10` has no unit"),
            ("profile = 'quick'", 1, "unknown variant `quick`, expected `stable` or `fast`"),
            ("\n[members]\n1 = 'a'", 2, "`a` is not HOST:PORT"),
            ("id = ", 1, ""),
        ];
        for (file, line, wrong) in table {
            let (found, what) = parse_toml::<Declared>(file).expect_err(file);
            assert_eq!(found, line, "{file}: {what}");
            assert!(what.contains(wrong), "{file}: {what}");
        }
    }
}
