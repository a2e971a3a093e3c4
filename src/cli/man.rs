//! `keyward man`: the manual pages, one of the program and one of each command.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory as _};
use clap_mangen::Man;

use crate::cli::exit::{self, Failure, Outcome};
use crate::cli::output;
use crate::storage::io_may_pass;

const EXAMPLES: &str = "\
Examples:
  keyward man ~/.local/share/man/man1              for this user; then: man keyward-run
  sudo keyward man /usr/local/share/man/man1       for everybody";

/// Write the manual pages into a folder
///
/// They say what `--help` says: keyward.1 for the program, and keyward-lock.1 and so on for each
/// command. Prints the path of each.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ManArgs {
    /// The folder; made if it is not there
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Writes the pages.
pub(crate) fn run(args: &ManArgs) -> Outcome {
    let cannot = |path: &Path, error: &std::io::Error| {
        let code = if io_may_pass(error) { exit::UNAVAILABLE } else { exit::USAGE };
        Failure::new(code, format!("cannot write {}: {error}", path.display()))
    };
    std::fs::create_dir_all(&args.folder).map_err(|error| cannot(&args.folder, &error))?;
    for (name, command) in pages() {
        let path = args.folder.join(format!("{name}.1"));
        let mut text = Vec::new();
        // Writing to a vector does not fail.
        Man::new(command).render(&mut text).map_err(|error| cannot(&path, &error))?;
        let text = in_sections(&String::from_utf8_lossy(&text));
        std::fs::write(&path, text).map_err(|error| cannot(&path, &error))?;
        output::print(&format!("{}\n", path.display()));
    }
    Ok(exit::OK)
}

/// The program and all its commands, each with the name of its page; hidden ones are left out.
fn pages() -> Vec<(String, Command)> {
    let mut program = super::Cli::command().disable_help_subcommand(true);
    // Sets the full name of every command, and the global options.
    program.build();
    let mut pages = Vec::new();
    add(&program, "keyward", &mut pages);
    pages
}

fn add(command: &Command, name: &str, pages: &mut Vec<(String, Command)>) {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        add(below, &format!("{name}-{}", below.get_name()), pages);
    }
    let name = name.to_owned();
    pages.push((name.clone(), command.clone().display_name(name)));
}

/// The page with the text after the options in sections of its own, under the headings of the help.
/// Its lines are not filled, so that they stay aligned.
fn in_sections(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let (mut extra, mut begun) = (false, false);
    for line in page.lines() {
        if line == ".SH EXTRA" {
            extra = true;
            continue;
        }
        if line.starts_with(".SH") && begun {
            text.push_str(".fi\n");
            (extra, begun) = (false, false);
        }
        match line.strip_suffix(':') {
            Some(heading) if extra && !line.starts_with([' ', '.']) => {
                let before = if begun { ".fi\n" } else { "" };
                // Writing to a string does not fail.
                let _ = write!(text, "{before}.SH {}\n.nf\n", heading.to_uppercase());
                begun = true;
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}
