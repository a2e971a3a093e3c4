//! A model of the lock machine, the cluster clock and the change of leaders, small enough to be
//! walked completely.
//!
//! Two clients, three nodes, three terms, a bounded time: every order in which requests, stamps,
//! elections and the passing of time can come. The lock machine is the real one; each entry of the
//! model's log is applied by [`keyward::lock::State`]. The model covers its surroundings: who may
//! append, when a leader begins to stamp and from which base, clocks that run fast and slow within
//! ρ, and the belief of a client about its own grant. `docs/model.md` lists what is left out.
//!
//! [`world`] is the state and its steps, [`machine`] the lock machine in it, [`properties`] the
//! invariants, [`mutation`] the deliberate mistakes that show that the properties can fail. [`turns`]
//! is a second, smaller model: of a queue, a session and the change of leaders.

mod machine;
pub mod mutation;
pub mod properties;
pub mod turns;
pub mod world;

use stateright::{Model, Property};

pub use mutation::Mutation;
pub use world::{Action, World};

/// The length of a tick in microseconds of real time.
pub const TICK_US: u64 = 10_000;
/// The duration of a grant in ticks.
pub const DURATION_TICKS: u64 = 2;
/// ρ in per cent: large, so that a short run of ticks shows it.
pub const RHO_PERCENT: u64 = 10;
/// The rate of each node's clock, in per cent: as fast as ρ allows, as slow as it allows, and
/// right.
pub const NODE_RATES: [u64; 3] = [110, 90, 100];
/// The rate of each client's clock, in per cent. A slow one believes for too long.
pub const CLIENT_RATES: [u64; 2] = [90, 110];

/// The bounds of the walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Ticks of real time.
    pub ticks: u8,
    /// Elections.
    pub terms: u8,
    /// Entries of the log, blank ones included.
    pub entries: u8,
    /// Requests of each client: the slow one and the fast one.
    pub requests: [u8; 2],
}

impl Default for Bounds {
    fn default() -> Self {
        Self { ticks: 4, terms: 3, entries: 6, requests: [2, 1] }
    }
}

/// The model: its bounds, and its mutation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cluster {
    /// The bounds of the walk.
    pub bounds: Bounds,
    /// The mutation, if any.
    pub mutation: Option<Mutation>,
}

impl Model for Cluster {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::default()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(*self, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        world.after(*self, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
