//! The commands of a script and the notation of their arguments.
//!
//! The doc comment of each command is its reference. Names that are too long for a script are
//! written as a repetition: `"{x*1025}"` is the letter x 1025 times.

use std::str::FromStr;
use std::time::Duration;

use keyward_core::types::{Mode, RecordState, TimeToLive};

/// One line of a script.
#[derive(goldenscript::Command, Clone, Debug)]
pub(crate) enum Command {
    /// Opens the handle named by the line's prefix, with options of its own:
    /// `b: open table=other default_duration=5s default_time_to_live=60s`.
    /// Without a prefix it replaces the script's first handle.
    Open {
        #[arg(key)]
        table: Option<Name>,
        #[arg(key)]
        default_duration: Option<Length>,
        #[arg(key)]
        default_time_to_live: Option<Kept>,
    },
    /// Requests a lock: `lock jobs/nightly worker-1 level=5 duration=10s`, with the word `force` at
    /// the end to take it even if another owner holds it, with `token=t1` to renew only.
    Lock {
        signature: Name,
        signee: Name,
        force: Option<Force>,
        #[arg(key)]
        level: Option<i64>,
        #[arg(key)]
        duration: Option<Length>,
        #[arg(key)]
        time_to_live: Option<Kept>,
        #[arg(key)]
        token: Option<TokenWord>,
        #[arg(key)]
        instance: Option<Name>,
        #[arg(key)]
        table: Option<Name>,
        #[arg(key)]
        id: Option<Id>,
        /// `mode=shared`, or `mode=permits limit=3`.
        #[arg(key)]
        mode: Option<ModeWord>,
        #[arg(key)]
        limit: Option<u32>,
        /// Takes a place, which is told at once. Asked again with the same id, the request is
        /// answered with what became of it.
        #[arg(key)]
        wait: Option<Length>,
        #[arg(key)]
        session: Option<Name>,
        #[arg(key)]
        delay: Option<Length>,
        /// Waits beside the script, which goes on when the place is there. `answer NAME` shows the
        /// answer.
        #[arg(key)]
        call: Option<Name>,
        /// The longest real time of the call: it is answered with the place if that still stands.
        #[arg(key)]
        timeout: Option<Length>,
        /// Asks so many times, in batches: `lock a "w{n}" times=300` is asked by w00001 to w00300.
        #[arg(key)]
        times: Option<u32>,
    },
    /// Waits for the answer to the call of this name, and shows it: `answer one`.
    Answer(Name),
    /// The caller of this name goes away without its answer: `hang-up one`.
    #[command(name = "hang-up")]
    HangUp(Name),
    /// Waits until the place of a caller that went away is left, and shows whether it is:
    /// `await-leave one`.
    #[command(name = "await-leave")]
    AwaitLeave(Name),
    /// Releases a lock: `unlock jobs/nightly worker-1 token=t1`; with the word `force` at the end,
    /// the grant with this token, whoever has it, or with `place=worker-2` that signee's place.
    Unlock {
        signature: Name,
        signee: Name,
        force: Option<Force>,
        #[arg(key)]
        token: Option<TokenWord>,
        /// The place that the script last saw of this signee.
        #[arg(key)]
        place: Option<Name>,
        #[arg(key)]
        instance: Option<Name>,
        #[arg(key)]
        table: Option<Name>,
        #[arg(key)]
        id: Option<Id>,
        /// Asks so many times, as for `lock`.
        #[arg(key)]
        times: Option<u32>,
    },
    /// Reads one record: `check jobs/nightly`; with `places_after=2`, without the first two places;
    /// with the word `untimed`, without ages and remaining times.
    Check {
        signature: Name,
        untimed: Option<Untimed>,
        #[arg(key)]
        places_after: Option<u64>,
        #[arg(key)]
        table: Option<Name>,
    },
    /// Reads a page of records: `list prefix=jobs/ after=jobs/a limit=10`; with `state=held` or
    /// `state=expired`, only records in this state.
    List {
        #[arg(key)]
        prefix: Option<Name>,
        #[arg(key)]
        after: Option<Name>,
        #[arg(key)]
        limit: Option<u32>,
        #[arg(key)]
        state: Option<State>,
        #[arg(key)]
        table: Option<Name>,
    },
    /// Reads the tables of this script.
    Tables,
    /// Sets the values that a table supplies to later requests: `configure-table jobs duration=5s`.
    /// Without a name it is the handle's own table.
    #[command(name = "configure-table")]
    ConfigureTable {
        table: Option<Name>,
        #[arg(key)]
        duration: Option<Length>,
        #[arg(key)]
        time_to_live: Option<Kept>,
        #[arg(key)]
        id: Option<Id>,
        #[arg(key)]
        delay: Option<Length>,
        #[arg(key)]
        max_hold: Option<Length>,
    },
    /// Opens a session that the script calls by this name: `open-session s worker-1 ttl=10s`. If
    /// the service answers with a session that the script knows, its name is shown.
    #[command(name = "open-session")]
    OpenSession {
        name: Name,
        signee: Name,
        #[arg(key)]
        ttl: Option<Length>,
        #[arg(key)]
        instance: Option<Name>,
        #[arg(key)]
        id: Option<Id>,
    },
    /// Keeps a session alive and reads its inbox; what it shows was seen: `keep-alive s`.
    #[command(name = "keep-alive")]
    KeepAlive(Name),
    /// Closes a session: `close-session s`.
    #[command(name = "close-session")]
    CloseSession(Name),
    /// Reads the grants and the places of a session: `list-session s`; with `after=jobs/a limit=2`
    /// a page of them, of locks in the handle's table.
    #[command(name = "list-session")]
    ListSession {
        name: Name,
        #[arg(key)]
        after: Option<Name>,
        #[arg(key)]
        limit: Option<u32>,
    },
    /// Shows the cycles of owners that hold and wait, of locks of this script.
    Deadlocks,
    /// Changes the limit of a lock: `set-limit jobs/pool 3`.
    #[command(name = "set-limit")]
    SetLimit { signature: Name, limit: u32 },
    /// Whether a token is live: `verify jobs/nightly token=t1`.
    Verify {
        signature: Name,
        #[arg(key)]
        token: Option<TokenWord>,
    },
    /// Deletes a table with its records and its defaults: `delete-table jobs`. Without a name it is
    /// the handle's own table.
    #[command(name = "delete-table")]
    DeleteTable {
        table: Option<Name>,
        #[arg(key)]
        id: Option<Id>,
    },
    /// Lets time pass: `advance 3s`.
    Advance(Length),
    /// Changes the default duration of the handle: `default-duration 5s`.
    #[command(name = "default-duration")]
    DefaultDuration(Length),
}

/// The mode of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ModeWord(pub(crate) Mode);

impl FromStr for ModeWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let modes = [Mode::Exclusive, Mode::Shared, Mode::Permits];
        let mode = modes.into_iter().find(|mode| mode.word() == text);
        mode.map(Self).ok_or_else(|| format!("{text:?} is no mode"))
    }
}

/// The word `force`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Force;

impl FromStr for Force {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "force" { Ok(Self) } else { Err(format!("expected force, found {text:?}")) }
    }
}

/// The word `untimed`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Untimed;

impl FromStr for Untimed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "untimed" { Ok(Self) } else { Err(format!("expected untimed, found {text:?}")) }
    }
}

/// The longest name that a repetition may have, in bytes: far more than is allowed, and too little
/// to exhaust a machine's memory.
const MAX_REPEATED: usize = 64 * 1024;

/// A signature, a signee, an instance or a table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Name {
    pub(crate) text: String,
    /// Written as a repetition: its length matters, not its letters.
    repeated: bool,
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(inner) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            return Ok(Self { text: text.to_owned(), repeated: false });
        };
        let (part, times) = inner
            .rsplit_once('*')
            .ok_or_else(|| format!("{text:?} is not a repetition such as {{x*1025}}"))?;
        let times: usize = times.parse().map_err(|error| format!("in {text:?}: {error}"))?;
        if part.len().saturating_mul(times) > MAX_REPEATED {
            return Err(format!("{text:?} is longer than {MAX_REPEATED} bytes"));
        }
        Ok(Self { text: part.repeat(times), repeated: true })
    }
}

impl Name {
    /// The name as a table of this run, with the run's prefix. An empty name stays empty, and a
    /// repetition keeps the length that the script gives it, because both are there to be judged.
    pub(crate) fn table(&self, prefix: &str) -> String {
        if self.text.is_empty() {
            return String::new();
        }
        let skip = if self.repeated { prefix.len().min(self.text.len()) } else { 0 };
        let rest = self.text.get(skip..).unwrap_or(&self.text);
        format!("{prefix}{rest}")
    }
}

/// A length of time: `10s`, `1ms`, `5m`, `2h`, `366d`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Length(pub(crate) Duration);

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|error| format!("in {text:?}: {error}"))?;
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            "d" => 24 * 60 * 60 * 1000,
            _ => return Err(format!("{text:?} is not a time such as 10s, 1ms or 366d")),
        };
        Ok(Self(Duration::from_millis(number.saturating_mul(unit_ms))))
    }
}

/// The time for which a record is kept: a length, or `none` for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kept(pub(crate) TimeToLive);

impl FromStr for Kept {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == TimeToLive::NEVER_WORD {
            return Ok(Self(TimeToLive::Never));
        }
        text.parse::<Length>().map(|length| Self(length.0.into()))
    }
}

/// The records that a page shows: `held` or `expired`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State(pub(crate) RecordState);

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "held" => Ok(Self(RecordState::Held)),
            "expired" => Ok(Self(RecordState::Expired)),
            _ => Err(format!("expected held or expired, found {text:?}")),
        }
    }
}

/// A token: `t1` is the first that the script's output shows; a number is that token itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TokenWord {
    Shown(usize),
    Number(u64),
}

impl FromStr for TokenWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |error| format!("{text:?} is not a token such as t1: {error}");
        match text.strip_prefix('t') {
            Some(number) => Ok(Self::Shown(number.parse().map_err(error)?)),
            None => Ok(Self::Number(text.parse().map_err(error)?)),
        }
    }
}

/// A request id: `a@1` is number 1 of the lane that the script calls a; the run generates the
/// lanes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Id {
    pub(crate) lane: String,
    pub(crate) seq: u64,
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (lane, seq) =
            text.rsplit_once('@').ok_or_else(|| format!("{text:?} is not an id such as a@1"))?;
        let seq = seq.parse().map_err(|error| format!("in {text:?}: {error}"))?;
        Ok(Self { lane: lane.to_owned(), seq })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_is_written_out() {
        let name: Name = "{ab*3}".parse().unwrap();
        assert_eq!(name.text, "ababab");
        assert!("{ab}".parse::<Name>().is_err());
    }

    #[test]
    fn a_repetition_that_no_memory_holds_is_refused() {
        for text in ["{ab*18446744073709551615}", "{a*9000000000000000000}", "{a*65537}"] {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_repeated_table_name_keeps_its_length_behind_the_prefix() {
        let name: Name = "{x*1024}".parse().unwrap();
        assert_eq!(name.table("conformance/").len(), 1024);
        assert_eq!("jobs".parse::<Name>().unwrap().table("p/"), "p/jobs");
        assert_eq!("".parse::<Name>().unwrap().table("p/"), "");
    }

    #[test]
    fn lengths_have_units() {
        for (text, ms) in [("1ms", 1), ("10s", 10_000), ("5m", 300_000), ("1d", 86_400_000)] {
            assert_eq!(text.parse::<Length>().unwrap().0, Duration::from_millis(ms), "{text}");
        }
        assert!("10".parse::<Length>().is_err());
        assert!("s".parse::<Length>().is_err());
    }
}
