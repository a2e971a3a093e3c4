//! The lock machine and its oracle, on histories in which the bytes make every choice.

use rand::RngCore;

use keyward::lock::State;
use keyward_oracle::history::{History, play};

/// The most bytes of a history, so that no input takes long: longer ones find nothing new.
const MOST_DRAWS: usize = 4096;

/// Plays two random histories on the lock machine and on its oracle, one of feature level 1 and one in
/// which requests wait. After each entry the machine's
/// indexes hold, and its bytes restore it.
pub fn machine(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(MOST_DRAWS)];
    let histories = [
        History::new(Drawn(bytes)),
        History::of_turns(Drawn(bytes)),
        History::of_access(Drawn(bytes)),
    ];
    for mut history in histories {
        play(
            &mut history,
            |drawn| !drawn.0.is_empty(),
            |state| {
                state.assert_invariants();
                let restored = State::decode(&state.encode());
                assert_eq!(restored.as_ref(), Ok(state), "it reads as it is written");
            },
        );
    }
}

/// A source of numbers that are read from bytes, with as few bytes for each as it takes to reach
/// every choice; zeros when there are no more.
struct Drawn<'a>(&'a [u8]);

impl Drawn<'_> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }
}

impl RngCore for Drawn<'_> {
    /// Reads one byte, repeated: a draw from few choices uses the upper bits.
    fn next_u32(&mut self) -> u32 {
        u32::from(self.byte()) * 0x0101_0101
    }

    fn next_u64(&mut self) -> u64 {
        u64::from(u16::from_be_bytes([self.byte(), self.byte()])) * 0x0001_0001_0001_0001
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        out.fill_with(|| self.byte());
    }
}
