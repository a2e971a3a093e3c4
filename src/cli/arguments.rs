//! The command line and the variables, read into [`Cli`].
//!
//! A variable that is set to nothing counts as not set, as most programs have it. A wrong value is
//! told with the variable that it came from, and with `--json` as a problem document, too.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory as _, FromArgMatches as _};

use super::{Cli, exit, output};
use crate::api::Problem;
use crate::error::Error;

/// Reads what the program was called with, and whether a program reads its answer (`--json`).
///
/// # Errors
/// The exit code, when help was asked for or something is wrong; it has been printed already.
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

/// The command, in which no variable counts that is set to nothing.
fn without_empty_variables(command: Command) -> Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| {
            if arg.get_env().is_some_and(is_empty) { arg.env(None::<&'static str>) } else { arg }
        })
        .mut_subcommands(without_empty_variables)
}

/// Prints help, or what is wrong; the exit code.
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
    // There is nowhere left to say that nothing can be said.
    let _ = error.print();
    if let Some(variable) = variable {
        output::say(&format!("the value is that of the variable {variable}"));
    }
    exit::USAGE
}

/// What is wrong with the command line, as a document: its lines become one.
pub(super) fn problem(what: &str) -> Problem {
    let words: Vec<&str> = what.split_whitespace().collect();
    Problem::from(&Error::bad_request(words.join(" ")))
}

/// The variable that a wrong value came from: the argument has one, and is not on the command line.
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
