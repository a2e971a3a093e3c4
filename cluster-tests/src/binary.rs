//! Finds the program under test.
//!
//! `KEYWARD_BIN` names it. Otherwise cargo builds it, beside the test executable and with the
//! same features, so that a test never runs against yesterday's program.

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

/// The whole workspace's tests are built rather than the one program: only then are the
/// dependencies those that the test run has built already.
fn build() -> PathBuf {
    let executable = std::env::current_exe().expect("a process knows its executable");
    let folder = profile_folder(&executable);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["test", "--workspace", "--no-run", "--quiet"])
        .arg("--target-dir")
        .arg(folder.parent().expect("a profile's folder is in the target folder"))
        .stdin(Stdio::null());
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "cargo cannot build keyward: {status}");
    folder.join("keyward")
}

/// `target/debug` for `target/debug/deps/cluster-0123` and for `target/debug/hold`.
fn profile_folder(executable: &Path) -> &Path {
    let folder = executable.parent().expect("an executable is in a folder");
    match folder.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => folder.parent().expect("deps is in a profile's folder"),
        _ => folder,
    }
}
