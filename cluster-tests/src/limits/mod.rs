//! The limits of the service, from [`keyward::limits`], as the proof exercises them.
//!
//! [`deck`] draws from the list: each limit at its smallest, at its largest, beyond, and with
//! unusual text; [`mod@ask`] sends the request, [`turns`]
//! those of queues and sessions; [`reach`] counts the limits that a run has reached,
//! and reports those that it has not. None of them names a limit without need: a new one in the
//! list is demanded of every run at once, and is reported as missing until it has a draw.

mod ask;
mod deck;
mod reach;
mod turns;
mod values;

pub use ask::{Asker, ask};
pub use deck::{Card, Deck, End};
pub use keyward::limits::{BATCH, BATCH_BYTES, PLACES};
pub use reach::{Reach, Reached, Seen, Tally};
pub use values::{of_call, of_command, of_query};
