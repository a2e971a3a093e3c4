//! Bugs that are planted on purpose, so that the tests that look for bugs can be tested themselves.
//!
//! Production code calls [`active`] at the one place where a bug of the name would be made. Without
//! the feature `planted-bugs`, which no release enables, that is a constant `false`, and nothing of
//! it is left in the program. With it, the environment variable `KEYWARD_PLANTED_BUG` selects one
//! bug for the whole process; `none` selects the same program without any.
//!
//! Each bug is a plausible mistake that breaks a promise of `docs/guarantees.md`.
//! `scripts/find-planted` names the tests that have to find it.

/// Names the bug of this process: one of [`Bug::ALL`], or `none`.
#[cfg(feature = "planted-bugs")]
pub const VARIABLE: &str = "KEYWARD_PLANTED_BUG";

macro_rules! bugs {
    ($($(#[doc = $what:literal])+ $bug:ident = $name:literal,)+) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug {
            $($(#[doc = $what])+ $bug,)+
        }

        #[cfg(feature = "planted-bugs")]
        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$bug,)+];

            /// Its name, in the variable and in tables.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$bug => $name,)+ }
            }

            /// The defect, in one sentence.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$bug => concat!($($what),+).trim_ascii(),)+ }
            }
        }
    };
}

bugs! {
    /// An append is reported durable before it was synced.
    AckBeforeFsync = "ack-before-fsync",
    /// A vote is reported durable and was never synced.
    VoteNotSynced = "vote-not-synced",
    /// A leader stamps with the wall clock.
    WallClockStamps = "wall-clock-stamps",
    /// An entry whose stamp is of another term has its effect all the same.
    StaleStampAccepted = "stale-stamp-accepted",
    /// A leader stamps before its own blank entry of the term was applied.
    StampBeforeBlank = "stamp-before-blank",
    /// A leader that is elected again goes on from the base of its earlier term.
    OldBaseReused = "old-base-reused",
    /// A follower proposes the cluster clock's advance, by its own clock.
    FollowerAdvances = "follower-advances",
    /// A follower stamps what it forwards, and the leader believes it.
    StampForwarded = "stamp-forwarded",
    /// A renewal revives a grant that has expired.
    RenewalRevives = "renewal-revives",
    /// A renewal by token takes the lock if nobody has it.
    RenewOnlyCreates = "renew-only-creates",
    /// An unlock frees a later grant of the same owner than the one whose token it names.
    UnlockByName = "unlock-by-name",
    /// An owner that comes back after the grant expired keeps the old token.
    ExpiredKeepsToken = "expired-keeps-token",
    /// The token comes from a counter of the node's own.
    TokenFromNode = "token-from-node",
    /// A repeated request is judged anew.
    RepeatJudgedAnew = "repeat-judged-anew",
    /// A request that continues a forgotten lane is judged as new.
    ForgottenLaneIsNew = "forgotten-lane-is-new",
    /// A repeated answer tells the remaining time of the first one.
    StoredRemainingTime = "stored-remaining-time",
    /// Request lanes are not in the snapshot.
    LanesNotInSnapshot = "lanes-not-in-snapshot",
    /// A follower answers reads from its own state.
    LocalRead = "local-read",
    /// A leader answers reads without asking whether it still leads.
    UnconfirmedRead = "unconfirmed-read",
    /// An answer that was in flight before a read was asked for confirms it.
    OldAckConfirmsRead = "old-ack-confirms-read",
    /// A forwarded request whose answer is cut off is reported as certainly not done.
    CutOffIsUnavailable = "cut-off-is-unavailable",
    /// The log is purged up to a snapshot that is not durable.
    SnapshotNotSynced = "snapshot-not-synced",
    /// The log forgets a truncation when it is opened again.
    TruncationForgotten = "truncation-forgotten",
    /// A read of the log gives fewer entries than its caller wants, and says nothing.
    ChunkCutShort = "chunk-cut-short",
    /// The log believes records whose checksum does not match.
    ChecksumIgnored = "checksum-ignored",
    /// Damage in the middle of the log is taken for the torn tail of a crash.
    DamageTakenForTail = "damage-taken-for-tail",
    /// The checkpoint is believed although its records do not add up.
    CheckpointNotCounted = "checkpoint-not-counted",
    /// A node that lost its folder comes back under its id.
    IdReusedAfterWipe = "id-reused-after-wipe",
    /// A folder that was put back from an old copy is not noticed.
    BootNumberIgnored = "boot-number-ignored",
    /// A copy of a folder that was made while its node ran is taken for the folder.
    CopyOfRunningFolderAccepted = "copy-of-running-folder-accepted",
    /// A client counts its remaining time from when the answer came.
    CountedFromAnswer = "counted-from-answer",
    /// A client believes in the old end of its grant while a shorter renewal is unanswered.
    RenewalNotFeared = "renewal-not-feared",
}

/// Whether this bug is planted.
#[cfg(not(feature = "planted-bugs"))]
#[inline]
pub(crate) const fn active(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use planting::{active, announce, chosen, step_wall_clock, wall_clock};

#[cfg(feature = "planted-bugs")]
mod planting {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::{Bug, VARIABLE};

    /// How far [`step_wall_clock`] has moved the wall clock, in milliseconds.
    static WALL_STEP_MS: AtomicU64 = AtomicU64::new(0);

    /// Whether this bug is planted.
    pub fn active(bug: Bug) -> bool {
        chosen() == Some(bug)
    }

    /// The bug of this process.
    ///
    /// # Panics
    /// If the variable names a bug that does not exist: a hunt for it would prove nothing.
    pub fn chosen() -> Option<Bug> {
        static CHOSEN: OnceLock<Option<Bug>> = OnceLock::new();
        *CHOSEN.get_or_init(|| match std::env::var(VARIABLE).as_deref() {
            Err(_) | Ok("none") => None,
            Ok(name) => {
                let found = Bug::ALL.iter().find(|bug| bug.name() == name);
                Some(*found.unwrap_or_else(|| panic!("{VARIABLE}: there is no bug `{name}`")))
            }
        })
    }

    /// Logs which bug is planted.
    ///
    /// # Errors
    /// If none was selected: such a program must not serve by mistake.
    pub fn announce() -> Result<(), String> {
        if std::env::var_os(VARIABLE).is_none() {
            return Err(format!(
                "this program was built with planted bugs and must not serve anybody; to test \
                 tests with it, set {VARIABLE} to a bug or to `none`"
            ));
        }
        if let Some(bug) = chosen() {
            tracing::error!(bug = bug.name(), "PLANTED BUG, on purpose: {}", bug.what());
        } else {
            tracing::error!("built with planted bugs; none is active");
        }
        Ok(())
    }

    /// The wall clock, as stepped by tests.
    #[allow(clippy::disallowed_methods, reason = "reading it is the bug")]
    pub fn wall_clock() -> Duration {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        since + Duration::from_millis(WALL_STEP_MS.load(Ordering::SeqCst))
    }

    /// Steps the wall clock of this process forward.
    pub fn step_wall_clock(by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        WALL_STEP_MS.fetch_add(by, Ordering::SeqCst);
    }
}
