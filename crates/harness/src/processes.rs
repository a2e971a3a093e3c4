//! The resources that a process on this machine has used, read from `/proc`, and the process that
//! listens on a port.
//!
//! Other systems have no `/proc`, and other users' processes are not shown: then there is no
//! result, and a report leaves out the servers.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

/// A tick of `/proc/PID/stat`: the kernel's `USER_HZ` is 100 on every platform that we run on.
const TICK: Duration = Duration::from_millis(10);

/// The state of a listening socket in `/proc/net/tcp`.
const LISTENS: &str = "0A";

/// The resources that a process has used since it began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Processor time, in its own code and in the kernel, in steps of 10 ms.
    pub cpu: Duration,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Bytes that it has caused to be written to storage; 0 where the kernel does not report them.
    pub written_bytes: u64,
}

/// The resources that a process has used; `None` if it cannot be seen.
pub fn usage_of(pid: u32) -> Option<Usage> {
    let folder = format!("/proc/{pid}");
    let folder = Path::new(&folder);
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let io = fs::read_to_string(folder.join("io")).unwrap_or_default();
    Some(Usage {
        cpu: cpu_in(&stat)?,
        resident_bytes: field(&status, "VmRSS:").unwrap_or(0) * 1024,
        written_bytes: field(&io, "write_bytes:").unwrap_or(0),
    })
}

/// The figures that Prometheus' own client libraries report of the process that they are in.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Figures {
    /// Processor time, in its own code and in the kernel, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Descriptors that are open.
    pub open_descriptors: u64,
    /// Descriptors that may be open.
    pub max_descriptors: Option<u64>,
    /// When it began, in seconds since 1970.
    pub started_seconds: f64,
    /// Its threads.
    pub threads: u64,
}

/// The figures of this process; `None` if the system does not show them.
pub fn own_figures() -> Option<Figures> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let machine = fs::read_to_string("/proc/stat").ok()?;
    let booted = field(&machine, "btime")?;
    Some(Figures {
        cpu_seconds: cpu_in(&stat)?.as_secs_f64(),
        resident_bytes: field(&status, "VmRSS:")? * 1024,
        virtual_bytes: field(&status, "VmSize:")? * 1024,
        open_descriptors: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
        max_descriptors: field(&limits, "Max open files"),
        started_seconds: (Duration::from_secs(booted) + started_in(&stat)?).as_secs_f64(),
        threads: field(&status, "Threads:")?,
    })
}

/// The processor time of this process.
pub fn own_cpu() -> Duration {
    usage_of(std::process::id()).map_or(Duration::ZERO, |usage| usage.cpu)
}

/// The process that listens at this address, if it is an address of this machine.
pub fn listener_of(address: SocketAddr) -> Option<u32> {
    if !is_local(address.ip()) {
        return None;
    }
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening_on(&table, address.port()))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if sockets.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| has_one_of(*pid, &sockets))
}

/// The name of a process: that of its program's file, cut after 15 bytes.
pub fn name_of(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// Whether a socket can be bound to this address: only addresses of this machine can be.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || TcpListener::bind((ip, 0)).is_ok()
}

/// The inodes of the sockets that listen on this port, from a table of the kernel.
fn listening_on(table: &str, port: u16) -> Vec<String> {
    let port = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.get(3) == Some(&LISTENS))
        .filter(|words| words.get(1).is_some_and(|local| local.ends_with(&port)))
        .filter_map(|words| words.get(9).map(|inode| (*inode).to_owned()))
        .collect()
}

fn has_one_of(pid: u32, sockets: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors
        .filter_map(Result::ok)
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| target.to_str().is_some_and(|target| sockets.iter().any(|one| one == target)))
}

/// User and system time, in a line of `/proc/PID/stat`.
fn cpu_in(stat: &str) -> Option<Duration> {
    // The second field is the name in brackets and may hold spaces and brackets: count from after
    // it. utime and stime are the fields 14 and 15 of the whole line.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * user + TICK * system)
}

/// When the process began, counted from the start of the machine: field 22 of the whole line.
fn started_in(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u32 = rest.split_whitespace().nth(19)?.parse().ok()?;
    Some(TICK * ticks)
}

/// The number after a label at the beginning of a line.
fn field(text: &str, label: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 1 0 9 9 9";
        assert_eq!(cpu_in(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu_in("nonsense"), None);
        assert_eq!(started_in(stat), Some(Duration::from_millis(90)));
    }

    #[test]
    fn the_listener_of_a_port_is_found_among_the_processes() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        assert_eq!(listener_of(address), Some(std::process::id()));
        drop(listener);
        assert_eq!(listener_of(address), None);
        assert_eq!(listener_of("192.0.2.1:80".parse().expect("an address")), None);
    }

    #[test]
    fn this_process_has_figures() {
        let figures = own_figures().expect("this process is there");
        assert!(figures.open_descriptors > 2 && figures.threads > 0, "{figures:?}");
        assert!(figures.virtual_bytes >= figures.resident_bytes, "{figures:?}");
        assert!(figures.started_seconds > 1e9, "{figures:?}");
    }

    #[test]
    fn this_process_has_used_memory() {
        let usage = usage_of(std::process::id()).expect("this process is there");
        assert!(usage.resident_bytes > 100_000, "{usage:?}");
        assert_eq!(usage_of(u32::MAX), None);
    }
}
