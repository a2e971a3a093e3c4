//! What is broken on purpose, to see that the properties can fail.

use clap::ValueEnum;

/// A mistake in the protocol, or in the lock machine if it was built with planted bugs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Mutation {
    /// A leader stamps before its own blank entry is applied, from the clock as it happens to be.
    StampBeforeBlank,
    /// A leader that is elected again stamps from the base of its earlier term.
    OldBaseReused,
    /// A follower tells the leader what time it is, by its own clock.
    FollowerAdvances,
    /// A client counts its time from when the answer came.
    CountedFromAnswer,
    /// The lock machine lets a stamp of another term have its effect.
    StaleStampAccepted,
    /// The lock machine lets a renewal revive what has expired.
    RenewalRevives,
}

impl Mutation {
    /// The property that must be found broken; another one may be broken as well.
    pub fn breaks(self) -> &'static str {
        use super::properties as of;
        match self {
            Self::StampBeforeBlank => of::LATE,
            Self::OldBaseReused | Self::FollowerAdvances => of::EARLY,
            Self::CountedFromAnswer => of::BELIEF,
            Self::StaleStampAccepted => of::STALE,
            Self::RenewalRevives => of::DEAD,
        }
    }

    /// What it is called on the command line and, if the lock machine has it, as a planted bug.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it is the lock machine that is broken, by a bug planted in it, and not the model.
    pub fn is_planted(self) -> bool {
        match self {
            Self::StaleStampAccepted | Self::RenewalRevives => true,
            Self::StampBeforeBlank
            | Self::OldBaseReused
            | Self::FollowerAdvances
            | Self::CountedFromAnswer => false,
        }
    }
}
