//! The keys of an issuer, from its JWKS, and which of them a token was signed with.
//!
//! A set may have keys for other purposes and of other kinds: they are passed over. A key that could
//! check a token and is too weak, or broken, makes the whole set unusable, and so does a private key:
//! somebody has to know of it.

use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations,
    PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Header};
use serde::Deserialize;
use serde_json::Value;

/// The most keys of an issuer.
const MOST_KEYS: usize = 100;

/// The algorithms that are accepted, in words.
pub(super) const ACCEPTED: &str =
    "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA (Ed25519)";

const OF_RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The sizes of RSA keys that `ring` takes, in bits. Smaller ones can be broken.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The parameters that only a private key has (RFC 7518, sections 6.2.2 and 6.3.2).
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// The keys of an issuer that can check a JWT; at least one.
pub(super) struct Keys(Vec<Key>);

struct Key {
    id: Option<String>,
    /// The algorithms that it may check.
    algorithms: Vec<Algorithm>,
    public: DecodingKey,
}

/// A set before its keys are looked at: one that is not understood must not hide the others.
#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

impl Keys {
    /// Reads a JWKS (RFC 7517).
    ///
    /// # Errors
    /// It is none, or it has a key that must not be in it, or none that is of use.
    pub(super) fn read(text: &[u8]) -> Result<Self, String> {
        let set: Set = serde_json::from_slice(text)
            .map_err(|error| format!("it is no JWKS ({{\"keys\":[…]}}): {error}"))?;
        if set.keys.len() > MOST_KEYS {
            let count = set.keys.len();
            return Err(format!("it has {count} keys; at most {MOST_KEYS} are accepted"));
        }
        let mut keys: Vec<Key> = Vec::new();
        for (number, value) in set.keys.iter().enumerate() {
            let named = |why| format!("{}: {why}", name_of(number, value));
            if let Some(key) = Key::read(value).map_err(named)? {
                if keys.iter().any(|other| other.is_mixed_up_with(&key)) {
                    return Err(named("another key has the same id (kid)".to_owned()));
                }
                keys.push(key);
            }
        }
        if keys.is_empty() {
            return Err(format!(
                "it has no key that can check a JWT: RSA of {} bits and more, P-256, P-384 or \
                 Ed25519, for signatures (use)",
                RSA_BITS.start()
            ));
        }
        Ok(Self(keys))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The key that a token with this header was signed with, if it is one of the issuer's.
    pub(super) fn find(&self, header: &Header) -> Result<&DecodingKey, &'static str> {
        let fits = |key: &&Key| key.algorithms.contains(&header.alg);
        let Some(id) = &header.kid else {
            let mut fitting = self.0.iter().filter(fits);
            return match (fitting.next(), fitting.next()) {
                (None, _) => Err("no key of its issuer is for its algorithm (alg)"),
                (Some(key), None) => Ok(&key.public),
                (Some(_), Some(_)) => {
                    Err("it names no key (kid), and its issuer has several that fit")
                }
            };
        };
        let mut named = self.0.iter().filter(|key| key.id.as_ref() == Some(id)).peekable();
        if named.peek().is_none() {
            return Err("its issuer has no key of that id (kid): the key is unknown here, or not \
                        any more");
        }
        let key = named.find(fits).ok_or("the key that it names (kid) is not for its algorithm")?;
        Ok(&key.public)
    }
}

/// The name of a key in messages: its id, or else its place.
fn name_of(number: usize, value: &Value) -> String {
    match value.get("kid").and_then(Value::as_str) {
        Some(id) => format!("key {id:?}"),
        None => format!("key {} of the set", number + 1),
    }
}

impl Key {
    /// Reads a key; `None` if it is none that could check a JWT.
    fn read(value: &Value) -> Result<Option<Self>, String> {
        let kind = value.get("kty").and_then(Value::as_str).ok_or("it has no kind (kty)")?;
        if !matches!(kind, "RSA" | "EC" | "OKP") {
            return Ok(None);
        }
        if PRIVATE.iter().any(|name| value.get(name).is_some()) {
            return Err(
                "it is a private key. A JWKS is public: publish this file without it, and \
                        have the issuer make new keys"
                    .to_owned(),
            );
        }
        if !is_known_curve(kind, value) {
            return Ok(None);
        }
        let jwk: Jwk = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
        if !is_for_signatures(&jwk.common) {
            return Ok(None);
        }
        if let AlgorithmParameters::Other(_) = jwk.algorithm {
            return Err("its parameters (n, e; x, y) are not those of its kind".to_owned());
        }
        let Some(algorithms) = algorithms(&jwk) else { return Ok(None) };
        let public = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
        let public = checked(public, algorithms[0])?;
        Ok(Some(Self { id: jwk.common.key_id, algorithms, public }))
    }

    /// Whether a token that names one of the two may mean the other.
    fn is_mixed_up_with(&self, other: &Self) -> bool {
        self.id.is_some()
            && self.id == other.id
            && self.algorithms.iter().any(|algorithm| other.algorithms.contains(algorithm))
    }
}

/// Whether signatures with the curve of such a key are accepted; RSA has none.
fn is_known_curve(kind: &str, value: &Value) -> bool {
    let curve = value.get("crv").and_then(Value::as_str);
    matches!((kind, curve), ("RSA", _) | ("EC", Some("P-256" | "P-384")) | ("OKP", Some("Ed25519")))
}

/// Whether the key may check signatures, by its `use` and `key_ops`.
fn is_for_signatures(common: &CommonParameters) -> bool {
    let CommonParameters { public_key_use, key_operations, .. } = common;
    public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature)
        && key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify))
}

/// The algorithms that a key of a known kind and curve may check; `None` if it is for none that is
/// accepted.
fn algorithms(jwk: &Jwk) -> Option<Vec<Algorithm>> {
    let of_kind: &[Algorithm] = if let AlgorithmParameters::RSA(_) = jwk.algorithm {
        OF_RSA
    } else if let AlgorithmParameters::EllipticCurve(key) = &jwk.algorithm {
        if key.curve == EllipticCurve::P256 { &[Algorithm::ES256] } else { &[Algorithm::ES384] }
    } else {
        &[Algorithm::EdDSA]
    };
    match &jwk.common.key_algorithm {
        None => Some(of_kind.to_vec()),
        Some(named) => {
            let fits = |algorithm: &&Algorithm| KeyAlgorithm::from(**algorithm) == *named;
            of_kind.iter().find(fits).map(|algorithm| vec![*algorithm])
        }
    }
}

/// The key for this algorithm, if it is strong and whole.
#[allow(clippy::wildcard_enum_match_arm, reason = "the crate may add algorithms at any time")]
fn checked(key: DecodingKey, algorithm: Algorithm) -> Result<DecodingKey, String> {
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            // `ring` takes numbers without zeros in front; some issuers write them.
            let bare = |number: &[u8]| -> Vec<u8> {
                number.iter().copied().skip_while(|byte| *byte == 0).collect()
            };
            let (n, e) = (bare(n), bare(e));
            let zeros = n.first().map_or(0, |first| first.leading_zeros() as usize);
            let bits = n.len() * 8 - zeros;
            if !RSA_BITS.contains(&bits) {
                return Err(format!(
                    "it is an RSA key of {bits} bits; {} to {} are accepted",
                    RSA_BITS.start(),
                    RSA_BITS.end()
                ));
            }
            // As `ring` demands: odd, from 3 to 2^33 - 1.
            let exponent = e.iter().try_fold(0_u64, |number, byte| {
                (number < 1 << 33).then_some(number << 8 | u64::from(*byte))
            });
            if !exponent.is_some_and(|e| e % 2 == 1 && (3..1 << 33).contains(&e)) {
                return Err("its exponent (e) is none that is safe".to_owned());
            }
            Ok(DecodingKey::from_rsa_raw_components(&n, &e))
        }
        DecodingKeyKind::SecretOrDer(point) => {
            // Two coordinates and a byte before them; Ed25519 has one number.
            let expected = match algorithm {
                Algorithm::ES256 => 1 + 2 * 32,
                Algorithm::ES384 => 1 + 2 * 48,
                _ => 32,
            };
            if point.len() != expected {
                return Err("its point (x, y) does not have the size of its curve".to_owned());
            }
            Ok(key)
        }
    }
}
