//! The invariants of every world, and the situations that a walk must have reached.

use stateright::Property;

use super::{Cluster, World};

/// At most one holder at each log position.
pub const HOLDER: &str = "one holder at each log position";
/// No grant ends before its duration of real time.
pub const EARLY: &str = "no early expiry";
/// Each new grant has a larger token.
pub const TOKEN: &str = "tokens strictly grow";
/// A stamp of another term than its entry's has no effect.
pub const STALE: &str = "a stale stamp has no effect";
/// The cluster clock never goes back.
pub const CLOCK: &str = "the cluster clock never goes back";
/// The leader's time is behind real time by its rate, and by leader changes, and by nothing else.
pub const LATE: &str = "late expiry is bounded";
/// An expired grant is never live again.
pub const DEAD: &str = "a dead grant is never revived";
/// A client that believes to hold the lock holds it.
pub const BELIEF: &str = "whoever believes to hold the lock holds it";

/// Each property, by its name.
pub(super) fn all() -> Vec<Property<Cluster>> {
    vec![
        Property::always(HOLDER, |_, world: &World| world.machine.holders() <= 1),
        Property::always(EARLY, |_, world: &World| !world.seen.wrong.early),
        Property::always(TOKEN, |_, world: &World| !world.seen.wrong.token),
        Property::always(STALE, |_, world: &World| !world.seen.wrong.stale),
        Property::always(CLOCK, |_, world: &World| !world.seen.wrong.clock),
        Property::always(LATE, |cluster: &Cluster, world: &World| {
            world.behind_us(cluster.mutation).is_none_or(|behind| behind == 0)
        }),
        Property::always(DEAD, |_, world: &World| !world.seen.wrong.revived),
        Property::always(BELIEF, |_, world: &World| {
            (0..world.clients.len()).all(|number| {
                world.believed(number).is_none_or(|belief| {
                    let holder = world.machine.holder();
                    holder.is_some_and(|holder| {
                        holder.client == number && holder.token == belief.token && !holder.expired
                    })
                })
            })
        }),
        Property::sometimes("a grant expires", |_, world: &World| world.seen.met.expiry),
        Property::sometimes("a grant is renewed", |_, world: &World| world.seen.met.renewal),
        Property::sometimes("a stale stamp comes into the log", |_, world: &World| {
            world.seen.met.stale
        }),
        Property::sometimes(
            "the last term has a leader that stamps",
            |cluster: &Cluster, world: &World| world.is_late_in_history(cluster.bounds.terms),
        ),
        Property::sometimes("a client believes in a second grant", |_, world: &World| {
            (0..world.clients.len())
                .any(|number| world.believed(number).is_some_and(|belief| belief.token > 1))
        }),
    ]
}
