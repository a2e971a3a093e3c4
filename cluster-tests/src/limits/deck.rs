//! The requests at the limits: a deck of cards, shuffled by a seed and drawn in a cycle.

use std::fmt;

use keyward::limits::{self, BATCH, BATCH_BYTES, Beyond, Limit, PLACES, Proof, TOLD_ITEMS, Unit};

use super::Reached;

/// The position of a value relative to its limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The smallest allowed value.
    Smallest,
    /// The largest allowed value.
    Largest,
    /// A value beyond the limit, on either side.
    Beyond,
    /// An allowed but unusual value: text of several bytes a character, quotes, control characters.
    Odd,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Smallest => "smallest",
            Self::Largest => "largest",
            Self::Beyond => "beyond",
            Self::Odd => "odd",
        })
    }
}

/// A request to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Card {
    /// A request with one value at this end of its limit.
    Value(Limit, End),
    /// A batch of this many requests.
    Batch(usize),
    /// A batch of this many requests with names of full length: the largest body there is, and
    /// another.
    FullBatch(usize),
    /// A queue of as many places as there may be.
    Crowd,
    /// An inbox with more items than an answer tells.
    Inbox,
}

/// The sizes of batches: one, a few, and about as many as fit into one chunk of something.
const BATCHES: [usize; 5] = [2, 3, 10, 11, 257];

/// The number of full-length requests: slightly more than one body of a batch can contain.
const FULL: usize = 520;

impl Card {
    /// All cards, from the list of limits.
    pub fn all() -> Vec<Self> {
        let mut all: Vec<Self> = BATCHES.into_iter().map(Self::Batch).collect();
        for &limit in limits::ALL {
            match limit.proof {
                Proof::Asked if limit == BATCH => {
                    let [one, most] = [limit.smallest, limit.largest].map(usize::try_from);
                    all.extend([one, most].into_iter().flatten().map(Self::Batch));
                }
                Proof::Asked => {
                    all.extend([End::Smallest, End::Largest].map(|end| Self::Value(limit, end)));
                    if limit.beyond == Beyond::Refused {
                        all.push(Self::Value(limit, End::Beyond));
                    }
                    if limit.unit == Unit::TextBytes {
                        all.push(Self::Value(limit, End::Odd));
                    }
                }
                Proof::Worked if limit == BATCH_BYTES => all.push(Self::FullBatch(FULL)),
                Proof::Worked if limit == PLACES => all.push(Self::Crowd),
                Proof::Worked if limit == TOLD_ITEMS => all.push(Self::Inbox),
                Proof::Worked | Proof::Tested(_) => {}
            }
        }
        all
    }

    /// The end of a limit that it is there for, if there is one.
    pub fn goal(self) -> Option<(Limit, End)> {
        match self {
            Self::Value(_, End::Odd) => None,
            Self::FullBatch(_) => Some((BATCH_BYTES, End::Largest)),
            Self::Crowd => Some((PLACES, End::Largest)),
            Self::Inbox => Some((TOLD_ITEMS, End::Largest)),
            Self::Value(limit, end) => Some((limit, end)),
            Self::Batch(size) => {
                let ends = [(BATCH.smallest, End::Smallest), (BATCH.largest, End::Largest)];
                let end = ends.into_iter().find(|(value, _)| i128::try_from(size) == Ok(*value));
                end.map(|(_, end)| (BATCH, end))
            }
        }
    }

    /// Whether it costs more than hundreds of others.
    pub fn is_heavy(self) -> bool {
        matches!(self, Self::Batch(100..) | Self::FullBatch(_) | Self::Crowd | Self::Inbox)
    }
}

/// All cards, in random order; after the last comes the first.
#[derive(Clone, Debug)]
pub struct Deck {
    cards: Vec<Card>,
    next: usize,
}

impl Deck {
    /// Shuffles; `below` returns a number below its argument.
    pub fn shuffle(mut below: impl FnMut(u64) -> u64) -> Self {
        let mut cards = Card::all();
        for at in (1..cards.len()).rev() {
            let with = usize::try_from(below(at as u64 + 1)).unwrap_or(0);
            cards.swap(at, with.min(at));
        }
        Self { cards, next: 0 }
    }

    /// The next card.
    pub fn draw(&mut self) -> Card {
        let card = self.cards[self.next];
        self.next = (self.next + 1) % self.cards.len();
        card
    }

    /// The next card for a limit that the run has not reached; `None` if it has reached all. In a
    /// short run not every card would be drawn by chance.
    pub fn draw_missing(&mut self, reached: &Reached) -> Option<Card> {
        let is_missing =
            |card: Card| card.goal().is_some_and(|(limit, end)| !reached.has(limit, end));
        let turns = self.cards.len();
        (0..turns).map(|_| self.draw()).find(|card| is_missing(*card))
    }
}

/// Unusual text: characters of one to four bytes, characters that JSON escapes, terminal control
/// characters, and text that looks like a path, a query or an escape.
const ODD: [&str; 12] =
    ["\u{1}", "\n", "\"", "\\", "\u{7f}", "é", "字", "🔒", "\u{202e}", "%00", "?a=b&", "/../"];

/// A text of this many bytes; `variant` chooses among a few.
pub(super) fn text(bytes: usize, variant: u64) -> String {
    let mut text = String::with_capacity(bytes);
    if variant.is_multiple_of(2) {
        for piece in ODD.iter().cycle().skip(usize::try_from(variant % 12).unwrap_or(0)) {
            if text.len() + piece.len() > bytes {
                break;
            }
            text.push_str(piece);
        }
    }
    while text.len() < bytes {
        text.push('x');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Outcome, Refusal};
    use crate::limits::{Reach, Seen};

    #[test]
    fn texts_have_the_length_that_they_are_to_have() {
        for bytes in [0, 1, 2, 3, 5, 1023, 1024, 1025] {
            for variant in 0..8 {
                assert_eq!(text(bytes, variant).len(), bytes);
            }
        }
    }

    #[test]
    fn a_deck_has_each_card_of_the_list() {
        let mut deck = Deck::shuffle(|below| below / 2);
        let drawn: Vec<Card> = Card::all().iter().map(|_| deck.draw()).collect();
        for card in Card::all() {
            assert!(drawn.contains(&card), "{card:?}");
        }
        assert!(drawn.contains(&Card::Batch(1000)) && drawn.contains(&Card::Batch(1)));
    }

    #[test]
    fn what_a_run_has_to_reach_is_drawn_until_it_is() {
        let reach = Reach::default();
        let mut deck = Deck::shuffle(|below| below / 2);
        let missing = |reach: &Reach| reach.reached().missing(Seen::Asked).len();
        let mut left = missing(&reach);
        while let Some(card) = deck.draw_missing(&reach.reached()) {
            let (limit, end) = card.goal().unwrap();
            if limit.proof == Proof::Worked {
                reach.worked(limit, 1, 1);
                continue;
            }
            let (value, outcome) = match end {
                End::Smallest => (limit.smallest, Outcome::Ok(Answer::Released)),
                End::Largest => (limit.largest, Outcome::Ok(Answer::Released)),
                End::Beyond | End::Odd => {
                    (limit.largest + 1, Outcome::Refused(Refusal::BadRequest))
                }
            };
            reach.note(&[(limit, value)], &outcome);
            left -= 1;
            assert_eq!(missing(&reach), left, "{} {end}", limit.name);
        }
        assert_eq!(left, 0);
        for limit in [BATCH_BYTES, PLACES, TOLD_ITEMS] {
            assert!(reach.reached().has(limit, End::Largest), "{}", limit.name);
        }
    }
}
