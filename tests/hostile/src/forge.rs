//! Keys that sign anything, made here and not by the code under test.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    RsaEncoding,
};
use aws_lc_rs::{digest, hkdf, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// The kinds of keys that sign access tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// HMAC with SHA-256.
    Hs256,
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, 2048 bits.
    Rs256,
}

impl KeyKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hs256, Self::EdDsa, Self::Es256, Self::Rs256];

    /// The name in a token's header.
    pub const fn alg(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

enum Pair {
    Hmac(Vec<u8>),
    Ed(Ed25519KeyPair),
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// A key that signs any bytes.
pub struct Forge {
    pair: Pair,
    kid: String,
    jwk: Option<Value>,
    pem: Option<String>,
    /// The public key in every encoding that a confused verifier might use as an HMAC secret.
    public: Vec<(&'static str, Vec<u8>)>,
}

impl Forge {
    /// The key of a shared secret.
    pub fn hs256(secret: &[u8]) -> Self {
        let mut kid = [0; 16];
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(secret);
        let okm = prk.expand(&[b"sidegate kid"], hkdf::HKDF_SHA256).expect("HKDF");
        let mut block = [0; 32];
        okm.fill(&mut block).expect("HKDF");
        kid.copy_from_slice(&block[..16]);
        Self { pair: Pair::Hmac(secret.to_vec()), kid: b64(kid), jwk: None, pem: None, public: Vec::new() }
    }

    /// A new key; for HS256, of a fixed secret.
    pub fn generate(kind: KeyKind) -> Self {
        match kind {
            KeyKind::Hs256 => Self::hs256(b"the-forge's-own-secret-of-more-than-32-bytes"),
            KeyKind::EdDsa => {
                let pair = Ed25519KeyPair::generate().expect("a key");
                let public = pair.public_key().as_ref().to_vec();
                let jwk = json!({"crv": "Ed25519", "kty": "OKP", "x": b64(&public)});
                let spki = spki(pair.public_key());
                let private = pair.to_pkcs8v1().expect("DER");
                Self::asymmetric(jwk, private.as_ref(), &spki, public, Pair::Ed(pair))
            }
            KeyKind::Es256 => {
                let rng = SystemRandom::new();
                let private = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).expect("a key");
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_ref()).expect("a key");
                let public = pair.public_key().as_ref().to_vec();
                let jwk = json!({"crv": "P-256", "kty": "EC", "x": b64(&public[1..33]), "y": b64(&public[33..])});
                let spki = spki(pair.public_key());
                Self::asymmetric(jwk, private.as_ref(), &spki, public, Pair::Ec(pair))
            }
            KeyKind::Rs256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
                let public = pair.public_key().as_ref().to_vec();
                let (n, e) = rsa_numbers(&public);
                let jwk = json!({"e": b64(e), "kty": "RSA", "n": b64(n)});
                let spki = spki(pair.public_key());
                let private: Pkcs8V1Der<'_> = pair.as_der().expect("DER");
                Self::asymmetric(jwk, (*private).as_ref(), &spki, public, Pair::Rsa(pair))
            }
        }
    }

    /// `jwk` has exactly the members of RFC 7638 §3.2, in order.
    fn asymmetric(jwk: Value, private: &[u8], spki: &[u8], raw: Vec<u8>, pair: Pair) -> Self {
        let canonical = jwk.to_string();
        let kid = b64(digest::digest(&digest::SHA256, canonical.as_bytes()));
        let spki_pem = pem("PUBLIC KEY", spki);
        let public = vec![
            ("the public key's PEM", spki_pem.clone().into_bytes()),
            ("the public key's PEM without its last newline", spki_pem.trim_end().as_bytes().to_vec()),
            ("the public key's DER", spki.to_vec()),
            ("the public key's bytes", raw),
            ("the public key's JWK", canonical.into_bytes()),
            ("the public key's kid", kid.clone().into_bytes()),
        ];
        let mut jwk = jwk;
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        Self { pair, kid, jwk: Some(jwk), pem: Some(pem("PRIVATE KEY", private)), public }
    }

    /// The key's kind.
    pub fn kind(&self) -> KeyKind {
        match self.pair {
            Pair::Hmac(_) => KeyKind::Hs256,
            Pair::Ed(_) => KeyKind::EdDsa,
            Pair::Ec(_) => KeyKind::Es256,
            Pair::Rsa(_) => KeyKind::Rs256,
        }
    }

    /// The `kid` that Sidegate gives this key.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key as a JWK; `None` for a shared secret.
    pub fn jwk(&self) -> Option<&Value> {
        self.jwk.as_ref()
    }

    /// The private key as PKCS#8 PEM; `None` for a shared secret.
    pub fn private_pem(&self) -> Option<&str> {
        self.pem.as_deref()
    }

    /// The shared secret, if it is one.
    pub fn secret(&self) -> Option<&[u8]> {
        match &self.pair {
            Pair::Hmac(secret) => Some(secret),
            _ => None,
        }
    }

    /// The encodings of the public key.
    pub fn public(&self) -> &[(&'static str, Vec<u8>)] {
        &self.public
    }

    /// The signature over `signed`.
    pub fn sign(&self, signed: &[u8]) -> Vec<u8> {
        match &self.pair {
            Pair::Hmac(secret) => mac(hmac::HMAC_SHA256, secret, signed),
            Pair::Ed(pair) => pair.sign(signed).as_ref().to_vec(),
            Pair::Ec(pair) => pair.sign(&SystemRandom::new(), signed).expect("a signature").as_ref().to_vec(),
            Pair::Rsa(pair) => rsa(pair, &RSA_PKCS1_SHA256, signed),
        }
    }

    /// An RSA-PSS signature with the same key; `None` for other keys.
    pub fn sign_pss(&self, signed: &[u8]) -> Option<Vec<u8>> {
        match &self.pair {
            Pair::Rsa(pair) => Some(rsa(pair, &RSA_PSS_SHA256, signed)),
            _ => None,
        }
    }

    /// A compact JWS over any bytes.
    pub fn token(&self, header: &[u8], payload: &[u8]) -> String {
        let signed = format!("{}.{}", b64(header), b64(payload));
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    }
}

fn rsa(pair: &RsaKeyPair, padding: &'static dyn RsaEncoding, signed: &[u8]) -> Vec<u8> {
    let mut out = vec![0; pair.public_modulus_len()];
    pair.sign(padding, &SystemRandom::new(), signed, &mut out).expect("a signature");
    out
}

/// An HMAC tag.
pub(crate) fn mac(algorithm: hmac::Algorithm, secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(algorithm, secret), message).as_ref().to_vec()
}

/// base64url without padding.
pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn spki(public: &impl AsDer<PublicKeyX509Der<'static>>) -> Vec<u8> {
    let der: PublicKeyX509Der<'_> = public.as_der().expect("DER");
    (*der).as_ref().to_vec()
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Modulus and exponent of a DER `RSAPublicKey` (RFC 8017 §A.1.1), without leading zeros.
fn rsa_numbers(der: &[u8]) -> (&[u8], &[u8]) {
    let (_, body, _) = element(der);
    let (_, n, rest) = element(body);
    let (_, e, _) = element(rest);
    let plain = |number: &'static str, bytes: &[u8]| {
        assert!(!bytes.is_empty(), "{number}");
        usize::from(bytes[0] == 0)
    };
    (&n[plain("n", n)..], &e[plain("e", e)..])
}

/// One DER element: its tag, its contents, and what follows.
fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
    let (tag, first) = (der[0], usize::from(der[1]));
    let (length, start) = if first < 0x80 {
        (first, 2)
    } else {
        let octets = first & 0x7f;
        (der[2..2 + octets].iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), 2 + octets)
    };
    (tag, &der[start..start + length], &der[start + length..])
}
