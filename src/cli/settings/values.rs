//! The values of settings with a syntax of their own: parsed the same from a flag, a variable and
//! the file, and refused with the reason and an example.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use crate::cli::duration;
use crate::http::Rate;

/// How soon a dead leader is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Profile {
    /// Waits longer; suits busy or distant machines.
    Stable,
    /// Suits one quiet network.
    Fast,
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ValueEnum::from_str(text, false)
    }
}

/// What a node does while its audit cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AuditFailure {
    /// It refuses the requests that it would propose.
    Refuse,
    /// It goes on, and counts the lines that it drops.
    Drop,
}

impl FromStr for AuditFailure {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ValueEnum::from_str(text, false)
    }
}

/// Whether clients need a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClientCertificates {
    /// One that is shown is checked.
    Optional,
    /// A client without one is refused.
    #[default]
    Required,
}

/// A duration as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DurationText(pub(crate) Duration);

impl FromStr for DurationText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        duration::parse_positive(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

/// A rate as people write it: requests a second, and after a colon how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateText(pub(crate) Rate);

impl FromStr for RateText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a rate: write requests a second, such as 100, or with a colon how \
                 many may come at once, such as 100:500; both are from 1 to {}",
                u32::MAX
            )
        };
        let number = |text: &str| match text.parse() {
            Ok(number @ 1..) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
            _ => Err(wrong()),
        };
        let (per_second, burst) = text.split_once(':').unwrap_or((text, text));
        Ok(Self(Rate { per_second: number(per_second)?, burst: number(burst)? }))
    }
}

impl<'de> Deserialize<'de> for RateText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

/// The largest difference in speed between two clocks, in parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rho {
    pub(crate) parts_per_million: u32,
}

impl FromStr for Rho {
    type Err = String;

    /// Reads a share such as `1%` or `0.5%`: above zero, at most 10 %.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a share such as 1% or 0.5%, above 0% and up to 10%");
        let percent = text.trim().strip_suffix('%').ok_or_else(wrong)?.trim();
        let (whole, fraction) = percent.split_once('.').unwrap_or((percent, ""));
        if fraction.len() > 4 {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        // Four digits after the point of a percentage are millionths.
        let fraction: u32 = format!("{fraction:0<4}").parse().map_err(|_| wrong())?;
        let parts_per_million = whole
            .checked_mul(10_000)
            .and_then(|ppm| ppm.checked_add(fraction))
            .ok_or_else(wrong)?;
        if (1..=100_000).contains(&parts_per_million) {
            Ok(Self { parts_per_million })
        } else {
            Err(wrong())
        }
    }
}

impl<'de> Deserialize<'de> for Rho {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

/// Every node of the cluster: its id and its peer address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Members(pub(crate) BTreeMap<u64, String>);

impl Members {
    fn build(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, String> {
        let mut members = BTreeMap::new();
        for (id, address) in pairs {
            let number = match id.parse::<u64>() {
                Ok(number) if number > 0 => number,
                _ => return Err(format!("`{id}` is not a node id: ids count from 1")),
            };
            check_host_port(&address)?;
            if members.values().any(|other| *other == address) {
                return Err(format!("two members have the address {address}"));
            }
            if members.insert(number, address).is_some() {
                return Err(format!("two members have the id {number}"));
            }
        }
        if members.is_empty() {
            return Err("no member is named".to_owned());
        }
        Ok(Self(members))
    }
}

impl FromStr for Members {
    type Err = String;

    /// `1=a:7421,2=b:7421,3=c:7421`
    fn from_str(text: &str) -> Result<Self, String> {
        let pairs = text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
            .map(|pair| match pair.split_once('=') {
                Some((id, address)) => Ok((id.trim().to_owned(), address.trim().to_owned())),
                None => Err(format!("`{pair}` is not ID=HOST:PORT, such as 1=a.example:7421")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        Self::build(pairs)
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table such as { 1 = \"a:7421\", 2 = \"b:7421\" }")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry::<String, String>()? {
                    pairs.push(pair);
                }
                Members::build(pairs).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

fn from_text<'de, T: FromStr<Err = String>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

/// Splits `host:port`, `[v6]:port`.
///
/// # Errors
/// It is neither, or the port is 0: others could not connect there.
pub(crate) fn check_host_port(address: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("`{address}` is not HOST:PORT, such as a.example:7421 or 10.0.0.1:7421");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let plain = bare.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
        || (!host.is_empty()
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')));
    if plain { Ok((host, port)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_or_refused_with_a_reason() {
        let three: Members = "1=a:7421, 2=10.0.0.2:7421,3=[::1]:7421,".parse().unwrap();
        assert_eq!(three.0.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(three.0[&3], "[::1]:7421");
        let table = [
            ("", "no member is named"),
            ("a:7421", "`a:7421` is not ID=HOST:PORT"),
            ("0=a:1", "`0` is not a node id"),
            ("x=a:1", "`x` is not a node id"),
            ("1=a", "`a` is not HOST:PORT"),
            ("1=a:0", "`a:0` is not HOST:PORT"),
            ("1=a:99999", "`a:99999` is not HOST:PORT"),
            ("1=http://a:1", "`http://a:1` is not HOST:PORT"),
            ("1=::1:7421", "`::1:7421` is not HOST:PORT"),
            ("1=a:1,1=b:1", "two members have the id 1"),
            ("1=a:1,2=a:1", "two members have the address a:1"),
        ];
        for (text, wrong) in table {
            let error = text.parse::<Members>().expect_err(text);
            assert!(error.starts_with(wrong), "{text}: {error}");
        }
    }

    #[test]
    fn rho_is_a_percentage() {
        for (text, ppm) in [("1%", 10_000), ("0.5%", 5_000), ("0.0001 %", 1), ("10%", 100_000)] {
            assert_eq!(text.parse(), Ok(Rho { parts_per_million: ppm }), "{text}");
        }
        for text in ["1", "0%", "10.1%", "-1%", "0.00001%", "%", "x%"] {
            assert!(text.parse::<Rho>().is_err(), "{text}");
        }
    }
}
