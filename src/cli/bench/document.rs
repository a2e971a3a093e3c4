//! What a run comes to: what `--json` prints, and what text and report are made from.

use serde::Serialize;

use super::Via;
use crate::bench::Measurement;
use crate::cli::output;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    /// The version of this program.
    pub(super) version: &'static str,
    pub(super) via: Via,
    /// Whom the clients asked.
    pub(super) endpoints: Vec<String>,
    /// What the bare handler did, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<Measurement>,
    /// What the cluster did, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cluster: Option<Measurement>,
    /// The cluster's rate as a part of the bare handler's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ratio: Option<f64>,
}

impl Document {
    /// What the bare handler did, and what a cluster did that was asked at these endpoints.
    pub(super) fn new(
        via: Via,
        limit: Option<Measurement>,
        cluster: Option<(Measurement, Vec<String>)>,
    ) -> Self {
        let (cluster, endpoints) = cluster.unzip();
        let ratio = limit.as_ref().zip(cluster.as_ref()).and_then(|(limit, cluster)| {
            let limit = limit.per_second();
            (limit > 0.0).then(|| cluster.per_second() / limit)
        });
        let version = env!("CARGO_PKG_VERSION");
        Self { version, via, endpoints: endpoints.unwrap_or_default(), limit, cluster, ratio }
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
        }
        if let Some(ratio) = self.ratio {
            output::print(&format!("{ratio:.3} of what HTTP alone does\n"));
        }
    }

    /// Whether no operation succeeded, on the cluster or on the bare handler. One contender alone
    /// hands nothing over, and succeeds all the same.
    pub(super) fn is_empty(&self) -> bool {
        let idle = |one: &Measurement| one.operations.iter().all(|it| it.per_second == 0.0);
        [&self.limit, &self.cluster].into_iter().flatten().any(idle)
    }
}
