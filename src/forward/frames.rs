//! A parser of answers from a response body, one frame each, within the node's budget of bytes.

use bytes::{Buf as _, Bytes, BytesMut};

use super::wire::{WireError, frame_head};
use crate::budget::{Budget, Share};

/// The bytes of one answer, counted in the budget until they are dropped.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) bytes: Bytes,
    pub(super) _share: Share,
}

/// An answer, with the number of its request. `None` stands for an answer that was too large for
/// the rest of the budget and was dropped on arrival.
pub(super) type Numbered = (usize, Option<Encoded>);

/// Splits the body of a response into frames.
pub(super) struct Frames {
    budget: Budget,
    buffer: BytesMut,
    /// The bytes still to skip of a frame that did not fit.
    to_skip: usize,
    /// The share of the frame that is being received.
    share: Option<Share>,
}

impl Frames {
    pub(super) fn new(budget: Budget) -> Self {
        Self { budget, buffer: BytesMut::new(), to_skip: 0, share: None }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let skipped = self.to_skip.min(bytes.len());
        self.to_skip -= skipped;
        self.buffer.extend_from_slice(&bytes[skipped..]);
    }

    /// The next answer in the buffer; `None` if it is incomplete.
    pub(super) fn next(&mut self) -> Result<Option<Numbered>, WireError> {
        let Some(head) = frame_head(&self.buffer)? else { return Ok(None) };
        if self.share.is_none() {
            self.share = self.budget.take(head.payload);
        }
        if self.share.is_none() {
            let here = self.buffer.len().min(head.bytes + head.payload);
            self.to_skip = head.bytes + head.payload - here;
            self.buffer.advance(here);
            return Ok(Some((head.number, None)));
        }
        let whole = head.bytes + head.payload;
        if self.buffer.len() < whole {
            self.buffer.reserve(whole - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(head.bytes);
        let bytes = self.buffer.split_to(head.payload).freeze();
        let share = self.share.take().expect("it was just taken");
        Ok(Some((head.number, Some(Encoded { bytes, _share: share }))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::wire::{Answer, decode_answer, encode_answer};
    use crate::lock::View;
    use crate::types::{TableDefaults, TableInfo, TablesResponse};

    #[test]
    fn frames_are_read_however_they_are_cut() {
        let frames: Vec<u8> =
            [3, 0, 7].iter().flat_map(|n| encode_answer(*n, &Ok(Answer::Advanced))).collect();
        for cut in 0..frames.len() {
            let mut reader = Frames::new(Budget::default());
            let mut numbers = Vec::new();
            for part in [&frames[..cut], &frames[cut..]] {
                reader.push(part);
                while let Some((number, answer)) = reader.next().unwrap() {
                    assert_eq!(
                        decode_answer(&answer.unwrap().bytes).unwrap(),
                        Ok(Answer::Advanced)
                    );
                    numbers.push(number);
                }
            }
            assert_eq!(numbers, [3, 0, 7]);
        }
    }

    #[test]
    fn an_answer_without_room_is_thrown_away_and_the_next_one_read() {
        let names = vec!["x".repeat(1000); 40];
        let defaults = TableDefaults::default();
        let tables = names.iter().map(|name| TableInfo { table: name.clone(), defaults, locks: 0 });
        let tables = TablesResponse { tables: tables.collect(), next: None, decided_at: None };
        let tables = Ok(Answer::View(View::Tables(tables)));
        let mut frames = encode_answer(1, &tables).to_vec();
        frames.extend_from_slice(&encode_answer(2, &Ok(Answer::Advanced)));
        let budget = Budget::new(64 << 10);
        let share = budget.take(60 << 10);
        let mut reader = Frames::new(budget.clone());
        let mut read = Vec::new();
        for part in frames.chunks(777) {
            reader.push(part);
            assert!(reader.buffer.len() < 2000, "nothing of it is kept");
            while let Some((number, answer)) = reader.next().unwrap() {
                read.push((number, answer.is_some()));
            }
        }
        assert_eq!(read, [(1, false), (2, true)]);
        drop(share);
        let mut reader = Frames::new(budget);
        reader.push(&frames);
        assert!(matches!(reader.next(), Ok(Some((1, Some(_))))));
    }
}
