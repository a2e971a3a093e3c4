//! The command line and the variables, read into [`Cli`].
//!
//! An empty variable counts as not set, as in most programs. The error for a wrong value names the
//! variable that it came from, and with `--json` it is a problem document, too.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory as _, FromArgMatches as _};

use super::{Cli, exit, output};
use crate::api::Problem;
use crate::error::Error;

/// Reads the command line, and whether a program reads the output (`--json`).
///
/// # Errors
/// The exit code, for a request for help or an error; both have been printed already.
pub(super) fn read(arguments: &[OsString]) -> Result<(Cli, bool), u8> {
    let own = arguments.iter().position(|word| word == "--").unwrap_or(arguments.len());
    let words = &arguments[..own];
    let json = words.iter().any(|word| word == "--json");
    let mut command = without_empty_variables(Cli::command());
    let cli = command
        .try_get_matches_from_mut(arguments)
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches))
        .map_err(|error| end(&error.format(&mut command), words, json))?;
    Ok((cli, json))
}

/// The command, which ignores empty variables.
fn without_empty_variables(command: Command) -> Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| {
            if arg.get_env().is_some_and(is_empty) { arg.env(None::<&'static str>) } else { arg }
        })
        .mut_subcommands(without_empty_variables)
}

/// Prints the help or the error; returns the exit code.
fn end(error: &clap::Error, words: &[OsString], json: bool) -> u8 {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return if error.print().is_ok() { exit::OK } else { exit::OUTPUT };
    }
    let variable = variable_of(error, words);
    if json {
        let text = error.render().to_string();
        let (what, _usage) = text.split_once("\n\n").unwrap_or((text.as_str(), ""));
        let what = what.trim_start_matches("error: ");
        output::print_json(&problem(&match &variable {
            Some(variable) => format!("{what} (in {variable})"),
            None => what.to_owned(),
        }));
    }
    // There is nowhere left to report that printing failed.
    let _ = error.print();
    if let Some(variable) = variable {
        output::say(&format!("the value is that of the variable {variable}"));
    }
    exit::USAGE
}

/// The error of a command line as a document: its lines are joined.
pub(super) fn problem(what: &str) -> Problem {
    let words: Vec<&str> = what.split_whitespace().collect();
    Problem::from(&Error::bad_request(words.join(" ")))
}

/// The variable that a wrong value came from, if the argument has one and is not on the command
/// line.
fn variable_of(error: &clap::Error, words: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = argument.split([' ', '=']).next()?;
    let on_the_line = words.iter().any(|word| {
        let word = word.to_string_lossy();
        word == flag || word.starts_with(&format!("{flag}="))
    });
    let long = flag.strip_prefix("--").filter(|_| !on_the_line)?;
    find_variable(&Cli::command(), long)
}

fn find_variable(command: &Command, long: &str) -> Option<String> {
    let mut own = command.get_arguments().filter(|arg| arg.get_long() == Some(long));
    let set = |name: &&OsStr| std::env::var_os(name).is_some();
    match own.find_map(|arg| arg.get_env().filter(set)) {
        Some(name) => Some(name.to_string_lossy().into_owned()),
        None => command.get_subcommands().find_map(|command| find_variable(command, long)),
    }
}
