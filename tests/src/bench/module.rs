//! The cost of Sidegate's module inside Envoy, compared with no filter, with a module that does
//! nothing, with Envoy's own jwt_authn, and with ext_authz.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::envoy::{grpc, jwt_authn};
use super::guarded_envoy::{Figures, GuardedEnvoy, Setup, with_filter, without_app};
use super::load::check_request;
use super::row::{Goal, Row};
use crate::http::At;
use crate::program::free_port;
use crate::proxies::{envoy_version, module_folder};
use crate::stack::{EMAIL, Stack, Store, Verifier};

/// The newest Envoy that tests/run installs.
pub(super) const ENVOY: &str = "1.40.0";
const ROUNDS: usize = 9;
const ONE_RUN: Duration = Duration::from_secs(2);
const CONNECTIONS: usize = 16;

/// The shipped configuration of the module, without the application.
fn shipped(port: u16, verifier: &Verifier) -> String {
    fill(&without_app("envoy/module.yaml"), port, verifier)
}

/// Puts the addresses into a configuration of the module.
pub(super) fn fill(text: &str, port: u16, verifier: &Verifier) -> String {
    let At::Unix(socket) = &verifier.at else { panic!("the verifier listens on a Unix socket") };
    text.replace("ENVOY_PORT", &port.to_string())
        .replace(": VERIFIER_SOCKET", &format!(": {}", socket.display()))
        .replace(": ATTACH_SOCKET", &format!(": {}", verifier.attach.display()))
}

/// Compiles the module that does nothing, into `folder`.
fn do_nothing(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bench/do_nothing.c");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-shared", "-fPIC", "-o"]).arg(folder.join("libdo_nothing.so")).arg(source);
    assert!(cc.status().expect("cc runs").success());
    folder.to_owned()
}

/// The five Envoys, in the order of [`compare`].
async fn start(stack: &Stack, program: &Path) -> [GuardedEnvoy; 5] {
    const OURS: &str = "- name: sidegate";
    let (folder, verifier) = (stack.folder.path(), &stack.verifiers[0]);
    let At::Unix(socket) = verifier.at.clone() else { panic!("the verifier listens on a Unix socket") };
    let start = async |name, modules: PathBuf, without_token, asks, text: &dyn Fn(u16) -> String| {
        let port = free_port();
        GuardedEnvoy::start(folder, Setup { name, program, modules, text: text(port), port, without_token, asks }).await
    };
    let none = PathBuf::new;
    let nothing = |port| shipped(port, verifier).replace("name: sidegate_envoy", "name: do_nothing");
    let jwt_authn = jwt_authn();
    [
        start("module", module_folder(), 401, None, &|port| shipped(port, verifier)).await,
        start("plain", none(), 200, None, &|port| with_filter(shipped(port, verifier), OURS, "")).await,
        start("do_nothing", do_nothing(folder), 200, None, &nothing).await,
        start("jwt_authn", none(), 401, None, &|port| with_filter(shipped(port, verifier), OURS, &jwt_authn)).await,
        start("ext_authz", none(), 401, Some(verifier.program.pid()), &|port| grpc(port, &socket)).await,
    ]
}

/// Adds one round to the rows.
fn compare(rows: &mut [Row], [module, plain, nothing, jwt_authn, ext_authz]: [Figures; 5]) {
    let added = module.envoy_us - plain.envoy_us;
    let pairs = [
        (added, plain.envoy_us),
        (added, jwt_authn.envoy_us - plain.envoy_us),
        (module.per_second, nothing.per_second),
        (module.per_second, plain.per_second),
        (module.per_second, jwt_authn.per_second),
        (module.per_second, ext_authz.per_second),
        (module.envoy_us, ext_authz.envoy_us),
        (module.all_us, ext_authz.all_us),
    ];
    rows.iter_mut().zip(pairs).for_each(|(row, (ours, theirs))| row.pair(ours, theirs));
}

pub async fn rows() -> Vec<Row> {
    let Some(program) = envoy_version(ENVOY) else {
        println!("skipped: Envoy {ENVOY} is not installed; tests/run installs it");
        return Vec::new();
    };
    let stack = Stack::with(Store::Embedded, 1, &[], &[("WORKER_THREADS", "1"), ("RUST_LOG", "warn")]).await;
    let envoys = start(&stack, &program).await;
    let mut requests = Vec::new();
    for _ in 0..CONNECTIONS {
        requests.push(check_request(&stack.issuer.login(EMAIL).await.access));
    }
    let row = |what: &str, unit, peer, goal| Row::new(format!("Envoy module, {what}"), unit, peer, goal);
    let mut rows = [
        row("added CPU", "us/req", "plain Envoy, whole", Goal::OursAtMost(4.0)),
        row("added CPU", "us/req", "jwt_authn HS256, added", Goal::AtMost(0.3)),
        row("throughput", "/s", "module that does nothing", Goal::AtLeast(0.9)),
        row("throughput", "/s", "plain Envoy", Goal::None),
        row("throughput", "/s", "jwt_authn HS256", Goal::None),
        row("throughput", "/s", "ext_authz gRPC", Goal::None),
        row("CPU of Envoy", "us/req", "ext_authz gRPC", Goal::None),
        row("CPU of both", "us/req", "ext_authz gRPC", Goal::None),
    ];
    for round in 0..=ROUNDS {
        let mut figures = Vec::new();
        for envoy in &envoys {
            figures.push(envoy.measure(&requests, CONNECTIONS, ONE_RUN).await);
        }
        // The first round warms up: every token is cached where it can be.
        if round > 0 {
            compare(&mut rows, figures.try_into().expect("one of each Envoy"));
        }
    }
    rows.into()
}
