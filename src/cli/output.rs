//! Printing: tables and sentences for people, documents for programs.
//!
//! Names are foreign input and may contain anything but NUL. Text for a terminal is escaped, so
//! that no lock's name can move the cursor or look like another; JSON has escapes of its own.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::cli::duration::format_short;
use crate::cli::exit;
pub(crate) use crate::report::visible;
use crate::types::{Holder, Mode};

/// Whether anything was printed to standard output.
static PRINTED: AtomicBool = AtomicBool::new(false);

/// The first failure to print.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Prints to standard output. A failure does not end the command, but changes its exit code: see
/// [`exit_code`].
pub(crate) fn print(text: &str) {
    PRINTED.store(true, Ordering::Relaxed);
    if let Err(error) = write(text) {
        // Later failures follow from the first.
        FAILED.get_or_init(|| error);
    }
}

/// Prints a line of a node that continues to run, whether anybody reads the line or not.
pub(crate) fn announce(text: &str) {
    if let Err(error) = write(text) {
        tracing::warn!(%error, "standard output cannot be written: {}", text.trim_end());
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
}

/// Whether a document was printed already.
pub(crate) fn has_printed() -> bool {
    PRINTED.load(Ordering::Relaxed)
}

/// The exit code of a command that ends with this one. If its output could not be written, a
/// success becomes a failure.
pub(crate) fn exit_code(code: u8) -> u8 {
    let Some(error) = FAILED.get() else { return code };
    // A reader that has gone away (`keyward list | head`) needs no message.
    if error.kind() != ErrorKind::BrokenPipe {
        say(&format!("cannot write to standard output: {error}"));
    }
    if code == exit::OK { exit::OUTPUT } else { code }
}

/// Prints a message for the person at the terminal, on standard error. It may be closed: a panic
/// for that, as in `eprintln!`, could leave a command that nothing ends.
pub(crate) fn say(text: &str) {
    let mut stderr = std::io::stderr().lock();
    // There is nowhere left to report that printing failed.
    let _ = writeln!(stderr, "keyward: {text}");
}

/// Prints one JSON document on one line.
pub(crate) fn print_json(document: &impl Serialize) {
    let mut text = serde_json::to_string(document).expect("answers have string keys");
    text.push('\n');
    print(&text);
}

/// An owner in a sentence: `worker-2 (instance 7)`.
pub(crate) fn owner(signee: &str, instance: Option<&str>) -> String {
    match instance {
        Some(instance) => format!("{} (instance {})", visible(signee), visible(instance)),
        None => visible(signee),
    }
}

/// One holder in a sentence: `worker-2 at level 0 with token 17, 12.0s left`.
pub(crate) fn holder(holder: &Holder) -> String {
    let mut text = owner(&holder.signee, holder.instance.as_deref());
    // Writing to a string does not fail.
    let _ = write!(text, " at level {} with token {}", holder.level, holder.token);
    match (holder.mode, holder.slot) {
        (Mode::Shared, _) => text.push_str(", shared"),
        (Mode::Permits, Some(slot)) => {
            let _ = write!(text, " in slot {slot}");
        }
        (Mode::Exclusive | Mode::Permits, _) => {}
    }
    text.push_str(", ");
    if holder.expired {
        text.push_str("expired");
    } else {
        let _ = write!(text, "{} left", format_short(holder.expires_in));
    }
    text
}

/// The number of holders that a sentence names; the others are counted.
const NAMED: usize = 3;

/// Several holders in a sentence; empty if there is none.
pub(crate) fn holders(holders: &[Holder]) -> String {
    let named: Vec<String> = holders.iter().take(NAMED).map(holder).collect();
    let mut text = named.join(", and by ");
    if holders.len() > NAMED {
        // Writing to a string does not fail.
        let _ = write!(text, ", and by {} more", holders.len() - NAMED);
    }
    text
}

/// Aligned columns: the first row is the heading; no column is truncated.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()] }
    }

    /// Adds a row, as many cells as there are headings.
    pub(crate) fn row(&mut self, cells: &[String]) {
        assert_eq!(cells.len(), self.rows[0].len(), "a row has a cell for each heading");
        self.rows.push(cells.to_vec());
    }

    /// The table as text, two spaces between columns.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows[0].len();
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().map(|row| row[column].chars().count()).max())
            .map(|width| width.expect("there is a heading"))
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:<width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A holder as cells: owner, instance, level, token, mode with the slot, time until it expires and
/// until its record is removed.
pub(crate) fn holder_cells(holder: &Holder) -> [String; 7] {
    let mode = match holder.slot {
        Some(slot) => format!("slot {slot}"),
        None => holder.mode.word().to_owned(),
    };
    let expires =
        if holder.expired { "expired".to_owned() } else { format_short(holder.expires_in) };
    [
        visible(&holder.signee),
        cell(holder.instance.as_deref().map(visible)),
        holder.level.to_string(),
        holder.token.to_string(),
        mode,
        expires,
        cell(holder.removed_in.map(format_short)),
    ]
}

/// A value that may be missing, as a cell.
pub(crate) fn cell(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["NAME", "N"]);
        table.row(&["a long name".to_owned(), "1".to_owned()]);
        table.row(&["b".to_owned(), String::new()]);
        assert_eq!(table.render(), "NAME         N\na long name  1\nb\n");
    }

    #[test]
    fn many_holders_are_counted() {
        let holder = Holder { signee: "a".to_owned(), expired: true, ..Holder::default() };
        let one = "a at level 0 with token 0, expired";
        assert_eq!(holders(&[]), "");
        assert_eq!(holders(&[holder.clone(), holder.clone()]), format!("{one}, and by {one}"));
        let many = format!("{one}, and by {one}, and by {one}, and by 2 more");
        assert_eq!(holders(&vec![holder.clone(); 5]), many);
        let permit = Holder { mode: Mode::Permits, slot: Some(4), ..holder.clone() };
        assert_eq!(holders(&[permit]), "a at level 0 with token 0 in slot 4, expired");
        let shared = Holder { mode: Mode::Shared, ..holder };
        assert_eq!(holders(&[shared]), "a at level 0 with token 0, shared, expired");
    }

    #[test]
    fn a_name_cannot_write_to_the_terminal() {
        assert_eq!(visible("jobs/ä\u{1b}[2J\n"), "jobs/ä\\u{1b}[2J\\n");
        assert_eq!(visible("a\u{202e}b"), "a\\u{202e}b");
    }
}
