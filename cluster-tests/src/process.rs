//! One running process of the program.
//!
//! It is signalled and ended only through the handle that started it, never by name, and is always
//! waited for. Its output goes to files, so that a failed test leaves them to be read.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{Stopwatch, eventually};

/// The files of a process's output.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its standard output: the announcement of its addresses, and of its readiness.
    pub stdout: PathBuf,
    /// Its log.
    pub stderr: PathBuf,
}

impl Output {
    /// `NAME.out` and `NAME.log` in the folder.
    pub fn in_folder(folder: &Path, name: &str) -> Self {
        Self {
            stdout: folder.join(format!("{name}.out")),
            stderr: folder.join(format!("{name}.log")),
        }
    }

    /// The standard output so far.
    pub fn printed(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// The log so far.
    pub fn logged(&self) -> String {
        read_lossy(&self.stderr)
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The resource usage of a process since its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Processor time, in its own code and in the kernel, in steps of 10 ms.
    pub cpu: Duration,
    /// Bytes that it has caused to be written to storage (`write_bytes` of `/proc/PID/io`).
    pub written_bytes: u64,
    /// Resident memory.
    pub resident_bytes: u64,
}

impl Usage {
    /// The usage since an earlier reading; the memory is the present one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            resident_bytes: self.resident_bytes,
        }
    }
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: Output,
}

impl Process {
    /// Starts the command with its output in files and no input.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(command: &mut Command, output: Output) -> Self {
        let file = |path: &Path| File::create(path).expect("the log folder is writable");
        let child = command
            .stdin(Stdio::null())
            .stdout(file(&output.stdout))
            .stderr(file(&output.stderr))
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        Self { child, output }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its output.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Its exit status, if it has ended.
    ///
    /// # Panics
    /// If the kernel cannot report it.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Sends a signal, unless the process has ended.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_some() {
            return;
        }
        // The child is not yet waited for, so its id cannot belong to another process.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("a child can be signalled");
    }

    /// `kill -9`, and waits until the process is gone.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Waits until the process has ended, and kills it after the timeout; returns whether it ended
    /// by itself.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub async fn end(&mut self, within: Duration) -> bool {
        let watch = Stopwatch::start();
        while self.ended().is_none() {
            if watch.elapsed() > within {
                self.kill();
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Panics
    /// If it has not within the time.
    pub async fn wait(&mut self, within: Duration) -> ExitStatus {
        let log = self.output.stderr.display().to_string();
        eventually("the process ends", within, || {
            let status = self.ended();
            let log = &log;
            async move { status.ok_or_else(|| format!("it is running; its log: {log}")) }
        })
        .await
    }

    /// The resource usage of the process so far.
    ///
    /// # Errors
    /// If it has ended.
    pub fn usage(&self) -> io::Result<Usage> {
        let folder = PathBuf::from(format!("/proc/{}", self.child.id()));
        let stat = fs::read_to_string(folder.join("stat"))?;
        // The second field is the name in brackets and may contain spaces: count from behind it.
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        // utime and stime are the fields 14 and 15 of the whole line, in ticks of 10 ms.
        let ticks = fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0);
        Ok(Usage {
            cpu: Duration::from_millis(ticks * 10),
            written_bytes: field(&fs::read_to_string(folder.join("io"))?, "write_bytes:"),
            resident_bytes: field(&fs::read_to_string(folder.join("status"))?, "VmRSS:") * 1024,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A failure here cannot be handled, and a process that has ended already is no failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number after a label at the beginning of a line.
fn field(text: &str, label: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(label))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}
