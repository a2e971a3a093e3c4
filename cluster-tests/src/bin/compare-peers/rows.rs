//! The rows of the table, and how the load of each is made.

use std::time::Duration;

use clap::ValueEnum;
use keyward::bench::{Plan, Workload};
use serde::{Deserialize, Serialize};

/// A lock service that takes part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) enum Service {
    Keyward,
    /// Keyward with `--profile fast`, which differs in its elections only.
    KeywardFast,
    ZooKeeper,
    #[serde(rename = "etcd")]
    Etcd,
    /// Redlock on three Redis servers: no consensus, and nothing on a disk when it answers.
    Redlock,
}

impl Service {
    pub(crate) const ALL: [Self; 5] =
        [Self::Keyward, Self::KeywardFast, Self::ZooKeeper, Self::Etcd, Self::Redlock];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Keyward => "Keyward",
            Self::KeywardFast => "Keyward, `--profile fast`",
            Self::ZooKeeper => "ZooKeeper",
            Self::Etcd => "etcd",
            Self::Redlock => "Redlock",
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    /// Pairs, one client, on the leader.
    #[value(name = "pairs-1")]
    #[serde(rename = "pairs-1")]
    Pairs1,
    /// Pairs, 64 clients, on the leader.
    #[value(name = "pairs-64")]
    #[serde(rename = "pairs-64")]
    Pairs64,
    /// The same, spread over the nodes.
    #[value(name = "pairs-64-spread")]
    #[serde(rename = "pairs-64-spread")]
    Pairs64Spread,
    /// Pairs, 256 clients, on the leader.
    #[value(name = "pairs-256")]
    #[serde(rename = "pairs-256")]
    Pairs256,
    /// The same, spread over the nodes.
    #[value(name = "pairs-256-spread")]
    #[serde(rename = "pairs-256-spread")]
    Pairs256Spread,
    /// Pairs, 256 tasks that share one client of each service's library.
    #[value(name = "library-256")]
    #[serde(rename = "library-256")]
    Library256,
    /// One lock, 16 clients.
    Contended,
    /// Renewals, 256 clients, on the leader.
    Renewals,
    /// Renewals, 256 tasks that share one client of each service's library.
    RenewalsLibrary,
    /// Lock and unlock beside a bare HTTP handler, 64 clients.
    HttpAlone,
    /// 100,000 locks held.
    Held,
    /// The leader is killed: time to the next lock.
    Failover,
    /// Keyward alone: pairs beside a million held locks. Some minutes.
    Million,
    /// Keyward alone: pairs for ten minutes.
    Soak,
}

/// The load of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) workload: Workload,
    pub(crate) clients: usize,
    pub(crate) spread: bool,
    /// Whether all clients share one of the service's own library.
    pub(crate) shared: bool,
}

impl Row {
    /// The rows that are run when none is named.
    pub(crate) const USUAL: [Self; 12] = [
        Self::Pairs1,
        Self::Pairs64,
        Self::Pairs64Spread,
        Self::Pairs256,
        Self::Pairs256Spread,
        Self::Library256,
        Self::Contended,
        Self::Renewals,
        Self::RenewalsLibrary,
        Self::HttpAlone,
        Self::Held,
        Self::Failover,
    ];

    /// Its title in the table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Pairs1 => "pairs, 1 client",
            Self::Pairs64 => "pairs, 64 clients",
            Self::Pairs64Spread => "pairs, 64 clients spread over the nodes",
            Self::Pairs256 => "pairs, 256 clients",
            Self::Pairs256Spread => "pairs, 256 clients spread over the nodes",
            Self::Library256 => "pairs, 256 tasks of one client library",
            Self::Contended => "one lock, 16 clients in its queue",
            Self::Renewals => "renewals, 256 clients",
            Self::RenewalsLibrary => "renewals, 256 tasks of one client library",
            Self::HttpAlone => "pairs beside HTTP alone, 64 clients",
            Self::Held => "100,000 locks held",
            Self::Failover => "leader killed under load",
            Self::Million => "pairs beside 1,000,000 held locks",
            Self::Soak => "pairs for ten minutes, 64 clients",
        }
    }

    /// Its name on the command line.
    pub(crate) fn word(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The load, for rows that put one on clusters that already run.
    pub(crate) fn load(self) -> Option<Load> {
        let load = |workload, clients| Load { workload, clients, spread: false, shared: false };
        let pairs = |clients| load(Workload::Pairs, clients);
        match self {
            Self::Pairs1 => Some(pairs(1)),
            Self::Pairs64 => Some(pairs(64)),
            Self::Pairs64Spread => Some(Load { spread: true, ..pairs(64) }),
            Self::Pairs256 => Some(pairs(256)),
            Self::Pairs256Spread => Some(Load { spread: true, ..pairs(256) }),
            Self::Library256 => Some(Load { shared: true, ..pairs(256) }),
            Self::Contended => Some(load(Workload::Queue, 16)),
            Self::Renewals => Some(load(Workload::Renew, 256)),
            Self::RenewalsLibrary => Some(Load { shared: true, ..load(Workload::Renew, 256) }),
            Self::HttpAlone | Self::Held | Self::Failover | Self::Million | Self::Soak => None,
        }
    }

    /// The services that take part.
    pub(crate) fn services(self) -> &'static [Service] {
        use Service::{Etcd, Keyward, KeywardFast, Redlock, ZooKeeper};
        match self {
            Self::HttpAlone | Self::Million | Self::Soak => &[Keyward],
            // The others' libraries do not coalesce requests: their clients have sessions of their
            // own.
            Self::Library256 | Self::RenewalsLibrary => &[Keyward, ZooKeeper],
            Self::Failover => &[Keyward, KeywardFast, ZooKeeper, Etcd],
            Self::Held => &[Keyward, ZooKeeper, Etcd],
            Self::Pairs1
            | Self::Pairs64
            | Self::Pairs64Spread
            | Self::Pairs256
            | Self::Pairs256Spread
            | Self::Contended
            | Self::Renewals => &[Keyward, ZooKeeper, Etcd, Redlock],
        }
    }
}

impl Load {
    pub(crate) fn plan(self, seconds: u64) -> Plan {
        Plan {
            warmup: Duration::from_secs(1),
            duration: Duration::from_secs(seconds),
            ..Plan::new(self.workload, self.clients)
        }
    }
}
