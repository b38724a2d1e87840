//! The cost of Sidegate behind Envoy: our ext_authz, compared with one that always allows, and with
//! Envoy's own jwt_authn.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::bare::{self, Says};
use super::load::{Measured, run};
use super::row::{Goal, Row};
use crate::http::At;
use crate::program::{Program, free_port};
use crate::proxies::envoy;
use crate::stack::{EMAIL, SECRET, Stack, Store};
use crate::wait::eventually;

const TRIPLES: usize = 7;
const ONE_RUN: Duration = Duration::from_millis(1500);
const CONNECTIONS: usize = 32;

/// An Envoy that answers 200 itself once its filter lets a request pass, and the service that it
/// calls.
struct Guarded {
    at: At,
    envoy: Program,
    asks: Option<u32>,
}

/// Figures of one run: requests/s, and microseconds of CPU per request, of Envoy and in total.
struct Figures {
    per_second: f64,
    envoy_us: f64,
    all_us: f64,
}

/// The shipped gRPC configuration with Envoy's own response in place of the application, and
/// `filter`, if given, in place of ext_authz.
fn configuration(port: u16, socket: &Path, filter: Option<&str>) -> String {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/envoy/grpc.yaml");
    let text = std::fs::read_to_string(shipped).expect("a shipped file");
    let routed = "route: { cluster: app }";
    assert!(text.contains(routed), "the shipped file routes to the application");
    let mut text = text
        .replace(routed, "direct_response: { status: 200 }")
        .replace("VERIFIER_SOCKET", socket.to_str().expect("UTF-8"))
        .replace("APP_PORT", "1")
        .replace("ENVOY_PORT", &port.to_string());
    if let Some(filter) = filter {
        let ours = text.find("- name: envoy.filters.http.ext_authz").expect("our filter");
        let next = text.find("- name: envoy.filters.http.router").expect("the router");
        text.replace_range(ours..next, filter);
    }
    text
}

/// Envoy's own filter, with the same key, issuer and audience.
fn jwt_authn() -> String {
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

impl Guarded {
    async fn start(folder: &Path, name: &str, text: &dyn Fn(u16) -> String, asks: Option<u32>) -> Option<Self> {
        let program: PathBuf = envoy()?;
        let port = free_port();
        let file = folder.join(format!("{name}.yaml"));
        std::fs::write(&file, text(port)).expect("written");
        let mut command = Command::new(program);
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "-c"]).arg(&file);
        let envoy = Program::start(name, command, &folder.join(format!("{name}.log")));
        let at = At::Tcp(([127, 0, 0, 1], port).into());
        let reply = eventually(name, || async { at.get("/a").try_send().await.ok() }).await;
        assert_eq!(reply.status == 401, name != "constant", "{name}: {}", envoy.output());
        Some(Self { at, envoy, asks })
    }

    async fn measure(&self, requests: &[Vec<u8>]) -> Figures {
        let used = || (cpu_us(self.envoy.pid()), self.asks.map_or(0.0, cpu_us));
        let before = used();
        let Measured { per_second, latencies_us } = run(&self.at, requests, CONNECTIONS, ONE_RUN).await;
        let after = used();
        let count = latencies_us.len() as f64;
        let (envoy_us, asked_us) = ((after.0 - before.0) / count, (after.1 - before.1) / count);
        Figures { per_second, envoy_us, all_us: envoy_us + asked_us }
    }
}

/// CPU time of a process so far, user and system, from /proc/PID/stat (in hundredths of a second).
fn cpu_us(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may contain spaces; the 14th and 15th fields are the 12th and 13th after
    // it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(11) + ticks(12)) * 1e4
}

pub async fn rows() -> Vec<Row> {
    let stack = Stack::with(Store::Embedded, 1, &[], &[("WORKER_THREADS", "1"), ("RUST_LOG", "warn")]).await;
    let verifier = &stack.verifiers[0];
    let At::Unix(ours) = verifier.at.clone() else { panic!("the verifier listens on a Unix socket") };
    let (bare, theirs) = bare::start(&stack.folder, 1, Says::Grpc).await;
    let folder = stack.folder.path();
    let filter = jwt_authn();
    let sidegate =
        Guarded::start(folder, "sidegate", &|port| configuration(port, &ours, None), Some(verifier.program.pid()))
            .await;
    let constant =
        Guarded::start(folder, "constant", &|port| configuration(port, &theirs, None), Some(bare.pid())).await;
    let own = Guarded::start(folder, "jwt_authn", &|port| configuration(port, &ours, Some(&filter)), None).await;
    let (Some(sidegate), Some(constant), Some(own)) = (sidegate, constant, own) else {
        println!("skipped: Envoy is not installed; tests/run installs it");
        return Vec::new();
    };
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
        let measured =
            [sidegate.measure(&requests).await, constant.measure(&requests).await, own.measure(&requests).await];
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
