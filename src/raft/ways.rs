//! The connections to other members: pools for each kind of call, with TLS or without.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::client::carrier::{Carrier, Carry};
use crate::client::tls;
use crate::raft::peer::Channel;
use crate::tls::{NodeName, Tls};

/// The carriers to all members.
pub(crate) enum Ways {
    /// The same for all.
    Same(Carriers),
    /// Connections with TLS. Each member has its own, since the certificate of each is checked for
    /// its name.
    Secure { tls: Arc<Tls>, members: Mutex<BTreeMap<NodeName, Carriers>> },
}

/// The carrier of each kind of call.
#[derive(Clone)]
pub(crate) struct Carriers {
    control: Carrier,
    append: Carrier,
    snapshot: Carrier,
    forward: Carrier,
}

impl Ways {
    /// Creates a pool of connections for each kind of call; with TLS, if it is given.
    pub(crate) fn http(tls: Option<Arc<Tls>>) -> Result<Self, reqwest::Error> {
        Ok(match tls {
            Some(tls) => Self::Secure { tls, members: Mutex::default() },
            None => Self::Same(Carriers::connections(&no_tls())?),
        })
    }

    /// Takes the carrier of each kind from elsewhere.
    pub(crate) fn given(carrier: &dyn Fn(Channel) -> Arc<dyn Carry>) -> Self {
        let way = |channel| Carrier::Given(carrier(channel));
        Self::Same(Carriers {
            control: way(Channel::Control),
            append: way(Channel::Append),
            snapshot: way(Channel::Snapshot),
            forward: way(Channel::Forward),
        })
    }

    /// The TLS of the connections, if they have any.
    pub(super) fn tls(&self) -> Option<&Arc<Tls>> {
        match self {
            Self::Secure { tls, .. } => Some(tls),
            Self::Same(_) => None,
        }
    }

    /// The scheme of URLs.
    pub(super) fn scheme(&self) -> &'static str {
        match self {
            Self::Same(_) => "http",
            Self::Secure { .. } => "https",
        }
    }

    /// The carrier for a kind of call to a member.
    pub(super) fn of(
        &self,
        channel: Channel,
        member: impl FnOnce() -> NodeName,
    ) -> Result<Carrier, reqwest::Error> {
        match self {
            Self::Same(carriers) => Ok(carriers.of(channel).clone()),
            Self::Secure { tls, members } => {
                let member = member();
                let mut members = members.lock().expect("nothing panics while it holds them");
                if let Some(carriers) = members.get(&member) {
                    return Ok(carriers.of(channel).clone());
                }
                let carriers = Carriers::connections(&tls.to_member(member.clone()))?;
                let carrier = carriers.of(channel).clone();
                members.insert(member, carriers);
                Ok(carrier)
            }
        }
    }
}

impl Carriers {
    /// A pool of connections for each kind of call.
    fn connections(config: &rustls::ClientConfig) -> Result<Self, reqwest::Error> {
        Ok(Self {
            control: connections(config.clone(), usize::MAX)?,
            append: connections(config.clone(), usize::MAX)?,
            snapshot: connections(config.clone(), usize::MAX)?,
            // As many as are used at once. All idle connections may be dead without a sign; then
            // the first messages stall, and later ones open new connections.
            forward: connections(config.clone(), 2)?,
        })
    }

    fn of(&self, channel: Channel) -> &Carrier {
        match channel {
            Channel::Control => &self.control,
            Channel::Append => &self.append,
            Channel::Snapshot => &self.snapshot,
            Channel::Forward => &self.forward,
        }
    }
}

/// The configuration of connections that have no TLS.
fn no_tls() -> rustls::ClientConfig {
    tls::Tls::default().config().expect("no certificate is given")
}

/// A pool of connections to peers, which keeps at most `idle` unused ones to each. Members connect
/// directly, whatever proxies the environment names, and a peer never redirects a caller. Names are
/// looked up each time: a member's machine may get another address, or be registered only later.
fn connections(config: rustls::ClientConfig, idle: usize) -> Result<Carrier, reqwest::Error> {
    let client = tls::http(config)
        // Connect and call timeouts detect a peer that is gone without closing its connections;
        // this bounds connecting for callers with a longer timeout of their own.
        .connect_timeout(Duration::from_secs(1))
        // Shorter than the other end's timeout; see http::peers.
        .pool_idle_timeout(Duration::from_secs(20))
        .pool_max_idle_per_host(idle)
        .build()?;
    Ok(Carrier::Http(client))
}
