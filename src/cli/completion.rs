//! `keyward completion`: a script that completes the command line in a shell.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::exit;

const EXAMPLES: &str = "\
Examples:
  source <(keyward completion bash)                                  this bash session
  keyward completion zsh > \"${fpath[1]}/_keyward\"                    zsh, for good
  keyward completion fish > ~/.config/fish/completions/keyward.fish  fish, for good";

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionArgs {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionArgs) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "keyward", &mut script);
    super::output::print(&String::from_utf8_lossy(&script));
    exit::OK
}
