//! The commands for what waits, is shared and lives in sessions.

use std::process::Output;
use std::time::Duration;

use keyward::api::{ClusterStatus, NodeRole};
use keyward::http::LocalNode;
use keyward::lock::{Command, Decision, Query, View};
use keyward::types::CallOptions;
use keyward::{Error, LockService, MemoryLocks};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Running, Server, assert_code, output, stderr, stdout};

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A program that waits, once it stands in the queue at this position.
fn begin(server: &Server, line: &str, position: u64) -> Running {
    let running = Running::start(server.keyward(line));
    server.queue_of("a", position);
    running
}

#[test]
fn locks_and_runs_are_granted_by_level_and_in_order() {
    let server = Server::start();
    server.take("a", "first", 10, false);
    let second = begin(&server, "lock a --signee second --wait 1m --duration 1h", 1);
    let third = begin(&server, "lock a --signee third --wait 1m --json", 2);
    let mut high = begin(&server, "run a --level 5 --wait -- sh -c 'echo high'", 3);
    let shown = output(server.keyward("show a"));
    assert_code(&shown, 0);
    let rows: Vec<Vec<&str>> =
        stdout(&shown).lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["a:", "held,", "3", "waiting"]);
    assert_eq!(rows[2][..4], ["HOLDER", "INSTANCE", "LEVEL", "TOKEN"]);
    assert_eq!(rows[3][..5], ["first", "-", "10", "1", "exclusive"]);
    assert_eq!(rows[5][..4], ["POSITION", "WAITS", "INSTANCE", "LEVEL"]);
    assert_eq!((rows[6][0], rows[6][3]), ("1", "5"), "a higher level is before earlier ones");
    assert_eq!(rows[7][..4], ["2", "second", "-", "0"]);
    assert_eq!(rows[8][..4], ["3", "third", "-", "0"]);
    let listed = output(server.keyward("list"));
    assert!(stdout(&listed).lines().nth(1).unwrap().ends_with('3'), "{}", stdout(&listed));
    let checked = output(server.keyward("check a"));
    assert!(stdout(&checked).contains("3 wait for it"), "{}", stdout(&checked));

    let unlock = |signee: &str| output(server.keyward(&format!("unlock a --signee {signee}")));
    assert_code(&unlock("first"), 0);
    assert_eq!(high.line(), "high");
    let (code, err) = high.end();
    assert_eq!((code, err.as_str()), (Some(0), ""), "in a pipe it is quiet");
    let mut second = second;
    assert!(second.line().starts_with("a is yours: token 3, level 0, "), "after its run released");
    assert_eq!(second.end(), (Some(0), String::new()));
    assert_code(&unlock("second"), 0);
    let mut third = third;
    let granted: Value = serde_json::from_str(&third.line()).unwrap();
    assert_eq!((&granted["status"], &granted["token"]), (&json!("ok"), &json!(4)));
    assert_eq!(third.end().0, Some(0));
}

#[test]
fn a_wait_that_is_over_is_a_refusal() {
    let server = Server::start();
    server.take("a", "other", 0, false);
    let over = output(server.keyward("lock a --signee me --wait 50ms"));
    assert_code(&over, 1);
    let expected = "a was not free in time; it is held by other at level 0";
    assert!(stderr(&over).contains(expected), "{}", stderr(&over));
    let over = output(server.keyward("lock a --signee me --wait 50ms --json"));
    assert_eq!(document(&over)["reason"], "timeout");
    let over = output(server.keyward("run a --wait 50ms -- echo started"));
    assert_code(&over, 120);
    assert_eq!(stdout(&over), "");
    assert!(stderr(&over).contains(expected), "{}", stderr(&over));
    // Without a wait the order is kept, too.
    server.take("b", "other", 0, false);
    let waits = Running::start(server.keyward("lock b --signee me --wait"));
    server.queue_of("b", 1);
    let refused = output(server.keyward("lock b --signee you --json"));
    assert_code(&refused, 1);
    waits.signal(Signal::HUP);
    assert_eq!(waits.end().0, Some(128 + 1));
}

#[test]
fn a_signal_leaves_the_queue() {
    let server = Server::start();
    server.take("a", "other", 0, false);
    let session = output(server.keyward("session open --signee worker"));
    let session = stdout(&session).trim().to_owned();
    for (line, signal, number) in [
        ("lock a --signee me --wait".to_owned(), Signal::INT, 2),
        ("run a --wait 1m -- true".to_owned(), Signal::TERM, 15),
        (format!("lock a --session {session} --wait 1h"), Signal::TERM, 15),
        (format!("lock a --session {session} --signee me --wait"), Signal::INT, 2),
    ] {
        let waiting = begin(&server, &line, 1);
        waiting.signal(signal);
        assert_eq!(waiting.end(), (Some(128 + number), String::new()), "{line}");
        server.queue_of("a", 0);
        assert_eq!(server.holder("a").as_deref(), Some("other"));
    }
}

#[test]
fn two_runs_of_one_owner_have_one_place() {
    let server = Server::start();
    server.take("a", "other", 0, false);
    let first = begin(&server, "lock a --signee me --wait", 1);
    let second = Running::start(server.keyward("lock a --signee me --wait"));
    let (code, err) = first.end();
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("a later request of this owner") && err.contains("--instance"), "{err}");
    server.queue_of("a", 1);
    assert_code(&output(server.keyward("unlock a --signee me")), 0);
    let (code, err) = second.end();
    assert_eq!(code, Some(1), "its place was left: {err}");
}

#[test]
fn permits_have_slots_and_a_limit_that_can_be_changed() {
    let server = Server::start();
    let start = || {
        let script = "echo $KEYWARD_LOCK_SLOT; exec sleep 100";
        Running::start(server.keyward(&format!("run a --limit 2 --wait -- sh -c '{script}'")))
    };
    let mut first = start();
    assert_eq!(first.line(), "0");
    let mut second = start();
    assert_eq!(second.line(), "1");
    assert_code(&output(server.keyward("run a --limit 2 -- true")), 120);
    let differs = output(server.keyward("run a --limit 3 -- true"));
    assert_code(&differs, 120);
    assert!(stderr(&differs).contains("a has the limit 2"), "{}", stderr(&differs));
    let differs = output(server.keyward("lock a --signee me --limit 3 --json"));
    assert_eq!(document(&differs)["limit"], 2);
    let mut third = start();
    server.queue_of("a", 1);
    let shown = output(server.keyward("show a"));
    assert!(stdout(&shown).starts_with("a: 2 of 2 permits held, 1 waiting\n"), "{shown:?}");
    assert!(stdout(&shown).contains("slot 1"), "{shown:?}");
    assert_eq!(document(&output(server.keyward("limit a 3 --json"))), json!({"status": "ok"}));
    assert_eq!(third.line(), "2", "a larger limit lets those in that wait");
    let taken = output(server.keyward("limit a 4 --cause more"));
    assert_eq!(stdout(&taken), "a has the limit 4\n");
    let taken = output(server.keyward("lock a --signee me --limit 4"));
    assert!(stdout(&taken).starts_with("a is yours: slot 3, token 4, "), "{}", stdout(&taken));
    for run in [first, second, third] {
        run.signal(Signal::INT);
        assert_eq!(run.end().0, Some(128 + 2));
    }
    let missing = output(server.keyward("limit nosuch 3"));
    assert_code(&missing, 1);
    assert!(stderr(&missing).contains("nosuch has no limit"), "{}", stderr(&missing));
    // Other modes have no slot.
    let none = output(server.keyward("run b -- sh -c 'echo ${KEYWARD_LOCK_SLOT-none}'"));
    assert_eq!(stdout(&none), "none\n");
}

#[test]
fn a_lock_is_shared_and_its_last_holder_has_it_alone() {
    let server = Server::start();
    let run = |line: &str| output(server.keyward(line));
    let first = run("lock a --signee one --shared");
    assert!(stdout(&first).starts_with("a is yours: shared, token 1, "), "{first:?}");
    assert_code(&run("run a --shared -- true"), 0);
    assert_code(&run("lock a --signee two --shared"), 0);
    assert_code(&run("lock a --signee three"), 1);
    let refused = run("lock a --signee one --exclusive --json");
    assert_code(&refused, 1);
    assert_eq!(document(&refused)["reason"], "shared");
    assert_code(&run("unlock a --signee two"), 0);
    let alone = document(&run("lock a --signee one --exclusive --json"));
    assert_eq!(alone["status"], "renewed");
    assert!(alone["token"].as_u64().unwrap() > 2, "others have had larger ones: {alone}");
    assert_code(&run("lock a --signee two --shared"), 1);
}

#[test]
fn an_expired_lock_is_kept_for_its_holder_during_its_lock_delay() {
    let server = Server::start();
    let run = |line: &str| output(server.keyward(line));
    assert_code(&run("lock a --signee one --duration 1ms --lock-delay 1m"), 0);
    std::thread::park_timeout(Duration::from_millis(20));
    let refused = run("lock a --signee two");
    assert_code(&refused, 1);
    assert!(stderr(&refused).contains("a is kept for 59."), "{}", stderr(&refused));
    assert_eq!(document(&run("lock a --signee two --json"))["reason"], "delay");
    assert_code(&run("lock a --signee one"), 0);
}

#[test]
fn a_session_keeps_locks_and_tells_what_became_of_places() {
    let server = Server::start();
    let run = |line: &str| output(server.keyward(line));
    let opened = document(&run("session open --signee worker --ttl 1h --cause tests --json"));
    assert_eq!(opened["ttl_ms"], 3_600_000);
    let opened = run("session open --signee worker --ttl 1h");
    assert_code(&opened, 0);
    let id = stdout(&opened).trim().to_owned();
    assert_eq!(id.len(), 32, "the id alone, for a variable: {opened:?}");
    let empty = run(&format!("session show {id}"));
    assert_eq!(stdout(&empty), "the session has no locks and waits for none\n");

    assert_code(&run(&format!("lock kept --session {id}")), 0);
    assert_code(&run(&format!("lock kept --session {id} --new")), 1);
    assert_code(&run(&format!("lock kept --session {id} --duration 1s")), 2);
    server.take("a", "other", 0, false);
    let queued = run(&format!("lock a --session {id} --signee mine --wait --queued"));
    assert_code(&queued, 0);
    let expected = "a is waited for at position 1, place ";
    assert!(stdout(&queued).starts_with(expected), "{}", stdout(&queued));
    let queued = document(&run(&format!("lock b --session {id} --wait 1h --queued --json")));
    assert_eq!(queued["status"], "ok", "a free lock is granted at once: {queued}");

    let kept = run(&format!("session keepalive {id}"));
    assert_code(&kept, 0);
    assert!(stdout(&kept).starts_with(&format!("{id} lives for ")), "{}", stdout(&kept));
    assert_code(&run("unlock a --signee other"), 0);
    let kept = run(&format!("session keepalive {id}"));
    assert!(stdout(&kept).contains("a (table default) granted to mine: token "), "{kept:?}");
    let fact = document(&run(&format!("session keepalive {id} --json")));
    let fact = &fact["sessions"][0]["inbox"][0];
    assert_eq!((&fact["kind"], &fact["signature"]), (&json!("granted"), &json!("a")));
    let seen = fact["position"].as_str().unwrap();
    let kept = run(&format!("session keepalive {id} --seen {seen}"));
    assert_eq!(stdout(&kept).lines().count(), 1, "{}", stdout(&kept));

    let shown = run(&format!("session show {id}"));
    let rows: Vec<Vec<&str>> =
        stdout(&shown).lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..4], ["default", "a", "held", "mine"]);
    assert_eq!(rows[2][..4], ["default", "kept", "held", "worker"]);
    let page = run(&format!("session show {id} --limit 1"));
    assert!(stdout(&page).contains("--after 'default' 'a'"), "{}", stdout(&page));
    let page = run(&format!("session show {id} --limit 1 --after default a --json"));
    assert_eq!(document(&page)["locks"][0]["signature"], "b");
    let all = document(&run(&format!("session show {id} --limit 1 --all --json")));
    assert_eq!(all["locks"].as_array().unwrap().len(), 3);

    let closed = run(&format!("session close {id}"));
    assert_eq!(stdout(&closed), format!("session {id} is closed\n"));
    assert_eq!(server.holder("kept"), None, "its grants are released");
    let again = run(&format!("session close {id} --json"));
    assert_code(&again, 0);
    assert_eq!(document(&again), json!({"status": "no_session"}));
    assert_code(&run(&format!("session show {id}")), 1);
    let lost = run(&format!("session keepalive {id}"));
    assert_code(&lost, 1);
    assert!(stderr(&lost).contains("keyward session open"), "{}", stderr(&lost));
    let lost = run(&format!("session keepalive {id} --json"));
    assert_eq!(document(&lost)["sessions"][0]["alive"], false);
    let refused = run(&format!("lock kept --session {id}"));
    assert_code(&refused, 1);
    assert!(stderr(&refused).contains("the session is unknown or has ended"), "{refused:?}");
}

#[test]
fn a_token_is_verified() {
    let server = Server::start();
    server.take("a", "one", 0, false);
    let live = output(server.keyward("verify a 1"));
    assert_code(&live, 0);
    assert!(stdout(&live).starts_with("token 1 of a is live: held by one at level 0"), "{live:?}");
    let live = document(&output(server.keyward("verify a 1 --json")));
    assert_eq!((&live["live"], &live["holder"]["signee"]), (&json!(true), &json!("one")));
    for line in ["verify a 2", "verify nosuch 1", "verify a 1 --table other"] {
        let not = output(server.keyward(line));
        assert_code(&not, 1);
        assert!(stdout(&not).ends_with("is not live\n"), "{}", stdout(&not));
    }
    assert_code(&output(server.keyward("lock b --signee one --duration 1ms")), 0);
    std::thread::park_timeout(Duration::from_millis(20));
    let expired = output(server.keyward("verify b 2"));
    assert_code(&expired, 1);
    assert!(stdout(&expired).contains("it was one at level 0"), "{}", stdout(&expired));
}

#[test]
fn an_operator_releases_one_grant_or_one_place() {
    let server = Server::start();
    let run = |line: &str| output(server.keyward(line));
    server.take("a", "one", 0, false);
    let two = begin(&server, "lock a --signee two --wait", 1);
    let mut three = begin(&server, "lock a --signee three --wait", 2);
    let shown = document(&run("show a --json"));
    let place = shown["places"][0]["place"].as_str().unwrap();
    assert_eq!(shown["places"][0]["signee"], "two");
    let ended = run(&format!("release a --place {place} --cause 'stuck'"));
    assert_eq!(stdout(&ended), "the place in the queue of a is ended\n");
    let (code, err) = two.end();
    assert_eq!(code, Some(1));
    assert!(err.contains("a is lost"), "{err}");
    let again = run(&format!("release a --place {place} --cause 'stuck'"));
    assert_code(&again, 1);
    assert!(stderr(&again).contains(&format!("a has no place {place}")), "{}", stderr(&again));
    let released = run("release a --token 1 --cause 'host 7 is gone'");
    assert_eq!(stdout(&released), "a is released\n");
    assert!(three.line().starts_with("a is yours: token 2"), "the next has it");
    assert_eq!(three.end().0, Some(0));
    let late = run("release a --token 1 --cause late --json");
    assert_code(&late, 1);
    assert_eq!(document(&late)["reason"], "lost");
    assert_eq!(server.holder("a").as_deref(), Some("three"), "a later grant stays");
    let late = run("release nosuch --token 1 --cause late --json");
    assert_code(&late, 1);
    assert_eq!(document(&late)["status"], "no_lock");
}

#[test]
fn owners_that_wait_for_each_other_are_shown() {
    let server = Server::start();
    assert_eq!(stdout(&output(server.keyward("deadlocks"))), "no deadlocks\n");
    server.take("a", "one", 0, false);
    server.take("b", "two", 0, false);
    let one = Running::start(server.keyward("lock b --signee one --wait"));
    server.queue_of("b", 1);
    assert_code(&output(server.keyward("deadlocks --stale")), 0);
    let two = begin(&server, "lock a --signee two --wait", 1);
    let found = output(server.keyward("deadlocks"));
    assert_code(&found, 1);
    let text = stdout(&found);
    assert!(text.starts_with("deadlock 1 of 1:\n"), "{text}");
    assert!(text.contains("one waits for b (table default), held by two\n"), "{text}");
    assert!(text.contains("two waits for a (table default), held by one\n"), "{text}");
    let found = document(&output(server.keyward("deadlocks --json")));
    assert_eq!(found["cycles"][0].as_array().unwrap().len(), 2);
    for waits in [one, two] {
        waits.signal(Signal::INT);
        assert_eq!(waits.end().0, Some(128 + 2));
    }
    assert_code(&output(server.keyward("deadlocks")), 0);
}

#[test]
fn a_long_queue_is_shown_in_pages() {
    let server = Server::start();
    server.take("a", "other", 0, false);
    let session = stdout(&output(server.keyward("session open --signee w"))).trim().to_owned();
    let session: keyward::types::SessionId = session.parse().unwrap();
    super::block_on(async {
        for number in 1..=150 {
            let request = keyward::types::LockRequest {
                signature: "a".to_owned(),
                signee: format!("w{number}"),
                level: None,
            };
            let options = keyward::types::LockOptions {
                wait: Some(Duration::from_secs(600)),
                queued: true,
                session: Some(session),
                ..keyward::types::LockOptions::default()
            };
            assert!(server.locks.lock(request, options).await.unwrap().waiting().is_some());
        }
    });
    let shown = output(server.keyward("show a"));
    assert!(stdout(&shown).starts_with("a: held, 150 waiting\n"), "{}", stdout(&shown));
    assert!(stdout(&shown).contains("--after 100 for the next page"), "{}", stdout(&shown));
    let signees = |line: &str| {
        let shown = document(&output(server.keyward(line)));
        let places = shown["places"].as_array().unwrap().clone();
        let name = |place: &Value| place["signee"].as_str().unwrap().to_owned();
        (places.len(), name(&places[0]), name(places.last().unwrap()))
    };
    let named = |count, first: &str, last: &str| (count, first.to_owned(), last.to_owned());
    assert_eq!(signees("show a --json"), named(100, "w1", "w100"));
    assert_eq!(signees("show a --after 100 --json"), named(50, "w101", "w150"));
    assert_eq!(signees("show a --all --json"), named(150, "w1", "w150"));
    let missing = output(server.keyward("show nosuch"));
    assert_code(&missing, 1);
    assert!(stderr(&missing).contains("there is no lock nosuch"), "{}", stderr(&missing));
}

#[test]
fn the_wait_is_shown_on_a_terminal() {
    let server = Server::start();
    let held = "lock a --signee other --duration 1200ms";
    assert_code(&output(server.keyward(held)), 0);
    let mut command = std::process::Command::new("script");
    let line = format!("{} run a --wait 1m -- echo mine", super::program());
    command.args(["-qec", &line, "/dev/null"]);
    command.env("KEYWARD_ENDPOINTS", format!("http://{}", server.address));
    let shown = output(command);
    assert_code(&shown, 0);
    let text = stdout(&shown);
    let line = "\r\u{1b}[2Ka: position 1 of 1, waiting 3";
    assert!(text.contains(line), "{text:?}");
    assert!(text.contains(" of 1m; held by other, "), "{text:?}");
    assert!(text.contains("\r\u{1b}[2Kmine"), "the line is gone before the command: {text:?}");
}

#[test]
fn trouble_is_told_once_while_a_run_waits_in_a_pipe() {
    let mut server = Server::start();
    server.stop();
    let waited = output(server.keyward("run a --wait 2s --timeout 300ms -- true"));
    assert_code(&waited, 117);
    let told = stderr(&waited).matches("it is asked for again until the wait is over").count();
    assert_eq!(told, 1, "{}", stderr(&waited));
    let tried = output(server.keyward("run a --timeout 2s -- true"));
    assert_code(&tried, 117);
    assert!(!stderr(&tried).contains("waited for"), "{}", stderr(&tried));
}

/// A service of a cluster whose members do not all know requests that wait.
struct Old(MemoryLocks);

impl LockService for Old {
    async fn decide(
        &self,
        commands: Vec<Command>,
        call: CallOptions,
    ) -> Vec<Result<Decision, Error>> {
        if commands.iter().any(|command| command.operation.level() > 1) {
            let refused = || Err(Error::unavailable("not every member knows this"));
            return commands.iter().map(|_| refused()).collect();
        }
        self.0.decide(commands, call).await
    }

    async fn read(&self, query: Query, call: CallOptions) -> Result<View, Error> {
        self.0.read(query, call).await
    }
}

struct OldNode;

impl LocalNode for OldNode {
    fn status(&self) -> Option<ClusterStatus> {
        Some(ClusterStatus {
            cluster_id: None,
            id: 1,
            uuid: String::new(),
            version: String::new(),
            supported_level: 2,
            feature_level: 1,
            role: NodeRole::Leader,
            not_ready: None,
            leader: Some(1),
            leader_address: None,
            term: 1,
            vote: None,
            last_log_index: None,
            committed_index: None,
            applied_index: None,
            snapshot_index: None,
            purged_index: None,
            members: Vec::new(),
            differences: Vec::new(),
        })
    }
}

#[test]
fn a_cluster_that_is_too_old_says_what_to_do() {
    let locks = MemoryLocks::new();
    let server = Server::serving(locks.clone(), Old(locks), OldNode);
    let why = "the cluster has feature level 1, and this needs 2";
    for (line, code) in [
        ("lock a --signee me --wait 100ms", 3),
        // This one has no end of its own.
        ("run a --wait -- true", 117),
        ("run a --limit 3 -- true", 117),
        ("session open --signee me", 3),
        ("session close 00000000000000000000000000000001", 3),
        ("release a --token 1 --cause x", 3),
        ("limit a 3", 3),
        ("table configure jobs --max-hold 1h", 3),
    ] {
        let mut command = server.keyward(line);
        command.env("KEYWARD_TIMEOUT", "300ms");
        let refused = output(command);
        assert_code(&refused, code);
        assert!(stderr(&refused).contains(why), "{line}: {}", stderr(&refused));
        assert!(stderr(&refused).contains("keyward cluster status"), "{line}: {refused:?}");
    }
    let refused = output(server.keyward("session open --signee me --timeout 300ms --json"));
    assert_eq!(document(&refused)["code"], "unavailable");
    assert!(document(&refused)["detail"].as_str().unwrap().contains(why), "{refused:?}");
    // All else works as before.
    assert_code(&output(server.keyward("lock a --signee me")), 0);
    assert_code(&output(server.keyward("run b --at-least 1s -- true")), 0);
}
