//! The limits of the service, from [`keyward::limits`], as the proof goes to them.
//!
//! [`deck`] draws from the list: each limit at its smallest, at its largest, beyond, and with text that
//! is unusual; [`mod@ask`] asks for it; [`reach`] counts where a run has been, and says what it did not
//! reach. None of them names a limit that it does not have to: one that is new in the list is demanded
//! of every run at once, and its draw is missing until there is one.

mod ask;
mod deck;
mod reach;

pub use ask::{Asker, ask};
pub use deck::{Card, Deck, End};
pub use reach::{Reach, Reached, Seen, Tally};
