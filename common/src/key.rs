//! Keys: the algorithm belongs to the key, never to a token's header (RFC 8725 §3.1, RFC 7517).

use std::sync::Arc;

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
};
use aws_lc_rs::{hkdf, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{EncodingKey, Header};

use zeroize::Zeroizing;

use crate::secret::{SECRET_BYTES_MIN, Secret};

/// The supported signature algorithms (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, 2048 bits or more.
    Rs256,
    /// RSASSA-PSS with SHA-256, 2048 bits or more; only for tokens of other issuers.
    Ps256,
}

impl Algorithm {
    /// The name in a token's header and a JWK.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
        }
    }

    /// The algorithm with this [`Algorithm::name`].
    pub fn named(name: &str) -> Option<Self> {
        [Self::Hs256, Self::EdDsa, Self::Es256, Self::Rs256, Self::Ps256].into_iter().find(|one| one.name() == name)
    }

    /// True if a header's `alg` names this algorithm. RFC 9864 renames EdDSA on Ed25519 to
    /// `Ed25519`; both names are accepted.
    pub fn is_named(self, alg: &str) -> bool {
        alg == self.name() || (self == Self::EdDsa && alg == "Ed25519")
    }

    const fn for_jsonwebtoken(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Ps256 => jsonwebtoken::Algorithm::PS256,
        }
    }
}

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// An HMAC secret shorter than [`SECRET_BYTES_MIN`].
    #[error("the secret has {0} bytes; at least 32 random ones are needed")]
    SecretTooShort(usize),
    /// A secret in lists of leaked or default secrets.
    #[error("the secret is well known; use 32 or more random bytes")]
    SecretWellKnown,
    /// Not a PEM private key of a supported kind.
    #[error("not a PEM private key for Ed25519, P-256 (PKCS#8) or RSA of at least 2048 bits")]
    NotAPrivateKey,
    /// HKDF failed.
    #[error("key derivation failed")]
    Derivation,
    /// A public key that is malformed, too weak, or of an unsupported kind.
    #[error("not a usable public key for Ed25519, P-256 or RSA of at least 2048 bits")]
    NotAPublicKey,
}

enum Material {
    Hmac(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

/// A key that verifies tokens, pinned to its algorithm and its identifier.
#[derive(Clone)]
pub struct VerifyingKey {
    kid: Arc<str>,
    algorithm: Algorithm,
    material: Arc<Material>,
    /// The header part of every token that Sidegate signs with this key: comparing it saves parsing
    /// it.
    usual_header: Arc<str>,
}

impl std::fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifyingKey")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl VerifyingKey {
    fn new(kid: String, algorithm: Algorithm, material: Material) -> Self {
        let header = serde_json::to_vec(&token_header(algorithm, &kid)).unwrap_or_default();
        Self {
            usual_header: URL_SAFE_NO_PAD.encode(header).into(),
            kid: kid.into(),
            algorithm,
            material: Arc::new(material),
        }
    }

    /// The HMAC key of `JWT_SECRET_KEY`: its UTF-8 bytes.
    ///
    /// # Errors
    /// A short or well-known secret.
    pub fn hs256(secret: &Secret) -> Result<Self, KeyError> {
        check_secret(secret)?;
        let material = Material::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret.expose())));
        Ok(Self::new(hs256_kid(secret)?, Algorithm::Hs256, material))
    }

    /// A public key from a JWK (RFC 7517); without `kid` it gets its RFC 7638 thumbprint.
    ///
    /// # Errors
    /// An unsupported kind of key, a use other than signatures, an `alg` that does not fit the key,
    /// malformed or weak numbers.
    pub fn from_jwk(jwk: &Jwk) -> Result<Self, KeyError> {
        Self::public(jwk, Algorithm::Rs256)
    }

    /// As [`VerifyingKey::from_jwk`], for an issuer that signs only with `algorithms`. An RSA key
    /// without `alg` serves the only RSA algorithm among them.
    ///
    /// # Errors
    /// As [`VerifyingKey::from_jwk`]; or the key is for none of the algorithms, or does not say for
    /// which.
    pub fn from_jwk_for(jwk: &Jwk, algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let both = [Algorithm::Rs256, Algorithm::Ps256].iter().all(|one| algorithms.contains(one));
        let rsa = match &jwk.common.key_algorithm {
            None if both && matches!(jwk.algorithm, AlgorithmParameters::RSA(_)) => {
                return Err(KeyError::NotAPublicKey);
            }
            None if algorithms.contains(&Algorithm::Ps256) => Algorithm::Ps256,
            Some(alg) if Algorithm::Ps256.is_named(&alg.to_string()) => Algorithm::Ps256,
            _ => Algorithm::Rs256,
        };
        let key = Self::public(jwk, rsa)?;
        if algorithms.contains(&key.algorithm) { Ok(key) } else { Err(KeyError::NotAPublicKey) }
    }

    fn public(jwk: &Jwk, rsa: Algorithm) -> Result<Self, KeyError> {
        let (algorithm, parsed) = public_key(jwk, rsa)?;
        let common = &jwk.common;
        let signs = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
        let named = common.key_algorithm.as_ref().is_none_or(|alg| algorithm.is_named(&alg.to_string()));
        let verifies = common.key_operations.as_ref().is_none_or(|may| may.contains(&KeyOperations::Verify));
        if !signs || !named || !verifies {
            return Err(KeyError::NotAPublicKey);
        }
        let kid = match &common.key_id {
            Some(kid) => kid.clone(),
            None => jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| KeyError::NotAPublicKey)?,
        };
        if !crate::text::is_identifier(&kid) {
            return Err(KeyError::NotAPublicKey);
        }
        Ok(Self::new(kid, algorithm, Material::Public(parsed)))
    }

    /// The key's identifier.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The key's only algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// True if `signature` is this key's signature of `message`. HMACs are compared in constant
    /// time.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &*self.material {
            Material::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
            Material::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

fn public_key(jwk: &Jwk, rsa: Algorithm) -> Result<(Algorithm, ParsedPublicKey), KeyError> {
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::NotAPublicKey);
    match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            let point = bytes(&key.x)?;
            if is_of_small_order(&point) {
                return Err(KeyError::NotAPublicKey);
            }
            let parsed = ParsedPublicKey::new(&ED25519, point).map_err(|_| KeyError::NotAPublicKey)?;
            Ok((Algorithm::EdDsa, parsed))
        }
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            let (x, y) = (bytes(&key.x)?, bytes(&key.y)?);
            if x.len() != 32 || y.len() != 32 {
                return Err(KeyError::NotAPublicKey);
            }
            let point = [&[4][..], &x, &y].concat();
            let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(|_| KeyError::NotAPublicKey)?;
            Ok((Algorithm::Es256, parsed))
        }
        AlgorithmParameters::RSA(key) => {
            let (n, e) = (bytes(&key.n)?, bytes(&key.e)?);
            let bits = n.len() * 8;
            let odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
            // With exponent 1 anyone can sign. aws-lc accepts at most 33 bits, but checks only when
            // it verifies.
            let exponent = odd(&e) && e != [1] && e.first() != Some(&0) && e.len() <= 4;
            if !(2048..=8192).contains(&bits) || n.first() == Some(&0) || !odd(&n) || !exponent {
                return Err(KeyError::NotAPublicKey);
            }
            let parsed = PublicKeyComponents { n, e }
                .to_parsed_public_key(if rsa == Algorithm::Ps256 {
                    &RSA_PSS_2048_8192_SHA256
                } else {
                    &RSA_PKCS1_2048_8192_SHA256
                })
                .map_err(|_| KeyError::NotAPublicKey)?;
            Ok((rsa, parsed))
        }
        _ => Err(KeyError::NotAPublicKey),
    }
}

/// True for the points of Ed25519 whose order divides the cofactor, in every encoding: a signature
/// under such a key is valid for other messages too (RFC 8032 §5.1.7; RFC 7748 §6.1 asks for a
/// similar check).
fn is_of_small_order(point: &[u8]) -> bool {
    const ORDER_8: [[u8; 32]; 2] = [
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
            0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
            0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    let Ok(mut y) = <[u8; 32]>::try_from(point) else { return false };
    y[31] &= 0x7f; // the sign of x
    let (first, rest) = (y[0], &y[1..]);
    // y = 0, 1, and p - 1, p, p + 1 for the field's prime p = 2^255 - 19.
    let low = first <= 1 && rest.iter().all(|byte| *byte == 0);
    let high = (0xec..=0xee).contains(&first) && rest[30] == 0x7f && rest[..30].iter().all(|byte| *byte == 0xff);
    low || high || ORDER_8.contains(&y)
}

fn token_header(algorithm: Algorithm, kid: &str) -> Header {
    let mut header = Header::new(algorithm.for_jsonwebtoken());
    header.typ = Some("at+jwt".to_owned());
    header.kid = Some(kid.to_owned());
    header
}

fn check_secret(secret: &Secret) -> Result<(), KeyError> {
    let bytes = secret.expose();
    if bytes.len() < SECRET_BYTES_MIN {
        return Err(KeyError::SecretTooShort(bytes.len()));
    }
    if crate::weak_secrets::is_weak(bytes) { Err(KeyError::SecretWellKnown) } else { Ok(()) }
}

/// The `kid` of an HMAC secret: base64url of the first 16 bytes of HKDF-SHA256(secret, info = `sidegate kid`).
///
/// # Errors
/// [`KeyError::Derivation`].
pub fn hs256_kid(secret: &Secret) -> Result<String, KeyError> {
    Ok(URL_SAFE_NO_PAD.encode(*derive::<16>(secret, b"sidegate kid")?))
}

/// `N` bytes of HKDF-SHA256 (RFC 5869) with an empty salt; at most 8,160.
///
/// # Errors
/// [`KeyError::Derivation`].
pub fn derive<const N: usize>(secret: &Secret, info: &[u8]) -> Result<Zeroizing<[u8; N]>, KeyError> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut out = Zeroizing::new([0; N]);
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(secret.expose());
    let filled = prk.expand(&[info], Length(N)).and_then(|okm| okm.fill(out.as_mut_slice()));
    filled.map(|()| out).map_err(|_| KeyError::Derivation)
}

/// A key that signs tokens.
pub struct SigningKey {
    verifying: VerifyingKey,
    header: Header,
    encoding: EncodingKey,
    jwk: Option<Jwk>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid()).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// The key of `JWT_SECRET_KEY`.
    ///
    /// # Errors
    /// A short or well-known secret.
    pub fn hs256(secret: &Secret) -> Result<Self, KeyError> {
        let verifying = VerifyingKey::hs256(secret)?;
        let header = token_header(Algorithm::Hs256, &verifying.kid);
        Ok(Self { verifying, header, encoding: EncodingKey::from_secret(secret.expose()), jwk: None })
    }

    /// A private key from PEM: Ed25519, P-256 (PKCS#8) or RSA. `kid` is the RFC 7638 thumbprint of its public half.
    ///
    /// # Errors
    /// Any other kind of key, or malformed PEM.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let candidates = [
            (Algorithm::EdDsa, EncodingKey::from_ed_pem(pem)),
            (Algorithm::Es256, EncodingKey::from_ec_pem(pem)),
            (Algorithm::Rs256, EncodingKey::from_rsa_pem(pem)),
        ];
        for (algorithm, encoding) in candidates {
            let Ok(encoding) = encoding else { continue };
            let Ok(mut jwk) = Jwk::from_encoding_key(&encoding, algorithm.for_jsonwebtoken()) else { continue };
            let thumbprint = jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| KeyError::NotAPrivateKey)?;
            jwk.common.key_id = Some(thumbprint.clone());
            jwk.common.public_key_use = Some(PublicKeyUse::Signature);
            let verifying = VerifyingKey::from_jwk(&jwk).map_err(|_| KeyError::NotAPrivateKey)?;
            let header = token_header(algorithm, &thumbprint);
            return Ok(Self { verifying, header, encoding, jwk: Some(jwk) });
        }
        Err(KeyError::NotAPrivateKey)
    }

    /// The key's identifier.
    pub fn kid(&self) -> &str {
        self.verifying.kid()
    }

    /// The key's algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.verifying.algorithm()
    }

    /// The public half.
    pub const fn verifying(&self) -> &VerifyingKey {
        &self.verifying
    }

    /// The public key as a JWK (RFC 7517); `None` for an HMAC key, which is never published.
    pub const fn jwk(&self) -> Option<&Jwk> {
        self.jwk.as_ref()
    }

    /// Signs `claims` as a compact JWS.
    pub(crate) fn sign(&self, claims: &impl serde::Serialize) -> Result<String, jsonwebtoken::errors::Error> {
        jsonwebtoken::encode(&self.header, claims, &self.encoding)
    }
}

/// The verification keys. Each `kid` names at most one of them.
#[derive(Debug, Default)]
pub struct KeyRing {
    keys: Vec<VerifyingKey>,
}

/// Two keys with one `kid`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two keys have the kid {0:?}")]
pub struct DuplicateKid(pub String);

impl KeyRing {
    /// A ring of `keys`.
    ///
    /// # Errors
    /// Two keys share a `kid`.
    pub fn new(keys: Vec<VerifyingKey>) -> Result<Self, DuplicateKid> {
        for (at, key) in keys.iter().enumerate() {
            if keys[..at].iter().any(|earlier| earlier.kid == key.kid) {
                return Err(DuplicateKid(key.kid.to_string()));
            }
        }
        Ok(Self { keys })
    }

    /// The keys.
    pub fn keys(&self) -> &[VerifyingKey] {
        &self.keys
    }

    /// The key whose tokens usually begin with this header.
    pub(crate) fn with_usual_header(&self, header: &str) -> Option<&VerifyingKey> {
        self.keys.iter().find(|key| *key.usual_header == *header)
    }

    /// The key that a header names: by `kid`, or without `kid` the only key of the algorithm. `alg`
    /// must be the key's algorithm.
    pub(crate) fn named(&self, kid: Option<&str>, alg: &str) -> Option<&VerifyingKey> {
        let mut fitting = self.keys.iter().filter(|key| key.algorithm.is_named(alg));
        match kid {
            Some(kid) => fitting.find(|key| &*key.kid == kid),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        }
    }

    /// True if a key has this `kid`.
    pub fn knows(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| &*key.kid == kid)
    }
}

#[cfg(test)]
mod tests;
