//! JWTs, the keys that check them, and the file that names their issuers.

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyward::jwt::{Issuers, read_keys};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

/// The time at which tokens are judged, in seconds since 1970.
const NOW: u64 = 1_700_000_000;

const ISSUERS: &str = "[f]\nissuer = 'i'\naudience = 'keyward'\njwks = 'k'\nclock_skew_s = 0\n";

/// An issuer that signs whatever it is given.
fn issuer() -> &'static (Ed25519KeyPair, Arc<Issuers>) {
    static ISSUER: OnceLock<(Ed25519KeyPair, Arc<Issuers>)> = OnceLock::new();
    ISSUER.get_or_init(|| {
        let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed has 32 bytes");
        let x = URL_SAFE_NO_PAD.encode(key.public_key());
        let jwks = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"k","x":"{x}"}}]}}"#);
        let issuers = Issuers::of_texts(ISSUERS.as_bytes(), jwks.as_bytes());
        (key, issuers.expect("they are an issuer and its key"))
    })
}

/// By its first byte: a JWKS, a file of issuers, a token that nobody has signed, or header and claims
/// (with a line break between them) that the issuer signs. It gives an error in words, or what a
/// node relies on.
pub fn jwt(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind {
        b'k' => match read_keys(bytes) {
            Ok(count) => assert!((1..=100).contains(&count), "{count}"),
            Err(why) => assert!(!why.is_empty()),
        },
        b'i' => match Issuers::of_texts(bytes, KEYS) {
            Ok(issuers) => {
                let names = issuers.figures().keys;
                assert!((1..=16).contains(&names.len()), "{names:?}");
                let is_plain = |name: &str| !name.is_empty() && !name.contains([':', '"', '\\']);
                assert!(names.iter().all(|(name, _)| is_plain(name)), "{names:?}");
            }
            Err(why) => assert!(!why.to_string().is_empty()),
        },
        b't' => {
            let Ok(token) = std::str::from_utf8(bytes) else { return };
            let refused = issuer().1.judge(token, NOW).expect_err("nobody has signed it");
            assert!(!refused.to_string().is_empty());
        }
        b's' => signed(bytes),
        _ => {}
    }
}

/// Keys for any file of issuers.
const KEYS: &[u8] = br#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn signed(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (header, claims) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
    let (key, issuers) = issuer();
    let message = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let signature = URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()));
    let Ok(verified) = issuers.judge(&format!("{message}.{signature}"), NOW) else { return };
    let header: serde_json::Value = serde_json::from_slice(header).expect("it was read");
    assert_eq!(header["alg"], "EdDSA");
    let claims: serde_json::Value = serde_json::from_slice(claims).expect("it was read");
    assert_eq!(claims["iss"], "i");
    let audience = &claims["aud"];
    let is_meant = |one: &serde_json::Value| one == "keyward";
    assert!(is_meant(audience) || audience.as_array().is_some_and(|all| all.iter().any(is_meant)));
    assert!(claims["exp"].as_f64().is_some_and(|end| end > 1.7e9) && verified.ends > NOW);
    for begin in ["nbf", "iat"] {
        assert!(claims[begin].as_f64().is_none_or(|begin| begin < 1.7e9 + 1.0), "{claims}");
    }
    let principal = &verified.principal;
    assert!(principal.validate().is_ok(), "{principal:?}");
    let names = std::iter::once(&principal.identity).chain(&principal.groups);
    names.for_each(|name| assert!(name.starts_with("jwt:f:"), "{principal:?}"));
    assert_eq!(principal.token, None);
}
