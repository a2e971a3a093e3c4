//! Which records changed since the checkpoint last asked.

/// What the checkpoint must write to get from one applied index to a later one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Everything that is not a record: the cluster clock, the next token, counters.
    pub meta: Vec<u8>,
    /// Records in key order: a new value, or `None` for a record that is gone. No key is longer
    /// than 2.1 KiB and no value longer than 7 KiB.
    pub records: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}
