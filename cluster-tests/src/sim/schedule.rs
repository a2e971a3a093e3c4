//! The faults of a simulated cluster, drawn from a seed.

use std::fmt;

use super::world::Dice;
use keyward::node::Profile;

/// All inputs of a run besides the code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schedule {
    /// The seed of the schedule and of the run's own choices.
    pub seed: u64,
    /// The drawn faults that are kept, by number; `None` is all.
    pub kept: Option<Vec<usize>>,
    /// The number of nodes.
    pub nodes: u64,
    /// The number of clients, each on a machine of its own.
    pub clients: u64,
    /// The number of locks they share.
    pub locks: u64,
    /// The longest pause of a client between two requests, in milliseconds.
    pub pause_ms: u64,
    /// The allowed error of clocks; they are off by up to that.
    pub rho_ppm: u32,
    /// The number of entries after which a snapshot is written.
    pub snapshot_every: u64,
    /// Entries covered by a snapshot that the log keeps.
    pub log_kept: u64,
    /// Bytes that are read at once to be applied, where a part suffices: a start that applies a
    /// chunk of entries exceeds it.
    pub apply_bytes: u64,
    /// Bytes of entries in a message to a follower.
    pub send_bytes: u64,
    /// The timing profile, which sets how fast a dead leader is noticed.
    pub profile: Profile,
    /// The time within which faults begin, in milliseconds.
    pub length_ms: u64,
    /// The faults, in the order of their beginning.
    pub faults: Vec<Timed>,
}

/// A fault and its time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timed {
    /// Its number among the drawn ones.
    pub number: usize,
    /// Its beginning, in milliseconds.
    pub at_ms: u64,
    /// Its length, in milliseconds.
    pub lasts_ms: u64,
    /// The fault.
    pub fault: Fault,
}

/// The node that a fault affects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// This one.
    Node(u64),
    /// The leader when the fault begins; the first node if there is none.
    Leader,
    /// A node that does not lead then.
    Follower(u64),
}

/// A fault of a simulated cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The process is killed, and restarted.
    Kill(Target),
    /// The process shuts down gracefully, and is restarted.
    ShutDown(Target),
    /// The machine loses power.
    PowerCut(Target),
    /// Every machine loses power at once.
    PowerCutAll,
    /// The machine loses power in the middle of its disk operations, after this many changes.
    PowerCutAt(Target, u64),
    /// Syncs begin to fail on some machines, and a moment later all of those lose power: data
    /// acknowledged in between without a sync is lost.
    BrownOut(Vec<u64>),
    /// The process stands still.
    Freeze(Target),
    /// A client's process stands still.
    FreezeClient(u64),
    /// These nodes reach each other and no others.
    Partition(Vec<u64>),
    /// Nothing that the first sends arrives at the second.
    OneWay(u64, u64),
    /// Nothing that its peers send arrives at the node; what it sends does.
    Deaf(Target),
    /// Nothing that the node sends arrives at its peers.
    Mute(Target),
    /// Every link is slow, and loses and duplicates messages.
    BadLinks {
        /// Milliseconds.
        max_ms: u64,
        /// Parts per million.
        loss_ppm: u32,
        /// Parts per million.
        late_ppm: u32,
        /// Milliseconds.
        late_ms: u64,
        /// Parts per million.
        repeat_ppm: u32,
    },
    /// Syncs take this long, in milliseconds.
    SlowDisk(Target, u64),
    /// The disk is full.
    FullDisk(Target),
    /// Writes fail.
    BadDisk(Target),
    /// The clock of a machine runs at this rate, in millionths.
    Clock(u64, u32),
    /// The leadership is handed to this node.
    Transfer(u64),
}

impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, at_ms, lasts_ms, fault } = self;
        write!(f, "{number:>3} at {at_ms:>6} ms for {lasts_ms:>5} ms: {fault:?}")
    }
}

impl Schedule {
    /// The schedule of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "schedule");
        let nodes = *dice.pick(&[3, 3, 3, 5]);
        let length_ms = dice.within(15_000..=45_000);
        let rho_ppm = *dice.pick(&[10_000, 100_000, 100_000]);
        let snapshot_every = *dice.pick(&[12, 40, 150]);
        let profile = *dice.pick(&[Profile::Fast, Profile::Fast, Profile::Stable]);
        let clients = dice.within(2..=5);
        let mut schedule = Self {
            seed,
            kept: None,
            nodes,
            clients,
            locks: dice.within(1..=4),
            pause_ms: *dice.pick(&[150, 400, 1200]),
            rho_ppm,
            snapshot_every,
            log_kept: dice.within(1..=snapshot_every),
            apply_bytes: *dice.pick(&[2 << 10, 8 << 10, 64 << 10]),
            send_bytes: *dice.pick(&[1 << 10, 8 << 10, 64 << 10]),
            profile,
            length_ms,
            faults: Vec::new(),
        };
        // A run has a few kinds of faults, often: bugs that need many of one kind are found, too.
        let kinds: Vec<u64> = (0..dice.within(1..=5)).map(|_| dice.within(0..=KINDS - 1)).collect();
        let busy = *dice.pick(&[1_200, 3_000, 6_000]);
        let mut at_ms = dice.within(500..=4_000);
        while at_ms < length_ms {
            let fault = schedule.fault(*dice.pick(&kinds), &mut dice);
            let longest = *dice.pick(&[60, 900, 4_000]);
            let lasts_ms = dice.within(1..=longest);
            let number = schedule.faults.len();
            schedule.faults.push(Timed { number, at_ms, lasts_ms, fault });
            at_ms += dice.within(1..=busy);
        }
        schedule
    }

    /// The same with only these faults.
    #[must_use]
    pub fn keep(&self, kept: &[usize]) -> Self {
        let faults = self.faults.iter().filter(|timed| kept.contains(&timed.number));
        Self { kept: Some(kept.to_vec()), faults: faults.cloned().collect(), ..self.clone() }
    }

    fn fault(&self, kind: u64, dice: &mut Dice) -> Fault {
        let node = |dice: &mut Dice| dice.within(1..=self.nodes);
        let target = |dice: &mut Dice| match dice.within(0..=3) {
            0 => Target::Node(dice.within(1..=self.nodes)),
            1 => Target::Follower(dice.within(0..=self.nodes - 2)),
            _ => Target::Leader,
        };
        let some = |dice: &mut Dice| {
            let all: Vec<u64> = (1..=self.nodes).collect();
            let some: Vec<u64> = all.iter().copied().filter(|_| dice.hits(500_000)).collect();
            if some.is_empty() { all } else { some }
        };
        match kind {
            0 => Fault::Kill(target(dice)),
            1 => Fault::ShutDown(target(dice)),
            2 => Fault::PowerCut(target(dice)),
            3 => Fault::PowerCutAll,
            4 => Fault::PowerCutAt(target(dice), dice.within(0..=40)),
            5 => Fault::BrownOut(some(dice)),
            6 => Fault::Freeze(target(dice)),
            7 => Fault::FreezeClient(dice.within(0..=self.clients - 1)),
            8 => Fault::Partition(some(dice)),
            9 => {
                let from = node(dice);
                let to = (from + dice.within(0..=self.nodes - 2)) % self.nodes + 1;
                Fault::OneWay(from, to)
            }
            10 => Fault::Deaf(target(dice)),
            11 => Fault::Mute(target(dice)),
            12 | 13 => Fault::BadLinks {
                max_ms: *dice.pick(&[5, 30, 200]),
                loss_ppm: *dice.pick(&[0, 10_000, 100_000]),
                late_ppm: *dice.pick(&[0, 50_000, 200_000]),
                late_ms: *dice.pick(&[50, 400, 2_500]),
                repeat_ppm: *dice.pick(&[0, 100_000, 400_000]),
            },
            14 => Fault::SlowDisk(target(dice), *dice.pick(&[50, 300, 2_000])),
            15 => Fault::FullDisk(target(dice)),
            16 => Fault::BadDisk(target(dice)),
            17 => {
                let off = u64::from(self.rho_ppm);
                let rate = dice.within(1_000_000 - off..=1_000_000 + off);
                Fault::Clock(node(dice), u32::try_from(rate).expect("about a million"))
            }
            _ => Fault::Transfer(node(dice)),
        }
    }
}

/// The number of kinds that [`Schedule::fault`] distinguishes.
const KINDS: u64 = 19;
