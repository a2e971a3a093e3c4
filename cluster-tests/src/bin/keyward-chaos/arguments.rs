//! Parsers of command-line values.

use std::path::PathBuf;
use std::time::Duration;

/// `60s`, `500ms`, `5m`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let wrong = || format!("`{text}` is not a duration such as 500ms, 60s, 5m or 2h");
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let milliseconds = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let milliseconds = number.checked_mul(milliseconds).ok_or_else(wrong)?;
    if milliseconds == 0 {
        return Err(String::from("a duration of zero does nothing"));
    }
    Ok(Duration::from_millis(milliseconds))
}

/// `10%`, in parts per million.
pub(crate) fn percent(text: &str) -> Result<u32, String> {
    let ppm = signed_percent(text)?;
    u32::try_from(ppm).map_err(|_| format!("`{text}` is negative"))
}

/// `+10%` or `-2.5%`, in parts per million; less than a half.
pub(crate) fn signed_percent(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is not a share below 50 % such as 10% or -2.5%");
    let number: f64 = text.strip_suffix('%').and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
    if number.abs() >= 50.0 || number.is_nan() {
        return Err(wrong());
    }
    #[expect(clippy::cast_possible_truncation, reason = "below half a million")]
    Ok((number * 10_000.0).round() as i64)
}

/// The `keyward` program: the one that is named, or the one beside this program.
pub(crate) fn program(named: Option<&PathBuf>) -> Result<PathBuf, String> {
    let found = match named {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .map_err(|error| format!("this program does not know where it is: {error}"))?
            .with_file_name("keyward"),
    };
    if !found.is_file() {
        return Err(format!("there is no program {}: name it with --binary", found.display()));
    }
    std::path::absolute(&found).map_err(|error| format!("{}: {error}", found.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for wrong in ["", "5", "s", "5d", "-5s", "0s", "1.5s", "99999999999999999999h"] {
            duration(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn shares_are_percent() {
        assert_eq!(signed_percent("-2.5%"), Ok(-25_000));
        assert_eq!(percent("10%"), Ok(100_000));
        for wrong in ["10", "%", "x%", "50%", "NaN%"] {
            signed_percent(wrong).expect_err(wrong);
        }
        percent("-1%").expect_err("it is negative");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let missing = PathBuf::from("/nowhere/keyward");
        assert!(program(Some(&missing)).expect_err("missing").contains("/nowhere/keyward"));
    }
}
