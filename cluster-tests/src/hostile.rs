//! Clients that mean harm: each kind does one thing as often as it can.
//!
//! They come from an address of their own in the loopback network, so that a node can tell them from
//! other clients, and count what becomes of their connections. [`Honest`] is a client beside them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keyward::client::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::ask;
use crate::wait::Stopwatch;

/// The address that hostile clients come from.
pub const FROM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The time between two bytes of a client that is slow on purpose, far below every timeout between
/// two bytes.
const DRIP: Duration = Duration::from_millis(100);

/// The pause after a connection was refused or ended, so that the attackers do not only measure
/// their own processor time.
const AGAIN: Duration = Duration::from_millis(5);

/// One kind of hostile client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attack {
    /// Heads that never end.
    SlowHeads,
    /// Bodies that never end.
    SlowBodies,
    /// Large answers that nobody reads.
    SlowReaders,
    /// Handshakes that stop in the middle; for a port with TLS.
    Handshakes,
    /// Connections without a request.
    Connections,
    /// Requests, one after the other.
    Requests,
    /// Requests whose JSON is as deep as it may be long.
    DeepJson,
}

impl Attack {
    /// Those on a port without TLS.
    pub const PLAIN: [Self; 6] = [
        Self::SlowHeads,
        Self::SlowBodies,
        Self::SlowReaders,
        Self::Connections,
        Self::Requests,
        Self::DeepJson,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::SlowHeads => "slow heads",
            Self::SlowBodies => "slow bodies",
            Self::SlowReaders => "slow readers",
            Self::Handshakes => "stalled handshakes",
            Self::Connections => "flood of connections",
            Self::Requests => "flood of requests",
            Self::DeepJson => "deep JSON",
        }
    }

    /// The bytes that are sent at once, and those that are sent one by one behind them, for ever.
    fn bytes(self) -> (Vec<u8>, &'static [u8]) {
        let post = "POST /v1/lock HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
        let deep = || {
            let body = format!("{{\"signature\":{}", "[".repeat(60_000));
            format!("{post}content-length: {}\r\n\r\n{body}", body.len())
        };
        let page = "GET /v1/locks?limit=1000 HTTP/1.1\r\nhost: x\r\n\r\n";
        let (text, drip): (String, &[u8]) = match self {
            Self::SlowHeads => ("GET /v1/locks HTTP/1.1\r\nhost: x\r\nslow: ".into(), b"y"),
            Self::SlowBodies => (format!("{post}content-length: 60000\r\n\r\n{{"), b" "),
            Self::SlowReaders => (page.repeat(8), b""),
            Self::Connections => (String::new(), b""),
            Self::Requests => ("GET /v1/locks?limit=1 HTTP/1.1\r\nhost: x\r\n\r\n".into(), b""),
            Self::DeepJson => (deep(), b""),
            Self::Handshakes => return (b"\x16\x03\x01\x02\x00\x01\x00".to_vec(), b""),
        };
        (text.into_bytes(), drip)
    }

    /// Whether a client sends its next request once it has an answer.
    fn goes_on(self) -> bool {
        matches!(self, Self::Requests | Self::DeepJson)
    }
}

/// What became of hostile connections and requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Connections that were opened.
    pub opened: u64,
    /// Connections that the node has ended.
    pub ended: u64,
    /// Answers that are a success.
    pub served: u64,
    /// Answers 429.
    pub limited: u64,
    /// Other answers.
    pub refused: u64,
}

#[derive(Default)]
struct Counts {
    opened: AtomicU64,
    ended: AtomicU64,
    served: AtomicU64,
    limited: AtomicU64,
    refused: AtomicU64,
}

/// Hostile clients of one kind at work. Dropping them ends them.
pub struct Attackers {
    counts: Arc<Counts>,
    _tasks: JoinSet<()>,
}

impl Attackers {
    /// Starts so many clients against the client port of a node. Each opens another connection as
    /// soon as its own has ended.
    pub fn start(attack: Attack, node: SocketAddr, clients: usize) -> Self {
        let counts = Arc::<Counts>::default();
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let counts = Arc::clone(&counts);
            tasks.spawn(async move {
                loop {
                    if let Some(stream) = connect(node, attack).await {
                        counts.opened.fetch_add(1, Ordering::Relaxed);
                        one(attack, stream, &counts).await;
                        counts.ended.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            });
        }
        Self { counts, _tasks: tasks }
    }

    /// What became of them so far.
    pub fn seen(&self) -> Seen {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { opened, ended, served, limited, refused } = &*self.counts;
        Seen {
            opened: read(opened),
            ended: read(ended),
            served: read(served),
            limited: read(limited),
            refused: read(refused),
        }
    }
}

/// A connection from the attackers' address; `None` if it is refused, or they have no descriptor.
async fn connect(node: SocketAddr, attack: Attack) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    if attack == Attack::SlowReaders {
        socket.set_recv_buffer_size(4096).ok()?;
    }
    socket.bind((FROM, 0).into()).ok()?;
    socket.connect(node).await.ok()
}

/// Does harm over one connection until the node ends it.
async fn one(attack: Attack, mut stream: TcpStream, counts: &Counts) {
    let (bytes, drip) = attack.bytes();
    if stream.write_all(&bytes).await.is_err() && attack != Attack::DeepJson {
        return;
    }
    if attack == Attack::SlowReaders {
        // Without reading, the end is not noticed: the node's figures tell of it.
        return std::future::pending().await;
    }
    let mut read = [0; 4096];
    loop {
        tokio::select! {
            count = stream.read(&mut read) => match count {
                Ok(count @ 1..) => {
                    count_answer(&read[..count], counts);
                    if attack.goes_on() && stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Ok(0) | Err(_) => return,
            },
            () = tokio::time::sleep(DRIP), if !drip.is_empty() => {
                if stream.write_all(drip).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Counts the answer that begins here. Each is small and comes in one piece.
fn count_answer(bytes: &[u8], counts: &Counts) {
    let counted = match bytes.strip_prefix(b"HTTP/1.1 ") {
        Some([b'2', ..]) => &counts.served,
        Some([b'4', b'2', b'9', ..]) => &counts.limited,
        Some(_) => &counts.refused,
        None => return,
    };
    counted.fetch_add(1, Ordering::Relaxed);
}

/// A client that takes and releases locks, one after the other, and measures each pair.
pub struct Honest {
    client: Client,
    number: u64,
}

impl Honest {
    /// A client that asks whom this one asks.
    pub fn new(client: Client) -> Self {
        Self { client, number: 0 }
    }

    /// Takes and releases a lock of its own; returns the time that both took.
    ///
    /// # Panics
    /// If it is not served within the time of an election.
    pub async fn pair(&mut self) -> Duration {
        self.number += 1;
        let signature = format!("honest/{}", self.number);
        let watch = Stopwatch::start();
        let grant = ask::hold(&self.client, &signature, "honest", ask::LONG).await;
        ask::release(&self.client, &signature, "honest", grant.token).await;
        watch.elapsed()
    }
}
