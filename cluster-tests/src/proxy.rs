//! One directed link of the network: a TCP proxy that can be cut, silenced and slowed.
//!
//! Every node reaches every other through a link of its own, so that a partition may be one-way.
//! A link's address stays the same while its target is started again elsewhere: nodes listen on
//! ports that the kernel chose, and no port is ever raced for.
//!
//! Room is left in [`Condition`] for resets in mid-answer, loss and a bounded rate.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyward::clock::{Clock, SystemClock};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

/// The bytes of one read; a frame of the peers' protocol takes several, as on a real network.
const CHUNK_BYTES: usize = 16 * 1024;

/// The chunks in flight in one direction while there is a delay. Beyond it the sender waits.
const CHUNKS_IN_FLIGHT: usize = 1024;

/// What is wrong with a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Connections are closed and new ones are closed at once, as by a process that has died.
    Refused,
    /// Nothing arrives in either direction and nobody is told, as by an unplugged cable. What was
    /// sent meanwhile arrives when the link is healed, as TCP sends it again.
    Silent,
    /// What is sent arrives; the answers do not, until the link is healed.
    AnswersHeld,
}

/// The state of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Condition {
    /// What is wrong.
    pub fault: Fault,
    /// How much later every byte arrives, in each direction.
    pub delay: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

impl Condition {
    fn passes(self, direction: Direction) -> bool {
        match self.fault {
            Fault::None => true,
            Fault::Refused | Fault::Silent => false,
            Fault::AnswersHeld => direction == Direction::Request,
        }
    }
}

/// A running proxy. Dropping it closes every connection.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    condition: watch::Sender<Condition>,
    task: JoinHandle<()>,
}

impl Link {
    /// Listens on a free port of the loopback interface; it leads nowhere yet.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let target = Arc::new(Mutex::new(None));
        let (condition, receiver) = watch::channel(Condition::default());
        let task = tokio::spawn(accept(listener, Arc::clone(&target), receiver));
        Ok(Self { address, target, condition, task })
    }

    /// Where the link is entered.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets where it leads; `None` while nobody listens there.
    pub fn lead_to(&self, target: Option<SocketAddr>) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Changes the condition, of the open connections too.
    pub fn set(&self, condition: Condition) {
        self.condition.send_replace(condition);
    }

    /// Changes the fault alone.
    pub fn fault(&self, fault: Fault) {
        self.condition.send_modify(|condition| condition.fault = fault);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: Arc<Mutex<Option<SocketAddr>>>,
    condition: watch::Receiver<Condition>,
) {
    // The connections live in this set: they end with the task.
    let mut connections = JoinSet::new();
    loop {
        // A connection that was reset before it was accepted is not the listener's end.
        let Ok((near, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let target = *target.lock().unwrap_or_else(PoisonError::into_inner);
        connections.spawn(carry(near, target, condition.clone()));
    }
}

async fn carry(
    near: TcpStream,
    target: Option<SocketAddr>,
    mut condition: watch::Receiver<Condition>,
) {
    // While the link is silent, even a new connection goes nowhere.
    let Ok(open) = condition.wait_for(|now| now.fault != Fault::Silent).await.map(|now| *now)
    else {
        return;
    };
    let Some(target) = target else { return };
    if open.fault == Fault::Refused {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    // Small messages must not wait for one another, as they do not between the real ends.
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let refused = {
        let mut condition = condition.clone();
        async move { condition.wait_for(|now| now.fault == Fault::Refused).await.is_ok() }
    };
    tokio::select! {
        () = pump(near_read, far_write, Direction::Request, condition.clone()) => {}
        () = pump(far_read, near_write, Direction::Answer, condition) => {}
        _ = refused => {}
    }
}

/// Carries bytes one way until either end closes.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    mut condition: watch::Receiver<Condition>,
) {
    let (sender, mut receiver) = mpsc::channel::<(Duration, Vec<u8>)>(CHUNKS_IN_FLIGHT);
    let delays = condition.clone();
    let read = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let due = SystemClock.raw() + delays.borrow().delay;
            if sender.send((due, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = receiver.recv().await {
            let wait = due.saturating_sub(SystemClock.raw());
            // Even a sleep of zero takes until the timer's next millisecond.
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            if condition.wait_for(|now| now.passes(direction)).await.is_err()
                || to.write_all(&chunk).await.is_err()
            {
                return;
            }
        }
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);
    const A_WHILE: Duration = Duration::from_millis(100);

    /// A link to a server that answers every byte with itself.
    async fn link_to_echo() -> Link {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let link = Link::start().await.expect("a free port");
        link.lead_to(Some(listener.local_addr().expect("an address")));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.into_split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        link
    }

    async fn connect(link: &Link) -> TcpStream {
        TcpStream::connect(link.address()).await.expect("the link listens")
    }

    /// The answer to one byte: the byte, the end of the connection, or nothing for a while.
    async fn exchange(stream: &mut TcpStream, within: Duration) -> Option<io::Result<u8>> {
        if let Err(error) = stream.write_all(b"x").await {
            return Some(Err(error));
        }
        tokio::time::timeout(within, stream.read_u8()).await.ok()
    }

    #[tokio::test]
    async fn a_sound_link_carries_both_ways() {
        let link = link_to_echo().await;
        let mut stream = connect(&link).await;
        assert_eq!(exchange(&mut stream, SOON).await.expect("in time").expect("a byte"), b'x');
    }

    #[tokio::test]
    async fn a_refusing_link_closes_old_and_new_connections() {
        let link = link_to_echo().await;
        let mut old = connect(&link).await;
        assert!(exchange(&mut old, SOON).await.expect("in time").is_ok());
        link.fault(Fault::Refused);
        assert!(tokio::time::timeout(SOON, old.read_u8()).await.expect("in time").is_err());
        let mut new = connect(&link).await;
        assert!(exchange(&mut new, SOON).await.expect("in time").is_err());
        link.fault(Fault::None);
        let mut healed = connect(&link).await;
        assert!(exchange(&mut healed, SOON).await.expect("in time").is_ok());
    }

    #[tokio::test]
    async fn a_silent_link_says_nothing_and_delivers_when_it_is_healed() {
        let link = link_to_echo().await;
        let mut old = connect(&link).await;
        assert!(exchange(&mut old, SOON).await.expect("in time").is_ok());
        link.fault(Fault::Silent);
        let mut new = connect(&link).await;
        assert!(exchange(&mut old, A_WHILE).await.is_none());
        assert!(exchange(&mut new, A_WHILE).await.is_none());
        link.fault(Fault::None);
        for stream in [&mut old, &mut new] {
            let late = tokio::time::timeout(SOON, stream.read_u8()).await.expect("in time");
            assert_eq!(late.expect("what was sent"), b'x');
        }
    }

    #[tokio::test]
    async fn held_answers_come_when_the_link_is_healed() {
        let link = link_to_echo().await;
        let mut stream = connect(&link).await;
        assert!(exchange(&mut stream, SOON).await.expect("in time").is_ok());
        link.fault(Fault::AnswersHeld);
        assert!(exchange(&mut stream, A_WHILE).await.is_none());
        link.fault(Fault::None);
        let late = tokio::time::timeout(SOON, stream.read_u8()).await.expect("in time");
        assert_eq!(late.expect("the answer"), b'x');
    }

    #[tokio::test]
    async fn a_delayed_link_is_late_in_each_direction() {
        let link = link_to_echo().await;
        let delay = Duration::from_millis(30);
        link.set(Condition { delay, ..Condition::default() });
        let mut stream = connect(&link).await;
        let begun = SystemClock.raw();
        assert!(exchange(&mut stream, SOON).await.expect("in time").is_ok());
        assert!(SystemClock.raw().saturating_sub(begun) >= delay * 2);
    }

    #[tokio::test]
    async fn a_link_that_leads_nowhere_closes() {
        let link = Link::start().await.expect("a free port");
        let mut stream = connect(&link).await;
        assert!(exchange(&mut stream, SOON).await.expect("in time").is_err());
    }
}
