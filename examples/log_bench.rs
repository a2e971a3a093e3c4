//! Measures the durable appends per second of the log on a given folder.
//!
//! ```text
//! cargo run --release --example log_bench -- FOLDER [SECONDS]
//! ```
//!
//! Each line repeats one step: this many entries of 120 bytes are appended at once and waited for,
//! with a purge now and then, as in a node.

use std::error::Error;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use keyward::clock::{Clock, SystemClock};
use keyward::storage::{Log, LogEntry, LogId, LogOptions, RealDisk};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("usage: log_bench FOLDER [SECONDS]")?;
    let seconds = args.next().map_or(Ok(2), |text| text.parse())?;
    for batch in [1, 16, 256] {
        run(&format!("{folder}/log-bench-{batch}"), batch, Duration::from_secs(seconds))?;
    }
    Ok(())
}

fn run(folder: &str, batch: u64, wanted: Duration) -> Result<(), Box<dyn Error>> {
    let disk = Arc::new(RealDisk::new(folder)?);
    let (log, _) = Log::open(disk, LogOptions::default())?;
    let (send, receive) = mpsc::channel();
    let clock = SystemClock;
    let mut next = 0;
    let mut times = Vec::new();
    // One round to create the segment.
    append(&log, &mut next, batch, &send, &receive)?;
    let begin = clock.raw();
    while clock.raw().saturating_sub(begin) < wanted {
        let before = clock.raw();
        append(&log, &mut next, batch, &send, &receive)?;
        times.push(clock.raw().saturating_sub(before));
        if times.len() % 10_000 == 0 {
            log.purge(LogId { term: 1, index: next - batch }, |_| ());
        }
    }
    let took = clock.raw().saturating_sub(begin);
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_micros();
    let entries = times.len() as u128 * u128::from(batch);
    let rate = entries * 1000 / took.as_millis().max(1);
    println!("batches of {batch:>3}: {rate:>9} entries/s, p50 {} us, p99 {} us", at(50), at(99));
    log.close();
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

type Report = Result<(), String>;

fn append(
    log: &Log,
    next: &mut u64,
    batch: u64,
    send: &mpsc::Sender<Report>,
    receive: &mpsc::Receiver<Report>,
) -> Result<(), Box<dyn Error>> {
    let entry = |index| LogEntry { id: LogId { term: 1, index }, payload: vec![7; 120].into() };
    let entries = (*next..*next + batch).map(entry).collect();
    *next += batch;
    let send = send.clone();
    // The receiver outlives every append: it is waited for right below.
    log.append(entries, move |result| drop(send.send(result.map_err(|error| error.to_string()))));
    Ok(receive.recv()??)
}
