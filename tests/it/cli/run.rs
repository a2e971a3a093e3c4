//! `keyward run`: the environment of the command, its end, and the exit code.

use keyward::LockService as _;
use keyward::types::ReadOptions;
use rustix::process::Signal;

use super::{
    Running, Server, assert_code, eventually, ignoring, keyward, output, runs, stderr, stdout,
};

#[test]
fn the_command_has_the_lock_its_token_and_its_own_exit_code() {
    let server = Server::start();
    let script = "echo $KEYWARD_LOCK_SIGNATURE $KEYWARD_LOCK_TOKEN $KEYWARD_LOCK_SIGNEE \
                  $KEYWARD_LOCK_TABLE; exit 7";
    let run = server.keyward(&format!("run jobs/a --signee me -- sh -c '{script}'"));
    let run = output(run);
    assert_code(&run, 7);
    assert_eq!(stdout(&run), "jobs/a 1 me default\n");
    assert_eq!(server.holder("jobs/a"), None, "the lock is released");
}

#[test]
fn the_access_token_is_kept_from_the_command_unless_it_is_wanted() {
    let server = Server::start();
    let script = "echo ${KEYWARD_ACCESS_TOKEN-none} ${KEYWARD_TOKEN_FILE-none}";
    for (option, expected) in [("", "none none\n"), ("--pass-access-token", "kw_1 /dev/null\n")] {
        let mut run = server.keyward(&format!("run jobs/a {option} -- sh -c '{script}'"));
        // An empty file: there is no token in it, and none is sent.
        run.env("KEYWARD_ACCESS_TOKEN", "kw_1").env("KEYWARD_TOKEN_FILE", "/dev/null");
        let run = output(run);
        assert_code(&run, 0);
        assert_eq!(stdout(&run), expected);
    }
}

#[test]
fn an_access_token_that_cannot_be_one_is_refused_without_being_repeated() {
    let server = Server::start();
    let mut run = server.keyward("run jobs/a -- true");
    run.env("KEYWARD_ACCESS_TOKEN", "secret with blanks");
    let run = output(run);
    assert_code(&run, 2);
    assert!(stderr(&run).contains("access token has blanks"), "{}", stderr(&run));
    assert!(!stderr(&run).contains("secret"), "{}", stderr(&run));
    let run = output(server.keyward("run jobs/a --token-file /nowhere -- true"));
    assert_code(&run, 2);
    assert!(stderr(&run).contains("/nowhere"), "{}", stderr(&run));
}

#[test]
fn a_lock_that_another_holds_starts_nothing() {
    let server = Server::start();
    server.take("jobs/a", "other", 3, false);
    let run = output(server.keyward("run jobs/a -- echo started"));
    assert_code(&run, 120);
    assert_eq!(stdout(&run), "");
    assert!(stderr(&run).contains("jobs/a is held by other at level 3"), "{}", stderr(&run));
    // A higher level acquires it, and so does force.
    assert_code(&output(server.keyward("run jobs/a --level 4 -- true")), 0);
    server.take("jobs/a", "other", 3, false);
    assert_code(&output(server.keyward("run jobs/a --force -- true")), 0);
}

#[test]
fn two_runs_of_one_signee_exclude_each_other() {
    let server = Server::start();
    let mut first =
        Running::start(server.keyward("run a --signee me -- sh -c 'echo in; exec sleep 100'"));
    assert_eq!(first.line(), "in");
    assert_code(&output(server.keyward("run a --signee me -- true")), 120);
    first.signal(Signal::TERM);
    assert_eq!(first.end().0, Some(128 + 15));
}

#[test]
fn waiting_ends_when_the_lock_is_free() {
    let server = Server::start();
    let mut first = Running::start(server.keyward("run a -- sh -c 'echo in; exec sleep 100'"));
    assert_eq!(first.line(), "in");
    let mut second = Running::start(server.keyward("run a --wait 1m -- echo mine"));
    first.signal(Signal::INT);
    let (code, err) = first.end();
    assert_eq!(code, Some(128 + 2), "{err}");
    assert_eq!(second.line(), "mine");
    let (code, err) = second.end();
    assert_eq!(code, Some(0), "{err}");
}

#[test]
fn commands_that_do_not_start_have_the_codes_that_shells_give() {
    let server = Server::start();
    let run = output(server.keyward("run a -- no-such-command"));
    assert_code(&run, 127);
    assert!(stderr(&run).contains("there is no command no-such-command"), "{}", stderr(&run));
    assert_eq!(server.holder("a"), None);
    assert_code(&output(server.keyward("run a -- /dev/null")), 126);
    assert_code(&output(server.keyward("run a -- sh -c 'kill -9 $$'")), 128 + 9);
}

#[test]
fn signals_reach_the_command() {
    let server = Server::start();
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::HUP, "HUP"), (Signal::USR1, "USR1")] {
        let script = format!("trap \"exit 9\" {name}; echo in; while :; do sleep 0.02; done");
        let mut run = Running::start(server.keyward(&format!("run a -- sh -c '{script}'")));
        assert_eq!(run.line(), "in");
        run.signal(signal);
        assert_eq!(run.end().0, Some(9), "{name}");
    }
}

#[test]
fn what_the_command_leaves_behind_is_killed_before_the_lock_is_released() {
    let server = Server::start();
    let script = "sleep 100 >/dev/null 2>&1 & echo $!";
    let run = output(server.keyward(&format!("run a -- sh -c '{script}'")));
    assert_code(&run, 0);
    let left = stdout(&run).trim().to_owned();
    eventually("it is killed", || (!runs(&left)).then_some(()));
}

/// A command and its child, which both print their numbers and stay.
const FAMILY: &str = "sleep 100 & echo $$ $!; wait";
/// The same, ignoring SIGTERM.
const DEAF_FAMILY: &str = "trap \"\" TERM; sleep 100 & echo $$ $!; while :; do wait; done";

fn start_family(server: &Server, options: &str, family: &str) -> (Running, Vec<String>) {
    let mut run = Running::start(server.keyward(&format!("run a {options} -- sh -c '{family}'")));
    let members: Vec<_> = run.line().split(' ').map(str::to_owned).collect();
    assert_eq!(members.len(), 2);
    assert!(members.iter().all(|pid| runs(pid)));
    (run, members)
}

#[test]
fn a_command_whose_lock_cannot_be_renewed_is_ended_with_its_children() {
    for family in [FAMILY, DEAF_FAMILY] {
        let mut server = Server::start();
        let (run, members) = start_family(&server, "--duration 2s", family);
        server.stop();
        // The lock lives on in memory: the command must be gone before it expires there.
        let expired = || {
            let checked = super::block_on(server.locks.check("a".into(), ReadOptions::default()));
            checked.unwrap().record.holders[0].expired
        };
        eventually("it is ended", || {
            let late = expired();
            let left: Vec<_> = members.iter().filter(|pid| runs(pid)).collect();
            assert!(left.is_empty() || !late, "{left:?} outlived the lock");
            left.is_empty().then_some(())
        });
        let (code, err) = run.end();
        assert_eq!(code, Some(121), "{err}");
        assert!(err.contains("no node could be reached"), "{err}");
    }
}

#[test]
fn a_command_that_ends_when_it_is_asked_to_is_not_killed() {
    let mut server = Server::start();
    let family = "trap \"echo asked; exit 3\" TERM; echo $$ $$; while :; do sleep 0.02; done";
    let (mut run, _) = start_family(&server, "--duration 2s", family);
    server.stop();
    assert_eq!(run.line(), "asked");
    let (code, err) = run.end();
    assert_eq!(code, Some(121), "why it ended matters more than how: {err}");
    assert!(!err.contains("killed"), "{err}");
}

#[test]
fn a_lost_and_a_preempted_lock_are_told_apart() {
    for (level, force, code, why) in [(0, true, 122, "taken by force"), (5, false, 123, "higher")] {
        let server = Server::start();
        let (run, members) = start_family(&server, "--duration 1s", DEAF_FAMILY);
        server.take("a", "other", level, force);
        eventually("it is ended", || members.iter().all(|pid| !runs(pid)).then_some(()));
        let (ended, err) = run.end();
        assert_eq!(ended, Some(code), "{err}");
        assert!(err.contains(why), "{err}");
        assert_eq!(err.lines().count(), 1, "one loss, one message: {err}");
        assert_eq!(server.holder("a").as_deref(), Some("other"), "it is left alone");
    }
}

#[test]
fn the_command_does_not_outlive_a_run_that_is_killed_or_stopped() {
    for signal in [Signal::KILL, Signal::STOP] {
        let server = Server::start();
        let (mut run, members) = start_family(&server, "--duration 1s", DEAF_FAMILY);
        run.signal(signal);
        eventually("it is ended", || members.iter().all(|pid| !runs(pid)).then_some(()));
        run.child.kill().unwrap();
        run.child.wait().unwrap();
    }
}

#[test]
fn a_command_is_ended_also_when_nobody_reads_what_is_said() {
    for killed in [false, true] {
        let mut server = Server::start();
        let (mut run, members) = start_family(&server, "--duration 2s", DEAF_FAMILY);
        drop(run.child.stderr.take());
        if killed {
            run.signal(Signal::KILL);
        } else {
            server.stop();
        }
        eventually("it is ended", || members.iter().all(|pid| !runs(pid)).then_some(()));
        let status = run.child.wait().unwrap();
        assert_eq!(status.code(), (!killed).then_some(121));
    }
}

#[test]
fn a_duration_that_cannot_be_kept_is_refused() {
    let server = Server::start();
    for (line, wrong) in [
        ("run a --duration 100ms -- true", "--duration 100ms is too short"),
        ("run a --duration 10s --kill-after 8s -- true", "leave too little"),
        ("run a --duration 10 -- true", "`10` has no unit"),
        ("run a", "<COMMAND>"),
    ] {
        let run = output(server.keyward(line));
        assert_code(&run, 2);
        assert!(stderr(&run).contains(wrong), "{line}: {}", stderr(&run));
    }
}

/// A script that prints `in`, waits until a file exists, and ends with this code.
fn waits_for(file: &std::path::Path, code: i32) -> String {
    format!("echo in; while [ ! -e {} ]; do sleep 0.02; done; exit {code}", file.display())
}

#[test]
fn a_lock_that_was_lost_before_the_command_ended_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    for (number, (code, taken, freed)) in
        [(0, true, false), (0, false, true), (3, true, true)].into_iter().enumerate()
    {
        let server = Server::start();
        let file = folder.path().join(number.to_string());
        // Long before the first renewal.
        let line = format!("run a --signee me --instance 1 -- sh -c '{}'", waits_for(&file, code));
        let mut run = Running::start(server.keyward(&line));
        assert_eq!(run.line(), "in");
        if freed {
            server.release("a", "me", "1");
        }
        if taken {
            server.take("a", "thief", 0, true);
        }
        std::fs::write(&file, "").unwrap();
        let (ended, err) = run.end();
        assert_eq!(ended, Some(124), "{err}");
        let expected = format!("a was lost before the command ended (exit code {code})");
        assert!(err.contains(&expected), "{err}");
        assert_eq!(server.holder("a").as_deref(), taken.then_some("thief"), "it is left alone");
    }
}

#[test]
fn why_the_lock_was_not_acquired_is_in_the_exit_code() {
    let mut server = Server::start();
    server.take("a", "other", 0, false);
    for wait in ["", "--wait 10ms"] {
        assert_code(&output(server.keyward(&format!("run a {wait} -- true"))), 120);
        assert_code(&output(server.keyward(&format!("run '' {wait} -- true"))), 2);
    }
    // A connection here is never answered.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    server.stop();
    for wait in ["", "--wait 10ms"] {
        let refused = server.keyward(&format!("run a --timeout 300ms {wait} -- true"));
        assert_code(&output(refused), 117);
        let line = format!("run a --timeout 300ms {wait} --endpoints {endpoint} -- true");
        assert_code(&output(keyward(&line)), 118);
    }
}

#[test]
fn a_wait_without_a_duration_has_no_end() {
    let server = Server::start();
    let mut first = Running::start(server.keyward("run a -- sh -c 'echo in; exec sleep 100'"));
    assert_eq!(first.line(), "in");
    let mut second = Running::start(server.keyward("run a --wait -- echo mine"));
    first.signal(Signal::INT);
    first.end();
    assert_eq!(second.line(), "mine");
    assert_eq!(second.end().0, Some(0));
    let wrong = output(server.keyward("run --wait a -- true"));
    assert_code(&wrong, 2);
    assert!(stderr(&wrong).contains("--wait"), "{}", stderr(&wrong));
}

#[test]
fn what_the_command_starts_locks_where_it_would_without_a_lock_around_it() {
    let server = Server::start();
    let program = env!("CARGO_BIN_EXE_keyward");
    let nested = format!("{program} run inner -- {program} lock kept --signee other");
    let line = format!("run outer --table builds --signee me --instance 1 -- {nested}");
    assert_code(&output(server.keyward(&line)), 0);
    assert_eq!(server.holder("kept").as_deref(), Some("other"), "in the default table");
    let without =
        output(server.keyward(&format!("run outer --signee me -- {program} unlock kept")));
    assert_code(&without, 2);
    assert!(stderr(&without).contains("--signee"), "the outer owner is not its: {without:?}");
}

#[test]
fn a_signal_that_was_ignored_at_the_start_stays_so() {
    let server = Server::start();
    let shown = ignoring("HUP", &server.keyward("run a -- grep SigIgn /proc/self/status"));
    let shown = output(shown);
    assert_code(&shown, 0);
    let mask = stdout(&shown).split_whitespace().nth(1).unwrap();
    assert_eq!(u64::from_str_radix(mask, 16).unwrap() & 1, 1, "the command ignores it: {mask}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("end");
    let line = format!("run a -- sh -c '{}'", waits_for(&file, 0));
    let mut run = Running::start(ignoring("HUP", &server.keyward(&line)));
    assert_eq!(run.line(), "in");
    run.signal(Signal::HUP);
    std::fs::write(&file, "").unwrap();
    let (code, err) = run.end();
    assert_eq!(code, Some(0), "{err}");
}

#[test]
fn a_lock_may_be_kept_for_a_period_though_the_command_ends_sooner() {
    let server = Server::start();
    assert_code(&output(server.keyward("run a --at-least 1h -- sh -c 'exit 3'")), 3);
    let checked = super::block_on(server.locks.check("a".into(), ReadOptions::default())).unwrap();
    let left = checked.record.holders[0].expires_in.as_secs();
    assert!((3500..=3600).contains(&left), "{left} s are left");
    assert_code(&output(server.keyward("run a --at-least 1h -- true")), 120);
    // Nor does a signal shorten it.
    let line = "run d --at-least 1h -- sh -c 'echo in; exec sleep 100'";
    let mut run = Running::start(server.keyward(line));
    assert_eq!(run.line(), "in");
    run.signal(Signal::TERM);
    assert_eq!(run.end().0, Some(128 + 15));
    assert!(server.record("d").unwrap().holders[0].expires_in.as_secs() >= 3500);
    // A period that is over when the command ends, and a lock that was lost.
    assert_code(&output(server.keyward("run b --at-least 1ms -- sleep 0.05")), 0);
    assert_eq!(server.holder("b"), None);
    let program = env!("CARGO_BIN_EXE_keyward");
    let stolen = format!("run c --at-least 1h -- {program} lock c --signee thief --force");
    assert_code(&output(server.keyward(&stolen)), 124);
    assert_eq!(server.holder("c").as_deref(), Some("thief"));
}
