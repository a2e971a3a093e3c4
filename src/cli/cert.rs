//! `keyward cert`: a CA, and certificates of nodes and clients, for trying out.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::output;
use crate::storage::io_may_pass;
use crate::tls::issue::{Ca, CannotIssue, Issued, Validity};

const HELP: &str = "\
Examples:
  keyward cert ca                                   ca.pem and ca.key, in this folder
  keyward cert node --id 1 --host a.example         node-1.pem and node-1.key, signed by it
  keyward cert client worker-1                      client-worker-1.pem and client-worker-1.key

A node's certificate has the name keyward-node-ID, by which the other nodes know it, and the hosts by
which clients call it. It serves both ports: the same file is --tls-cert and --peer-cert.

Keys are written for their owner alone (mode 0600), and no file is ever overwritten. Keep ca.key
away from the nodes: whoever has it can be any node and any client. For more than trying out, use a
CA that can also say which of its certificates no longer count.

Exit codes:
  0  the files are written
  2  the command line is wrong, a file exists already, or the CA cannot be used
  3  the disk is full";

/// Make certificates for trying TLS out
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct CertArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a CA
    Ca(CaArgs),
    /// Make a node's certificate, signed by the CA of the folder
    Node(NodeArgs),
    /// Make a client's certificate, signed by the CA of the folder
    Client(ClientArgs),
}

/// The folder, and how long a certificate is valid.
#[derive(Debug, Args)]
struct CommonArgs {
    /// The folder of the files
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// How many days the certificate is valid
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

#[derive(Debug, Args)]
struct CaArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// The name of the CA
    #[arg(long, default_value = "keyward CA", value_parser = parse_name)]
    name: String,
}

#[derive(Debug, Args)]
struct NodeArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// The id of the node
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// The names and IP addresses by which clients call the node
    #[arg(long = "host", value_name = "HOST,…", value_delimiter = ',', value_parser = parse_host)]
    #[arg(default_values = ["localhost", "127.0.0.1", "::1"])]
    hosts: Vec<String>,
}

#[derive(Debug, Args)]
struct ClientArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// The name of the client
    #[arg(value_name = "NAME", value_parser = parse_file_name)]
    name: String,
}

/// A name in a certificate: one line of printable text.
fn parse_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 64 || text.chars().any(char::is_control) {
        return Err("a name is one line of up to 64 bytes".to_owned());
    }
    Ok(text.to_owned())
}

/// A name that is a part of a file's name, too.
fn parse_file_name(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte));
    if text.is_empty() || text.len() > 64 || !plain {
        return Err("a name has up to 64 letters, digits and the signs - _ . @".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_host(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte));
    if is_name || text.parse::<std::net::IpAddr>().is_ok() {
        Ok(text.to_owned())
    } else {
        Err("give a host name or an IP address, without a port".to_owned())
    }
}

/// Makes the certificate and writes its files.
pub(crate) fn run(args: &CertArgs) -> Outcome {
    match &args.what {
        What::Ca(CaArgs { common, name }) => {
            fs::create_dir_all(&common.dir).map_err(|error| cannot_write(&common.dir, &error))?;
            let (_, issued) = Ca::make(name, Validity::days(common.days))?;
            write(&common.dir, "ca", &issued)
        }
        What::Node(NodeArgs { common, id, hosts }) => {
            let ca = read_ca(&common.dir)?;
            let issued = ca.node(*id, hosts, Validity::days(common.days))?;
            write(&common.dir, &format!("node-{id}"), &issued)
        }
        What::Client(ClientArgs { common, name }) => {
            let ca = read_ca(&common.dir)?;
            let issued = ca.client(name, Validity::days(common.days))?;
            write(&common.dir, &format!("client-{name}"), &issued)
        }
    }
}

impl From<CannotIssue> for Failure {
    fn from(error: CannotIssue) -> Self {
        Self::usage(error.to_string())
    }
}

fn read_ca(folder: &Path) -> Result<Ca, Failure> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(|error| {
            Failure::usage(format!("cannot read the CA's {}: {error}", path.display()))
                .advise("Make a CA in this folder first: keyward cert ca")
        })
    };
    let issued = Issued { certificate: read("ca.pem")?, key: read("ca.key")? };
    Ca::read(&issued).map_err(|error| {
        Failure::usage(format!("the CA in {} cannot be used: {error}", folder.display()))
    })
}

/// Writes the files and prints their names.
fn write(folder: &Path, name: &str, issued: &Issued) -> Outcome {
    let (certificate, key) = write_pair(folder, name, issued)?;
    output::print(&format!("{}\n{}\n", certificate.display(), key.display()));
    Ok(exit::OK)
}

/// Writes `NAME.pem` and `NAME.key`; neither may exist.
///
/// # Errors
/// One exists, or cannot be written.
pub(crate) fn write_pair(
    folder: &Path,
    name: &str,
    issued: &Issued,
) -> Result<(PathBuf, PathBuf), Failure> {
    let certificate = folder.join(format!("{name}.pem"));
    if certificate.exists() {
        return Err(exists(&certificate));
    }
    let key = folder.join(format!("{name}.key"));
    write_new(&key, 0o600, &issued.key)?;
    write_new(&certificate, 0o644, &issued.certificate)?;
    Ok((certificate, key))
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| {
        let is_there = error.kind() == ErrorKind::AlreadyExists;
        if is_there { exists(path) } else { cannot_write(path, &error) }
    })
}

fn exists(path: &Path) -> Failure {
    Failure::usage(format!("{} exists already, and is not overwritten", path.display()))
        .advise("Remove it first, or choose another folder with --dir.")
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    let code = if io_may_pass(error) { exit::UNAVAILABLE } else { exit::USAGE };
    Failure::new(code, format!("cannot write {}: {error}", path.display()))
}
