//! A cluster with TLS and access control under faults: the credentials of its clients, and
//! intruders, each of whose requests has to be refused.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keyward::access::{Change, Right};
use keyward::api::{RuleBody, TokenBody};
use keyward::client::tls::Tls;
use keyward::client::{Client, ClientBuilder};
use keyward::error::Error;
use keyward::lock::Command;
use keyward::service::LockService;
use keyward::tls::issue::{Ca, Validity};
use keyward::types::{
    CallOptions, DEFAULT_TABLE, ListRequest, LockOptions, LockRequest, ReadOptions, SessionOptions,
    SessionRequest, TableOptions, Token, UnlockOptions, UnlockRequest,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::certificates::Certificates;
use crate::cluster::{Cluster, NodeId};
use crate::wait::eventually;

/// The identity of the certificate that clients of the cluster show, and that of their token.
const CLIENTS: [&str; 2] = ["CN=tests", "worker"];

/// The identity of the tokens that are revoked as soon as they are used.
const FLEETING: &str = "fleeting";

/// The timeout for the rules to be made at the start.
const SETUP: Duration = Duration::from_secs(30);

/// The timeout of an intruder's request.
const CALL: Duration = Duration::from_millis(700);

/// The length of the session that an intruder wants.
const SESSION: Duration = Duration::from_secs(10);

/// The pause between two of them.
const PAUSE: Duration = Duration::from_millis(20);

/// The refusals that a run must have seen, so that it shows anything.
const LEAST: u64 = 50;

/// The number of violations in the summary.
const SHOWN: usize = 10;

/// The counts of intruders' requests.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Intruders {
    /// Refused: by a rule, for want of a credential, or by TLS.
    pub refused: u64,
    /// Not answered: a node was down, or nobody led.
    pub unanswered: u64,
    /// Refusals of a token after its revocation was acknowledged.
    pub revoked: u64,
    /// New certificates of nodes.
    pub renewed: u64,
}

impl fmt::Display for Intruders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { refused, unanswered, revoked, renewed } = self;
        write!(
            f,
            "{refused} requests refused, {revoked} of them with a revoked token; {unanswered} \
             unanswered; {renewed} certificates renewed"
        )
    }
}

impl Intruders {
    /// The reasons for which they show too little.
    pub(super) fn lacks(&self) -> Vec<String> {
        let mut lacks = Vec::new();
        if self.refused < LEAST {
            lacks.push(format!("{} requests of intruders were refused of {LEAST}", self.refused));
        }
        if self.revoked == 0 {
            lacks.push("no token was asked with after its revocation".to_owned());
        }
        lacks
    }
}

/// The credentials of the cluster's own clients.
#[derive(Clone, Debug)]
pub struct Credentials {
    tls: Tls,
    worker: String,
    admin: String,
}

impl Credentials {
    /// The client of this number: every other one has a certificate alone.
    pub(super) fn client(&self, number: usize, client: ClientBuilder) -> ClientBuilder {
        let client = client.tls(self.tls.clone());
        if number.is_multiple_of(2) { client } else { client.access_token(&self.worker) }
    }

    /// A client that may do everything, in the sessions of others too.
    pub(super) fn admin(&self, client: ClientBuilder) -> ClientBuilder {
        client.tls(self.tls.clone()).access_token(&self.admin)
    }
}

fn client(endpoints: Vec<String>, tls: &Tls, token: Option<&str>) -> Client {
    let builder = Client::builder().endpoints(endpoints).tls(tls.clone()).timeout(CALL);
    let builder = match token {
        Some(token) => builder.access_token(token),
        None => builder,
    };
    builder.build().expect("the certificates were just made")
}

fn secret() -> String {
    let bytes: [u64; 4] = rand::random();
    format!("kw_{}", bytes.map(|part| format!("{part:016x}")).concat())
}

/// Makes every node's first start switch access control on, with an administrator of the harness.
pub(super) fn prepare(cluster: &mut Cluster) {
    let secret = secret();
    let file: PathBuf = cluster.folder().join("first.token");
    std::fs::write(&file, &secret).expect("the cluster's folder is writable");
    for id in cluster.ids() {
        let arguments = &mut cluster.own(id).arguments;
        arguments.push(format!("--bootstrap-token-file={}", file.display()));
    }
    cluster.use_access_token(&secret);
}

/// Lets the cluster's clients do everything but administer it.
pub(super) async fn open(cluster: &Cluster) -> Credentials {
    let admin = cluster.clients();
    for identity in CLIENTS.into_iter().chain([FLEETING]) {
        let rights =
            vec![Right::Observe, Right::Acquire, Right::Preempt, Right::Force, Right::Configure];
        let rule = RuleBody {
            identity: Some(identity.to_owned()),
            table: Some("*".to_owned()),
            prefix: "*".to_owned(),
            rights,
            max_level: Some(i64::try_from(keyward::limits::LEVEL.largest).unwrap_or(i64::MAX)),
            ..RuleBody::default()
        };
        let rule = Change::PutRule(rule.into_rule().expect("a rule"));
        eventually("a rule is made", SETUP, || change(&admin, rule.clone())).await;
    }
    let [_, worker] = CLIENTS;
    let worker = eventually("a token is made", SETUP, || token(&admin, worker)).await;
    let admin = cluster.access_token().expect("it has one").to_owned();
    Credentials { tls: cluster.tls(), worker: worker.0, admin }
}

async fn change(admin: &Client, change: Change) -> Result<(), Error> {
    let command = Command::access(change, CallOptions::within(CALL));
    admin.decide_one(command, CallOptions::within(CALL)).await.map(|_| ())
}

/// A new token of this identity, and its name.
async fn token(admin: &Client, identity: &str) -> Result<(String, String), Error> {
    let body = TokenBody { identity: identity.to_owned(), ..TokenBody::default() };
    let answer = admin.create_access_token(&body, CallOptions::within(CALL)).await?;
    Ok((answer.token, answer.id))
}

/// The kind of an intruder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Known, and no rule gives it anything.
    WithoutRule,
    /// With a token that nobody has.
    Unknown,
    /// TLS does not let it in.
    Outside,
}

/// Intruders at work. Dropping them stops them.
pub(super) struct Intrusion {
    stop: watch::Sender<bool>,
    tasks: JoinSet<Found>,
}

/// What was found.
#[derive(Debug, Default)]
struct Found {
    counts: Intruders,
    violations: Vec<String>,
}

impl Intrusion {
    /// Begins to ask: each kind of intruder for itself, as some wait until their time is over.
    pub(super) async fn start(cluster: &Cluster, seed: u64) -> Self {
        let admin = cluster.clients();
        let (stranger, _) =
            eventually("a token is made", SETUP, || token(&admin, "stranger")).await;
        let certificates = cluster.certificates();
        let with = |ca: &Ca, name| {
            let issued = ca.client(name, Validity::days(9)).expect("a certificate");
            certificates.anonymous().identity(issued.certificate, issued.key)
        };
        let (strange_ca, _) = Ca::make("strangers", Validity::days(9)).expect("a CA");
        let (own, unknown) = (cluster.tls(), secret());
        let ways = [
            ("a certificate without a rule", with(certificates.ca(), "stranger"), None),
            ("a token without a rule", own.clone(), Some(stranger.as_str())),
            ("a token that nobody has", own.clone(), Some(unknown.as_str())),
            ("no certificate", certificates.anonymous(), None),
            ("a certificate of another CA", with(&strange_ca, "tests"), None),
        ];
        let kinds =
            [Kind::WithoutRule, Kind::WithoutRule, Kind::Unknown, Kind::Outside, Kind::Outside];
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (number, ((name, tls, token), kind)) in (1..).zip(ways.into_iter().zip(kinds)) {
            let clients = cluster.endpoints().into_iter();
            let clients = clients.map(|endpoint| client(vec![endpoint], &tls, token)).collect();
            let intruder = Intruder { name, kind, clients };
            let random = StdRng::seed_from_u64(seed.wrapping_add(number));
            tasks.spawn(intruder.run(random, stopped.clone()));
        }
        let administrator = Administrator {
            admin,
            tls: own,
            endpoints: cluster.endpoints(),
            certificates,
            nodes: cluster.ids(),
            found: Found::default(),
        };
        tasks.spawn(administrator.run(stopped));
        Self { stop, tasks }
    }

    /// Stops, and returns the counts and what is wrong.
    pub(super) async fn finish(self) -> (Intruders, Vec<String>) {
        self.stop.send_replace(true);
        let mut all = Found::default();
        for found in self.tasks.join_all().await {
            let Intruders { refused, unanswered, revoked, renewed } = found.counts;
            all.counts.refused += refused;
            all.counts.unanswered += unanswered;
            all.counts.revoked += revoked;
            all.counts.renewed += renewed;
            all.violations.extend(found.violations);
        }
        (all.counts, all.violations)
    }
}

/// An intruder, with a client of each node.
struct Intruder {
    name: &'static str,
    kind: Kind,
    clients: Vec<Client>,
}

impl Intruder {
    async fn run(self, mut random: StdRng, stopped: watch::Receiver<bool>) -> Found {
        let mut found = Found::default();
        while !*stopped.borrow() {
            let client = &self.clients[random.random_range(0..self.clients.len())];
            let request = Request::ALL[random.random_range(0..Request::ALL.len())];
            let answer = request.send(client).await;
            found.judge(&format!("{request:?} with {}", self.name), self.kind, answer);
            tokio::time::sleep(PAUSE).await;
        }
        found
    }
}

/// Whoever makes and revokes tokens, and renews the certificates of nodes.
struct Administrator {
    admin: Client,
    tls: Tls,
    endpoints: Vec<String>,
    certificates: Arc<Certificates>,
    nodes: Vec<NodeId>,
    found: Found,
}

impl Administrator {
    async fn run(mut self, stopped: watch::Receiver<bool>) -> Found {
        for id in self.nodes.clone().into_iter().cycle() {
            if *stopped.borrow() {
                break;
            }
            self.use_and_revoke().await;
            let issued = self.certificates.node(id, Validity::days(90));
            self.certificates.write(&format!("node-{id}"), &issued);
            self.found.counts.renewed += 1;
            tokio::time::sleep(PAUSE).await;
        }
        self.found
    }

    /// Makes a token, asks with it, revokes it and asks again: at each node.
    async fn use_and_revoke(&mut self) {
        let Ok((secret, id)) = token(&self.admin, FLEETING).await else { return };
        let client = |endpoint: &String| client(vec![endpoint.clone()], &self.tls, Some(&secret));
        let clients: Vec<_> = self.endpoints.iter().map(client).collect();
        for client in &clients {
            let listed = client.list(ListRequest::default(), read()).await;
            if let Err(error @ (Error::Unauthorized { .. } | Error::NotAllowed { .. })) = listed {
                self.found.breaks(format!("a token that was just made is not known: {error}"));
            }
        }
        let revoke = Change::RevokeToken(id.parse().expect("the name of a token"));
        if change(&self.admin, revoke).await.is_err() {
            return;
        }
        for client in &clients {
            // A node judges a stale read by the rules that it knows, which may be older.
            let others = Request::ALL.into_iter().filter(|&request| request != Request::StaleCheck);
            for request in others {
                let refused = self.found.counts.refused;
                let answer = request.send(client).await;
                let what = format!("{request:?} with a token after its revocation");
                self.found.judge(&what, Kind::Unknown, answer);
                self.found.counts.revoked += self.found.counts.refused - refused;
            }
        }
    }
}

impl Found {
    fn judge(&mut self, what: &str, kind: Kind, answer: Result<Told, Error>) {
        match (kind, answer) {
            // It may observe no lock, and the list says so.
            (Kind::WithoutRule, Ok(Told::NoLocks))
            | (
                Kind::WithoutRule | Kind::Unknown,
                Err(Error::Unauthorized { .. } | Error::NotAllowed { .. }),
            )
            // TLS lets it in as little as a node that is down.
            | (Kind::Outside, Err(Error::Unavailable { .. })) => self.counts.refused += 1,
            (_, Err(Error::Unavailable { .. } | Error::Unknown { .. })) => self.counts.unanswered += 1,
            (_, Ok(told)) => self.breaks(format!("{what} was done: {told:?}")),
            (_, Err(error)) => self.breaks(format!("{what} was told of more than the refusal: {error}")),
        }
    }

    fn breaks(&mut self, what: String) {
        if self.violations.len() < SHOWN {
            self.violations.push(what);
        }
    }
}

/// The request of an intruder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Request {
    Lock,
    ForcedLock,
    Unlock,
    ForcedUnlock,
    Check,
    StaleCheck,
    List,
    DeleteTable,
    OpenSession,
    SwitchOff,
    OwnRule,
}

/// The answer to a request that was done.
#[derive(Debug)]
enum Told {
    Done,
    /// An empty list.
    NoLocks,
}

fn call() -> CallOptions {
    CallOptions::within(CALL)
}

fn read() -> ReadOptions {
    ReadOptions { table: Some(DEFAULT_TABLE.to_owned()), call: call(), ..ReadOptions::default() }
}

impl Request {
    const ALL: [Self; 11] = [
        Self::Lock,
        Self::ForcedLock,
        Self::Unlock,
        Self::ForcedUnlock,
        Self::Check,
        Self::StaleCheck,
        Self::List,
        Self::DeleteTable,
        Self::OpenSession,
        Self::SwitchOff,
        Self::OwnRule,
    ];

    /// Sends it; it is about a lock that the clients of the run use.
    async fn send(self, client: &Client) -> Result<Told, Error> {
        let (table, call) = (Some(DEFAULT_TABLE.to_owned()), call());
        let (signature, signee) = ("mix/0".to_owned(), "client-0".to_owned());
        match self {
            Self::Lock | Self::ForcedLock => {
                let request = LockRequest { signature, signee, level: None };
                let force = self == Self::ForcedLock;
                let options = LockOptions { table, force, call, ..LockOptions::default() };
                client.lock(request, options).await.map(|_| Told::Done)
            }
            Self::Unlock | Self::ForcedUnlock => {
                let request = UnlockRequest { signature, signee };
                let force = self == Self::ForcedUnlock;
                let token = force.then_some(Token(1));
                let options =
                    UnlockOptions { table, token, force, call, ..UnlockOptions::default() };
                client.unlock(request, options).await.map(|_| Told::Done)
            }
            Self::Check | Self::StaleCheck => {
                let stale = self == Self::StaleCheck;
                client.check(signature, ReadOptions { stale, ..read() }).await.map(|_| Told::Done)
            }
            Self::List => {
                let page = client.list(ListRequest::default(), read()).await?;
                Ok(if page.locks.is_empty() { Told::NoLocks } else { Told::Done })
            }
            Self::DeleteTable => {
                let options = TableOptions { table, call, ..TableOptions::default() };
                client.delete_table(options).await.map(|_| Told::Done)
            }
            Self::OpenSession => {
                let options = SessionOptions { call, ..SessionOptions::default() };
                client
                    .open_session(SessionRequest { signee, ttl: SESSION }, options)
                    .await
                    .map(|_| Told::Done)
            }
            Self::SwitchOff => change(client, Change::Switch(false)).await.map(|()| Told::Done),
            Self::OwnRule => {
                let rule = RuleBody {
                    identity: Some("stranger".to_owned()),
                    table: Some("*".to_owned()),
                    prefix: "*".to_owned(),
                    rights: vec![Right::Admin],
                    ..RuleBody::default()
                };
                let rule = Change::PutRule(rule.into_rule().expect("a rule"));
                change(client, rule).await.map(|()| Told::Done)
            }
        }
    }
}
