//! A model of the lock machine, the cluster clock and the change of leaders, small enough to be
//! walked whole.
//!
//! Two clients, three nodes, three terms, a bounded time: every order in which requests, stamps,
//! elections and the passing of time can come. The lock machine is the real one; each entry of the
//! model's log is applied by [`keyward::lock::State`]. What is modelled is what surrounds it: who
//! may append, when a leader begins to stamp and what from, clocks that run fast and slow within ρ,
//! and what a client believes about its own grant. `docs/model.md` says what is left out.
//!
//! [`world`] is the state and its steps, [`machine`] the lock machine in it, [`properties`] what must
//! hold, [`mutation`] what is broken on purpose to see that the properties can fail.

mod machine;
pub mod mutation;
pub mod properties;
pub mod world;

use stateright::{Model, Property};

pub use mutation::Mutation;
pub use world::{Action, World};

/// The length of a tick in microseconds of real time.
pub const TICK_US: u64 = 10_000;
/// How many ticks a grant lasts.
pub const DURATION_TICKS: u64 = 2;
/// ρ in per cent: large, so that a short run of ticks shows it.
pub const RHO_PERCENT: u64 = 10;
/// How fast each node's clock runs, in per cent: as fast, as slow as ρ allows, and right.
pub const NODE_RATES: [u64; 3] = [110, 90, 100];
/// How fast each client's clock runs, in per cent. A slow one believes for too long.
pub const CLIENT_RATES: [u64; 2] = [90, 110];

/// How far the model is walked.
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

/// The model: its bounds, and what is broken in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cluster {
    /// How far it is walked.
    pub bounds: Bounds,
    /// What is broken, if anything.
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
