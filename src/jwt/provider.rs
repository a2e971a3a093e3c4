//! Signatures, checked by `ring`: the cryptography that `jsonwebtoken` is given.
//!
//! The crate has two providers of its own, each with a second large library of cryptography. TLS has
//! `ring` here already, and it checks all signatures that are accepted.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::signature as ring;

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    // Only for keys that are made of others, which nothing here does.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Has `jsonwebtoken` use this provider in the whole process.
pub(super) fn install() {
    // The only way to fail is that it is installed already.
    let _ = PROVIDER.install_default();
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the crate asks for this type")]
fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the crate asks for this type")]
fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    let check = check_of(*algorithm).ok_or(ErrorKind::UnsupportedAlgorithm)?;
    Ok(Box::new(Checker { algorithm: *algorithm, check, key: key.clone() }))
}

/// A check of signatures.
enum Check {
    Rsa(&'static ring::RsaParameters),
    Point(&'static dyn ring::VerificationAlgorithm),
}

/// The check of an algorithm; `None` for those in which both sides share a secret.
#[allow(clippy::wildcard_enum_match_arm, reason = "the crate may add algorithms at any time")]
fn check_of(algorithm: Algorithm) -> Option<Check> {
    Some(match algorithm {
        Algorithm::RS256 => Check::Rsa(&ring::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Check::Rsa(&ring::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Check::Rsa(&ring::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Check::Rsa(&ring::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Check::Rsa(&ring::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Check::Rsa(&ring::RSA_PSS_2048_8192_SHA512),
        Algorithm::ES256 => Check::Point(&ring::ECDSA_P256_SHA256_FIXED),
        Algorithm::ES384 => Check::Point(&ring::ECDSA_P384_SHA384_FIXED),
        Algorithm::EdDSA => Check::Point(&ring::ED25519),
        // Those in which both sides share a secret, and those that a later version may know.
        _ => return None,
    })
}

/// A key that checks signatures of one algorithm.
struct Checker {
    algorithm: Algorithm,
    check: Check,
    key: DecodingKey,
}

impl JwtVerifier for Checker {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for Checker {
    fn verify(
        &self,
        message: &[u8],
        signature: &Vec<u8>,
    ) -> std::result::Result<(), signature::Error> {
        let good = match (&self.check, self.key.kind()) {
            (Check::Rsa(parameters), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                ring::RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (Check::Point(algorithm), DecodingKeyKind::SecretOrDer(point)) => {
                ring::UnparsedPublicKey::new(*algorithm, point).verify(message, signature)
            }
            (Check::Rsa(_) | Check::Point(_), _) => return Err(signature::Error::new()),
        };
        good.map_err(|_| signature::Error::new())
    }
}
