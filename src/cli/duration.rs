//! Durations as people write them: a number and a unit, such as `500ms`, `30s` or `1h30m`.
//!
//! A number without a unit is refused: `30` could be seconds or milliseconds, and a lock that
//! expires after a thousandth of the intended time may have two holders.

use std::fmt::Write as _;
use std::time::Duration;

use crate::types::TimeToLive;

/// Each unit and how many milliseconds it has, largest first.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a duration in whole milliseconds: `250ms`, `1.5s`, `1h30m`.
///
/// # Errors
/// What is wrong with it and how to write it.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = |what: &str| format!("{what}; write it as 500ms, 30s, 5m, 1h30m or 7d");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong("a duration is missing"));
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        if unit.is_empty() && !number.is_empty() && tail.is_empty() {
            return Err(wrong(&format!("`{text}` has no unit")));
        }
        let (_, scale) = UNITS
            .into_iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| wrong(&format!("`{text}` is not a duration")))?;
        total = milliseconds(number, scale)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| wrong(&format!("`{text}` is not a duration of whole milliseconds")))?;
        rest = tail;
    }
    Ok(Duration::from_millis(total))
}

/// `number` times `scale`, if that is a whole number of milliseconds: decimal arithmetic, so that
/// `0.1s` is exactly 100 ms.
fn milliseconds(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    let digits = u32::try_from(fraction.len()).ok()?;
    let over = 10u64.checked_pow(digits)?;
    let part = fraction.parse::<u64>().ok()?.checked_mul(scale)?;
    if part % over != 0 { None } else { whole.checked_add(part / over) }
}

/// As [`parse`], for durations that must be longer than zero.
///
/// # Errors
/// As [`parse`], and for zero.
pub(crate) fn parse_positive(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        Duration::ZERO => Err("it must be longer than 0".to_owned()),
        duration => Ok(duration),
    }
}

/// As [`parse_positive`], or the word for never.
///
/// # Errors
/// As [`parse_positive`].
pub(crate) fn parse_time_to_live(text: &str) -> Result<TimeToLive, String> {
    if text.trim() == TimeToLive::NEVER_WORD {
        return Ok(TimeToLive::Never);
    }
    parse_positive(text).map(TimeToLive::For)
}

/// Writes a duration so that [`parse`] reads it back: `1h30m`, `2.500s` as `2s500ms`.
pub(crate) fn format(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, scale) in UNITS {
        let count = left / scale;
        left %= scale;
        if count > 0 {
            // Writing to a string does not fail.
            let _ = write!(text, "{count}{unit}");
        }
    }
    text
}

/// Writes a duration for reading only, with about three digits: `29.8s`, `4m12s`, `6d3h`.
pub(crate) fn format_short(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{}m{:02}s", ms / 60_000, ms % 60_000 / 1_000),
        3_600_000..86_400_000 => format!("{}h{:02}m", ms / 3_600_000, ms % 3_600_000 / 60_000),
        _ => format!("{}d{:02}h", ms / 86_400_000, ms % 86_400_000 / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        let table = [
            ("500ms", 500),
            ("30s", 30_000),
            ("1.5s", 1_500),
            ("0.1s", 100),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            (" 2s ", 2_000),
            ("0s", 0),
        ];
        for (text, ms) in table {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn none_is_a_time_to_live() {
        assert_eq!(parse_time_to_live("none"), Ok(TimeToLive::Never));
        assert_eq!(parse_time_to_live("2s"), Ok(TimeToLive::For(Duration::from_secs(2))));
    }

    #[test]
    fn refuses_what_could_be_misread() {
        let table =
            ["", "30", "s", "-1s", "1.s", ".5s", "1x", "1s2", "0.5ms", "99999999999999999d", "1 s"];
        for text in table {
            let error = parse(text).expect_err(text);
            assert!(error.contains("write it as"), "{text}: {error}");
        }
        assert_eq!(parse("30").expect_err("no unit").split(';').next(), Some("`30` has no unit"));
        assert!(parse_positive("0s").is_err());
        assert!(parse_time_to_live("0s").is_err());
        assert!(parse_time_to_live("never").is_err());
    }

    #[test]
    fn writes_what_it_reads() {
        for ms in [0, 1, 999, 1_000, 2_500, 60_000, 5_400_000, 90_061_001] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse(&format(duration)), Ok(duration), "{}", format(duration));
        }
        assert_eq!(format_short(Duration::from_millis(29_870)), "29.8s");
        assert_eq!(format_short(Duration::from_secs(252)), "4m12s");
    }
}
