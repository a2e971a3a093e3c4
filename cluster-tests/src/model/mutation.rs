//! Deliberate mistakes, which show that the properties can fail.

use clap::ValueEnum;

/// A mistake in the protocol, or in the lock machine if it was built with planted bugs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Mutation {
    /// A leader stamps before its own blank entry is applied, from the current value of its clock.
    StampBeforeBlank,
    /// A leader that is elected again stamps from the base of its earlier term.
    OldBaseReused,
    /// A follower sends the leader the time of its own clock.
    FollowerAdvances,
    /// A client counts its time from the arrival of the answer.
    CountedFromAnswer,
    /// The lock machine accepts a stamp of another term.
    StaleStampAccepted,
    /// The lock machine lets a renewal revive an expired grant.
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

    /// Its name on the command line and, if the lock machine has it, as a planted bug.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it is a bug planted in the lock machine, and not in the model.
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
