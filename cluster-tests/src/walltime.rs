//! Processes whose wall clock can be stepped.
//!
//! libfaketime intercepts libc and adds an offset from a file, which it reads at every call, to
//! `CLOCK_REALTIME`. The monotonic clocks are not changed, as they are not when somebody sets the
//! clock of a machine. It works only through libc: it does not affect a statically linked program,
//! and a program that reads a clock without libc sees the machine's. So the effect of a step must
//! be checked in the process: its log has the time.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The folders where distributions install the library.
const FOLDERS: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib64/faketime",
    "/usr/lib/faketime",
    "/usr/local/lib/faketime",
];

/// Its name, in the form for programs with threads.
const LIBRARY: &str = "libfaketimeMT.so.1";

/// The allowed difference of the time in a log: the line is written before it is read, and a stamp
/// is rounded.
const SLACK: Duration = Duration::from_secs(5);

/// The length of a day, on the face of a clock.
const DAY: i64 = 24 * 60 * 60;

/// The wall clock of one process.
#[derive(Clone, Debug)]
pub struct WallClock {
    library: PathBuf,
    file: PathBuf,
}

impl WallClock {
    /// A clock that is right; `file` contains its offset.
    ///
    /// # Errors
    /// If the library is not installed, or the file cannot be written.
    pub fn new(file: PathBuf) -> Result<Self, String> {
        let library = FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join(LIBRARY))
            .find(|path| path.is_file())
            .ok_or_else(|| format!("{LIBRARY} is missing: install Debian's libfaketime"))?;
        let this = Self { library, file };
        this.set(0).map_err(|error| format!("{}: {error}", this.file.display()))?;
        Ok(this)
    }

    /// The environment that the process needs when it is started.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.clone().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }

    /// Sets the clock to this many seconds after the machine's, or before it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set(&self, offset: i64) -> io::Result<()> {
        // It is read while it is written: a rename is atomic, a write is not.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{offset:+}\n"))?;
        fs::rename(new, &self.file)
    }
}

/// Whether a line of a log, which begins with its time, was written by a clock that is off by
/// `offset` seconds; `None` if it does not begin with a time.
pub fn is_off_by(line: &str, offset: i64) -> Option<bool> {
    let said = time_of_day(line)?;
    let apart = (said - seconds_since_epoch() - offset).rem_euclid(DAY);
    Some(apart.min(DAY - apart) <= i64::try_from(SLACK.as_secs()).unwrap_or(i64::MAX))
}

/// The seconds since midnight in `2026-01-31T12:34:56.789Z …`. The date does not matter: a step is
/// much shorter than a day.
fn time_of_day(line: &str) -> Option<i64> {
    let (date, rest) = line.split_once('T')?;
    let time = rest.get(..8).filter(|_| date.len() == 10)?;
    let mut parts = time.split(':').map(|part| part.parse::<i64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    Some((hours * 60 + minutes) * 60 + seconds)
}

#[allow(clippy::disallowed_methods, reason = "what is compared with is a wall clock")]
fn seconds_since_epoch() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_time_of_a_line_is_read() {
        assert_eq!(time_of_day("2026-01-31T12:34:56.789Z INFO x"), Some(45_296));
        for none in ["", "panicked at T", "2026-01-31", "2026-01-31T12:34", "2026-01-31Tab:cd:ef"] {
            assert_eq!(time_of_day(none), None, "{none}");
        }
    }

    #[test]
    fn a_step_is_seen_by_a_process_and_its_monotonic_clock_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        // Without the library there is nothing to test.
        let Ok(clock) = WallClock::new(folder.path().join("clock")) else { return };
        let told = |clock: &WallClock| {
            let mut date = Command::new("date");
            date.args(["-u", "+%Y-%m-%dT%H:%M:%S"]).envs(clock.environment());
            let said = date.output().expect("date runs").stdout;
            String::from_utf8_lossy(&said).into_owned()
        };
        for offset in [0, 3600, -3600] {
            clock.set(offset).expect("the file can be written");
            let line = told(&clock);
            assert_eq!(is_off_by(&line, offset), Some(true), "{line} with {offset}");
            assert_eq!(is_off_by(&line, offset + 60), Some(false), "{line} with {offset}");
        }
    }
}
