//! `--report`: the measurement as one self-contained HTML file, for a person.
//!
//! [`page`] is the content of the page, within the frame of [`crate::report`]: facts, tables and
//! [`plots`], drawn by [`chart`]. It contains nothing that `--json` does not.

mod chart;
mod page;
mod plots;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::document::Document;
use crate::cli::exit::Failure;

/// A file for the report, checked to be writable before anything is measured.
#[derive(Debug)]
pub(super) struct ReportFile {
    path: PathBuf,
    /// Whether the file is an empty one that was made here, which is removed if nothing is
    /// measured.
    empty: bool,
}

impl ReportFile {
    /// Makes the file. An existing one keeps its content until the report is written.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn claim(path: &Path) -> Result<Self, Failure> {
        let empty = match File::options().write(true).create_new(true).open(path) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                File::options().write(true).open(path).map_err(|error| failure(path, &error))?;
                false
            }
            Err(error) => return Err(failure(path, &error)),
        };
        Ok(Self { path: path.to_owned(), empty })
    }

    /// Writes the report.
    ///
    /// # Errors
    /// The file cannot be written any more.
    pub(super) fn write(mut self, document: &Document) -> Result<(), Failure> {
        fs::write(&self.path, page::page(document)).map_err(|error| failure(&self.path, &error))?;
        self.empty = false;
        Ok(())
    }
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        if self.empty {
            // At worst an empty file is left, and the reason for it has been printed.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn failure(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("--report {}: the report cannot be written: {error}", path.display()))
        .advise("Name a file that you may write, in a folder that is there.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_keeps_its_content_until_there_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        drop(ReportFile::claim(&path).unwrap());
        assert!(!path.exists(), "an empty file is left over");
        fs::write(&path, "an older report").unwrap();
        drop(ReportFile::claim(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "an older report");
        assert!(ReportFile::claim(folder.path()).is_err(), "a folder is no file");
        assert!(ReportFile::claim(&folder.path().join("none/report.html")).is_err());
    }
}
