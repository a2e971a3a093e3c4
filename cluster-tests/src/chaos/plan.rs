//! The faults of a run and their times, drawn from the seed before the run begins.
//!
//! A plan names roles, not nodes, where the role is the point (`the leader`): the leader is known
//! only when the fault begins. Everything else is in it, so one seed gives one plan.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use super::boundary::Boundary;
use super::fault::{Fault, Lane};

/// The target of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whom {
    /// The leader when it begins.
    Leader,
    /// A follower; the number chooses among them.
    Follower(u64),
    /// The node at this index, from 0.
    Node(u64),
    /// As many nodes as can fail without an outage.
    Minority,
    /// Enough nodes for an outage.
    Majority,
    /// Every node.
    All,
}

/// One fault of a plan.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Planned {
    /// Its beginning, from the start of the schedule.
    pub at: Duration,
    /// Its length.
    pub lasts: Duration,
    /// The fault.
    pub fault: Fault,
    /// Its target.
    pub whom: Whom,
    /// For faults right after an acknowledgement: the delay after it.
    pub behind_answer: Option<Duration>,
    /// For faults at a disk call: the call.
    pub boundary: Option<Boundary>,
    /// The seed of all other choices of the fault.
    pub seed: u64,
}

/// The parameters of a plan.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The kinds of fault, each at least once.
    pub faults: Vec<Fault>,
    /// The time within which faults may begin.
    pub duration: Duration,
    /// The duration of locks in this run, by which the length of pauses is chosen.
    pub lease: Duration,
    /// The approximate length of an election.
    pub election: Duration,
    /// The mean time between two faults of one lane.
    pub every: Duration,
}

/// The schedule drawn from a seed: faults of different lanes overlap, those of one lane follow one
/// after the other, each kind occurs at least once if there is time for it.
pub fn draw(seed: u64, frame: &Frame) -> Vec<Planned> {
    let mut lanes: BTreeMap<Lane, Vec<Fault>> = BTreeMap::new();
    for &fault in &frame.faults {
        lanes.entry(fault.lane()).or_default().push(fault);
    }
    let mut plan = Vec::new();
    for (number, (_, kinds)) in (1..).zip(lanes) {
        let mut random = StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number));
        plan.extend(lane(&mut random, &kinds, frame));
    }
    plan.sort_by_key(|planned| planned.at);
    plan
}

fn lane(random: &mut StdRng, kinds: &[Fault], frame: &Frame) -> Vec<Planned> {
    let mut plan = Vec::new();
    let mut at = frame.every.mul_f64(random.random_range(0.3..1.0));
    // Each kind once, in random order; then at random.
    let mut first = kinds.to_vec();
    first.shuffle(random);
    while at < frame.duration {
        let Some(fault) = first.pop().or_else(|| kinds.choose(random).copied()) else { break };
        let planned = one(random, fault, at, frame);
        let gap = frame.every.mul_f64(random.random_range(0.3..1.7));
        at = planned.at + planned.lasts + gap;
        plan.push(planned);
    }
    plan
}

fn one(random: &mut StdRng, fault: Fault, at: Duration, frame: &Frame) -> Planned {
    let whom = whom(random, fault);
    let lasts = lasts(random, fault, frame);
    let kills =
        [Fault::Kill, Fault::KillLeader, Fault::KillMany, Fault::PowerCut, Fault::TornWrite]
            .contains(&fault);
    let behind_answer = (kills && random.random_ratio(1, 3))
        .then(|| Duration::from_micros(random.random_range(0..50_000)));
    let boundary = (fault == Fault::DieAtIo).then(|| Boundary::draw(random));
    Planned { at, lasts, fault, whom, behind_answer, boundary, seed: random.random() }
}

fn whom(random: &mut StdRng, fault: Fault) -> Whom {
    let any = random.random();
    match fault {
        // At least a third of the kills are aimed at the leader.
        Fault::Kill => match random.random_range(0..6) {
            0..3 => Whom::Leader,
            3..5 => Whom::Follower(any),
            _ => Whom::Node(any),
        },
        Fault::KillMany => *[Whom::Majority, Whom::All].choose(random).expect("two"),
        // Half of the power cuts affect all nodes at once.
        Fault::PowerCut | Fault::TornWrite => match random.random_range(0..8) {
            0..4 => Whom::All,
            4..6 => Whom::Minority,
            6 => Whom::Leader,
            _ => Whom::Node(any),
        },
        // One host whose clock is set, or machines that all use one time server.
        Fault::WallClock => match random.random_range(0..4) {
            0..2 => Whom::All,
            2 => Whom::Leader,
            _ => Whom::Follower(any),
        },
        Fault::KillLeader | Fault::LeaderChange => Whom::Leader,
        Fault::Wipe | Fault::BitFlip => Whom::Node(any),
        Fault::Upgrade | Fault::Ring => Whom::All,
        Fault::Pause
        | Fault::Restart
        | Fault::Partition
        | Fault::OneWay
        | Fault::Delay
        | Fault::Loss
        | Fault::Throttle
        | Fault::Reset
        | Fault::HalfOpen
        | Fault::DieAtIo
        | Fault::SlowDisk
        | Fault::DiskError
        | Fault::DiskFull => match random.random_range(0..3) {
            0 => Whom::Leader,
            1 => Whom::Follower(any),
            _ => Whom::Node(any),
        },
    }
}

fn lasts(random: &mut StdRng, fault: Fault, frame: &Frame) -> Duration {
    let share: f64 = random.random_range(0.2..1.0);
    match fault {
        Fault::Pause => *[Duration::from_millis(100), frame.election, frame.lease, frame.lease * 3]
            .choose(random)
            .expect("four"),
        Fault::LeaderChange => Duration::from_millis(300),
        Fault::Kill
        | Fault::KillLeader
        | Fault::KillMany
        | Fault::PowerCut
        | Fault::TornWrite
        | Fault::DieAtIo
        | Fault::Restart => frame.every.mul_f64(share / 2.0),
        Fault::Wipe
        | Fault::Upgrade
        | Fault::BitFlip
        | Fault::Partition
        | Fault::OneWay
        | Fault::Ring
        | Fault::Delay
        | Fault::Loss
        | Fault::Throttle
        | Fault::Reset
        | Fault::HalfOpen
        | Fault::SlowDisk
        | Fault::DiskError
        | Fault::DiskFull
        | Fault::WallClock => frame.every.mul_f64(share * 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame {
            faults: Fault::ALL.to_vec(),
            duration: Duration::from_secs(300),
            lease: Duration::from_secs(2),
            election: Duration::from_secs(1),
            every: Duration::from_secs(3),
        }
    }

    #[test]
    fn one_seed_gives_one_plan_and_another_gives_another() {
        assert_eq!(draw(7, &frame()), draw(7, &frame()));
        assert_ne!(draw(7, &frame()), draw(8, &frame()));
    }

    #[test]
    fn every_kind_is_planned_and_those_of_a_lane_never_overlap() {
        for seed in 0..50 {
            let plan = draw(seed, &frame());
            for fault in Fault::ALL {
                assert!(plan.iter().any(|planned| planned.fault == fault), "{fault}, {seed}");
            }
            for lane in [Lane::Process, Lane::Network, Lane::Disk] {
                let of: Vec<_> = plan.iter().filter(|one| one.fault.lane() == lane).collect();
                assert!(of.is_sorted_by(|one, next| one.at + one.lasts <= next.at), "{of:?}");
            }
        }
    }

    #[test]
    fn a_third_of_the_kills_is_aimed_at_the_leader_and_a_third_comes_behind_an_answer() {
        let frame =
            Frame { faults: vec![Fault::Kill], duration: Duration::from_secs(10_000), ..frame() };
        let plan = draw(1, &frame);
        let leaders = plan.iter().filter(|planned| planned.whom == Whom::Leader).count();
        let behind = plan.iter().filter(|planned| planned.behind_answer.is_some()).count();
        assert!(leaders * 3 >= plan.len(), "{leaders} of {}", plan.len());
        assert!(behind * 4 >= plan.len(), "{behind} of {}", plan.len());
    }
}
