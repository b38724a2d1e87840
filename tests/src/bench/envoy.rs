//! The cost of Sidegate behind Envoy: our ext_authz, compared with one that always allows, and with
//! Envoy's own jwt_authn.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::bare::{self, Says};
use super::guarded_envoy::{Figures, GuardedEnvoy, Setup, with_filter, without_app};
use super::row::{Goal, Row};
use crate::http::At;
use crate::program::free_port;
use crate::proxies::envoy;
use crate::stack::{EMAIL, SECRET, Stack, Store};

const TRIPLES: usize = 7;
const ONE_RUN: Duration = Duration::from_millis(1500);
const CONNECTIONS: usize = 32;

/// The shipped gRPC configuration, for the service at `socket`.
pub(super) fn grpc(port: u16, socket: &Path) -> String {
    without_app("envoy/grpc.yaml")
        .replace("VERIFIER_SOCKET", socket.to_str().expect("UTF-8"))
        .replace("ENVOY_PORT", &port.to_string())
}

/// Envoy's own filter, with the same key, issuer and audience.
pub(super) fn jwt_authn() -> String {
    let jwks = serde_json::json!({"keys": [{"kty": "oct", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(SECRET)}]});
    format!(
        r#"- name: envoy.filters.http.jwt_authn
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
                      providers:
                        own:
                          issuer: sidegate
                          audiences: [sidegate]
                          local_jwks: {{ inline_string: '{jwks}' }}
                          forward: true
                      rules:
                        - match: {{ prefix: / }}
                          requires: {{ provider_name: own }}
                  "#
    )
}

pub async fn rows() -> Vec<Row> {
    let stack = Stack::with(Store::Embedded, 1, &[], &[("WORKER_THREADS", "1"), ("RUST_LOG", "warn")]).await;
    let verifier = &stack.verifiers[0];
    let At::Unix(ours) = verifier.at.clone() else { panic!("the verifier listens on a Unix socket") };
    let (bare, theirs) = bare::start(&stack.folder, 1, Says::Grpc).await;
    let folder = stack.folder.path();
    let Some(program) = envoy() else {
        println!("skipped: Envoy is not installed; tests/run installs it");
        return Vec::new();
    };
    let start = async |name, without_token, asks, text: &dyn Fn(u16) -> String| {
        let (port, program, modules) = (free_port(), program.as_path(), PathBuf::new());
        let setup = Setup { name, program, modules, text: text(port), port, without_token, asks };
        GuardedEnvoy::start(folder, setup).await
    };
    let filter = jwt_authn();
    let sidegate = start("sidegate", 401, Some(verifier.program.pid()), &|port| grpc(port, &ours)).await;
    let constant = start("constant", 200, Some(bare.pid()), &|port| grpc(port, &theirs)).await;
    let own = start("jwt_authn", 401, None, &|port| {
        with_filter(grpc(port, &ours), "- name: envoy.filters.http.ext_authz", &filter)
    })
    .await;
    let mut requests = Vec::new();
    for _ in 0..CONNECTIONS {
        requests.push(super::load::check_request(&stack.issuer.login(EMAIL).await.access));
    }
    let row = |name: &str, unit, peer| Row {
        name: format!("Envoy, {name}, 32 conn."),
        unit,
        peer,
        ours: Vec::new(),
        theirs: Vec::new(),
        goal: Goal::None,
    };
    let mut rows: Vec<Row> = ["constant 200", "Envoy's jwt_authn"]
        .iter()
        .flat_map(|peer| {
            [row("throughput", "/s", peer), row("CPU of Envoy", "us/req", peer), row("CPU of both", "us/req", peer)]
        })
        .collect();
    for _ in 0..TRIPLES {
        let mut measured = Vec::new();
        for envoy in [&sidegate, &constant, &own] {
            measured.push(envoy.measure(&requests, CONNECTIONS, ONE_RUN).await);
        }
        let each = |figures: &Figures| [figures.per_second, figures.envoy_us, figures.all_us];
        for (row, (ours, theirs)) in rows
            .iter_mut()
            .zip([1, 2].into_iter().flat_map(|peer| each(&measured[0]).into_iter().zip(each(&measured[peer]))))
        {
            row.ours.push(ours);
            row.theirs.push(theirs);
        }
    }
    rows
}
