//! The file of issuers: TOML, with a table for each.
//!
//! ```toml
//! [cluster]
//! issuer = "https://kubernetes.default.svc.cluster.local"
//! audience = "keyward"
//! jwks = "cluster.jwks.json"
//! groups_claim = "/kubernetes.io/namespace"
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::Deserialize;

use super::claims::{Claims, Place, time};
use super::keys::{ACCEPTED, Keys};
use super::{PREFIX, Verified};
use crate::files::{Unusable, fingerprint, parse_toml, read_bounded};
use crate::principal::Principal;

/// The largest file of issuers.
const MOST_BYTES: u64 = 64 << 10;
/// The largest JWKS: a hundred keys with long chains of certificates.
const MOST_JWKS_BYTES: u64 = 1 << 20;
/// The most issuers of a node.
const MOST_ISSUERS: usize = 16;
/// The longest name of an issuer: it is part of every identity.
const LONGEST_NAME: usize = 32;
/// The largest skew, in seconds: it is for clocks that differ a little, not for tokens without end.
const LARGEST_SKEW: u64 = 600;

/// The types of tokens (`typ`) that are taken: without one, `JWT`, and access tokens by RFC 9068.
/// Others, such as `logout+jwt`, are signed by the same keys for other purposes.
const TYPES: [&str; 2] = ["jwt", "at+jwt"];

/// An issuer, as the file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    /// The `iss` of its tokens, compared exactly.
    issuer: String,
    /// The `aud` that its tokens must have: this service.
    audience: String,
    /// The file of its keys; a relative path is one from the folder of the file of issuers.
    jwks: PathBuf,
    /// The claim that is the identity.
    #[serde(default = "sub")]
    identity_claim: String,
    /// The claim that has the groups.
    #[serde(default = "groups")]
    groups_claim: String,
    /// How far the clock of the issuer may be from that of this node.
    #[serde(default = "skew")]
    clock_skew_s: u64,
}

fn sub() -> String {
    "sub".to_owned()
}

fn groups() -> String {
    "groups".to_owned()
}

fn skew() -> u64 {
    60
}

/// The content of the file and of all sets of keys that it names, at one moment.
pub(super) struct Content {
    path: PathBuf,
    text: Vec<u8>,
    declared: Vec<(String, Declared)>,
    sets: Vec<Vec<u8>>,
}

impl Content {
    pub(super) fn read(path: &Path) -> Result<Self, Unusable> {
        let text = read_bounded(path, MOST_BYTES)?;
        Self::of(path, text, |jwks| read_bounded(jwks, MOST_JWKS_BYTES))
    }

    /// The content of a file with this text, whose sets of keys are read by this function.
    pub(super) fn of(
        path: &Path,
        text: Vec<u8>,
        read: impl Fn(&Path) -> Result<Vec<u8>, Unusable>,
    ) -> Result<Self, Unusable> {
        let unusable = |why: String| Unusable::new(path, why);
        let as_text = str::from_utf8(&text).map_err(|_| unusable("it is no text".to_owned()))?;
        let tables: BTreeMap<String, Declared> =
            parse_toml(as_text).map_err(|(line, what)| unusable(format!("line {line}: {what}")))?;
        let declared: Vec<_> = tables.into_iter().collect();
        check(&declared).map_err(unusable)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let sets = declared.iter().map(|(_, issuer)| read(&folder.join(&issuer.jwks)));
        let sets = sets.collect::<Result<_, _>>()?;
        Ok(Self { path: path.to_owned(), text, declared, sets })
    }

    /// A number for the content, by which a change is noticed.
    pub(super) fn fingerprint(&self) -> u128 {
        let parts = std::iter::once(&self.text).chain(&self.sets);
        fingerprint(parts.map(Vec::as_slice))
    }

    /// The issuers that the content makes.
    pub(super) fn issuers(&self) -> Result<Vec<Issuer>, Unusable> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let all = self.declared.iter().zip(&self.sets);
        let one = |((name, declared), set): (&(String, Declared), &Vec<u8>)| {
            let keys =
                Keys::read(set).map_err(|why| Unusable::new(&folder.join(&declared.jwks), why))?;
            Ok(Issuer::new(name, declared, keys))
        };
        all.map(one).collect()
    }
}

/// Checks what TOML cannot.
fn check(all: &[(String, Declared)]) -> Result<(), String> {
    if all.is_empty() || all.len() > MOST_ISSUERS {
        return Err(format!(
            "it names {} issuers; it must name 1 to {MOST_ISSUERS}, each as a table: [name], \
             issuer, audience, jwks",
            all.len()
        ));
    }
    for (number, (name, declared)) in all.iter().enumerate() {
        let wrong = |why: String| Err(format!("[{name}]: {why}"));
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(is_word) {
            return wrong(format!(
                "the name of an issuer has 1 to {LONGEST_NAME} of a-z, 0-9 and -: it is part of \
                 identities"
            ));
        }
        let texts = [
            ("issuer", &declared.issuer),
            ("audience", &declared.audience),
            ("identity_claim", &declared.identity_claim),
            ("groups_claim", &declared.groups_claim),
        ];
        if let Some((what, _)) = texts.iter().find(|(_, text)| text.is_empty()) {
            return wrong(format!("{what} is empty"));
        }
        if declared.clock_skew_s > LARGEST_SKEW {
            return wrong(format!("clock_skew_s is at most {LARGEST_SKEW}"));
        }
        let same = |(_, other): &&(String, Declared)| other.issuer == declared.issuer;
        if let Some((other, _)) = all[..number].iter().find(same) {
            return wrong(format!("[{other}] has the same issuer"));
        }
    }
    Ok(())
}

/// An issuer with its keys.
pub(super) struct Issuer {
    name: String,
    /// The `iss` of its tokens.
    iss: String,
    /// The checks that are left to the crate: issuer and audience, and that these and `exp` are there.
    validation: Validation,
    audience: String,
    identity: Place,
    groups: Place,
    skew: u64,
    keys: Keys,
}

impl Issuer {
    fn new(name: &str, declared: &Declared, keys: Keys) -> Self {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_issuer(&[&declared.issuer]);
        validation.set_audience(&[&declared.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        // Judged by the clock that is handed in.
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        Self {
            name: name.to_owned(),
            iss: declared.issuer.clone(),
            validation,
            audience: declared.audience.clone(),
            identity: Place(declared.identity_claim.clone()),
            groups: Place(declared.groups_claim.clone()),
            skew: declared.clock_skew_s,
            keys,
        }
    }

    /// Whether it is this one that a token names.
    pub(super) fn is(&self, iss: &str) -> bool {
        self.iss == iss
    }

    /// Its name and the number of its keys.
    pub(super) fn figure(&self) -> (String, u64) {
        (self.name.clone(), self.keys.len() as u64)
    }

    /// Checks everything about a token but whether now is its time.
    pub(super) fn verify(&self, token: &str) -> Result<Verified, String> {
        let refused =
            |why: &str| format!("the JWT of the issuer `{}` is refused: {why}", self.name);
        self.claims(token).and_then(|claims| self.verified(&claims)).map_err(|why| refused(&why))
    }

    /// The claims of a token that was signed by this issuer for this service.
    fn claims(&self, token: &str) -> Result<Claims, String> {
        let header = decode_header(token).map_err(|_| {
            format!("its header names no algorithm (alg) that is accepted, which are {ACCEPTED}")
        })?;
        if matches!(header.alg, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
            return Err(format!(
                "{:?} is no signature but a secret that both sides have; accepted are {ACCEPTED}",
                header.alg
            ));
        }
        let is_taken = header.typ.as_ref().is_none_or(|word| {
            let word = word.to_ascii_lowercase();
            TYPES.contains(&word.strip_prefix("application/").unwrap_or(&word))
        });
        if !is_taken {
            return Err("it is a token for another purpose (typ)".to_owned());
        }
        let key = self.keys.find(&header)?;
        let mut validation = self.validation.clone();
        validation.algorithms = vec![header.alg];
        let data = decode(token, key, &validation).map_err(|error| self.words(&error))?;
        Ok(data.claims)
    }

    fn verified(&self, claims: &Claims) -> Result<Verified, String> {
        let exp = time(claims, "exp")?.ok_or("it does not say when it ends (exp)")?;
        let begins = time(claims, "nbf")?.max(time(claims, "iat")?).unwrap_or(0);
        let named = |text: &str| format!("{PREFIX}{}:{text}", self.name);
        let groups = self.groups.texts(claims)?;
        let principal = Principal {
            groups: groups.into_iter().map(|group| named(group).into()).collect(),
            ..Principal::named(&named(self.identity.text(claims)?))
        };
        principal.validate().map_err(|error| {
            let why = error.to_string();
            why.strip_prefix("bad request: ").unwrap_or(&why).to_owned()
        })?;
        Ok(Verified {
            principal: principal.into(),
            ends: exp.saturating_add(self.skew),
            begins: begins.saturating_sub(self.skew),
        })
    }

    /// The reason why the crate refuses a token. Nothing of the token is in it.
    #[allow(clippy::wildcard_enum_match_arm, reason = "the crate may add kinds at any time")]
    fn words(&self, error: &Error) -> String {
        match error.kind() {
            ErrorKind::InvalidSignature => "it is not signed by the key that it names".to_owned(),
            ErrorKind::InvalidAudience => {
                format!("it is for another service: its audience (aud) is not `{}`", self.audience)
            }
            ErrorKind::InvalidIssuer => "its issuer (iss) is another one".to_owned(),
            ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
                match claim.as_str() {
                    "exp" => "it does not say when it ends (exp)".to_owned(),
                    "aud" => "it does not say for which service it is (aud)".to_owned(),
                    claim => format!("it has no usable claim `{claim}`"),
                }
            }
            _ => "it is malformed".to_owned(),
        }
    }
}
