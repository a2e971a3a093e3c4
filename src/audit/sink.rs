//! The destination of an audit: a file that is rotated, or standard output.
//!
//! The crates that rotate files drop what they cannot write, or do not say so; an audit must know.
//! A write that fails leaves no part of itself behind, so that it can be tried again. A last line
//! that was cut by a crash is removed when the file is opened.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::audit::Target;

/// The bytes at the end of a file in which its last line is looked for. No line is longer.
const TAIL: u64 = 64 << 10;

/// The first bytes of every audit.
const BEGINNING: &[u8] = b"{\"time\":\"";

/// An open destination.
pub(super) enum Sink {
    Stdout,
    File(Rotated),
}

impl Sink {
    pub(super) fn open(target: Target) -> io::Result<Self> {
        match target {
            Target::Stdout => Ok(Self::Stdout),
            Target::File { path, max_bytes, kept } => {
                Rotated::open(path, max_bytes, kept).map(Self::File)
            }
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Stdout => "standard output".to_owned(),
            Self::File(file) => file.path.display().to_string(),
        }
    }

    /// The index in the last line that names one.
    pub(super) fn last_index(&self) -> Option<u64> {
        match self {
            Self::Stdout => None,
            Self::File(file) => file.last_index,
        }
    }

    /// Makes what was written outlast a power cut.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout => Ok(()),
            Self::File(file) => file.sync(),
        }
    }

    /// Writes whole lines: all of them or, if it fails, none.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
            Self::File(file) => file.write(lines),
        }
    }
}

/// A file that is renamed once it is full.
pub(super) struct Rotated {
    path: PathBuf,
    max_bytes: u64,
    kept: u32,
    /// `None` after a failure, until it is opened again.
    file: Option<File>,
    length: u64,
    is_synced: bool,
    last_index: Option<u64>,
}

/// The part of a line that says where its change stands in the log.
#[derive(Deserialize)]
struct Position {
    index: Option<u64>,
}

impl Rotated {
    fn open(path: PathBuf, max_bytes: u64, kept: u32) -> io::Result<Self> {
        let (file, length, last_index) = open_whole(&path)?;
        let last_index = match last_index {
            // It was renamed a moment before the last run ended.
            None if length == 0 => last_index_of(&numbered(&path, 1)),
            last_index => last_index,
        };
        let file = Some(file);
        Ok(Self { path, max_bytes, kept, file, length, is_synced: true, last_index })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() && self.file.is_some() {
            return Ok(());
        }
        if self.was_moved() {
            // Somebody has renamed or removed it, and expects another.
            self.sync()?;
            (self.file, self.length) = (None, 0);
        }
        if self.length >= self.max_bytes {
            self.rotate()?;
        }
        let mut file = if let Some(file) = self.file.take() {
            file
        } else {
            let (file, length, _) = open_whole(&self.path)?;
            self.length = length;
            file
        };
        if let Err(error) = file.write_all(lines) {
            // If this fails too, the cut line is removed when the file is opened again.
            let _ = file.set_len(self.length);
            return Err(error);
        }
        self.length += lines.len() as u64;
        self.is_synced = false;
        self.file = Some(file);
        Ok(())
    }

    /// Whether the name stands for another file by now, or for none.
    fn was_moved(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let id = |of: &fs::Metadata| (of.dev(), of.ino());
        match (file.metadata(), fs::metadata(&self.path)) {
            (Ok(open), Ok(named)) => id(&open) != id(&named),
            (Ok(_), Err(error)) => error.kind() == io::ErrorKind::NotFound,
            (Err(_), _) => false,
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(file) = self.file.as_ref().filter(|_| !self.is_synced) {
            file.sync_data()?;
            self.is_synced = true;
        }
        Ok(())
    }

    /// Renames the full file and those before it.
    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        self.file = None;
        for number in (1..=self.kept).rev() {
            let from =
                if number == 1 { self.path.clone() } else { numbered(&self.path, number - 1) };
            unless_gone(fs::rename(from, numbered(&self.path, number)))?;
        }
        if self.kept == 0 {
            unless_gone(fs::remove_file(&self.path))?;
        }
        self.length = 0;
        Ok(())
    }
}

fn unless_gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Opens a file to append to it, and removes a last line that was cut. Returns its length, and the
/// index in its last line that names one.
fn open_whole(path: &Path) -> io::Result<(File, u64, Option<u64>)> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o640);
    let mut file = options.open(path)?;
    let length = file.metadata()?.len();
    check_beginning(&mut file, path)?;
    let tail = tail_of(&mut file, length)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole == 0 && length > TAIL {
        let what = format!("{} is no audit: its last line is too long", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let cut = (tail.len() - whole) as u64;
    if cut > 0 {
        file.set_len(length - cut)?;
    }
    Ok((file, length - cut, index_in(&tail[..whole])))
}

/// Refuses a file that is something else, before anything of it is changed.
fn check_beginning(file: &mut File, path: &Path) -> io::Result<()> {
    let mut first = Vec::new();
    Read::by_ref(file).take(BEGINNING.len() as u64).read_to_end(&mut first)?;
    if BEGINNING.starts_with(&first) {
        return Ok(());
    }
    let what = format!("{} is no audit: it does not begin with a line of one", path.display());
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

fn last_index_of(path: &Path) -> Option<u64> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    index_in(&tail_of(&mut file, length).ok()?)
}

fn tail_of(file: &mut File, length: u64) -> io::Result<Vec<u8>> {
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    file.read_to_end(&mut tail)?;
    Ok(tail)
}

fn index_in(lines: &[u8]) -> Option<u64> {
    let index = |line| serde_json::from_slice::<Position>(line).ok()?.index;
    lines.rsplit(|byte| *byte == b'\n').find_map(index)
}
