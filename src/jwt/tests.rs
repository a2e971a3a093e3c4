//! Tokens of issuers that the tests are themselves.

pub(crate) mod signer;

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use signer::{Signer, base64};

/// The time of the tests.
const NOW: u64 = 1_700_000_000;

/// The end of [`claims`] with the skew.
const END: u64 = NOW + 300 + 60;

/// A folder with a file of issuers and their keys.
pub(crate) struct Folder(TempDir);

impl Folder {
    /// The issuer `ci` with these keys.
    pub(crate) fn new(signers: &[&Signer]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("issuers.toml", ISSUERS);
        folder.publish(signers);
        folder
    }

    /// Replaces the keys.
    pub(crate) fn publish(&self, signers: &[&Signer]) {
        let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
        self.write("ci.json", &json!({"keys": keys}).to_string());
    }

    fn write(&self, name: &str, text: &str) {
        // By renaming, as whoever follows the documentation does.
        fs::write(self.0.path().join("new"), text).unwrap();
        fs::rename(self.0.path().join("new"), self.0.path().join(name)).unwrap();
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("issuers.toml")
    }

    pub(crate) fn load(&self) -> Arc<Issuers> {
        Issuers::load(&self.path()).unwrap()
    }

    fn refused(&self) -> String {
        Issuers::load(&self.path()).unwrap_err().to_string()
    }
}

const ISSUERS: &str =
    "[ci]\nissuer = 'https://ci.example'\naudience = 'keyward'\njwks = 'ci.json'\n";

/// Claims that are taken.
fn claims() -> Value {
    json!({"iss": "https://ci.example", "aud": "keyward", "sub": "repo:a/b", "exp": NOW + 300,
        "nbf": NOW - 10, "iat": NOW - 10, "groups": ["deploy"], "jti": "1"})
}

/// The claims with this one changed, or without it.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

fn reason(judged: Result<Verified, Refused>) -> String {
    judged.expect_err("it is refused").to_string()
}

#[test]
fn each_algorithm_is_taken_and_its_names_begin_with_those_of_the_issuer() {
    let all = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
    for algorithm in all {
        let signer = Signer::new(algorithm, "one");
        let issuers = Folder::new(&[&signer]).load();
        let verified = issuers.judge(&signer.token(&claims()), NOW).expect(algorithm);
        assert_eq!(&*verified.principal.identity, "jwt:ci:repo:a/b");
        assert_eq!(verified.principal.groups, ["jwt:ci:deploy".into()]);
        assert_eq!((verified.principal.token, verified.ends), (None, END));
    }
}

/// The ES256 token of RFC 7515, appendix A.3. It has no audience, which is looked at when the
/// signature was found to be good.
#[test]
fn a_token_of_others_is_read_as_they_meant_it() {
    let folder = Folder::new(&[&Signer::new("ES256", "one")]);
    let key = json!({"kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
    folder.write("ci.json", &json!({"keys": [key]}).to_string());
    folder.write("issuers.toml", &ISSUERS.replace("https://ci.example", "joe"));
    let token = "eyJhbGciOiJFUzI1NiJ9.\
        eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
        DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let why = reason(folder.load().judge(token, 1_300_819_000));
    assert!(why.ends_with("it does not say for which service it is (aud)"), "{why}");
    let spoiled = token.replace("DtEh", "DtEi");
    let why = reason(folder.load().judge(&spoiled, 1_300_819_000));
    assert!(why.ends_with("it is not signed by the key that it names"), "{why}");
}

#[test]
fn claims_that_are_not_for_here_and_now_are_refused_with_the_reason() {
    let signer = Signer::new("ES256", "one");
    let folder = Folder::new(&[&signer]);
    let issuers = folder.load();
    let many: Vec<String> = (0..33).map(|number| number.to_string()).collect();
    let table = [
        ("aud", json!("vault"), "its audience (aud) is not `keyward`"),
        ("aud", json!(["vault", "other"]), "its audience (aud) is not `keyward`"),
        ("aud", json!([]), "its audience (aud) is not `keyward`"),
        ("aud", json!(7), "does not say for which service it is (aud)"),
        ("aud", Value::Null, "does not say for which service it is (aud)"),
        ("exp", Value::Null, "does not say when it ends (exp)"),
        ("exp", json!("soon"), "does not say when it ends (exp)"),
        ("exp", json!(-5), "does not say when it ends (exp)"),
        ("exp", json!(NOW - 60), "has expired (exp)"),
        ("nbf", json!(NOW + 61), "not valid yet (nbf, iat)"),
        ("iat", json!(NOW + 61), "not valid yet (nbf, iat)"),
        ("nbf", json!("later"), "`nbf` is no time"),
        ("iat", json!([1]), "`iat` is no time"),
        ("iss", json!("https://ci.example/"), "an issuer (iss) that is not configured here"),
        ("iss", Value::Null, "does not say who issued it (iss)"),
        ("iss", json!(["https://ci.example"]), "neither an access token"),
        ("sub", Value::Null, "no claim `sub`"),
        ("sub", json!(""), "`sub` is no text, or an empty one"),
        ("sub", json!(7), "`sub` is no text"),
        ("sub", json!("x".repeat(250)), "the identity has 257 bytes"),
        ("sub", json!("a\0"), "NUL byte"),
        ("groups", json!(7), "`groups` is neither a text nor a list"),
        ("groups", json!({"a": 1}), "`groups` is neither a text nor a list"),
        ("groups", json!(["a", 1]), "`groups` is neither a text nor a list"),
        ("groups", json!(many), "there are 33 groups"),
        ("groups", json!("x".repeat(250)), "the group has 257 bytes"),
    ];
    for (name, value, expected) in table {
        let token = signer.token(&with(name, value.clone()));
        let why = reason(issuers.judge(&token, NOW));
        assert!(why.contains(expected), "{name} {value}: {why}");
        assert!(!why.contains(&token[..20]), "{why}");
    }
    assert_eq!(issuers.figures().refused, 26);
    let taken = [
        ("aud", json!(["other", "keyward"])),
        ("exp", json!(NOW - 59)),
        ("exp", json!(1_700_000_000.5)),
        ("nbf", json!(NOW + 60)),
        ("iat", json!(1_700_000_060.9)),
        ("nbf", Value::Null),
        ("sub", json!("x".repeat(249))),
        ("groups", Value::Null),
        ("groups", json!("one")),
        ("groups", json!([])),
        ("groups", json!(many[..32])),
    ];
    for (name, value) in taken {
        let judged = issuers.judge(&signer.token(&with(name, value.clone())), NOW);
        judged.unwrap_or_else(|why| panic!("{name} {value}: {why}"));
    }
}

#[test]
fn a_header_that_asks_for_anything_else_is_refused() {
    let signer = Signer::new("ES256", "one");
    let (other, of_rsa) = (Signer::new("ES256", "one"), Signer::new("RS256", "two"));
    let issuers = Folder::new(&[&signer, &of_rsa]).load();
    let content = claims().to_string();
    let header = |name: &str, value: Value| {
        let mut header = signer.header();
        header[name] = value;
        header
    };
    let refused = [
        (header("alg", json!("none")), "no algorithm (alg) that is accepted"),
        (header("alg", json!("ES512")), "no algorithm (alg) that is accepted"),
        (header("alg", json!("HS256")), "HS256 is no signature"),
        (header("alg", json!("ES384")), "is not for its algorithm"),
        (header("alg", json!("RS256")), "is not for its algorithm"),
        (header("kid", json!("two")), "is not for its algorithm"),
        (header("kid", json!("three")), "has no key of that id (kid)"),
        (header("kid", json!(7)), "no algorithm (alg) that is accepted"),
        (header("typ", json!("logout+jwt")), "another purpose (typ)"),
        (header("crit", json!(["exp"])), "malformed"),
        (header("b64", json!(false)), "malformed"),
    ];
    for (header, expected) in refused {
        let why = reason(issuers.judge(&signer.sign(&header, &content), NOW));
        assert!(why.contains(expected), "{header}: {why}");
    }
    for typ in ["jwt", "at+jwt", "application/at+JWT"] {
        let token = signer.sign(&header("typ", json!(typ)), &content);
        issuers.judge(&token, NOW).expect(typ);
    }
    // A key that the token brings along, or says where to find, proves nothing.
    for (name, value) in [("jwk", other.jwk()), ("jku", json!("https://attacker.example"))] {
        let why = reason(issuers.judge(&other.sign(&header(name, value), &content), NOW));
        assert!(why.contains("not signed by the key that it names"), "{why}");
    }
    // A public key is no secret that both sides have.
    let with_secret = |alg: &str| {
        let message =
            format!("{}.{}", base64(header("alg", json!(alg)).to_string()), base64(&content));
        let public = signer.jwk()["x"].as_str().unwrap().to_owned();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, public.as_bytes());
        format!("{message}.{}", base64(ring::hmac::sign(&key, message.as_bytes())))
    };
    for alg in ["HS256", "ES256"] {
        assert!(issuers.judge(&with_secret(alg), NOW).is_err(), "{alg}");
    }
}

#[test]
fn a_token_that_names_no_key_is_taken_only_if_one_fits() {
    let (one, two) = (Signer::new("ES256", "one"), Signer::new("ES256", "two"));
    let of_rsa = Signer::new("PS256", "three");
    let content = claims().to_string();
    let nameless = |signer: &Signer| signer.sign(&json!({"alg": signer.algorithm}), &content);
    let several = Folder::new(&[&one, &two, &of_rsa]).load();
    several.judge(&nameless(&of_rsa), NOW).expect("it is the only key of RSA");
    let why = reason(several.judge(&nameless(&one), NOW));
    assert!(why.contains("names no key (kid), and its issuer has several"), "{why}");
    let single = Folder::new(&[&one]).load();
    single.judge(&nameless(&one), NOW).expect("it is the only key");
    assert!(reason(single.judge(&nameless(&two), NOW)).contains("not signed"));
    let why = reason(single.judge(&nameless(&of_rsa), NOW));
    assert!(why.contains("no key of its issuer is for its algorithm"), "{why}");
}

#[test]
fn a_token_that_differs_in_any_sign_is_another_one() {
    let signer = Signer::new("EdDSA", "one");
    let issuers = Folder::new(&[&signer]).load();
    let token = signer.token(&claims());
    issuers.judge(&token, NOW).expect("it is good");
    for at in 0..token.len() {
        let mut spoiled = token.clone().into_bytes();
        spoiled[at] = if spoiled[at] == b'A' { b'B' } else { b'A' };
        let spoiled = String::from_utf8(spoiled).unwrap();
        assert!(issuers.judge(&spoiled, NOW).is_err(), "{at}");
    }
    for bad in
        ["", ".", "..", "...", "a.b.c", "e30.e30.", &token[..token.len() - 1], &format!("{token}.")]
    {
        assert!(issuers.judge(bad, NOW).is_err(), "{bad}");
    }
}

#[test]
fn a_token_is_read_up_to_its_largest_size_and_however_deep() {
    let signer = Signer::new("ES256", "one");
    let issuers = Folder::new(&[&signer]).load();
    let of_size = |filling: usize| signer.token(&with("filling", json!("x".repeat(filling))));
    // Four signs for three bytes, so that not every length can be had.
    let nearly = (MAX_JWT_BYTES - of_size(0).len()) / 4 * 3;
    let (mut largest, mut beyond) = (0, usize::MAX);
    for token in (nearly - 8..nearly + 8).map(of_size) {
        let (judged, length) = (issuers.judge(&token, NOW), token.len());
        if length <= MAX_JWT_BYTES {
            judged.expect("it is small enough");
            largest = largest.max(length);
        } else {
            assert!(reason(judged).contains("at most 8192 are accepted"));
            beyond = beyond.min(length);
        }
    }
    assert!(largest + 1 >= MAX_JWT_BYTES && beyond <= MAX_JWT_BYTES + 2, "{largest} {beyond}");
    let deep = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
    let mut content = claims().to_string();
    content.truncate(content.len() - 1);
    let token = signer.sign(&signer.header(), format!("{content},\"deep\":{deep}}}"));
    assert!(issuers.judge(&token, NOW).is_err());
    // A claim that is there twice means two things.
    let token = signer.sign(&signer.header(), format!("{content},\"aud\":\"keyward\"}}"));
    assert!(issuers.judge(&token, NOW).is_err());
}

#[test]
fn claims_are_found_by_name_or_by_pointer() {
    let signer = Signer::new("ES256", "one");
    let folder = Folder::new(&[&signer]);
    let nested =
        json!({"namespace": "build", "serviceaccount": {"name": "deployer"}, "roles": ["a", "b"]});
    let token = signer.token(&with("kubernetes.io", nested));
    let table = [
        (
            "/kubernetes.io/serviceaccount/name",
            "/kubernetes.io/namespace",
            "jwt:ci:deployer",
            vec!["jwt:ci:build"],
        ),
        ("sub", "/kubernetes.io/roles", "jwt:ci:repo:a/b", vec!["jwt:ci:a", "jwt:ci:b"]),
        ("sub", "/kubernetes.io/roles/1", "jwt:ci:repo:a/b", vec!["jwt:ci:b"]),
        ("/sub", "/kubernetes.io/none", "jwt:ci:repo:a/b", vec![]),
        ("jti", "/iss", "jwt:ci:1", vec!["jwt:ci:https://ci.example"]),
    ];
    for (identity, groups, expected, expected_groups) in table {
        let claims = format!("identity_claim = '{identity}'\ngroups_claim = '{groups}'\n");
        folder.write("issuers.toml", &format!("{ISSUERS}{claims}"));
        let verified = folder.load().judge(&token, NOW).expect(identity);
        assert_eq!(&*verified.principal.identity, expected);
        let found: Vec<&str> = verified.principal.groups.iter().map(|group| &**group).collect();
        assert_eq!(found, expected_groups, "{groups}");
    }
}

#[test]
fn keys_are_taken_passed_over_or_refused() {
    let good = Signer::new("ES256", "one").jwk();
    let rsa = |bytes: &[u8], e: &str| json!({"kty": "RSA", "kid": "r", "n": base64(bytes), "e": e});
    let modulus = |bits: usize| {
        let mut bytes = vec![0xff; bits.div_ceil(8)];
        bytes[0] >>= bytes.len() * 8 - bits;
        bytes
    };
    let changed = |name: &str, value: Value| {
        let mut jwk = good.clone();
        jwk[name] = value;
        jwk
    };
    let read = |keys: &[&Value]| read_keys(json!({"keys": keys}).to_string().as_bytes());
    let mut zeros = vec![0, 0];
    zeros.extend(modulus(2048));
    for taken in [
        rsa(&modulus(2048), "AQAB"),
        rsa(&modulus(8192), "Aw"),
        rsa(&zeros, "AAEAAQ"),
        changed("use", Value::Null),
        changed("alg", json!("ES256")),
        changed("key_ops", json!(["verify"])),
    ] {
        assert_eq!(read(&[&taken]), Ok(1), "{taken}");
    }
    for passed_over in [
        changed("use", json!("enc")),
        changed("alg", json!("RS256")),
        changed("alg", json!("ECDH-ES")),
        changed("key_ops", json!(["sign"])),
        changed("crv", json!("secp256k1")),
        changed("crv", json!("P-521")),
        changed("kty", json!("AKP")),
        json!({"kty": "oct", "k": base64("secret"), "alg": "HS256"}),
        json!({"kty": "OKP", "crv": "X25519", "x": base64([0; 32])}),
        json!({"kty": "RSA", "use": "enc", "n": base64(modulus(1024)), "e": "AQAB"}),
    ] {
        assert_eq!(read(&[&passed_over, &good]), Ok(1), "{passed_over}");
        let why = read(&[&passed_over]).unwrap_err();
        assert!(why.contains("no key that can check a JWT"), "{why}");
    }
    let same_id = changed("x", json!(base64([1; 32])));
    let private = changed("d", json!(base64([1; 32])));
    for (refused, expected) in [
        (rsa(&modulus(2047), "AQAB"), "key \"r\": it is an RSA key of 2047 bits; 2048 to 8192"),
        (rsa(&modulus(1024), "AQAB"), "RSA key of 1024 bits"),
        (rsa(&modulus(8193), "AQAB"), "RSA key of 8193 bits"),
        (rsa(&[], "AQAB"), "RSA key of 0 bits"),
        (rsa(&modulus(2048), "AQ"), "its exponent (e)"),
        (rsa(&modulus(2048), "AAAA"), "its exponent (e)"),
        (rsa(&modulus(2048), "BA"), "its exponent (e)"),
        (rsa(&modulus(2048), "____________"), "its exponent (e)"),
        (changed("x", json!(base64([1; 31]))), "does not have the size of its curve"),
        (changed("y", Value::Null), "key \"one\": its parameters"),
        (changed("x", json!("!")), "key \"one\""),
        (private, "it is a private key"),
        (same_id, "another key has the same id (kid)"),
        (json!({}), "key 2 of the set: it has no kind (kty)"),
        (json!(7), "key 2 of the set: it has no kind (kty)"),
    ] {
        let why = read(&[&good, &refused]).unwrap_err();
        assert!(why.contains(expected), "{refused}: {why}");
    }
    for (text, expected) in [
        ("", "it is no JWKS"),
        ("{}", "it is no JWKS"),
        ("{\"keys\":7}", "it is no JWKS"),
        ("{\"keys\":[]}", "no key that can check a JWT"),
    ] {
        assert!(read_keys(text.as_bytes()).unwrap_err().contains(expected), "{text}");
    }
    let many = vec![&good; 101];
    assert!(read(&many).unwrap_err().contains("101 keys; at most 100"));
}

#[test]
fn a_file_of_issuers_that_is_wrong_is_refused_with_its_line_or_table() {
    let folder = Folder::new(&[&Signer::new("ES256", "one")]);
    let second = |more: &str| format!("{ISSUERS}[two]\n{more}");
    let table = [
        (String::new(), "names 0 issuers; it must name 1 to 16"),
        ("x".to_owned(), "line 1:"),
        ("[ci]\nissuer = 'a'\naudience = 'b'".to_owned(), "missing field `jwks`"),
        ("[ci]\nissuer = 'a'\njwks = 'ci.json'".to_owned(), "missing field `audience`"),
        ("[ci]\naudience = 'a'\njwks = 'ci.json'".to_owned(), "missing field `issuer`"),
        (format!("{ISSUERS}audiences = 'a'"), "line 5: unknown field `audiences`"),
        (format!("{ISSUERS}clock_skew_s = 601"), "[ci]: clock_skew_s is at most 600"),
        (format!("{ISSUERS}clock_skew_s = -1"), "line 5: "),
        (format!("{ISSUERS}groups_claim = ''"), "[ci]: groups_claim is empty"),
        (ISSUERS.replace("keyward", ""), "[ci]: audience is empty"),
        (ISSUERS.replace("[ci]", "[CI]"), "a-z, 0-9 and -"),
        (ISSUERS.replace("[ci]", "[\"\"]"), "a-z, 0-9 and -"),
        (ISSUERS.replace("[ci]", "[\"a:b\"]"), "a-z, 0-9 and -"),
        (ISSUERS.replace("[ci]", &format!("[{}]", "x".repeat(33))), "1 to 32"),
        (ISSUERS.replace("ci.json", "no.json"), "no.json: cannot read it"),
        (ISSUERS.replace("ci.json", "issuers.toml"), "issuers.toml: it is no JWKS"),
        (
            second("issuer = 'https://ci.example'\naudience = 'x'\njwks = 'ci.json'"),
            "[two]: [ci] has the same issuer",
        ),
        ("#".repeat((64 << 10) + 1), "more than 65536 bytes"),
    ];
    for (text, expected) in table {
        folder.write("issuers.toml", &text);
        let why = folder.refused();
        assert!(why.contains(expected), "{text:.80}: {why}");
    }
    folder.write("issuers.toml", &second("issuer = 'b'\naudience = 'x'\njwks = 'ci.json'"));
    assert_eq!(folder.load().figures().keys, [("ci".to_owned(), 1), ("two".to_owned(), 1)]);
    fs::remove_file(folder.path()).unwrap();
    assert!(folder.refused().contains("issuers.toml: cannot read it"));
}

#[test]
fn each_issuer_has_its_own_keys_and_its_own_names() {
    let (ci, cluster) = (Signer::new("ES256", "one"), Signer::new("ES256", "one"));
    let folder = Folder::new(&[&ci]);
    folder.write("cluster.json", &json!({"keys": [cluster.jwk()]}).to_string());
    let second = ISSUERS.replace("ci", "cluster");
    folder.write("issuers.toml", &format!("{ISSUERS}{second}"));
    let issuers = folder.load();
    let of_cluster = with("iss", json!("https://cluster.example"));
    let identity = |token: &str| issuers.judge(token, NOW).unwrap().principal.identity.clone();
    assert_eq!(&*identity(&ci.token(&claims())), "jwt:ci:repo:a/b");
    assert_eq!(&*identity(&cluster.token(&of_cluster)), "jwt:cluster:repo:a/b");
    for forged in [cluster.token(&claims()), ci.token(&of_cluster)] {
        assert!(reason(issuers.judge(&forged, NOW)).contains("not signed by the key"));
    }
    // No subject makes the name of another issuer's.
    let sub = with("sub", json!("cluster:repo:a/b"));
    assert_eq!(&*identity(&ci.token(&sub)), "jwt:ci:cluster:repo:a/b");
}

#[test]
fn a_token_is_remembered_until_it_ends() {
    let signer = Signer::new("ES256", "one");
    let issuers = Folder::new(&[&signer]).load();
    let token = signer.token(&claims());
    let counted = || {
        let Figures { checked, remembered, refused, .. } = issuers.figures();
        (checked, remembered, refused)
    };
    for number in 0..3 {
        issuers.judge(&token, NOW).unwrap();
        assert_eq!(counted(), (1, number, 0));
    }
    issuers.judge(&token, END - 1).unwrap();
    assert!(reason(issuers.judge(&token, END)).contains("has expired"));
    assert_eq!(counted(), (1, 3, 1));
    // A clock that was set back does not make it valid before its time, either.
    assert!(reason(issuers.judge(&token, NOW - 71)).contains("not valid yet"));
    // One that is refused is not remembered, and what is remembered is bounded.
    for number in 0..2 * REMEMBERED as u64 {
        issuers.judge(&signer.token(&with("jti", json!(number))), NOW).unwrap();
    }
    let current = issuers.read_state(|state| Arc::clone(&state.current));
    assert!(current.verified.len() <= REMEMBERED, "{}", current.verified.len());
}

#[test]
fn new_keys_are_taken_and_unusable_ones_change_nothing() {
    let (old, new) = (Signer::new("ES256", "old"), Signer::new("ES256", "new"));
    let folder = Folder::new(&[&old]);
    let issuers = folder.load();
    let (of_old, of_new) = (old.token(&claims()), new.token(&claims()));
    issuers.judge(&of_old, NOW).unwrap();
    assert!(reason(issuers.judge(&of_new, NOW)).contains("has no key of that id"));
    assert!(matches!(issuers.look(), Look::Unchanged));

    folder.publish(&[&old, &new]);
    assert!(matches!(issuers.look(), Look::Taken));
    issuers.judge(&of_old, NOW).unwrap();
    issuers.judge(&of_new, NOW).unwrap();

    for unusable in ["", "{\"keys\":[", "{\"keys\":[]}"] {
        folder.write("ci.json", unusable);
        let Look::Refused(why) = issuers.look() else { panic!("{unusable}") };
        assert!(why.to_string().contains("ci.json: "), "{why}");
        assert!(matches!(issuers.look(), Look::Unchanged), "it is said once");
        assert!(issuers.figures().is_outdated);
        issuers.judge(&of_new, NOW).expect("the old keys are in use");
    }
    folder.write("issuers.toml", "[ci]");
    assert!(matches!(issuers.look(), Look::Refused(_)));
    issuers.judge(&of_new, NOW).expect("the old issuers are in use");

    folder.write("issuers.toml", ISSUERS);
    folder.publish(&[&new]);
    assert!(matches!(issuers.look(), Look::Taken));
    assert!(!issuers.figures().is_outdated);
    issuers.judge(&of_new, NOW).unwrap();
    let why = reason(issuers.judge(&of_old, NOW));
    assert!(why.contains("has no key of that id"), "a remembered token is forgotten: {why}");

    // The issuers themselves are read again, too.
    folder.write("issuers.toml", &ISSUERS.replace("'keyward'", "'other'"));
    assert!(matches!(issuers.look(), Look::Taken));
    assert!(reason(issuers.judge(&of_new, NOW)).contains("not `other`"));
}
