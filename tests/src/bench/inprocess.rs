//! In-process checks of a known token, compared with the machine's limit, the daemon, jsonwebtoken,
//! and a Redis GET.

use std::hint::black_box;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use sidegate_client::Sidegate;
use sidegate_common::claims::Claims;
use sidegate_hostile::{Forge, KeyKind};

use super::limits::{Memory, compares, time};
use super::many_clients::{Known, LoadedVerifier, token};
use super::row::{Goal, Row};
use crate::redis::Redis;
use crate::stack::SECRET;

const PAIRS: usize = 9;
/// Batches of checks in one measurement.
const BATCHES: usize = 400;

/// Known tokens, entries in the list, and the goal of the median in nanoseconds.
const SIZES: [(u64, u64, &str, f64); 4] = [
    (1, 1_000_000, "1 token, 1 M revoked", 40.0),
    (10_000, 1_000_000, "10,000 tokens, 1 M revoked", 200.0),
    (100_000, 1_000_000, "100,000 tokens, 1 M revoked", 500.0),
    (1_000_000, 10_000_000, "1 M tokens, 10 M revoked", 900.0),
];

/// All sizes; `BENCH_TOKENS` omits those with more tokens.
pub async fn rows() -> Vec<Row> {
    let most = std::env::var("BENCH_TOKENS").ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    let mut loaded = LoadedVerifier::start().await;
    let asking = Sidegate::builder().socket(&loaded.daemon.socket).socket_only().connect();
    let mut rows = Vec::new();
    for (tokens, revoked, name, goal) in SIZES.into_iter().filter(|size| size.0 <= most) {
        loaded.revoke(revoked).await;
        let known = loaded.known(tokens).await;
        let asking = asking.clone();
        let sized = tokio::task::spawn_blocking(move || against_the_machine(known, &asking, name, goal));
        rows.extend(sized.await.expect("measured"));
        if tokens == 10_000 {
            rows.extend(against_others(loaded.known(tokens).await).await);
        }
    }
    rows
}

/// The claims that an application uses.
#[derive(serde::Deserialize)]
#[allow(dead_code, reason = "to be decoded is all that is asked of it")]
struct Decoded {
    sub: String,
    sid: String,
    jti: String,
    scope: String,
    iat: u64,
    exp: u64,
}

fn against_the_machine(mut known: Known, asking: &Sidegate, name: &str, goal: f64) -> Vec<Row> {
    let row = |what: &str, peer, goal| Row::new(format!("{name}{what}"), "ns", peer, goal);
    let mut rows = [
        row(", median", "a random load", Goal::OursAtMost(goal)),
        row(", p99", "its p99", Goal::None),
        row("", "comparing as many bytes", Goal::None),
        row("", "the daemon asked", Goal::None),
    ];
    let (mut memory, bytes) = (Memory::default(), known.tokens[0].len());
    let first = known.tokens[0].clone();
    known.checks(BATCHES);
    for _ in 0..PAIRS {
        let ours = known.checks(BATCHES);
        let load = memory.loads(BATCHES);
        let round_trip = time(50, 4, || {}, |_| assert!(black_box(asking.check(&first)).is_ok()));
        rows[0].pair(ours.median, load.median);
        rows[1].pair(ours.p99, load.p99);
        rows[2].pair(ours.median, compares(BATCHES, bytes).median);
        rows[3].pair(ours.median, round_trip.median);
    }
    rows.into()
}

/// The same claims under each kind of key, decoded by jsonwebtoken; and the usual Redis blacklist.
async fn against_others(mut known: Known) -> Vec<Row> {
    let name = "10,000 tokens, 1 M revoked";
    let (claims, _) = token(1);
    let mut decoders: Vec<_> = [KeyKind::Hs256, KeyKind::EdDsa, KeyKind::Rs256]
        .map(|kind| {
            let peer = match kind {
                KeyKind::EdDsa => "jsonwebtoken EdDSA",
                KeyKind::Rs256 => "jsonwebtoken RS256",
                _ => "jsonwebtoken HS256",
            };
            (Row::new(name, "ns", peer, Goal::None), decoder(kind, &claims))
        })
        .into();
    let mut get = Row::new(name, "ns", "a Redis GET", Goal::None);
    let redis = Redis::start().await;
    let client = redis.client();
    let measured = tokio::task::spawn_blocking(move || {
        let mut connection = client.get_connection().expect("Redis answers");
        for _ in 0..PAIRS {
            let ours = known.checks(BATCHES).median;
            for (row, decode) in &mut decoders {
                row.pair(ours, time(20, 16, || {}, |_| decode()).median);
            }
            let ask = |_| {
                let mut command = redis::cmd("GET");
                let revoked: Option<String> =
                    command.arg("revoked:AAECAwQFBgcICQoLDA0ODw").query(&mut connection).expect("a reply");
                assert!(revoked.is_none());
            };
            get.pair(ours, time(50, 4, || {}, ask).median);
        }
        let mut rows: Vec<Row> = decoders.into_iter().map(|(row, _)| row).collect();
        rows.push(get);
        rows
    });
    let rows = measured.await.expect("measured");
    drop(redis);
    rows
}

fn decoder(kind: KeyKind, claims: &Claims) -> impl Fn() + Send + use<> {
    let forge = if kind == KeyKind::Hs256 { Forge::hs256(SECRET.as_bytes()) } else { Forge::generate(kind) };
    let header = serde_json::json!({"alg": kind.alg(), "typ": "at+jwt", "kid": forge.kid()}).to_string();
    let token = forge.token(header.as_bytes(), &serde_json::to_vec(claims).expect("JSON"));
    let key = match forge.jwk() {
        Some(jwk) => {
            let jwk = serde_json::from_value(jwk.clone()).expect("a JWK");
            DecodingKey::from_jwk(&jwk).expect("a key")
        }
        None => DecodingKey::from_secret(SECRET.as_bytes()),
    };
    let mut rules = Validation::new(match kind {
        KeyKind::EdDsa => Algorithm::EdDSA,
        KeyKind::Rs256 => Algorithm::RS256,
        _ => Algorithm::HS256,
    });
    rules.set_audience(&["sidegate"]);
    rules.set_issuer(&["sidegate"]);
    move || {
        let decoded = jsonwebtoken::decode::<Decoded>(black_box(token.as_bytes()), &key, &rules);
        assert!(black_box(decoded).is_ok());
    }
}
