//! The cost of a hostile token to the verifier, compared with a valid one of equal length and the
//! same kind of key.

use std::collections::HashMap;
use std::hint::black_box;

use rustix::time::{ClockId, clock_gettime};
use sidegate_common::jwks;
use sidegate_common::key::{KeyRing, VerifyingKey};
use sidegate_common::secret::Secret;
use sidegate_common::time::UnixTime;
use sidegate_common::token::{self, Policy, TOKEN_BYTES_MAX};
use sidegate_hostile::{Case, Expected, Forge, KeyKind, Setting, corpus};

use super::row::{Goal, Row, median_of};

const NOW: UnixTime = UnixTime(1_700_000_000);
/// Duration of one measurement, in nanoseconds of CPU time.
const ONE_RUN_NS: f64 = 100_000.0;
const ROUNDS: usize = 5;
const PAIRS: usize = 15;

/// For each kind of key, the hostile token of the corpus that is most expensive relative to its
/// valid twin.
pub async fn rows() -> Vec<Row> {
    KeyKind::ALL.map(worst).into()
}

/// A verifier, a signer with its key, and valid tokens by length.
struct Bench {
    forge: Forge,
    keys: KeyRing,
    policy: Policy,
    twins: HashMap<usize, String>,
}

fn worst(kind: KeyKind) -> Row {
    let setting = Setting::at(NOW.0);
    let mut bench = Bench::new(Forge::generate(kind), &setting);
    let cases = corpus(&bench.forge, &setting);
    let refused: Vec<&Case> = cases.iter().filter(|case| case.expected != Expected::Good).collect();
    let mut worst = (0.0, refused[0]);
    for case in &refused {
        let twin = bench.twin(case.token.len());
        let mut ratios = [0.0; ROUNDS];
        ratios.fill_with(|| bench.cost_us(&case.token) / bench.cost_us(&twin));
        let ratio = median_of(&ratios);
        if ratio > worst.0 {
            worst = (ratio, case);
        }
    }
    let twin = bench.twin(worst.1.token.len());
    let name = format!("reject {}, worst of {}", kind.alg(), refused.len());
    println!("{name}: {}: {} ({} bytes)", worst.1.category, worst.1.name, worst.1.token.len());
    let peer = "good, equal length";
    let mut row = Row { name, unit: "us CPU", peer, ours: Vec::new(), theirs: Vec::new(), goal: Goal::AtMost(2.0) };
    for _ in 0..PAIRS {
        row.ours.push(bench.cost_us(&worst.1.token));
        row.theirs.push(bench.cost_us(&twin));
    }
    row
}

impl Bench {
    fn new(forge: Forge, setting: &Setting) -> Self {
        let keys = match (forge.secret(), forge.jwk()) {
            (Some(secret), _) => {
                KeyRing::new(vec![VerifyingKey::hs256(&Secret::new(secret)).expect("a strong secret")]).expect("a key")
            }
            (_, jwk) => jwks::parse(serde_json::json!({"keys": [jwk]}).to_string().as_bytes()).expect("a key"),
        };
        let policy = Policy {
            issuer: setting.issuer.clone(),
            audiences: vec![setting.audience.clone()],
            leeway_seconds: setting.leeway,
            lifetime_max_seconds: setting.lifetime_max,
        };
        Self { forge, keys, policy, twins: HashMap::new() }
    }

    /// A valid token of about this length, as far as base64 and the limits of tokens allow.
    fn twin(&mut self, length: usize) -> String {
        let length = length.min(TOKEN_BYTES_MAX);
        let Self { forge, twins, .. } = self;
        twins.entry(length).or_insert_with(|| padded(forge, length)).clone()
    }

    /// CPU time of one verification, in microseconds.
    fn cost_us(&self, token: &str) -> f64 {
        let mut times = 0_u32;
        let start = cpu_ns();
        loop {
            for _ in 0..8 {
                let verdict = token::verify(&self.keys, &self.policy, NOW, black_box(token));
                let _ = black_box(verdict);
            }
            times += 8;
            let spent = cpu_ns() - start;
            if spent >= ONE_RUN_NS {
                return spent / f64::from(times) / 1000.0;
            }
        }
    }
}

fn padded(forge: &Forge, length: usize) -> String {
    let header = serde_json::json!({"alg": forge.kind().alg(), "typ": "at+jwt", "kid": forge.kid()}).to_string();
    let with = |filling: usize| {
        let claims = serde_json::json!({
            "iss": "sidegate", "aud": "sidegate", "sub": "42", "client_id": "sidegate", "iat": NOW.0 - 60,
            "exp": NOW.0 + 3600, "jti": "AAECAwQFBgcICQoLDA0ODw", "sid": "EBESExQVFhcYGRobHB0eHw", "x": "x".repeat(filling),
        });
        forge.token(header.as_bytes(), claims.to_string().as_bytes())
    };
    let bare = with(0).len();
    with(length.saturating_sub(bare) * 3 / 4)
}

fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}
