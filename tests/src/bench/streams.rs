//! Open streams through Sidegate's module in Envoy: how soon they end with their token, and what
//! watching them costs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::guarded_envoy::{cpu_us, with_filter};
use super::module::{ENVOY, fill};
use super::open_streams::{OpenStream, ends, open, start_app};
use super::row::{Goal, Row, quantile};
use crate::program::{Program, free_port};
use crate::proxies::{deploy, envoy_version, module_folder};
use crate::stack::{Issuer, Stack, Store};

const STREAMS: usize = 10_000;
const PER_USER: usize = 10;
/// Users who log out, one after the other.
const LOGOUTS: usize = 30;
/// Pairs of windows in which the CPU time is measured.
const WINDOWS: usize = 3;
const WINDOW: Duration = Duration::from_secs(8);
const REVOCATIONS_PER_S: u32 = 100;
/// Time for what opening the streams left behind.
const SETTLE: Duration = Duration::from_secs(2);

/// The shipped configuration, for streams: no time limits, HTTP/2 to the application.
fn configuration(port: u16, stack: &Stack, app: SocketAddr) -> String {
    const ROUTE: &str = "route: { cluster: app }";
    const CLUSTER: &str = "      connect_timeout: 1s\n";
    let text = std::fs::read_to_string(deploy().join("envoy/module.yaml")).expect("a shipped file");
    assert!(text.contains(ROUTE) && text.contains(CLUSTER), "the shipped file has both");
    let many = format!(
        "{CLUSTER}      circuit_breakers: {{ thresholds: [{{ max_requests: 100000, max_pending_requests: 100000 }}] }}
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {{ http2_protocol_options: {{}} }}
"
    );
    let text = text
        .replace(ROUTE, "route: { cluster: app, timeout: 0s, idle_timeout: 0s }")
        .replace(CLUSTER, &many)
        .replace("APP_PORT", &app.port().to_string());
    fill(&text, port, &stack.verifiers[0])
}

/// An Envoy with open streams.
struct Busy {
    program: Program,
    streams: Vec<OpenStream>,
}

impl Busy {
    async fn start(folder: &Path, name: &str, program: &Path, text: &dyn Fn(u16) -> String, tokens: &[String]) -> Self {
        let port = free_port();
        let file: PathBuf = folder.join(format!("{name}.yaml"));
        std::fs::write(&file, text(port)).expect("written");
        let mut command = Command::new(program);
        command.env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", module_folder());
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "-c"]).arg(&file);
        let program = Program::start(name, command, &folder.join(format!("{name}.log")));
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        crate::wait::eventually(name, || async { tokio::net::TcpStream::connect(at).await.ok() }).await;
        let streams = open(at, tokens, STREAMS).await;
        Self { program, streams }
    }

    fn ended(&self) -> usize {
        self.streams.iter().filter(|stream| stream.has_ended()).count()
    }
}

/// Revokes users without streams, at a steady rate.
async fn revoke_others(issuer: &Issuer, first: u32) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / REVOCATIONS_PER_S);
    for number in first.. {
        ticks.tick().await;
        let other = json!({"user": format!("other-{number}"), "sessions": "keep"});
        assert_eq!(issuer.revoke(&other).await.status, 204);
    }
}

/// Percent of a core that the two Envoys use during `work`: the module's added part, and the one
/// without it.
async fn shares(module: &Busy, plain: &Busy, work: impl Future<Output = ()>) -> (f64, f64) {
    let used = || [module, plain].map(|envoy| cpu_us(envoy.program.pid()));
    let (before, started) = (used(), Instant::now());
    let _until_then = tokio::time::timeout(WINDOW, work).await;
    let (after, time) = (used(), started.elapsed().as_secs_f64() * 1e6);
    let [ours, theirs] = [0, 1].map(|at| (after[at] - before[at]) / time * 100.0);
    (ours - theirs, theirs)
}

/// One user after the other logs out. Milliseconds from the 204 to the end of each of that user's
/// streams.
///
/// # Panics
/// Another user's stream ends.
async fn logouts(stack: &Stack, module: &Busy, tokens: &[String]) -> Vec<f64> {
    let mut all = Vec::new();
    for (number, token) in tokens.iter().enumerate().take(LOGOUTS) {
        let mine: Vec<_> = module.streams.iter().skip(number).step_by(tokens.len()).cloned().collect();
        assert_eq!(stack.issuer.logout(token).await.status, 204);
        let ended = ends(&mine, Instant::now()).await;
        let cut = ended.iter().filter(|end| end.is_finite()).count();
        all.extend(ended);
        assert_eq!(module.ended(), cut + number * mine.len(), "another user's stream ended");
        if cut < mine.len() {
            break;
        }
    }
    all
}

pub async fn rows() -> Vec<Row> {
    let Some(program) = envoy_version(ENVOY) else {
        println!("skipped: Envoy {ENVOY} is not installed; tests/run installs it");
        return Vec::new();
    };
    let quiet = [("RUST_LOG", "warn")];
    let stack = Stack::with(Store::Embedded, 1, &quiet, &quiet).await;
    let emails: Vec<String> = (0..STREAMS / PER_USER).map(|user| format!("user-{user}@example.org")).collect();
    stack.add_users(&emails).await;
    let mut tokens = Vec::new();
    for email in &emails {
        tokens.push(stack.issuer.login(email).await.access);
    }
    let (folder, app) = (stack.folder.path(), start_app());
    let with = |port| configuration(port, &stack, app);
    let without = |port| with_filter(with(port), "- name: sidegate", "");
    let module = Busy::start(folder, "module", &program, &with, &tokens).await;
    let plain = Busy::start(folder, "plain", &program, &without, &tokens).await;
    tokio::time::sleep(SETTLE).await;

    let row = |what: String, unit, peer, goal| Row::new(format!("{STREAMS} streams, {what}"), unit, peer, goal);
    let mut still = row("added CPU".into(), "% core", "without module", Goal::OursAtMost(1.0));
    let mut busy = row(format!("{REVOCATIONS_PER_S} rev./s"), "% core", "without module", Goal::OursAtMost(6.0));
    let mut first = 0;
    for _ in 0..WINDOWS {
        let (ours, theirs) = shares(&module, &plain, std::future::pending()).await;
        still.pair(ours, theirs);
        let (ours, theirs) = shares(&module, &plain, revoke_others(&stack.issuer, first)).await;
        busy.pair(ours, theirs);
        first += REVOCATIONS_PER_S * u32::try_from(WINDOW.as_secs()).expect("short");
    }
    assert_eq!(module.ended() + plain.ended(), 0, "no user has logged out");
    drop(plain);

    let mut one = row("one user's ten, p99".into(), "ms", "half of them", Goal::OursAtMost(50.0));
    let mut times = logouts(&stack, &module, &tokens).await;
    one.pair(quantile(&mut times, 0.99), quantile(&mut times, 0.5));
    let mut all = row("all".into(), "ms", "half of them", Goal::OursAtMost(1000.0));
    assert_eq!(stack.issuer.revoke(&json!({"all": true})).await.status, 204);
    let revoked = Instant::now();
    let rest: Vec<_> = module.streams.iter().filter(|stream| !stream.has_ended()).cloned().collect();
    let mut times = ends(&rest, revoked).await;
    all.pair(quantile(&mut times, 1.0), quantile(&mut times, 0.5));
    vec![still, busy, one, all]
}
