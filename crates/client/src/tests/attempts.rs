//! The attempts of a call: their order, how many are in flight at once, and the meaning of their
//! results.
//!
//! Nodes are scripted and the runtime's timers are paused, so that nothing here waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::tls::Tls;
use crate::transport::{Ask, Kind, Settings, Transport};
use keyward_core::clock::Deadline;
use keyward_core::error::Error;
use keyward_core::types::CallOptions;

const NODES: [&str; 3] = ["http://a:1", "http://b:1", "http://c:1"];
const MS: Duration = Duration::from_millis(1);
const TIMEOUT: Duration = Duration::from_secs(5);
const EVER: Duration = Duration::MAX;

/// How a node answers its n-th attempt, from 1: after how long, and what.
type Answers = fn(&str, usize) -> (Duration, Result<&'static str, Error>);

/// A request whose nodes follow a script.
struct Scripted {
    kind: Kind,
    answers: Answers,
    asked: Mutex<Vec<String>>,
    running: AtomicUsize,
    most_running: AtomicUsize,
}

impl Scripted {
    fn new(kind: Kind, answers: Answers) -> Self {
        let [running, most_running] = [0; 2].map(AtomicUsize::new);
        Self { kind, answers, asked: Mutex::default(), running, most_running }
    }

    /// The hosts in the order in which they got requests.
    fn asked(&self) -> String {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|node| &node["http://".len()..=7]).collect()
    }
}

/// One attempt that has not ended.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Ask for Scripted {
    type Answer = &'static str;

    fn kind(&self) -> Kind {
        self.kind
    }

    async fn ask(&self, endpoint: &Arc<str>, wait: Duration) -> Result<&'static str, Error> {
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        let _running = Running(&self.running);
        self.most_running.fetch_max(now, Ordering::SeqCst);
        let times = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(endpoint.to_string());
            asked.iter().filter(|node| **node == **endpoint).count()
        };
        let (after, answer) = (self.answers)(endpoint, times);
        if after <= wait {
            tokio::time::sleep(after).await;
            return answer;
        }
        tokio::time::sleep(wait).await;
        let reason = format!("{endpoint}: no answer in time");
        Err(if self.kind == Kind::Read {
            Error::unavailable(reason)
        } else {
            Error::unknown(reason)
        })
    }
}

/// Makes the call; returns how it ended and how long it took.
async fn call_of(nodes: &[&str], asking: &Scripted) -> (Result<&'static str, Error>, Duration) {
    let endpoints: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    let settings = Settings {
        connect_timeout: MS,
        timeout: TIMEOUT,
        batches: false,
        tls: Tls::default(),
        access_token: crate::credential::Source::Nothing,
    };
    let transport = Transport::new(&endpoints, &settings).unwrap();
    let from = Deadline::after(Duration::from_secs(3600));
    let ended = transport.repeat(asking, &CallOptions::default()).await;
    (ended, Duration::from_secs(3600).saturating_sub(from.remaining()))
}

fn hangs() -> (Duration, Result<&'static str, Error>) {
    (EVER, Ok("never"))
}

fn refuses(reason: &str, leader: Option<&str>) -> (Duration, Result<&'static str, Error>) {
    let leader = leader.map(str::to_owned);
    (MS, Err(Error::Unavailable { reason: reason.to_owned(), leader, retry_after: None }))
}

#[tokio::test(start_paused = true)]
async fn a_second_node_is_asked_when_the_first_is_silent() {
    for kind in [Kind::Read, Kind::Write] {
        let asking = Scripted::new(kind, |node, _| match node {
            "http://a:1" => hangs(),
            _ => (2 * MS, Ok("done")),
        });
        let (ended, took) = call_of(&NODES, &asking).await;
        assert_eq!(ended.unwrap(), "done");
        assert_eq!(asking.asked(), "ab");
        assert!((300 * MS..=500 * MS).contains(&took), "{took:?}");
    }
}

/// A refusal by an older node that does not know a field says nothing about a newer one that may
/// accept it.
#[tokio::test(start_paused = true)]
async fn a_final_error_beside_an_open_attempt_leaves_a_write_unknown() {
    for kind in [Kind::Read, Kind::Write] {
        let asking = Scripted::new(kind, |node, _| match node {
            "http://a:1" => hangs(),
            _ => (MS, Err(Error::bad_request("unknown field"))),
        });
        let (ended, _) = call_of(&NODES, &asking).await;
        let open = matches!(ended, Err(Error::Unknown { .. }));
        assert_eq!(open, kind == Kind::Write, "{ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_wins_whoever_gives_it() {
    let asking = Scripted::new(Kind::Write, |node, _| match node {
        "http://a:1" => (700 * MS, Ok("late")),
        _ => hangs(),
    });
    let (ended, took) = call_of(&NODES, &asking).await;
    assert_eq!(ended.unwrap(), "late", "the first attempt was not given up for the second");
    assert!(took < 710 * MS, "{took:?}");
    assert_eq!(asking.most_running.load(Ordering::SeqCst), 2);
    assert_eq!(asking.running.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_leader_and_a_follower_that_waits_for_it_do_not_keep_from_the_new_leader() {
    let asking = Scripted::new(Kind::Write, |node, _| match node {
        "http://c:1" => (2 * MS, Ok("done")),
        _ => hangs(),
    });
    let (ended, took) = call_of(&NODES, &asking).await;
    assert_eq!(ended.unwrap(), "done");
    assert_eq!(asking.asked(), "abc");
    assert!(took < 900 * MS, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn at_most_two_attempts_are_in_flight_and_the_call_ends_in_its_time() {
    for kind in [Kind::Read, Kind::Write, Kind::Once] {
        for nodes in [&NODES[..1], &NODES[..]] {
            let asking = Scripted::new(kind, |_, _| hangs());
            let (ended, took) = call_of(nodes, &asking).await;
            let open = matches!(ended, Err(Error::Unknown { .. }));
            assert_eq!(open, kind != Kind::Read, "{ended:?}");
            assert!((TIMEOUT.saturating_sub(100 * MS)..=TIMEOUT + MS).contains(&took), "{took:?}");
            let most = if kind == Kind::Once || nodes.len() == 1 { 1 } else { 2 };
            assert_eq!(asking.most_running.load(Ordering::SeqCst), most, "{}", asking.asked());
            assert!(
                asking.asked().len() <= 15,
                "a slow cluster is not flooded: {}",
                asking.asked()
            );
            if most == 2 {
                assert!(asking.asked().starts_with("abc"), "{}", asking.asked());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_repeated_is_asked_once() {
    let asking = Scripted::new(Kind::Once, |node, _| match node {
        "http://a:1" => (3000 * MS, Ok("done")),
        _ => (MS, Ok("twice")),
    });
    assert_eq!(call_of(&NODES, &asking).await.0.unwrap(), "done");
    assert_eq!(asking.asked(), "a");
}

#[tokio::test(start_paused = true)]
async fn one_open_attempt_leaves_the_call_open_whatever_the_others_say() {
    let answers: Answers = |node, _| match node {
        "http://a:1" => hangs(),
        "http://b:1" => refuses("http://b:1: connection refused", None),
        _ => refuses("this node has lost touch with the majority", None),
    };
    let asking = Scripted::new(Kind::Write, answers);
    let (ended, _) = call_of(&NODES, &asking).await;
    let Err(Error::Unknown { reason }) = ended else { panic!("{ended:?}") };
    assert_eq!(
        reason,
        "http://c:1: this node has lost touch with the majority; http://a:1: no answer in time; \
         http://b:1: connection refused",
        "what a node said comes first, and each is heard once"
    );
    let asking = Scripted::new(Kind::Read, answers);
    let (ended, _) = call_of(&NODES, &asking).await;
    assert!(matches!(ended, Err(Error::Unavailable { .. })), "{ended:?}");
    // The other way round: first refused, then open.
    let asking = Scripted::new(Kind::Write, |node, times| match (node, times) {
        ("http://b:1", 1) => (MS, Err(Error::unknown("http://b:1: cut"))),
        _ => refuses("no leader", None),
    });
    let (ended, _) = call_of(&NODES, &asking).await;
    assert!(matches!(ended, Err(Error::Unknown { .. })), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn hints_to_an_address_that_is_no_use_do_not_keep_from_the_rest_of_the_list() {
    let asking = Scripted::new(Kind::Write, |node, _| match node {
        "http://c:1" => (MS, Ok("done")),
        "http://d:1" => (MS, Err(Error::unavailable("http://d:1: connection refused"))),
        _ => refuses("not the leader", Some("http://d:1")),
    });
    let (ended, took) = call_of(&NODES, &asking).await;
    assert_eq!((ended.unwrap(), &*asking.asked()), ("done", "adbc"));
    assert!(took < 200 * MS, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn one_node_is_quoted_as_it_is_and_the_leader_that_was_named_is_told() {
    let asking =
        Scripted::new(Kind::Write, |_, _| refuses("there is no leader", Some("http://c:1")));
    let (ended, _) = call_of(&NODES[..1], &asking).await;
    let Err(Error::Unavailable { reason, leader, .. }) = ended else { panic!("{ended:?}") };
    // The leader is tried too: its reason counts as another node's.
    assert!(reason.contains("http://c:1: there is no leader"), "{reason}");
    assert_eq!(leader.as_deref(), Some("http://c:1"));
    let asking = Scripted::new(Kind::Write, |_, _| refuses("there is no leader", None));
    let (ended, _) = call_of(&NODES[..1], &asking).await;
    assert_eq!(ended, Err(Error::unavailable("there is no leader")));
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_followed_beside_a_silent_node_unless_it_names_that_node() {
    let asking = Scripted::new(Kind::Write, |node, _| match node {
        "http://a:1" => hangs(),
        "http://b:1" => refuses("not the leader", Some("http://d:1")),
        "http://d:1" => (MS, Ok("done")),
        _ => (MS, Ok("out of turn")),
    });
    let (ended, took) = call_of(&NODES, &asking).await;
    assert_eq!((ended.unwrap(), &*asking.asked()), ("done", "abd"));
    assert!(took < 500 * MS, "{took:?}");
    let asking = Scripted::new(Kind::Write, |node, _| match node {
        "http://a:1" => hangs(),
        "http://b:1" => refuses("not the leader", Some("http://a:1")),
        _ => (MS, Ok("done")),
    });
    let (ended, _) = call_of(&NODES, &asking).await;
    assert_eq!((ended.unwrap(), &*asking.asked()), ("done", "abc"));
}

#[tokio::test(start_paused = true)]
async fn who_asks_too_often_waits_as_long_as_it_is_told_to_and_asks_no_other_node_meanwhile() {
    for kind in [Kind::Read, Kind::Write, Kind::Patient, Kind::Once] {
        let asking = Scripted::new(kind, |node, _| match node {
            "http://a:1" => (MS, Err(Error::too_often("too many", 2000 * MS))),
            _ => (MS, Ok("done")),
        });
        let (ended, took) = call_of(&NODES, &asking).await;
        assert_eq!(ended.unwrap(), "done", "nothing was done before, so all may be asked again");
        assert_eq!(asking.asked(), "ab");
        assert!((2000 * MS..=2210 * MS).contains(&took), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_has_no_time_to_wait_ends_at_once_and_is_certainly_not_done() {
    let asking =
        Scripted::new(Kind::Write, |_, _| (MS, Err(Error::too_often("too many", 6000 * MS))));
    let (ended, took) = call_of(&NODES, &asking).await;
    assert_eq!(ended, Err(Error::too_often("too many", 6000 * MS)));
    assert_eq!(asking.asked(), "a");
    assert!(took < 100 * MS, "{took:?}");
    // An earlier attempt that is open stays so.
    let asking = Scripted::new(Kind::Write, |node, _| match node {
        "http://a:1" => (MS, Err(Error::unknown("cut"))),
        _ => (MS, Err(Error::too_often("too many", 6000 * MS))),
    });
    let (ended, _) = call_of(&NODES, &asking).await;
    assert!(matches!(ended, Err(Error::Unknown { .. })), "{ended:?}");
}
