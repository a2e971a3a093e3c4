//! The commands of README.md, run as they stand there: in order, in one shell, with the program on
//! its path. Only the ports are others, so that tests may run side by side.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cluster_tests::binary;
use cluster_tests::process::{Output, Process};
use cluster_tests::wait::eventually;
use rand::Rng as _;
use rustix::process::Signal;

/// The command that a reader runs in another terminal.
const DEV: &str = "keyward dev";

/// The first port that the page speaks of; each node has the next ten.
const PAGE_PORT: u16 = 7420;

/// From nothing to three nodes that are ready, on a machine that is busy.
const BOOT: Duration = Duration::from_secs(60);

/// All commands together: the longest of them sleeps for 5 seconds.
const TOUR: Duration = Duration::from_secs(120);

/// The commands that the page tells a reader to type: the lines after `$ ` in its blocks for a
/// terminal.
fn commands(page: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut typed = false;
    for line in page.lines() {
        if line.starts_with("```") {
            typed = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| typed) {
            commands.push(command.to_owned());
        }
    }
    commands
}

/// A script of these commands that ends at the first whose exit code is not what the page says: that in
/// its comment, or else 0.
fn script(commands: &[String]) -> String {
    let mut script = String::new();
    for command in commands {
        let expected = command.rsplit_once("exit code ").map_or("0", |(_, code)| code.trim());
        let quoted = command.replace('\'', "'\\''");
        // Writing to a string does not fail.
        let _ = write!(
            script,
            "printf '$ %s\\n' '{quoted}'\n{command}\nended=$?\n\
             if [ $ended != {expected} ]; then\n\
             echo \"exit code $ended, and not {expected}\" >&2; exit 1\nfi\n"
        );
    }
    script
}

/// A first port for three nodes, free a moment ago and below those that the kernel gives out.
fn free_base() -> u16 {
    let mut random = rand::rng();
    let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (0..1000)
        .map(|_| random.random_range(1200..3000) * 10)
        .find(|base| [0, 1, 10, 11, 20, 21].iter().all(|offset| free(base + offset)))
        .expect("there are free ports")
}

/// The same command for nodes whose ports begin elsewhere.
fn moved(command: &str, base: u16) -> String {
    [0, 10, 20].iter().fold(command.to_owned(), |command, offset| {
        command.replace(&(PAGE_PORT + offset).to_string(), &(base + offset).to_string())
    })
}

fn as_typed(mut command: Command, folder: &Path, base: u16) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KEYWARD_") {
            command.env_remove(name);
        }
    }
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env("PATH", format!("{}:{path}", folder.display()))
        .env("TMPDIR", folder)
        // The program's own default, at this port.
        .env("KEYWARD_ENDPOINTS", format!("http://127.0.0.1:{base}"))
        .current_dir(folder);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_readme_does_what_it_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let page = std::fs::read_to_string(page).expect("the README is there");
    let commands = commands(&page);
    assert!(commands.len() > 15, "the tour is not found: {commands:?}");
    assert_eq!(commands[0], DEV, "a reader starts the cluster first");
    assert_eq!(commands.iter().filter(|command| *command == DEV).count(), 1);

    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("keyward");
    std::fs::copy(binary::keyward(), &program).expect("the program is there");

    let base = free_base();
    let mut dev = Command::new(&program);
    dev.args(["dev", "--port-base", &base.to_string()]);
    let output = Output::in_folder(folder.path(), "dev");
    let mut dev = Process::spawn(&mut as_typed(dev, folder.path(), base), output);
    eventually("keyward dev says what to do", BOOT, || {
        let (ended, output) = (dev.ended(), dev.output());
        let ready = output.printed().contains("Ctrl-C stops");
        let said = format!("{ended:?} {}{}", output.printed(), output.logged());
        async move { ready.then_some(()).ok_or(said) }
    })
    .await;

    let moved: Vec<String> = commands[1..].iter().map(|command| moved(command, base)).collect();
    let mut shell = Command::new("bash");
    shell.args(["-c", &script(&moved)]);
    let output = Output::in_folder(folder.path(), "tour");
    let mut shell = Process::spawn(&mut as_typed(shell, folder.path(), base), output);
    let by_itself = shell.end(TOUR).await;
    let ended = shell.ended();
    let told = format!("{}{}", shell.output().printed(), shell.output().logged());
    assert!(by_itself && ended.is_some_and(|status| status.success()), "{ended:?}\n{told}");
    assert!(told.contains("my token is "), "{told}");
    assert!(told.contains("is unreachable: connection refused"), "{told}");

    dev.signal(Signal::INT);
    assert!(dev.wait(BOOT).await.success());
    let said = dev.output().logged();
    assert!(said.contains("was killed by signal 9"), "the leader was killed: {said}");
}
