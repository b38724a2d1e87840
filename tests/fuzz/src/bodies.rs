//! One function per target: for any bytes, no panic, and no accepted input violates an invariant.

use std::sync::LazyLock;

use sidegate_common::key::{KeyRing, VerifyingKey};
use sidegate_common::log_protocol::{Message, Position};
use sidegate_common::revocation::{Id, Revocation};
use sidegate_common::secret::Secret;
use sidegate_common::text::is_identifier;
use sidegate_common::time::UnixTime;
use sidegate_common::token::{self, Policy, TOKEN_BYTES_MAX, VerifiedToken};
use sidegate_common::{index::Index, jwks as key_set};
use sidegate_hostile::{Forge, KeyKind};
use sidegate_shm::clock::{Now, SegmentClock};
use sidegate_shm::hash::{Subject, TokenFacts};
use sidegate_shm::heap::HeapWords;
use sidegate_shm::layout::Geometry;
use sidegate_shm::reader::{Reader, SegmentLookup};
use sidegate_shm::words::{Load as _, WordStore as _};
use sidegate_shm::writer::Writer;

const NOW: UnixTime = UnixTime(1_700_000_000);

struct Verifier {
    forge: Forge,
    header: Vec<u8>,
    keys: KeyRing,
    policy: Policy,
}

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let forge = Forge::generate(KeyKind::Hs256);
    let key = VerifyingKey::hs256(&Secret::new(forge.secret().expect("a secret"))).expect("a strong secret");
    let header = serde_json::json!({"alg": "HS256", "typ": "at+jwt", "kid": forge.kid()}).to_string().into_bytes();
    let policy = Policy {
        issuer: "sidegate".into(),
        audiences: vec!["sidegate".into()],
        leeway_seconds: 5,
        lifetime_max_seconds: 86_400,
    };
    Verifier { forge, header, keys: KeyRing::new(vec![key]).expect("one key"), policy }
});

/// The first byte selects: the rest is a whole token, a signed payload under a valid header, or a
/// signed header.
pub fn token(data: &[u8]) {
    let verifier = &*VERIFIER;
    let Some((mode, data)) = data.split_first() else { return };
    let forge = &verifier.forge;
    let claims = br#"{"iss":"sidegate","aud":"sidegate","sub":"42","client_id":"c","iat":1699999990,"exp":1700000100,"jti":"j","sid":"s"}"#;
    let token = match mode % 3 {
        0 => String::from_utf8_lossy(data).into_owned(),
        1 => forge.token(&verifier.header, data),
        _ => forge.token(data, claims),
    };
    let _key = token::unverified_key(&token);
    if let Ok(verified) = token::verify(&verifier.keys, &verifier.policy, NOW, &token) {
        lawful(&verified, &token);
    }
}

fn lawful(verified: &VerifiedToken, token: &str) {
    let claims = verified.claims();
    assert!(token.len() <= TOKEN_BYTES_MAX);
    assert_eq!(claims.unfit_claim(), None, "fit for header lines");
    assert!(claims.iss == "sidegate" && claims.aud.names("sidegate"));
    assert!(claims.exp >= claims.iat && claims.exp - claims.iat <= 86_400);
    assert!(claims.iat <= NOW.0 + 5 && claims.exp + 5 > NOW.0 && claims.nbf.is_none_or(|nbf| nbf <= NOW.0 + 5));
    assert!(Id::parse(&claims.jti).is_some() && Id::parse(&claims.sid).is_some(), "revocable");
}

/// A JWK set.
pub fn jwks(data: &[u8]) {
    let Ok(ring) = key_set::parse(data) else { return };
    assert!(!ring.keys().is_empty() && ring.keys().len() <= key_set::JWKS_KEYS_MAX);
    for key in ring.keys() {
        assert!(is_identifier(key.kid()) && key.algorithm().name() != "HS256");
        assert!(ring.knows(key.kid()));
        assert!(!key.verifies(b"message", b"") && !key.verifies(b"", &[0; 64]), "nothing signs with nothing");
    }
}

/// A message of the feed, an entry of the log, a position.
pub fn feed(data: &[u8]) {
    let index = Index::new(2);
    if let Ok(message) = Message::parse(data) {
        assert!(message.position > message.previous);
        if let Ok(revocation) = message.revocation {
            hold(&index, &revocation);
        }
    }
    if let Ok(revocation) = Revocation::from_bytes(data) {
        assert_eq!(revocation.to_bytes(), data, "an entry has one spelling");
        hold(&index, &revocation);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Some(position) = Position::parse(text) {
            assert_eq!(position.to_string(), text, "a position has one spelling");
        }
        if let Some(id) = Id::parse(text) {
            assert_eq!(id.to_string(), text, "an identifier has one spelling");
        }
    }
}

fn hold(index: &Index, revocation: &Revocation) {
    index.apply(0, revocation);
    index.apply(1, revocation);
    assert!(index.counts().total() <= 1);
    index.expire(UnixTime(revocation.expires_at.0 + 1));
    assert_eq!(index.counts().total(), 0, "no entry is held longer than necessary");
}

struct Frozen;

impl SegmentClock for Frozen {
    fn now(&self) -> Now {
        Now { monotonic_ns: 1 << 40, realtime_ns: 1_700_000_000 << 30 }
    }
}

/// Damages a segment: overwrites words of a valid one, with three bytes of position and eight of
/// value each. A reader must neither panic nor accept a token: the segment was never promised to be
/// valid.
pub fn segment(data: &[u8]) {
    let geometry = Geometry { table_lines: 64, unbound_lines: 64 };
    let words = HeapWords::new(geometry.words());
    let _writer = Writer::new(words.clone(), geometry, 7, (1, 2), 3);
    let good = Reader::new(words.clone()).expect("a good segment");
    let facts = TokenFacts { jti: "j", sid: "s", subject: Subject(5), iat_s: 1_600_000_000, exp_s: 1_600_000_100 };
    let probe = good.probe(&facts);
    for damage in data.chunks_exact(11).take(64) {
        let place = usize::from(damage[0]) | usize::from(damage[1]) << 8 | usize::from(damage[2]) << 16;
        let value = u64::from_le_bytes(std::array::from_fn(|at| damage[3 + at]));
        // Most positions are tables; the header and the live line get half of the damage.
        let place = if place & 1 == 0 { (place >> 1) % 40 } else { (place >> 1) % words.len() };
        words.publish(place, value);
    }
    if let Ok(reader) = Reader::new(words.clone()) {
        let probe = reader.probe(&facts);
        // The token has expired by any clock for which the promise could hold, so accepting it
        // would be wrong.
        assert!(
            !matches!(reader.check(&probe, 0, &Frozen), SegmentLookup::Clear),
            "a damaged segment must not accept a token"
        );
        let _ = (reader.wants_replacing(&Frozen), reader.live(), reader.successor(), reader.bytes());
    }
    // A reader that was attached before the damage.
    let _ = good.check(&probe, 0, &Frozen);
}
