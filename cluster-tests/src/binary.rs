//! Finds the program under test.
//!
//! `KEYWARD_BIN` names it. Otherwise `scripts/released` builds it separately, with the released
//! features and none of the tests', and a test never runs against yesterday's program.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The path of the `keyward` program.
///
/// # Panics
/// If it cannot be built.
pub fn keyward() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match std::env::var_os("KEYWARD_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

/// Builds in the profile and the target folder of this executable.
fn build() -> PathBuf {
    let executable = std::env::current_exe().expect("a process knows its executable");
    let folder = profile_folder(&executable);
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => "dev",
        Some(name) => name,
    };
    let target = folder.parent().expect("a profile's folder is in the target folder");
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let built = Command::new(root.join("scripts/released"))
        .args(["--profile", profile])
        .env("CARGO_TARGET_DIR", target)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("scripts/released runs");
    assert!(built.status.success(), "keyward cannot be built: {}", built.status);
    PathBuf::from(String::from_utf8_lossy(&built.stdout).trim_end())
}

/// `target/debug` for `target/debug/deps/cluster-0123` and for `target/debug/hold`.
fn profile_folder(executable: &Path) -> &Path {
    let folder = executable.parent().expect("an executable is in a folder");
    match folder.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => folder.parent().expect("deps is in a profile's folder"),
        _ => folder,
    }
}
