//! An Envoy that answers 200 itself once its filter lets a request pass, and what a request costs
//! it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::load::{Measured, run};
use crate::http::At;
use crate::program::Program;
use crate::wait::eventually;

const ROUTED: &str = "route: { cluster: app }";
const ROUTER: &str = "- name: envoy.filters.http.router";

/// A running Envoy, and the service that its filter calls.
#[derive(Debug)]
pub struct GuardedEnvoy {
    pub at: At,
    pub program: Program,
    asks: Option<u32>,
}

/// How one is started.
#[derive(Debug)]
pub struct Setup<'a> {
    pub name: &'a str,
    pub program: &'a Path,
    /// The folder of the filter's dynamic module, if it is one.
    pub modules: PathBuf,
    pub text: String,
    pub port: u16,
    /// What a request without a token is answered.
    pub without_token: u16,
    /// The process that the filter calls for every request, if it does.
    pub asks: Option<u32>,
}

/// Measurements of one run.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub per_second: f64,
    /// Microseconds of CPU per request.
    pub envoy_us: f64,
    /// As `envoy_us`, with the process that the filter calls.
    pub all_us: f64,
}

/// A shipped configuration with Envoy's own response in place of the application.
pub fn without_app(shipped: &str) -> String {
    let text = std::fs::read_to_string(crate::proxies::deploy().join(shipped)).expect("a shipped file");
    assert!(text.contains(ROUTED), "the shipped file routes to the application");
    text.replace(ROUTED, "direct_response: { status: 200 }").replace("APP_PORT", "1")
}

/// Puts `filter` in the place of the one that begins with `ours`.
pub fn with_filter(mut text: String, ours: &str, filter: &str) -> String {
    let begin = text.find(ours).expect("our filter");
    let end = text.find(ROUTER).expect("the router");
    text.replace_range(begin..end, filter);
    text
}

impl GuardedEnvoy {
    pub async fn start(folder: &Path, setup: Setup<'_>) -> Self {
        let Setup { name, program, modules, text, port, without_token, asks } = setup;
        let file = folder.join(format!("{name}.yaml"));
        std::fs::write(&file, text).expect("written");
        let mut command = Command::new(program);
        command.env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", modules);
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "-c"]).arg(&file);
        let program = Program::start(name, command, &folder.join(format!("{name}.log")));
        let at = At::Tcp(([127, 0, 0, 1], port).into());
        let reply = eventually(name, || async { at.get("/a").try_send().await.ok() }).await;
        assert_eq!(reply.status, without_token, "{name}: {}", program.output());
        Self { at, program, asks }
    }

    /// The figures of a closed loop of these requests.
    pub async fn measure(&self, requests: &[Vec<u8>], connections: usize, time: Duration) -> Figures {
        let used = || (cpu_us(self.program.pid()), self.asks.map_or(0.0, cpu_us));
        let before = used();
        let Measured { per_second, latencies_us } = run(&self.at, requests, connections, time).await;
        let after = used();
        let count = latencies_us.len() as f64;
        let (envoy_us, asked_us) = ((after.0 - before.0) / count, (after.1 - before.1) / count);
        Figures { per_second, envoy_us, all_us: envoy_us + asked_us }
    }
}

/// CPU time of a process so far, user and system, from /proc/PID/stat (in hundredths of a second).
pub fn cpu_us(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in brackets may contain spaces; the 14th and 15th fields are the 12th and 13th after
    // it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(11) + ticks(12)) * 1e4
}
