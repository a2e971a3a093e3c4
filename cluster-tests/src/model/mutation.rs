//! Deliberate mistakes, which show that the properties can fail.

use clap::ValueEnum;

/// A mistake in the protocol. The mistakes in the lock machine itself are patches, in
/// `cluster-tests/mutations/`; two of them add themselves to this list.
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
}

impl Mutation {
    /// The property that must be found broken; another one may be broken as well.
    pub fn breaks(self) -> &'static str {
        use super::properties as of;
        match self {
            Self::StampBeforeBlank => of::LATE,
            Self::OldBaseReused | Self::FollowerAdvances => of::EARLY,
            Self::CountedFromAnswer => of::BELIEF,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
