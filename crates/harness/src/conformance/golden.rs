//! The expected answers are those of memory: they are checked and generated here.

use std::path::Path;
use std::sync::Arc;

use super::{MemoryBootstrap, Options, Outcome, Script, generate, run, scripts};

/// If it is set to 1, the scripts' expected answers are regenerated from memory.
const UPDATE: &str = "UPDATE_GOLDENFILES";

#[tokio::test]
async fn memory_passes_every_script() {
    if std::env::var(UPDATE).is_ok_and(|value| value == "1") {
        return update().await;
    }
    let report = run(MemoryBootstrap::new(), Options::default()).await;
    assert!(report.passed(), "{report}");
}

async fn update() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/conformance/scripts");
    for script in scripts() {
        let path = folder.join(script.name.as_ref());
        let text = std::fs::read_to_string(&path).unwrap().into();
        let bootstrap = Arc::new(MemoryBootstrap::new());
        let found = generate(bootstrap, Script { text, ..script }).await;
        std::fs::write(&path, found.unwrap_or_else(|error| panic!("{path:?}: {error}"))).unwrap();
    }
}

#[tokio::test]
async fn a_suite_passes_again_on_a_service_that_has_run_it_before() {
    let bootstrap = Arc::new(MemoryBootstrap::new());
    for _ in 0..2 {
        let report = run(Arc::clone(&bootstrap), Options::default()).await;
        assert!(report.passed(), "{report}");
    }
}

fn script(text: &'static str) -> Options {
    let script = Script { name: "test".into(), text: text.into() };
    Options { scripts: vec![script], parallel: 1 }
}

#[tokio::test]
async fn a_mismatch_is_shown_as_a_unified_diff() {
    let options = script("check a\n---\na holder=me token=t1 expires_in=5s\n");
    let report = run(MemoryBootstrap::new(), options).await;
    assert!(!report.passed());
    let Outcome::Mismatch { diff } = &report.results[0].outcome else { panic!("{report}") };
    assert!(diff.contains("-a holder=me token=t1 expires_in=5s\n+not_found\n"), "{diff}");
}

#[tokio::test]
async fn a_malformed_script_is_an_error_and_not_a_pass() {
    for text in ["check\n---\n", "look a\n---\n", "lock a b token=t1\n---\n", "z: check a\n---\n"] {
        let report = run(MemoryBootstrap::new(), script(text)).await;
        assert!(matches!(report.results[0].outcome, Outcome::Error { .. }), "{text}: {report}");
    }
}

#[tokio::test]
async fn a_run_of_no_scripts_is_not_a_pass() {
    let options = Options::default().matching(&["no such script"]);
    let report = run(MemoryBootstrap::new(), options).await;
    assert!(!report.passed());
    assert_eq!(report.to_string(), "no script was run");
}

#[tokio::test]
async fn a_run_leaves_no_table_behind() {
    use crate::conformance::Bootstrap as _;
    use keyward_core::service::all_tables;
    use keyward_core::types::ReadOptions;

    let bootstrap = Arc::new(MemoryBootstrap::new());
    let report = run(Arc::clone(&bootstrap), Options::default()).await;
    let service = bootstrap.open(keyward_core::ServiceOptions::default()).await.unwrap();
    let tables = all_tables(&service, ReadOptions::default()).await.unwrap();
    assert!(tables.is_empty(), "{tables:?} after {report}");
}
