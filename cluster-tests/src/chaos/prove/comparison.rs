//! The same command on Keyward and on services whose weak points are known.

use std::path::Path;
use std::time::Duration;

use super::{Item, Programs, Round};
use crate::chaos::fault::Fault;
use crate::chaos::summary::Verdict;
use crate::chaos::workload::Workload;

/// The services that the same command is run on, to see what it finds.
pub const SERVICES: [&str; 4] = ["keyward", "etcd", "redis", "redlock"];

/// A command that is run on each of [`SERVICES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// Holders freeze for longer than their lock lasts.
    Freeze,
    /// Nobody freezes; nodes are killed with -9 and started again.
    Kill,
}

impl Comparison {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Freeze, Self::Kill];

    /// The name of its results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Kill => "killed",
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Freeze => "--workload freeze",
            Self::Kill => "--workload mix,handoff --faults kill",
        }
    }

    /// Its expected verdict. A service that hands out no tokens and passes the first has not been
    /// tested; a service that forgets locks when it is killed must not pass the second.
    pub fn expected(self, service: &str) -> Verdict {
        match (self, service) {
            (_, "keyward") | (Self::Kill, "etcd") => Verdict::Pass,
            (Self::Freeze | Self::Kill, _) => Verdict::Violation,
        }
    }

    /// The run of one service, of this length, in this folder.
    pub fn round(
        self,
        service: &str,
        length: Duration,
        results: &Path,
        programs: &Programs,
    ) -> Round {
        let mut round = Item::Kills.round(1, length, results, programs);
        round.nodes.arguments = ["--rho=1%", "--snapshot-every=2000"].map(str::to_owned).to_vec();
        let options = &mut round.options;
        options.command = format!(
            "keyward-chaos run --service {service} {} --lease 2s --duration {}s --seed 1",
            self.words(),
            length.as_secs()
        );
        (options.workloads, options.faults) = match self {
            Self::Freeze => (vec![Workload::Freeze], Vec::new()),
            Self::Kill => (vec![Workload::Mix, Workload::Handoff], vec![Fault::Kill]),
        };
        options.every = Duration::from_secs(3);
        options.size.lease = Duration::from_secs(2);
        options.size.tokens = service == "keyward";
        options.history = results.join(format!("{}-{service}.history.jsonl", self.name()));
        round
    }
}
