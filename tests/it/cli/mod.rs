//! The built program, run as a user runs it, against locks in memory behind a real listener.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod bench;
mod commands;
mod nodes;
mod run;
mod waiting;

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use keyward::clock::{Clock as _, SystemClock};
use keyward::http::{self, ListenerSettings, LocalNode, Rates};
use keyward::types::{
    LockOptions, LockRecord, LockRequest, ReadOptions, UnlockOptions, UnlockRequest, UnlockStatus,
};
use keyward::{LockService, MemoryLocks};
use tokio::sync::oneshot;

/// The timeout of everything that does not wait for a lock: generous, so that a busy machine fails
/// no test, and bounded, so that a hang does.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server of locks in memory, on a free port, in a thread of its own.
struct Server {
    address: SocketAddr,
    locks: MemoryLocks,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let locks = MemoryLocks::new();
        Self::serving(locks.clone(), locks, ())
    }

    /// A server with these rates.
    fn limited(rates: Rates) -> Self {
        let locks = MemoryLocks::new();
        Self::with(locks.clone(), locks, (), rates)
    }

    /// A server of another service and node; the locks are what the test looks at.
    fn serving(locks: MemoryLocks, service: impl LockService, node: impl LocalNode) -> Self {
        Self::with(locks, service, node, Rates::default())
    }

    fn with(
        locks: MemoryLocks,
        service: impl LockService,
        node: impl LocalNode,
        rates: Rates,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let (service, node) = (Arc::new(service), Arc::new(node));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let mut settings = ListenerSettings { rates, ..ListenerSettings::default() };
                settings.terms.limits.shutdown_grace = Duration::ZERO;
                let stopped = async { drop(stopped.await) };
                http::serve(listener, service, node, settings, stopped).await.unwrap();
            });
        });
        Self { address, locks, stop: Some(stop), thread: Some(thread) }
    }

    /// Stops the server: from now on connections are refused.
    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// The program, configured with the address of the server and nothing else.
    fn keyward(&self, line: &str) -> Command {
        let mut command = keyward(line);
        command.env("KEYWARD_ENDPOINTS", format!("http://{}", self.address));
        command
    }

    /// Acquires a lock without the program.
    fn take(&self, signature: &str, signee: &str, level: i64, force: bool) {
        let request = LockRequest {
            signature: signature.to_owned(),
            signee: signee.to_owned(),
            level: Some(level),
        };
        let options = LockOptions { force, ..LockOptions::default() };
        assert!(block_on(self.locks.lock(request, options)).unwrap().ok());
    }

    /// Releases a lock without the program.
    fn release(&self, signature: &str, signee: &str, instance: &str) {
        let request = UnlockRequest { signature: signature.to_owned(), signee: signee.to_owned() };
        let instance = Some(instance.to_owned());
        let options = UnlockOptions { instance, ..UnlockOptions::default() };
        let response = block_on(self.locks.unlock(request, options)).unwrap();
        assert_eq!(response.status, UnlockStatus::Ok);
    }

    /// The record of a lock, if it has one.
    fn record(&self, signature: &str) -> Option<LockRecord> {
        let checked = block_on(self.locks.check(signature.to_owned(), ReadOptions::default()));
        checked.ok().map(|response| response.record)
    }

    /// The holder of a lock, if it has a record.
    fn holder(&self, signature: &str) -> Option<String> {
        self.record(signature).map(|record| record.holders[0].signee.clone())
    }

    /// Waits until this number of requests stand in the queue of a lock.
    #[track_caller]
    fn queue_of(&self, signature: &str, count: u64) {
        eventually("they stand in the queue", || {
            let waiting = self.record(signature).map_or(0, |record| record.waiting);
            (waiting == count).then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The path of the program: `KEYWARD_BIN`, which scripts/test sets to the one that is released, or the
/// one that was built together with the tests.
fn program() -> String {
    std::env::var("KEYWARD_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_keyward").to_owned())
}

/// The program with these arguments, and no settings from outside. Arguments are separated by
/// spaces; text between `'` is one argument.
fn keyward(line: &str) -> Command {
    let mut command = Command::new(program());
    for variable in std::env::vars_os().map(|(name, _)| name) {
        if variable.to_string_lossy().starts_with("KEYWARD_") {
            command.env_remove(variable);
        }
    }
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            command.arg(part);
        } else {
            command.args(part.split_whitespace());
        }
    }
    command.stdin(Stdio::null());
    command
}

/// The same through a shell that ignores a signal.
fn ignoring(signal: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    let script = format!("trap '' {signal}; exec \"$@\"");
    shell.args(["-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null());
    shell
}

/// Runs to the end.
fn output(mut command: Command) -> Output {
    command.output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Asserts the exit code of a run, and shows all of its output if it differs.
#[track_caller]
fn assert_code(output: &Output, code: i32) {
    let (out, err) = (stdout(output), stderr(output));
    assert_eq!(output.status.code(), Some(code), "stdout:\n{out}\nstderr:\n{err}");
}

/// A program that runs beside the test.
struct Running {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// The next line that it prints.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .unwrap();
    }

    /// Its exit code and what it wrote to standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let status = eventually("the program ends", || self.child.try_wait().unwrap());
        let mut err = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (status.code(), err)
    }
}

/// Waits until there is a value.
#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = SystemClock.boottime();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(SystemClock.boottime().saturating_sub(start) < PATIENCE, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Whether a process runs: one that has ended and was not reaped does not.
fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
