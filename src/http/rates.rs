//! Rates: how often an address and an identity may ask this node.
//!
//! A node judges by itself, before it reads a body, and writes nothing to the log for it. Each
//! address, and each identity of which the node knows, has two shares. One is for what renews and
//! releases, the other for everything else: whoever asks for new locks too often loses none that it
//! has. Which of the two a request takes from is in its head.
//!
//! A share is a rate and a burst, kept as the time by which everything admitted so far would have
//! been paid for at that rate (the virtual scheduling of GCRA, ITU-T I.371). A batch counts as its
//! requests, whose number is known once its body is read: it is admitted as one request, and then
//! runs into debt, which those after it wait for. A limiter that refuses whatever is larger than its
//! burst, as the usual ones do, would never admit it.
//!
//! A refusal is held back for a moment, without the connection being kept from eviction. It is cheap to
//! refuse a request, but not free, and whoever loops without a pause would have many refused.
//!
//! The number of addresses and of identities that are remembered is bounded. Of more, those that
//! have not asked for longest are forgotten, which is to their advantage: a flood from a million
//! addresses is not refused by their rates, and refuses nobody else. What bounds it are the slots
//! for connections.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{Method, Request};
use lru::LruCache;

use super::answer::{Held, Refusal};
use crate::api::{Problem, headers, routes};
use crate::clock::{Clock, SystemClock};
use crate::principal::Principal;

/// The addresses, and the identities, that are remembered: some 10 MiB of each.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).expect("it is not zero");

/// The bits of an IPv6 address that one client has at least: everything behind them is its own
/// choice (RFC 4291, section 2.5.4; RFC 6177).
const IPV6_PREFIX: u32 = 64;

/// The time for which a refusal is held back: a client that asks again as soon as it is answered, over
/// as many connections as it may have, costs a node a fraction of what it would. Also if the wait is
/// shorter: it is that of the next request of all that come, and many come then.
const HELD: Duration = Duration::from_millis(100);

/// A rate with a burst.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// The requests a second, on average; at least 1.
    pub per_second: u32,
    /// The requests that may come at once after a pause; at least 1.
    pub burst: u32,
}

impl Rate {
    /// The time that pays for so many requests.
    fn pays(self, requests: u32) -> Duration {
        let nanoseconds = u64::from(requests).saturating_mul(1_000_000_000);
        Duration::from_nanos(nanoseconds / u64::from(self.per_second.max(1)))
    }
}

/// The rates of a listener; without one there is no limit.
#[derive(Clone, Default)]
pub struct Rates {
    /// The rate of each address.
    pub address: Option<Rate>,
    /// The rate of each identity.
    pub identity: Option<Rate>,
    /// The clock that pays; left out, that of the machine.
    pub clock: Option<Arc<dyn Clock>>,
}

impl std::fmt::Debug for Rates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { address, identity, clock: _ } = self;
        f.debug_struct("Rates").field("address", address).field("identity", identity).finish()
    }
}

/// What of a client's address counts: an IPv4 address, or the network of an IPv6 address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Network(IpAddr);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let mask = u128::MAX << (u128::BITS - IPV6_PREFIX);
                Ipv6Addr::from_bits(address.to_bits() & mask).into()
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// The share that a request takes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Share {
    /// None: probes, which cost next to nothing and decide over the life of a node.
    Exempt,
    /// That of what renews and releases.
    Keeping,
    /// That of everything else.
    Ordinary,
}

impl Share {
    /// The share of a request, by its head alone.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, routes::HEALTHZ | routes::READYZ) => Self::Exempt,
            (&Method::POST, routes::UNLOCK | routes::KEEPALIVE)
            | (&Method::DELETE, routes::SESSIONS) => Self::Keeping,
            (&Method::POST, routes::LOCK | routes::BATCH) if keeps(request.headers()) => {
                Self::Keeping
            }
            _ => Self::Ordinary,
        }
    }
}

/// Whether a request says that it only renews and releases.
pub(super) fn keeps(fields: &axum::http::HeaderMap) -> bool {
    fields.get(headers::KEEPS).is_some_and(|value| value == "true")
}

/// How many requests the parties of a listener have made lately.
pub(super) struct Limiter {
    addresses: Option<Parties<Network>>,
    identities: Option<Parties<Arc<str>>>,
    clock: Arc<dyn Clock>,
}

/// The refusals of a listener by what was exceeded, for `/metrics`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Refused {
    pub(crate) by_address: u64,
    pub(crate) by_identity: u64,
}

impl Limiter {
    pub(super) fn new(rates: &Rates) -> Self {
        Self::remembering(rates, REMEMBERED)
    }

    fn remembering(Rates { address, identity, clock }: &Rates, most: NonZeroUsize) -> Self {
        Self {
            addresses: address.map(|rate| Parties::new(rate, most)),
            identities: identity.map(|rate| Parties::new(rate, most)),
            clock: clock.clone().unwrap_or_else(|| Arc::new(SystemClock)),
        }
    }

    /// Admits a request by its address, or refuses it.
    pub(super) fn admit_address(
        &self,
        address: Option<IpAddr>,
        share: Share,
    ) -> Result<(), Refusal> {
        let (Some(parties), Some(address)) = (&self.addresses, address) else { return Ok(()) };
        let admitted = parties.admit(Network::from(address), share, self.clock.raw());
        admitted.map_err(|wait| refusal("address", share, parties.rate, wait))
    }

    /// Admits a request by who makes it, or refuses it.
    pub(super) fn admit_identity(
        &self,
        principal: Option<&Principal>,
        share: Share,
    ) -> Result<(), Refusal> {
        let (Some(parties), Some(principal)) = (&self.identities, principal) else {
            return Ok(());
        };
        let identity = Arc::from(&*principal.identity);
        let admitted = parties.admit(identity, share, self.clock.raw());
        admitted.map_err(|wait| refusal("identity", share, parties.rate, wait))
    }

    /// Admits the other requests of a batch, whose first one was admitted by its head.
    pub(super) fn admit_rest(
        &self,
        address: Option<IpAddr>,
        principal: Option<&Principal>,
        share: Share,
        rest: u32,
    ) -> Result<(), Refusal> {
        let now = self.clock.raw();
        if let (Some(parties), Some(address)) = (&self.addresses, address) {
            let admitted = parties.admit_rest(Network::from(address), share, rest, now);
            admitted.map_err(|wait| refusal("address", share, parties.rate, wait))?;
        }
        if let (Some(parties), Some(principal)) = (&self.identities, principal) {
            let identity = Arc::from(&*principal.identity);
            let admitted = parties.admit_rest(identity, share, rest, now);
            admitted.map_err(|wait| refusal("identity", share, parties.rate, wait))?;
        }
        Ok(())
    }

    pub(super) fn refused(&self) -> Refused {
        let by_address = self.addresses.as_ref().map_or(0, Parties::refused);
        let by_identity = self.identities.as_ref().map_or(0, Parties::refused);
        Refused { by_address, by_identity }
    }
}

fn refusal(party: &str, share: Share, rate: Rate, wait: Duration) -> Refusal {
    let what = if share == Share::Keeping { "renewals and releases" } else { "requests" };
    let Rate { per_second, burst } = rate;
    let detail = format!(
        "too many {what} of this {party}: this node takes {per_second} a second, and {burst} at \
         once; nothing was done"
    );
    // What it is held back for is a part of the wait.
    let problem = Problem::too_many_requests(detail, wait.saturating_sub(HELD));
    Refusal::from(problem).held(Held(HELD))
}

/// The parties of one kind, each with its shares.
struct Parties<K> {
    rate: Rate,
    paid: Mutex<LruCache<K, Paid>>,
    refused: AtomicU64,
}

/// The time by which all that a party was admitted would be paid for, by share.
#[derive(Clone, Copy, Default)]
struct Paid {
    ordinary: Duration,
    keeping: Duration,
}

impl<K: Hash + Eq> Parties<K> {
    fn new(rate: Rate, most: NonZeroUsize) -> Self {
        // Its hasher is seeded at random: nobody can choose addresses that collide.
        Self { rate, paid: Mutex::new(LruCache::sparse(most)), refused: AtomicU64::new(0) }
    }

    /// Admits one request, or returns the time until it would be.
    fn admit(&self, party: K, share: Share, now: Duration) -> Result<(), Duration> {
        let rate = self.rate;
        self.charge(party, share, now, |debt| {
            let debt = debt.saturating_add(rate.pays(1));
            let over = debt.saturating_sub(rate.pays(rate.burst));
            if over.is_zero() { Ok(debt) } else { Err(over) }
        })
    }

    /// Admits more requests together, unless others have run into debt already.
    fn admit_rest(&self, party: K, share: Share, rest: u32, now: Duration) -> Result<(), Duration> {
        let rate = self.rate;
        self.charge(party, share, now, |debt| {
            let over = debt.saturating_sub(rate.pays(rate.burst));
            if over.is_zero() {
                Ok(debt.saturating_add(rate.pays(rest)))
            } else {
                Err(over.saturating_add(rate.pays(1)))
            }
        })
    }

    fn charge(
        &self,
        party: K,
        share: Share,
        now: Duration,
        judge: impl FnOnce(Duration) -> Result<Duration, Duration>,
    ) -> Result<(), Duration> {
        // Nothing panics in the middle of a change.
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let paid = paid.get_or_insert_mut(party, Paid::default);
        let until = match share {
            Share::Exempt => return Ok(()),
            Share::Keeping => &mut paid.keeping,
            Share::Ordinary => &mut paid.ordinary,
        };
        match judge(until.saturating_sub(now)) {
            Ok(debt) => {
                *until = now.saturating_add(debt);
                Ok(())
            }
            Err(wait) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(wait)
            }
        }
    }

    fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn parties(per_second: u32, burst: u32, most: usize) -> Parties<u32> {
        Parties::new(Rate { per_second, burst }, NonZeroUsize::new(most).unwrap())
    }

    #[test]
    fn a_burst_is_admitted_and_then_the_rate() {
        let parties = parties(10, 5, 8);
        let mut now = Duration::from_secs(1000);
        let admit = |now| parties.admit(1, Share::Ordinary, now);
        for _ in 0..5 {
            assert_eq!(admit(now), Ok(()));
        }
        assert_eq!(admit(now), Err(SECOND / 10), "it says when the next one fits");
        assert_eq!(admit(now + SECOND / 20), Err(SECOND / 20));
        assert_eq!(parties.admit(2, Share::Ordinary, now), Ok(()), "another is not affected");
        for _ in 0..20 {
            now += SECOND / 10;
            assert_eq!(admit(now), Ok(()));
            assert!(admit(now).is_err());
        }
        now += 100 * SECOND;
        assert_eq!((0..100).filter(|_| admit(now).is_ok()).count(), 5, "a pause saves one burst");
        assert_eq!(parties.refused(), 22 + 95);
    }

    #[test]
    fn renewals_are_admitted_when_other_requests_are_not() {
        let parties = parties(1, 1, 8);
        for share in [Share::Ordinary, Share::Keeping] {
            assert_eq!(parties.admit(1, share, SECOND), Ok(()));
            assert_eq!(parties.admit(1, share, SECOND), Err(SECOND));
        }
        for _ in 0..3 {
            assert_eq!(parties.admit(1, Share::Exempt, SECOND), Ok(()));
        }
    }

    #[test]
    fn a_batch_is_paid_for_afterwards_and_only_one_at_a_time() {
        let parties = parties(10, 3, 8);
        let now = SECOND;
        // Two batches are in flight: both were admitted by their heads.
        assert_eq!(parties.admit(1, Share::Ordinary, now), Ok(()));
        assert_eq!(parties.admit(1, Share::Ordinary, now), Ok(()));
        assert_eq!(parties.admit_rest(1, Share::Ordinary, 999, now), Ok(()));
        // 1001 requests take 100.1 seconds, of which the burst is 0.3; the next one is 0.1.
        let wait = 999 * SECOND / 10;
        assert_eq!(parties.admit_rest(1, Share::Ordinary, 999, now), Err(wait));
        assert_eq!(parties.admit(1, Share::Ordinary, now), Err(wait));
        assert_eq!(parties.admit(1, Share::Ordinary, now + wait), Ok(()));
        // The smallest burst admits a batch, too.
        let parties = Parties::new(Rate { per_second: 1, burst: 1 }, REMEMBERED);
        assert_eq!(parties.admit(1, Share::Ordinary, now), Ok(()));
        assert_eq!(parties.admit_rest(1, Share::Ordinary, 999, now), Ok(()));
    }

    #[test]
    fn a_million_parties_take_the_memory_of_a_few_and_are_not_refused() {
        let parties = parties(1, 1, 1000);
        for party in 0..1_000_000 {
            assert_eq!(parties.admit(party, Share::Ordinary, SECOND), Ok(()));
        }
        assert_eq!(parties.paid.lock().unwrap().len(), 1000);
        assert!(parties.admit(999_999, Share::Ordinary, SECOND).is_err(), "it is remembered");
        assert_eq!(parties.admit(0, Share::Ordinary, SECOND), Ok(()), "it is forgotten");
    }

    #[test]
    fn the_largest_and_the_smallest_rates_do_not_overflow() {
        for (per_second, burst) in [(1, u32::MAX), (u32::MAX, 1), (u32::MAX, u32::MAX)] {
            let parties = parties(per_second, burst, 8);
            for now in [Duration::ZERO, Duration::MAX] {
                let _ = parties.admit(1, Share::Ordinary, now);
                let _ = parties.admit_rest(1, Share::Ordinary, u32::MAX, now);
            }
        }
    }

    #[test]
    fn an_ipv4_address_counts_whole_and_an_ipv6_address_by_its_network() {
        let network = |text: &str| Network::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_ne!(network("10.0.0.1"), network("10.0.0.2"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"), "both are one client");
        assert_ne!(network("::ffff:10.0.0.1"), network("::ffff:10.0.0.2"));
    }

    #[test]
    fn the_share_of_a_request_is_in_its_head() {
        let share = |method: &str, path: &str, keeps: Option<&str>| {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(keeps) = keeps {
                request = request.header(headers::KEEPS, keeps);
            }
            Share::of(&request.body(()).unwrap())
        };
        for (method, path, keeps, expected) in [
            ("GET", "/healthz", None, Share::Exempt),
            ("HEAD", "/readyz", None, Share::Exempt),
            ("POST", "/healthz", None, Share::Ordinary),
            ("GET", "/metrics", None, Share::Ordinary),
            ("GET", "/nowhere", Some("true"), Share::Ordinary),
            ("POST", "/v1/lock", None, Share::Ordinary),
            ("POST", "/v1/lock", Some("true"), Share::Keeping),
            ("POST", "/v1/lock", Some("1"), Share::Ordinary),
            ("GET", "/v1/lock", Some("true"), Share::Ordinary),
            ("POST", "/v1/batch", Some("true"), Share::Keeping),
            ("POST", "/v1/unlock", None, Share::Keeping),
            ("POST", "/v1/sessions", Some("true"), Share::Ordinary),
            ("POST", "/v1/sessions/keepalive", None, Share::Keeping),
            ("DELETE", "/v1/sessions?session=x", None, Share::Keeping),
        ] {
            assert_eq!(share(method, path, keeps), expected, "{method} {path} {keeps:?}");
        }
    }
}
