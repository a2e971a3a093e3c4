//! One directed link of the network: a TCP proxy that can be cut, silenced, slowed and broken.
//!
//! Every node reaches every other through a link of its own, so that a partition may be one-way. A
//! link's address stays the same while its target is restarted at another address: nodes listen on
//! ports that the kernel chose, and there is no race for a port.
//!
//! A link carries the connections that one node opens to another: its requests, and their answers.
//! A cable that is cut in one direction is therefore two faults: [`Fault::RequestsHeld`] on the
//! link that way and [`Fault::AnswersHeld`] on the link back.
//!
//! TCP hides a lost packet from both ends, except for the delay: loss is simulated the same way, by
//! a chunk that arrives one retransmission later, and all bytes behind it with it.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyward::clock::{Clock, SystemClock};
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

/// The bytes of one read; a frame of the peers' protocol takes several, as on a real network.
const CHUNK_BYTES: usize = 16 * 1024;

/// The chunks in flight in one direction while there is a delay. Beyond it the sender waits.
const CHUNKS_IN_FLIGHT: usize = 1024;

/// The additional delay of a lost packet: the shortest time after which Linux retransmits.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// The backlog of connections to accept.
const BACKLOG: u32 = 1024;

/// The fault of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Connections are closed and new ones are closed at once, as by a process that has died.
    Refused,
    /// The system refuses new connections, as where no process listens or a firewall rejects them;
    /// open ones go on.
    Closed,
    /// Nothing arrives in either direction and neither end is notified, as by an unplugged cable.
    /// Data sent meanwhile arrives when the link is healed, as TCP retransmits it.
    Silent,
    /// Requests arrive; the answers do not, until the link is healed.
    AnswersHeld,
    /// Requests do not arrive until the link is healed; answers to earlier ones do.
    RequestsHeld,
    /// Every answer breaks off in its middle with a reset.
    ResetInAnswer,
    /// The far ends are closed and the near ones are not notified, now or later, as when a machine
    /// has lost power: a process that waits on such a connection must find out by itself. New
    /// connections go nowhere until the link is healed.
    HalfOpen,
}

/// The state of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Condition {
    /// The fault.
    pub fault: Fault,
    /// The delay of every byte, in each direction.
    pub delay: Duration,
    /// The percentage of chunks that are lost and retransmitted.
    pub loss_percent: u8,
    /// The bandwidth in bytes per second, in each direction; `None` is unlimited.
    pub bytes_per_second: Option<NonZeroU32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

impl Condition {
    fn passes(self, direction: Direction) -> bool {
        match self.fault {
            Fault::None | Fault::Closed | Fault::ResetInAnswer => true,
            Fault::Refused | Fault::Silent | Fault::HalfOpen => false,
            Fault::AnswersHeld => direction == Direction::Request,
            Fault::RequestsHeld => direction == Direction::Answer,
        }
    }

    /// Whether a new connection is established.
    fn connects(self) -> bool {
        !matches!(self.fault, Fault::Silent | Fault::HalfOpen | Fault::RequestsHeld)
    }

    /// The time at which bytes that are read now may be written.
    fn due(self) -> Duration {
        let lost = self.loss_percent > 0
            && rand::rng().random_ratio(u32::from(self.loss_percent.min(100)), 100);
        let resent = if lost { RETRANSMISSION } else { Duration::ZERO };
        SystemClock.raw() + self.delay + resent
    }
}

/// A running proxy. Dropping it closes every connection.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    condition: watch::Sender<Condition>,
    task: JoinHandle<()>,
    _keeper: TcpSocket,
}

/// A socket that may share its port.
fn socket_at(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

impl Link {
    /// Listens on a free port of the loopback interface; it has no target yet.
    ///
    /// # Errors
    /// If there is no free port.
    #[allow(clippy::unused_async, reason = "it may be called within a runtime only")]
    pub async fn start() -> io::Result<Self> {
        // Bound and not listening, it keeps the port reserved.
        let keeper = socket_at(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = keeper.local_addr()?;
        let listener = socket_at(address)?.listen(BACKLOG)?;
        let target = Arc::new(Mutex::new(None));
        let (condition, receiver) = watch::channel(Condition::default());
        let task = tokio::spawn(accept(listener, Arc::clone(&target), receiver));
        Ok(Self { address, target, condition, task, _keeper: keeper })
    }

    /// The address that the link listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets its target; `None` while no process listens there.
    pub fn lead_to(&self, target: Option<SocketAddr>) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Changes the condition, also of open connections.
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
    mut condition: watch::Receiver<Condition>,
) {
    let Ok(address) = listener.local_addr() else { return };
    let mut listener = Some(listener);
    // The connections live in this set: they end with the task.
    let mut connections = JoinSet::new();
    loop {
        let closed = condition.borrow_and_update().fault == Fault::Closed;
        let open = match listener.take().filter(|_| !closed) {
            Some(open) => Some(open),
            None if closed => None,
            None => socket_at(address).and_then(|socket| socket.listen(BACKLOG)).ok(),
        };
        let accepted = async {
            match &open {
                Some(open) => open.accept().await,
                None => std::future::pending().await,
            }
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            changed = condition.changed() => {
                listener = open;
                if changed.is_err() {
                    return;
                }
                continue;
            }
        };
        listener = open;
        // A connection that was reset before it was accepted does not end the listener.
        let Ok((near, _)) = accepted else { continue };
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
    let Ok(open) = condition.wait_for(|now| now.connects()).await.map(|now| *now) else {
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
    let (near_read, mut near_write) = near.into_split();
    let (far_read, mut far_write) = far.into_split();
    let broken = {
        let mut condition = condition.clone();
        async move {
            let ends = |now: &Condition| matches!(now.fault, Fault::Refused | Fault::HalfOpen);
            condition.wait_for(ends).await.map_or(Fault::Refused, |now| now.fault)
        }
    };
    let requests = Pump { direction: Direction::Request, condition: condition.clone() };
    let answers = Pump { direction: Direction::Answer, condition };
    let end = tokio::select! {
        end = requests.run(near_read, &mut far_write) => end,
        end = answers.run(far_read, &mut near_write) => end,
        fault = broken => if fault == Fault::HalfOpen { End::FarOnly } else { End::Both },
    };
    match end {
        End::Both => {}
        // Dropped, it would close the connection properly first.
        End::Reset => near_write.forget(),
        End::FarOnly => {
            drop(far_write);
            // Later bytes have no receiver; only the near end, or the link's own, ends this.
            let _ = near_write.as_ref().ready(tokio::io::Interest::ERROR).await;
        }
    }
}

/// The end of a connection.
enum End {
    Both,
    Reset,
    FarOnly,
}

/// Carries bytes one way.
struct Pump {
    direction: Direction,
    condition: watch::Receiver<Condition>,
}

impl Pump {
    /// Carries until either end closes, or the fault breaks the connection.
    async fn run(self, mut from: OwnedReadHalf, to: &mut OwnedWriteHalf) -> End {
        let (sender, receiver) = mpsc::channel::<(Duration, Vec<u8>)>(CHUNKS_IN_FLIGHT);
        let condition = self.condition.clone();
        let read = async move {
            let mut buffer = vec![0; CHUNK_BYTES];
            while let Ok(count @ 1..) = from.read(&mut buffer).await {
                let due = condition.borrow().due();
                if sender.send((due, buffer[..count].to_vec())).await.is_err() {
                    break;
                }
            }
            // Bytes read before the end must still be written.
            drop(sender);
            std::future::pending::<End>().await
        };
        tokio::select! {
            end = read => end,
            end = self.write(receiver, to) => end,
        }
    }

    async fn write(
        mut self,
        mut chunks: mpsc::Receiver<(Duration, Vec<u8>)>,
        to: &mut OwnedWriteHalf,
    ) -> End {
        let direction = self.direction;
        while let Some((due, chunk)) = chunks.recv().await {
            sleep(due.saturating_sub(SystemClock.raw())).await;
            let passes = self.condition.wait_for(|now| now.passes(direction)).await;
            let Ok(now) = passes.map(|now| *now) else { return End::Both };
            if now.fault == Fault::ResetInAnswer && direction == Direction::Answer {
                let cut = to.write_all(&chunk[..chunk.len() / 2]).await;
                // A socket that is closed without lingering is reset.
                let _ = cut.and_then(|()| to.as_ref().set_zero_linger());
                return End::Reset;
            }
            if to.write_all(&chunk).await.is_err() {
                return End::Both;
            }
            if let Some(rate) = now.bytes_per_second {
                let bytes = u32::try_from(chunk.len()).expect("a chunk is small");
                sleep(Duration::from_secs(1) * bytes / rate.get()).await;
            }
        }
        End::Both
    }
}

/// Sleeps. Even a sleep of zero takes until the timer's next millisecond.
async fn sleep(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);
    const A_WHILE: Duration = Duration::from_millis(100);

    /// A link to an echo server.
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
    async fn a_closed_link_refuses_new_connections_and_keeps_old_ones() {
        let link = link_to_echo().await;
        let mut old = connect(&link).await;
        assert!(exchange(&mut old, SOON).await.expect("in time").is_ok());
        for _ in 0..3 {
            link.fault(Fault::Closed);
            let until = SystemClock.raw() + SOON;
            while let Err(error) = refused(&link).await {
                assert!(SystemClock.raw() < until, "{error}");
            }
            assert!(exchange(&mut old, SOON).await.expect("in time").is_ok());
            link.fault(Fault::None);
            let until = SystemClock.raw() + SOON;
            while TcpStream::connect(link.address()).await.is_err() {
                assert!(SystemClock.raw() < until, "it does not listen again");
            }
            let mut new = connect(&link).await;
            assert!(exchange(&mut new, SOON).await.expect("in time").is_ok());
        }
    }

    /// Checks that the system refuses the connection.
    async fn refused(link: &Link) -> Result<(), String> {
        match TcpStream::connect(link.address()).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        }
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

    async fn what_is_held_comes_when_the_link_is_healed(held: Fault) {
        let link = link_to_echo().await;
        let mut stream = connect(&link).await;
        assert!(exchange(&mut stream, SOON).await.expect("in time").is_ok());
        link.fault(held);
        assert!(exchange(&mut stream, A_WHILE).await.is_none());
        link.fault(Fault::None);
        let late = tokio::time::timeout(SOON, stream.read_u8()).await.expect("in time");
        assert_eq!(late.expect("the answer"), b'x');
    }

    #[tokio::test]
    async fn held_answers_come_when_the_link_is_healed() {
        what_is_held_comes_when_the_link_is_healed(Fault::AnswersHeld).await;
    }

    #[tokio::test]
    async fn held_requests_arrive_when_the_link_is_healed() {
        what_is_held_comes_when_the_link_is_healed(Fault::RequestsHeld).await;
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

    #[tokio::test]
    async fn an_answer_is_reset_in_its_middle() {
        let link = link_to_echo().await;
        let mut stream = connect(&link).await;
        link.fault(Fault::ResetInAnswer);
        stream.write_all(&[b'x'; 100]).await.expect("it is open");
        let mut got = Vec::new();
        let end = tokio::time::timeout(SOON, stream.read_to_end(&mut got)).await.expect("in time");
        assert_eq!(end.expect_err("it breaks off").kind(), io::ErrorKind::ConnectionReset);
        assert!(got.len() < 100, "the whole answer came");
    }

    #[tokio::test]
    async fn a_half_open_connection_stays_dead_when_the_link_is_healed() {
        let link = link_to_echo().await;
        let mut old = connect(&link).await;
        assert!(exchange(&mut old, SOON).await.expect("in time").is_ok());
        link.fault(Fault::HalfOpen);
        let mut new = connect(&link).await;
        assert!(exchange(&mut old, A_WHILE).await.is_none());
        assert!(exchange(&mut new, A_WHILE).await.is_none());
        link.fault(Fault::None);
        let late = tokio::time::timeout(SOON, new.read_u8()).await.expect("in time");
        assert_eq!(late.expect("what was sent"), b'x');
        assert!(exchange(&mut old, A_WHILE).await.is_none(), "it must not come back to life");
    }

    #[tokio::test]
    async fn what_is_lost_is_sent_again_later() {
        let link = link_to_echo().await;
        link.set(Condition { loss_percent: 100, ..Condition::default() });
        let mut stream = connect(&link).await;
        let begun = SystemClock.raw();
        assert!(exchange(&mut stream, SOON).await.expect("in time").is_ok());
        assert!(SystemClock.raw().saturating_sub(begun) >= RETRANSMISSION * 2);
    }

    #[tokio::test]
    async fn a_narrow_link_takes_its_time() {
        let link = link_to_echo().await;
        let bytes_per_second = NonZeroU32::new(10_000);
        link.set(Condition { bytes_per_second, ..Condition::default() });
        let mut stream = connect(&link).await;
        let begun = SystemClock.raw();
        // The second exchange waits until the bandwidth of the first is used up, in each direction.
        for _ in 0..2 {
            stream.write_all(&[b'x'; 1000]).await.expect("it is open");
            let mut got = [0; 1000];
            let all = tokio::time::timeout(SOON, stream.read_exact(&mut got)).await;
            all.expect("in time").expect("all of it");
        }
        assert!(SystemClock.raw().saturating_sub(begun) >= Duration::from_millis(100));
    }
}
