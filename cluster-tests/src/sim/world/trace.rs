//! The trace of a run, line by line; two runs of a seed have the same.

use std::fmt::{Arguments, Write};
use std::sync::{Mutex, PoisonError};

/// The lines of a run: kept whole if requested, and always as a digest.
pub(crate) struct Trace(Mutex<State>);

struct State {
    kept: Option<String>,
    line: String,
    digest: Digest,
}

/// The digest of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Digest {
    /// FNV-1a over all lines.
    pub hash: u64,
    /// The number of lines.
    pub lines: u64,
}

impl Trace {
    pub(crate) fn new(keep: bool) -> Self {
        let digest = Digest { hash: 0xcbf2_9ce4_8422_2325, lines: 0 };
        Self(Mutex::new(State { kept: keep.then(String::new), line: String::new(), digest }))
    }

    pub(crate) fn line(&self, line: Arguments<'_>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { kept, line: text, digest } = &mut *state;
        text.clear();
        writeln!(text, "{line}").expect("a string takes all");
        digest.lines += 1;
        for byte in text.bytes() {
            digest.hash = (digest.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(kept) = kept {
            kept.push_str(text);
        }
    }

    pub(crate) fn digest(&self) -> Digest {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).digest.clone()
    }

    /// The lines, if they were kept.
    pub(crate) fn take(&self) -> String {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.kept.as_mut().map(std::mem::take).unwrap_or_default()
    }
}
