//! The `keyward` program: wires everything, decides nothing.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyward::cli::main()
}
