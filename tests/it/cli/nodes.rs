//! `keyward serve` and `keyward dev`: nodes with real listeners and real files.

use std::net::TcpListener;
use std::process::Command;

use rustix::process::Signal;

use super::{Running, assert_code, eventually, keyward, output, program, stderr, stdout};

/// A command with this folder for its temporary folders.
fn with_temp(line: &str, temp: &tempfile::TempDir) -> Command {
    let mut command = keyward(line);
    command.env("TMPDIR", temp.path());
    command
}

fn is_empty(folder: &tempfile::TempDir) -> bool {
    folder.path().read_dir().unwrap().next().is_none()
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn dev_lives_as_long_as_its_command() {
    let temp = tempfile::tempdir().unwrap();
    let program = program();
    let script = format!(
        "set -e; for e in $(echo $KEYWARD_ENDPOINTS | tr , \" \"); do \
         {program} lock a --signee me --endpoints $e >/dev/null; echo $e; done; \
         {program} cluster status; exit 9"
    );
    let run = output(with_temp(&format!("dev -- sh -c '{script}'"), &temp));
    assert_code(&run, 9);
    assert!(stdout(&run).contains("3 of 3 voters answer"), "{}", stdout(&run));
    assert!(is_empty(&temp), "the data is removed");
}

#[test]
fn dev_shows_its_nodes_and_stops_on_a_signal() {
    let temp = tempfile::tempdir().unwrap();
    let mut dev = Running::start(with_temp("dev", &temp));
    assert_eq!(
        dev.line().split_whitespace().collect::<Vec<_>>(),
        ["NODE", "CLIENTS", "ROLE", "PID", "DATA"]
    );
    let rows: Vec<String> = (0..3).map(|_| dev.line()).collect();
    assert_eq!(rows.iter().filter(|row| row.contains("leader")).count(), 1, "{rows:?}");
    dev.signal(Signal::INT);
    let (code, err) = dev.end();
    assert_eq!(code, Some(0), "{err}");
    assert!(is_empty(&temp), "the data is removed");
}

/// A cluster of `keyward dev` with what its table says.
struct Dev {
    running: Running,
    /// Client address, role and process of each node.
    nodes: Vec<[String; 3]>,
}

impl Dev {
    fn start(command: Command) -> Self {
        let mut running = Running::start(command);
        running.line();
        let row = |line: String| {
            let cells: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            [1, 2, 3].map(|column| cells[column].clone())
        };
        let nodes = (0..3).map(|_| row(running.line())).collect();
        Self { running, nodes }
    }

    fn ask(&self, line: &str) -> std::process::Output {
        let mut command = keyward(line);
        let endpoints: Vec<&str> = self.nodes.iter().map(|node| node[0].as_str()).collect();
        command.env("KEYWARD_ENDPOINTS", endpoints.join(","));
        output(command)
    }
}

fn kill(pid: &str) {
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn the_leader_of_dev_may_be_killed_and_comes_back_and_the_lock_stays() {
    let temp = tempfile::tempdir().unwrap();
    let dev = Dev::start(with_temp("dev", &temp));
    assert_code(&dev.ask("lock a --signee me --duration 10m"), 0);
    let [_, _, leader] = dev.nodes.iter().find(|[_, role, _]| role == "leader").unwrap();
    let status = dev.ask("cluster status");
    let shown = stdout(&status).lines().find(|line| line.contains(" leader ")).unwrap();
    assert!(shown.ends_with(&format!(" {leader}")), "the process is shown: {shown}");
    kill(leader);
    let checked = dev.ask("check a");
    assert_code(&checked, 0);
    assert!(stdout(&checked).starts_with("a is held by me"), "{}", stdout(&checked));
    let status = dev.ask("cluster status");
    assert_code(&status, 0);
    let text = stdout(&status);
    assert!(text.contains("2 of 3 voters answer"), "{text}");
    assert!(text.contains(" is unreachable: connection refused\n"), "{text}");
    eventually("the node is back", || {
        let text = dev.ask("cluster status").stdout;
        let text = String::from_utf8(text).unwrap();
        (text.matches(" ready ").count() == 3 && !text.contains(leader)).then_some(())
    });
    assert_code(&dev.ask("check a"), 0);
    dev.running.signal(Signal::TERM);
    let (code, err) = dev.running.end();
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains(&format!("(process {leader}) was killed by signal 9")), "{err}");
    assert!(err.contains("is started again as process "), "{err}");
    assert!(is_empty(&temp), "the data is removed");
}

#[test]
fn the_nodes_of_dev_end_with_it_even_when_it_is_killed() {
    for signal in [Signal::KILL, Signal::INT] {
        let temp = tempfile::tempdir().unwrap();
        let dev = Dev::start(with_temp("dev", &temp));
        let pids: Vec<String> = dev.nodes.iter().map(|[_, _, pid]| pid.clone()).collect();
        assert!(pids.iter().all(|pid| super::runs(pid)));
        dev.running.signal(signal);
        dev.running.end();
        eventually("no node is left", || (!pids.iter().any(|pid| super::runs(pid))).then_some(()));
    }
}

#[test]
fn a_client_at_the_port_for_nodes_is_told_where_to_go() {
    let folder = tempfile::tempdir().unwrap();
    let peers = free_port();
    let line = format!(
        "serve --id 1 --members 1=127.0.0.1:{peers} --data-dir {} --client-listen 127.0.0.1:0 \
         --advertise-client http://locks.example:7420",
        folder.path().display()
    );
    let mut node = Running::start(keyward(&line));
    node.line();
    assert_eq!(node.line(), "ready: term 1, leader 1");
    let asked = output(keyward(&format!(
        "lock a --signee me --timeout 2s --endpoints http://127.0.0.1:{peers}"
    )));
    assert_code(&asked, 2);
    let wanted = "this port is for the other nodes of the cluster; clients are answered at \
                  http://locks.example:7420";
    assert!(stderr(&asked).contains(wanted), "{}", stderr(&asked));
    for path in ["/", "/v1/cluster", "/peer/v1/vote", "/peer/v9/new"] {
        let http = keyward::client::tls::plain().build().unwrap();
        let response = super::block_on(http.get(format!("http://127.0.0.1:{peers}{path}")).send());
        let response = response.unwrap();
        assert_eq!(response.status(), 404, "{path}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{path}");
    }
    node.signal(Signal::TERM);
    assert_eq!(node.end().0, Some(0));
}

#[test]
fn dev_keeps_the_data_of_a_named_folder() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let program = program();
    let dev = |command: &str| {
        let line = format!("dev --nodes 1 --data-dir {} -- {program} {command}", data.display());
        output(keyward(&line))
    };
    assert_code(&dev("lock a --signee me --duration 1h"), 0);
    let again = dev("check a");
    assert_code(&again, 0);
    assert!(stdout(&again).starts_with("a is held by me"), "{}", stdout(&again));
    assert_code(&dev("check b"), 1);
}

#[test]
fn a_cluster_starts_and_stops_without_a_warning() {
    let program = program();
    let run = output(keyward(&format!("dev --log warn -- {program} lock a --signee me")));
    assert_code(&run, 0);
    let said = stderr(&run);
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
}

#[test]
fn a_data_folder_is_printed_offline_with_its_damage() {
    let temp = tempfile::tempdir().unwrap();
    let inspect = |options: &str| {
        output(keyward(&format!("inspect {}/node-1 {options}", temp.path().display())))
    };
    assert_code(&inspect(""), 2);
    let program = program();
    let command = format!("{program} lock jobs/a --signee me --duration 1h");
    let folder = temp.path().display();
    assert_code(&output(keyward(&format!("dev --nodes 1 --data-dir {folder} -- {command}"))), 0);

    let whole = inspect("");
    assert_code(&whole, 0);
    assert!(
        stdout(&whole).contains("lock \"default\"/\"jobs/a\" for \"me\""),
        "{}",
        stdout(&whole)
    );
    assert!(stdout(&whole).contains("jobs/a: me at level 0 with token 1"), "{}", stdout(&whole));
    let document: serde_json::Value = serde_json::from_str(stdout(&inspect("--json"))).unwrap();
    assert_eq!(document["damage"], serde_json::json!([]));
    assert_eq!(document["state"]["tables"][0]["shown"][0]["signature"], "jobs/a");

    let identity = temp.path().join("node-1/identity");
    let mut bytes = std::fs::read(&identity).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&identity, bytes).unwrap();
    let damaged = inspect("");
    assert_code(&damaged, 1);
    assert!(stdout(&damaged).contains("identity: DAMAGED"), "{}", stdout(&damaged));
    assert!(stdout(&damaged).contains("jobs/a: me at level 0"), "{}", stdout(&damaged));
}

#[test]
fn a_node_says_where_it_listens_and_when_it_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("a/b").display().to_string();
    let peers = free_port();
    let line = format!(
        "serve --id 1 --members 1=127.0.0.1:{peers} --data-dir {data} --client-listen 127.0.0.1:0"
    );
    let mut node = Running::start(keyward(&line));
    let first = node.line();
    let (said, addresses) = first.split_once(": clients on http://").unwrap();
    assert_eq!(said, format!("keyward {} node 1", env!("CARGO_PKG_VERSION")));
    let (clients, said_peers) = addresses.split_once(", peers on ").unwrap();
    assert_eq!(said_peers, format!("127.0.0.1:{peers}"));
    assert_eq!(node.line(), "ready: term 1, leader 1");

    let ask = |line: &str| output(keyward(&format!("{line} --endpoints http://{clients}")));
    assert_code(&ask("lock a --signee me"), 0);

    let free = free_port();
    let other = |what: &str| {
        output(keyward(&format!("serve --id 1 --members 1=127.0.0.1:{free} --data-dir {what}")))
    };
    let refused = other(&format!("{data} --client-listen {clients}"));
    assert_code(&refused, 3);
    assert!(stderr(&refused).contains("cannot listen for clients"), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("--client-listen"), "{}", stderr(&refused));
    let refused = other(&format!("{data} --client-listen 127.0.0.1:0"));
    assert_code(&refused, 3);
    assert!(stderr(&refused).contains("in use by another process"), "{}", stderr(&refused));
    // An address for documents (RFC 5737), which no machine has.
    let refused = other(&format!("{data} --client-listen 192.0.2.1:7420 --insecure"));
    assert_code(&refused, 3);
    assert!(stderr(&refused).contains("no such address"), "{}", stderr(&refused));

    node.signal(Signal::HUP);
    let (code, err) = node.end();
    assert_eq!(code, Some(0), "a closed terminal stops it gracefully: {err}");
    // A permanent error has another code.
    let line = format!("serve --id 2 --members 2=127.0.0.1:{free} --data-dir {data}");
    let foreign = output(keyward(&format!("{line} --client-listen 127.0.0.1:0")));
    assert_code(&foreign, 2);
    assert!(stderr(&foreign).contains("belongs to node 1"), "{}", stderr(&foreign));
    assert_code(&ask("check a --timeout 200ms"), 3);
}

#[test]
fn a_node_with_tls_reads_its_files_again_when_its_terminal_closes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let certs = path("certs");
    let cert = |line: &str| output(keyward(&format!("cert {line} --dir {certs}")));
    assert_code(&cert("ca"), 0);
    assert_code(&cert("node --id 1"), 0);
    let again = cert("node --id 1");
    assert_code(&again, 2);
    assert!(stderr(&again).contains("node-1.pem exists already"), "{}", stderr(&again));
    assert_code(&output(keyward(&format!("cert client me --dir {}", path("none")))), 2);
    for key in ["ca.key", "node-1.key"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(format!("{certs}/{key}")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }

    let peers = free_port();
    let line = format!(
        "serve --id 1 --members 1=127.0.0.1:{peers} --data-dir {} --client-listen 127.0.0.1:0 \
         --tls-cert {certs}/node-1.pem --tls-key {certs}/node-1.key",
        path("data")
    );
    let mut node = Running::start(keyward(&line));
    let address = node.line();
    let address =
        address.split_once("clients on ").unwrap().1.split_once(',').unwrap().0.to_owned();
    assert!(address.starts_with("https://127.0.0.1:"), "{address}");
    assert_eq!(node.line(), "ready: term 1, leader 1");
    let check = |more: &str| {
        output(keyward(&format!("check a --timeout 300ms --endpoints {address} {more}")))
    };
    let trusted = format!("--cacert {certs}/ca.pem");
    assert_code(&check(&trusted), 1);
    let untrusted = check("");
    assert_code(&untrusted, 3);
    assert!(stderr(&untrusted).contains("no CA that is trusted here"), "{}", stderr(&untrusted));

    for file in ["ca.pem", "ca.key", "node-1.pem", "node-1.key"] {
        std::fs::remove_file(format!("{certs}/{file}")).unwrap();
    }
    assert_code(&cert("ca"), 0);
    assert_code(&cert("node --id 1"), 0);
    node.signal(Signal::HUP);
    eventually("it shows its new certificate", || {
        (check(&trusted).status.code() == Some(1)).then_some(())
    });
    node.signal(Signal::TERM);
    let (code, log) = node.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("TLS files are read anew"), "{log}");
}

#[test]
fn dev_with_tls_hands_its_ca_to_the_command() {
    let mut command = keyward("dev --nodes 1 --tls -- sh -c");
    command.arg("echo $KEYWARD_ENDPOINTS && exec \"$KEYWARD_PROGRAM\" lock a --signee me");
    command.env("KEYWARD_PROGRAM", env!("CARGO_BIN_EXE_keyward"));
    let run = output(command);
    assert_code(&run, 0);
    assert!(stdout(&run).starts_with("https://127.0.0.1:"), "{}", stdout(&run));
    assert!(stdout(&run).contains("a is yours"), "{}", stdout(&run));
}

#[test]
fn a_second_signal_stops_a_node_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (own, other) = (free_port(), free_port());
    // The first start waits for a member that never comes.
    let line = format!(
        "serve --id 1 --members 1=127.0.0.1:{own},2=127.0.0.1:{other} --data-dir {} \
         --client-listen 127.0.0.1:0",
        folder.path().display()
    );
    let mut node = Running::start(keyward(&line));
    let address = node.line();
    let address = address.split_once("http://").unwrap().1.split_once(',').unwrap().0.to_owned();
    let status = eventually("it answers", || {
        let status = output(keyward(&format!("cluster status --endpoints http://{address}")));
        (!status.stdout.is_empty()).then_some(status)
    });
    assert_code(&status, 3);
    node.signal(Signal::TERM);
    node.signal(Signal::INT);
    assert_eq!(node.end().0, Some(0));
}

/// A pipe holds 64 KiB, and nobody reads this one while the node runs.
#[test]
fn a_node_whose_log_nobody_reads_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().display();
    let peers = free_port();
    let line = format!(
        "serve --id 1 --members 1=127.0.0.1:{peers} --data-dir {data} --client-listen 127.0.0.1:0 \
         --log trace"
    );
    let mut node = Running::start(keyward(&line));
    let first = node.line();
    let (_, addresses) = first.split_once(": clients on http://").unwrap();
    let (clients, _) = addresses.split_once(", peers on ").unwrap();
    assert!(node.line().starts_with("ready"));
    for turn in 0..30 {
        let line = format!("lock a/{turn} --signee me --endpoints http://{clients}");
        assert_code(&output(keyward(&line)), 0);
    }
    node.signal(Signal::TERM);
    let (code, err) = node.end();
    assert_eq!(code, Some(0), "{err}");
    assert!(err.len() > 40_000, "the pipe was full: {} bytes", err.len());
}

#[test]
fn dev_ends_with_the_reason_when_a_node_of_it_does() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().display();
    assert_code(&output(keyward(&format!("dev --data-dir {data} -- true"))), 0);
    for command in ["", "-- true"] {
        let other = output(keyward(&format!("dev --data-dir {data} --nodes 1 {command}")));
        assert_code(&other, 70);
        assert!(stderr(&other).contains("members"), "{}", stderr(&other));
    }
}

#[test]
fn dev_names_its_own_option_for_a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let refused = output(keyward(&format!("dev --nodes 1 --port-base {port} -- true")));
    assert_code(&refused, 3);
    assert!(stderr(&refused).contains("--port-base"), "{}", stderr(&refused));
    assert!(!stderr(&refused).contains("--client-listen"), "{}", stderr(&refused));
}

#[test]
fn health_asks_every_endpoint_and_prints_one_document() {
    let program = env!("CARGO_BIN_EXE_keyward");
    let dead = "http://127.0.0.1:1";
    let script = |options: &str| {
        format!(
            "dev --nodes 1 -- sh -c '{program} health --endpoints {dead},$KEYWARD_ENDPOINTS {options}'"
        )
    };
    let asked = output(keyward(&script("")));
    assert_code(&asked, 3);
    let lines: Vec<&str> = stdout(&asked).lines().collect();
    assert_eq!(lines[0], format!("{dead}: no answer: connection refused"));
    assert_eq!(lines[1..], ["node 1: ready"]);
    let asked = output(keyward(&script("--json")));
    assert_code(&asked, 3);
    let document: serde_json::Value = serde_json::from_str(stdout(&asked)).unwrap();
    assert_eq!(document["ready"], false);
    assert_eq!(document["nodes"][0]["ready"], false);
    assert_eq!(document["nodes"][1]["status"]["id"], 1);
}
