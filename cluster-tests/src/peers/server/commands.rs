//! The command that starts each service: with its defaults, on ports of the loopback interface.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use super::{Kind, Ports, Servers};

/// The library in Debian's `zookeeper` package; its manifest names all its dependencies.
const ZOOKEEPER_JAR: &str = "/usr/share/java/zookeeper.jar";

/// The heap that upstream's `zkServer.sh` gives a server. Java's own default is a quarter of the
/// machine's memory, for each of the three.
const ZOOKEEPER_HEAP: &str = "-Xmx1000m";

impl Kind {
    /// Checks that it can be started here.
    ///
    /// # Errors
    /// The missing program, and the Debian package that has it.
    pub fn installed(&self) -> Result<(), String> {
        let missing = match self {
            Self::Keyward { program, .. } if program.is_file() => None,
            Self::Keyward { program, .. } => {
                return Err(format!("there is no program {}", program.display()));
            }
            Self::Etcd => (!runs("etcd")).then_some(("etcd", "etcd-server")),
            Self::Redis => (!runs("redis-server")).then_some(("redis-server", "redis-server")),
            Self::ZooKeeper if !Path::new(ZOOKEEPER_JAR).is_file() => {
                Some((ZOOKEEPER_JAR, "zookeeper"))
            }
            Self::ZooKeeper => (!runs("java")).then_some(("java", "default-jre-headless")),
        };
        match missing {
            None => Ok(()),
            Some((what, package)) => {
                Err(format!("{what} is missing: install Debian's package {package}"))
            }
        }
    }

    /// The output of the program when it is called for its version.
    pub(super) fn program_version(&self) -> Result<String, String> {
        let program = match self {
            Self::Keyward { program, .. } => program.as_path(),
            Self::Etcd => Path::new("etcd"),
            Self::Redis => Path::new("redis-server"),
            Self::ZooKeeper => return Err(String::from("a running node tells it")),
        };
        let output = Command::new(program).arg("--version").output();
        let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        version_in(&text).ok_or_else(|| format!("no version in {text:?}"))
    }
}

/// The first word that looks like a version: `3.4.23`, `v=7.0.15`.
fn version_in(text: &str) -> Option<String> {
    text.split_whitespace()
        .map(|word| word.trim_start_matches("v=").trim_end_matches(','))
        .find(|word| word.contains('.') && word.starts_with(|first: char| first.is_ascii_digit()))
        .map(str::to_owned)
}

/// Whether a program is on the path.
fn runs(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Wraps a command so that the kernel kills the process if this program dies without having done
/// so. `setpriv` becomes the server, so the process id is the server's.
pub(super) fn dying_with_us(command: &Command) -> Command {
    let mut wrapped = if runs("setpriv") {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program());
        setpriv
    } else {
        Command::new(command.get_program())
    };
    wrapped.args(command.get_args());
    wrapped
}

impl Servers {
    /// Writes the files that a node needs before its first start.
    pub(super) fn prepare(&self, index: usize) -> io::Result<()> {
        let folder = self.data_dir(index);
        match self.kind {
            // It creates its own.
            Kind::Keyward { .. } => Ok(()),
            Kind::Etcd | Kind::Redis => fs::create_dir(&folder),
            Kind::ZooKeeper => {
                fs::create_dir(&folder)?;
                fs::write(folder.join("myid"), format!("{}\n", index + 1))?;
                fs::write(folder.join("zoo.cfg"), self.zoo_cfg(index))
            }
        }
    }

    /// The values of the package's own example; `forceSync` is left on, as it is by default.
    ///
    /// Three lines are not the example's: no limit of connections from one address, because all
    /// clients have the same one; no web page; and `srvr`, which reports the role.
    fn zoo_cfg(&self, index: usize) -> String {
        let mut servers = Vec::new();
        for (id, node) in (1..).zip(&self.nodes) {
            let Ports { peers, election, .. } = node.ports;
            servers.push(format!("server.{id}=127.0.0.1:{peers}:{election}"));
        }
        format!(
            "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={data}\nclientPort={port}\n\
             clientPortAddress=127.0.0.1\nmaxClientCnxns=0\nadmin.enableServer=false\n\
             4lw.commands.whitelist=srvr\n{servers}\n",
            data = self.data_dir(index).display(),
            port = self.nodes[index].ports.clients,
            servers = servers.join("\n"),
        )
    }

    pub(super) fn command(&self, index: usize) -> Command {
        match &self.kind {
            Kind::Keyward { program, arguments } => self.keyward(index, program, arguments),
            Kind::Etcd => self.etcd(index),
            Kind::ZooKeeper => self.zookeeper(index),
            Kind::Redis => self.redis(index),
        }
    }

    fn keyward(&self, index: usize, program: &Path, arguments: &[String]) -> Command {
        let ports = self.nodes[index].ports;
        let members = self.members(|id, port| format!("{id}=127.0.0.1:{port}"));
        let mut command = Command::new(program);
        command
            .arg("serve")
            .args(["--id", &(index + 1).to_string()])
            .arg("--data-dir")
            .arg(self.data_dir(index))
            .args(["--client-listen", &format!("127.0.0.1:{}", ports.clients)])
            .args(["--peer-listen", &format!("127.0.0.1:{}", ports.peers)])
            .args(["--members", &members])
            .args(["--advertise-client", &self.endpoint(index)])
            .args(arguments);
        command
    }

    fn etcd(&self, index: usize) -> Command {
        let peers = format!("http://127.0.0.1:{}", self.nodes[index].ports.peers);
        let clients = self.endpoint(index);
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("node{}", index + 1)])
            .arg("--data-dir")
            .arg(self.data_dir(index))
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args([
                "--initial-cluster",
                &self.members(|id, port| format!("node{id}=http://127.0.0.1:{port}")),
            ])
            .args(["--initial-cluster-state", "new"]);
        command
    }

    fn zookeeper(&self, index: usize) -> Command {
        let mut command = Command::new("java");
        // Without performance data no file is left outside the folder when it is killed.
        command
            .args([ZOOKEEPER_HEAP, "-XX:-UsePerfData", "-Dzookeeper.jmx.log4j.disable=true"])
            .args(["-cp", ZOOKEEPER_JAR, "org.apache.zookeeper.server.quorum.QuorumPeerMain"])
            .arg(self.data_dir(index).join("zoo.cfg"));
        command
    }

    fn redis(&self, index: usize) -> Command {
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1"])
            .args(["--port", &self.nodes[index].ports.clients.to_string()])
            .arg("--dir")
            .arg(self.data_dir(index));
        command
    }

    /// The members, each written with its id and the port for its peers.
    fn members(&self, write: impl Fn(usize, u16) -> String) -> String {
        let each = (1..).zip(&self.nodes).map(|(id, node)| write(id, node.ports.peers));
        each.collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_the_programs_print() {
        let etcd = "etcd Version: 3.4.23\nGit SHA: Not provided\nGo Version: go1.19.8\n";
        assert_eq!(version_in(etcd).as_deref(), Some("3.4.23"));
        let redis = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64";
        assert_eq!(version_in(redis).as_deref(), Some("7.0.15"));
        assert_eq!(version_in("keyward 0.1.0\n").as_deref(), Some("0.1.0"));
        assert_eq!(version_in("nothing here"), None);
    }

    #[test]
    fn a_missing_program_is_named() {
        let program = "/nowhere/keyward".into();
        let kind = Kind::Keyward { program, arguments: Vec::new() };
        assert!(kind.installed().expect_err("it is missing").contains("/nowhere/keyward"));
    }
}
