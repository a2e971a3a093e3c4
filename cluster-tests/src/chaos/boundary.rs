//! The disk call at which a node dies: drawn by chance, or one after the other.
//!
//! A boundary is right before or right after a call that changes the disk's contents or makes a
//! change durable ([`Call`]). Calls are counted from a [`Moment`] on. The same number is not the
//! same call in two runs: threads and the network decide the order. So each death is recorded with
//! the call it hit ([`Death`]), and the figures are of these.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::plan::{Planned, Whom};
use crate::cluster::NodeId;
use crate::powercut::{Call, Kept, Side, Trap};

/// The moment from which calls are counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// From the first start of a node whose folder does not exist, of a cluster that does not either.
    FirstBoot,
    /// From a start, while the others work.
    Start,
    /// From a start of all nodes at once.
    StartOfAll,
    /// From some moment of normal work.
    Work,
    /// As `Work`, while every sync is slow; all other nodes lose power at the same time.
    WorkOfAll,
    /// From a start after which the leader sends a snapshot, since the node was away for long.
    Installation,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::FirstBoot,
        Self::Start,
        Self::StartOfAll,
        Self::Work,
        Self::WorkOfAll,
        Self::Installation,
    ];
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FirstBoot => "first boot",
            Self::Start => "start",
            Self::StartOfAll => "start of all nodes",
            Self::Work => "work",
            Self::WorkOfAll => "work, with the power of all nodes",
            Self::Installation => "installation of a snapshot",
        })
    }
}

/// The part of the data folder that the first counted call is on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum First {
    /// On any.
    Any,
    /// On the list of the log's segments: one is begun, reused, or removed.
    Manifest,
    /// On the snapshots: one is written, or sent by the leader.
    Snapshots,
    /// On the copy of the state that sled keeps.
    Checkpoint,
}

impl First {
    /// All of them. Only a few in a hundred calls of a working node are not on segments of the log.
    const ALL: [Self; 4] = [Self::Any, Self::Manifest, Self::Snapshots, Self::Checkpoint];

    /// A string that the path of such a call contains.
    fn path(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Manifest => "data/log/manifest",
            Self::Snapshots => "data/snapshots",
            Self::Checkpoint => "data/checkpoint",
        }
    }
}

/// The place at which a node is to die.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Boundary {
    /// The moment from which calls are counted.
    pub moment: Moment,
    /// A further condition for the first counted call: its part of the folder.
    pub first: First,
    /// The number of the call, from 1.
    pub number: u64,
    /// Before the call or after it.
    pub side: Side,
    /// The part of the unsynced data that survives.
    pub kept: Kept,
}

/// A node's death.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Death {
    /// The node.
    pub node: NodeId,
    /// Whether it led, as far as the others knew; a node started a moment ago never counts as the
    /// leader.
    pub led: bool,
    /// The planned boundary.
    pub at: Boundary,
    /// The kind of call it hit.
    pub call: Call,
    /// The path of the call, in the node's data folder.
    pub path: String,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Boundary { moment, first, number, side, kept } = self.at;
        let Self { node, call, path, .. } = self;
        write!(
            f,
            "node {node} {side} call {number} since {moment} ({first:?}): {call} {path}, {kept:?} kept"
        )
    }
}

impl Death {
    /// The part of the data folder that the call was on.
    pub fn part(&self) -> &'static str {
        const PARTS: [(&str, &str); 7] = [
            ("identity", "identity"),
            ("vote", "vote"),
            ("log/manifest", "manifest of the log"),
            ("log", "segments of the log"),
            ("snapshots", "snapshots"),
            ("checkpoint", "checkpoint"),
            ("LOCK", "lock on the folder"),
        ];
        if self.path.is_empty() {
            return "the folder above it";
        }
        let found = PARTS.iter().find(|(begins, _)| self.path.starts_with(begins));
        found.map_or("the folder itself", |(_, part)| *part)
    }
}

/// The number of deaths of each moment in a round of the sweep.
const FIRST_BOOTS: u64 = 3;
const STARTS: u64 = 8;
const STARTS_OF_ALL: u64 = 4;
const IN_WORK: u64 = 4;
const IN_WORK_OF_ALL: u64 = 4;
const INSTALLATIONS: u64 = 4;

impl Boundary {
    /// Draws any moment except first boot and installation: a run has no first boot in progress,
    /// and the time until a node needs a snapshot depends on its load.
    pub fn draw(random: &mut StdRng) -> Self {
        let moments = [
            Moment::Start,
            Moment::Start,
            Moment::StartOfAll,
            Moment::Work,
            Moment::Work,
            Moment::WorkOfAll,
        ];
        let moment = moments[random.random_range(0..moments.len())];
        // Small numbers are as likely as large ones: most is done in the first calls of a start.
        let below = 1 << random.random_range(1..8);
        Self {
            moment,
            first: First::Any,
            number: random.random_range(1..=below),
            side: if random.random() { Side::Before } else { Side::After },
            kept: kept(random),
        }
    }

    /// The trap for it.
    pub fn trap(self) -> Trap {
        Trap { number: self.number, side: self.side, from: self.first.path() }
    }
}

/// Half of the deaths lose all unsynced data.
fn kept(random: &mut StdRng) -> Kept {
    match random.random_range(0..4) {
        0 => Kept::Everything,
        1 => Kept::SomeSectors(random.random()),
        _ => Kept::Nothing,
    }
}

/// A round of the sweep: the next boundaries of each moment, in any order, after the first boots.
/// Rounds with the seeds 1, 2, 3 … go through all numbers from 1 on, before and after each call.
pub fn sweep(seed: u64) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut one = |moment, per_round: u64, place: u64| {
        let index = seed.saturating_sub(1) * per_round + place;
        let side = if index.is_multiple_of(2) { Side::Before } else { Side::After };
        let (first, number) = first_and_number(moment, index / 2);
        let boundary = Boundary { moment, first, number, side, kept: kept(&mut random) };
        Planned {
            at: Duration::ZERO,
            lasts: Duration::ZERO,
            fault: Fault::DieAtIo,
            whom: whom(moment, index, place),
            behind_answer: None,
            boundary: Some(boundary),
            seed: random.random(),
        }
    };
    let mut all = |moment, count| -> Vec<Planned> {
        (0..count).map(|place| one(moment, count, place)).collect()
    };
    let first = all(Moment::FirstBoot, FIRST_BOOTS);
    let mut others = [
        all(Moment::Start, STARTS),
        all(Moment::StartOfAll, STARTS_OF_ALL),
        all(Moment::Work, IN_WORK),
        all(Moment::WorkOfAll, IN_WORK_OF_ALL),
        all(Moment::Installation, INSTALLATIONS),
    ]
    .concat();
    others.shuffle(&mut random);
    [first, others].concat()
}

/// The next call of a moment, from 0; at work, of each part of the folder in turn.
fn first_and_number(moment: Moment, next: u64) -> (First, u64) {
    let parts = First::ALL.len() as u64;
    match moment {
        Moment::FirstBoot | Moment::Start | Moment::StartOfAll => (First::Any, next + 1),
        Moment::Installation => (First::Snapshots, next + 1),
        Moment::Work | Moment::WorkOfAll => {
            let part = usize::try_from(next % parts).unwrap_or(0);
            (First::ALL[part], next / parts + 1)
        }
    }
}

/// Each role in turn; at the first boot, where there are no roles, each node.
fn whom(moment: Moment, index: u64, place: u64) -> Whom {
    if moment == Moment::FirstBoot {
        return Whom::Node(place);
    }
    // Every third, as there are three nodes; a pair before and after is of one role.
    let pair = index / 2;
    if pair.is_multiple_of(3) { Whom::Leader } else { Whom::Follower(pair) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rounds_of_the_sweep_leave_no_boundary_out() {
        let planned: Vec<Boundary> =
            (1..=10).flat_map(sweep).filter_map(|planned| planned.boundary).collect();
        for (moment, per_round) in [(Moment::FirstBoot, FIRST_BOOTS), (Moment::Start, STARTS)] {
            let of: BTreeSet<(u64, Side)> = planned
                .iter()
                .filter(|boundary| boundary.moment == moment)
                .map(|boundary| (boundary.number, boundary.side))
                .collect();
            let expected: BTreeSet<(u64, Side)> = (1..=10 * per_round / 2)
                .flat_map(|number| [(number, Side::Before), (number, Side::After)])
                .collect();
            assert_eq!(of, expected);
        }
    }

    #[test]
    fn a_seed_gives_one_round() {
        assert_eq!(sweep(3), sweep(3));
        assert_eq!(sweep(3)[0].boundary.map(|first| first.moment), Some(Moment::FirstBoot));
    }
}
