//! An issuer of JWTs, as a Kubernetes cluster or a CI service is one: a key, and files for nodes.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

/// The `iss` of its tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The `aud` of tokens for the nodes.
pub const AUDIENCE: &str = "keyward";

/// A key that signs tokens, with its id.
#[derive(Debug)]
pub struct SigningKey {
    id: String,
    pair: EcdsaKeyPair,
}

impl SigningKey {
    /// A new key.
    ///
    /// # Panics
    /// If the system has no random numbers.
    pub fn new(id: &str) -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let made = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, made.as_ref(), &random).expect("the key");
        Self { id: id.to_owned(), pair }
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
    }

    /// A token with these claims.
    ///
    /// # Panics
    /// If the system has no random numbers.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.id});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes());
        let signature = signature.expect("a signature");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The claims of a service account's token, as Kubernetes makes them, that ends at this time in
/// seconds since 1970.
pub fn claims(namespace: &str, account: &str, ends: u64) -> Value {
    json!({
        "iss": ISSUER, "aud": [AUDIENCE], "sub": format!("system:serviceaccount:{namespace}:{account}"),
        "exp": ends, "iat": ends.saturating_sub(3600),
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account}},
    })
}

/// The files of an issuer in a folder.
#[derive(Debug)]
pub struct IssuerFiles(PathBuf);

impl IssuerFiles {
    /// Writes the file of issuers and these keys; the issuer is called `k8s`.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn write(folder: &Path, keys: &[&SigningKey]) -> Self {
        let files = Self(folder.to_owned());
        let text = format!(
            "[k8s]\nissuer = '{ISSUER}'\naudience = '{AUDIENCE}'\njwks = 'k8s.jwks.json'\n\
             groups_claim = '/kubernetes.io/namespace'\nclock_skew_s = 0\n"
        );
        files.put("issuers.toml", &text);
        files.publish(keys);
        files
    }

    /// The file of issuers.
    pub fn path(&self) -> PathBuf {
        self.0.join("issuers.toml")
    }

    /// Replaces the keys.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn publish(&self, keys: &[&SigningKey]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        self.put("k8s.jwks.json", &json!({"keys": keys}).to_string());
    }

    /// Replaces a file, by renaming.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn put(&self, name: &str, text: &str) {
        let (new, file) = (self.0.join(format!("{name}.new")), self.0.join(name));
        fs::write(&new, text).expect("the folder is writable");
        fs::rename(new, file).expect("the file is there");
    }
}
