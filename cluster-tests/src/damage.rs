//! Damages files, as disks and people do. The process that owns them must not run.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// All files below a folder whose path below it satisfies `wanted`, in order of their paths.
///
/// # Panics
/// If the folder cannot be read.
pub fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                waiting.push(path);
            } else if wanted(&path.strip_prefix(folder).expect("below").to_string_lossy()) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The offset after the last byte that is not zero: the end of the content of a pre-zeroed file.
///
/// # Panics
/// If the file cannot be read.
pub fn content_end(path: &Path) -> u64 {
    let content = fs::read(path).expect("the file can be read");
    content.iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u64 + 1)
}

/// The byte at the offset; `None` if there is no such file, or it is too short.
pub fn byte(path: &Path, offset: u64) -> Option<u8> {
    let mut byte = [0];
    fs::File::open(path).and_then(|file| file.read_exact_at(&mut byte, offset)).ok()?;
    Some(byte[0])
}

/// Flips every bit of the bytes at the offset.
///
/// # Panics
/// If the file cannot be changed, or is too short.
pub fn flip(path: &Path, offset: u64, bytes: usize) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the file opens");
    let mut buffer = vec![0; bytes];
    file.read_exact_at(&mut buffer, offset).expect("the file has these bytes");
    for byte in &mut buffer {
        *byte = !*byte;
    }
    file.write_all_at(&buffer, offset).expect("the file can be written");
}

/// Overwrites the bytes at the offset.
///
/// # Panics
/// If the file cannot be changed.
pub fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("the file opens");
    file.write_all_at(bytes, offset).expect("the file can be written");
}

/// Zeroes the bytes from the offset to the end, and keeps the length.
///
/// # Panics
/// If the file cannot be changed.
pub fn zero_from(path: &Path, offset: u64) {
    let file = OpenOptions::new().write(true).open(path).expect("the file opens");
    let length = file.metadata().expect("the file has a length").len();
    file.set_len(offset).expect("the file can be cut");
    file.set_len(length).expect("the file can be extended");
}

/// Truncates the file to a length.
///
/// # Panics
/// If the file cannot be changed.
pub fn truncate(path: &Path, length: u64) {
    let file = OpenOptions::new().write(true).open(path).expect("the file opens");
    file.set_len(length).expect("the file can be cut");
}

/// Copies a folder recursively.
///
/// # Errors
/// If something cannot be read or written.
pub fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
