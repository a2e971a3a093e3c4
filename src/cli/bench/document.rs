//! The result of a run: the document that `--json` prints, and the source of text and report.

use serde::Serialize;

use super::Via;
use crate::bench::Measurement;
use crate::cli::output;

/// The measurement of a cluster under the load.
pub(super) struct OfCluster {
    pub(super) measurement: Measurement,
    /// The endpoints to which the clients sent requests.
    pub(super) endpoints: Vec<String>,
    pub(super) elections: Option<u64>,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    /// The version of this program.
    pub(super) version: &'static str,
    pub(super) via: Via,
    /// The endpoints to which the clients sent requests.
    pub(super) endpoints: Vec<String>,
    /// The measurement of the bare handler, if it was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<Measurement>,
    /// The measurement of the cluster, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cluster: Option<Measurement>,
    /// Terms that began while the cluster was measured, if a node reported it: each is an election,
    /// and requests that waited for it show in the longest times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) elections: Option<u64>,
    /// The cluster's rate as a part of the bare handler's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ratio: Option<f64>,
}

impl Document {
    /// Combines the measurements of the bare handler and of a cluster.
    pub(super) fn new(via: Via, limit: Option<Measurement>, cluster: Option<OfCluster>) -> Self {
        let (cluster, endpoints, elections) = match cluster {
            Some(it) => (Some(it.measurement), it.endpoints, it.elections),
            None => (None, Vec::new(), None),
        };
        let ratio = limit.as_ref().zip(cluster.as_ref()).and_then(|(limit, cluster)| {
            let limit = limit.per_second();
            (limit > 0.0).then(|| cluster.per_second() / limit)
        });
        let version = env!("CARGO_PKG_VERSION");
        Self { version, via, endpoints, limit, cluster, elections, ratio }
    }

    /// Prints it, for a program or for a person.
    pub(super) fn print(&self, json: bool) {
        if json {
            output::print_json(self);
            return;
        }
        if let Some(limit) = &self.limit {
            output::print(&format!("HTTP alone\n{limit}\n"));
        }
        if let Some(cluster) = &self.cluster {
            output::print(&format!("asking {}\n{cluster}", self.endpoints.join(", ")));
            output::print(&format!("elections meanwhile: {}\n", self.elections_in_words()));
        }
        if let Some(ratio) = self.ratio {
            output::print(&format!("{ratio:.3} of what HTTP alone does\n"));
        }
    }

    pub(super) fn elections_in_words(&self) -> String {
        self.elections.map_or_else(|| "unknown".to_owned(), |count| count.to_string())
    }

    /// Whether no operation succeeded, on the cluster or on the bare handler. A single contender
    /// hands no lock over, and still succeeds.
    pub(super) fn is_empty(&self) -> bool {
        let idle = |one: &Measurement| one.operations.iter().all(|it| it.per_second == 0.0);
        [&self.limit, &self.cluster].into_iter().flatten().any(idle)
    }
}
