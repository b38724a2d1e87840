//! The commands of the program; each returns its exit code.
#![allow(clippy::print_stderr)] // messages for the person at the terminal

use std::io::Read as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use sidegate_runtime::program::Signals;
use sidegate_runtime::settings::ConfigError;
use sidegate_runtime::{logging, program, trace};

use crate::app::{self, App};
use crate::ask::{At, ask};
use crate::config::{self, Config};
use crate::source::Source;
use crate::wire::admin::{PartitionReadiness, Readiness, SharedMemory};

/// Exit code for "could not be checked" (EX_UNAVAILABLE of sysexits.h).
const EX_UNAVAILABLE: u8 = 69;

/// The address to connect to for a daemon that listens at `address`: for a wildcard address, the
/// loopback address.
fn here(mut address: SocketAddr) -> At {
    if address.ip().is_unspecified() {
        let ip = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(ip);
    }
    At::Tcp(address)
}

/// Serves until a stop signal.
///
/// # Errors
/// The configuration is wrong.
pub fn serve(source: &Source) -> Result<ExitCode, ConfigError> {
    let settings = source.settings()?;
    let config = Config::read(&settings)?;
    let routes = app::read_routes(&config)?;
    logging::start(&settings)?;
    for warning in config::warnings(&settings, &config) {
        tracing::warn!("{warning}");
    }
    if let Err(error) = program::harden() {
        tracing::warn!(%error, "hardening this process failed: other processes of the user may read its memory");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(config.worker_threads).enable_all().build();
    let run = async {
        let (signals, grace) = (Signals::listen()?, config.listen.grace);
        let traces = trace::start(&settings, "sidegate-verifier", signals.stop.clone());
        let app = App::start(config, routes, source.clone())?;
        app.run(signals).await;
        traces.finish(grace).await;
        Ok::<(), std::io::Error>(())
    };
    match runtime.and_then(|runtime| runtime.block_on(run)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            tracing::error!(%error, "cannot start");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Checks and prints the configuration; prints the rules that match `routes` ("GET /a").
///
/// # Errors
/// The configuration is wrong.
pub fn check_config(source: &Source, routes: &[String]) -> Result<ExitCode, ConfigError> {
    let settings = source.settings()?;
    let config = Config::read(&settings)?;
    logging::check(&settings)?;
    let rules = app::read_routes(&config)?;
    for warning in config::warnings(&settings, &config) {
        eprintln!("warning: {warning}");
    }
    if routes.is_empty() {
        print!("{}", settings.describe());
    }
    for question in routes {
        let Some((method, path)) = question.trim().split_once(' ') else {
            return Err(ConfigError::new("--route", "is not a method and a path such as \"GET /a/b\""));
        };
        match &rules {
            Some(rules) => println!("{}", rules.explain(method, path.trim())),
            None => println!("{method} {}: needs a good token; ROUTES_FILE is not set", path.trim()),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks a token with the running daemon.
///
/// # Errors
/// The configuration is wrong.
pub fn check(source: &Source, token: &str) -> Result<ExitCode, ConfigError> {
    let mut read = String::new();
    if token == "-" && std::io::stdin().lock().take(64 * 1024).read_to_string(&mut read).is_err() {
        eprintln!("cannot read a token from standard input");
        return Ok(ExitCode::from(EX_UNAVAILABLE));
    }
    let token = if token == "-" { read.trim() } else { token };
    let listen = source.listen()?;
    let Some(at) = listen.socket.map(At::Unix).or(listen.tcp.map(here)) else {
        return Err(ConfigError::new(
            "VERIFIER_SOCKET",
            "is off and VERIFIER_LISTEN is not set; check needs one of them",
        ));
    };
    let answer = match ask(&at, "POST", "/verify", token.as_bytes()) {
        Ok(answer) => answer,
        Err(error) => {
            eprintln!("cannot ask the daemon: {error}");
            return Ok(ExitCode::from(EX_UNAVAILABLE));
        }
    };
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let said = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    match answer.status {
        200 => {
            println!("good\n{:#}", body["claims"]);
            Ok(ExitCode::SUCCESS)
        }
        503 => {
            println!("not checked: {}: {}", said("code"), said("detail"));
            Ok(ExitCode::from(EX_UNAVAILABLE))
        }
        _ => {
            println!("denied: {}: {}", said("code"), said("detail"));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn readiness(source: &Source) -> Result<Result<Readiness, String>, ConfigError> {
    let Some(admin) = source.listen()?.admin else {
        return Err(ConfigError::new("VERIFIER_ADMIN_LISTEN", "is off; status and health need it"));
    };
    let answer = ask(&here(admin), "GET", "/readyz", b"");
    Ok(answer.map_err(|error| format!("the daemon does not answer at {admin}: {error}")).and_then(|answer| {
        serde_json::from_slice(&answer.body).map_err(|_| format!("what answers at {admin} is not a verifier"))
    }))
}

/// Prints the state of the running daemon.
///
/// # Errors
/// The configuration is wrong.
pub fn status(source: &Source) -> Result<ExitCode, ConfigError> {
    let state = match readiness(source)? {
        Ok(state) => state,
        Err(why) => {
            println!("{why}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    let age = state.fresh_age_ms.map_or_else(|| "never".to_owned(), |age| format!("{age} ms ago"));
    println!(
        "ready:        {}",
        state.reason.as_ref().map_or_else(|| yes(state.ready).to_owned(), |why| format!("no: {why}"))
    );
    println!("keys:         {}", state.key_count);
    println!("list loaded:  {}", yes(state.snapshot));
    println!("list proven:  {age}");
    let held = state.by_kind;
    println!(
        "revocations:  {} (tokens {}, sessions {}, users {}, keys {}, other issuers' users {} and claims {})",
        state.revocations, held.tokens, held.sessions, held.subjects, held.keys, held.foreign_subjects, held.claims
    );
    for (number, partition) in state.feed.iter().enumerate() {
        println!("log {number}:        {}", describe(partition));
    }
    println!(
        "segment:      {}",
        if state.segment == 0 { "none".to_owned() } else { format!("{:016x}", state.segment) }
    );
    if let Some(shared) = state.shared_memory {
        let SharedMemory { entries, used, slots, bytes, readers, .. } = shared;
        let (kib, percent) = (bytes / 1024, used * 100 / slots.max(1));
        println!("  holds:      {entries} entries, {used} of {slots} words used ({percent} %), {kib} KiB");
        println!("  readers:    {readers} attached");
        if shared.crowded_subjects + shared.saturated_lines > 0 {
            let (users, lines) = (shared.crowded_subjects, shared.saturated_lines);
            println!(
                "  always ask: clients ask over the socket about {users} users (too many entries) and {lines} full lines"
            );
        }
    }
    println!("version:      {}", state.version);
    Ok(if state.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn describe(partition: &PartitionReadiness) -> String {
    let PartitionReadiness { phase, position, gaps, resyncs, reconnects, .. } = partition;
    let mut line = format!("{phase} at {position}; gaps {gaps}, resyncs {resyncs}, reconnects {reconnects}");
    for (what, why) in [("alarm", &partition.alarm), ("error", &partition.last_error)] {
        if let Some(why) = why {
            line.push_str(&format!("; {what}: {why}"));
        }
    }
    line
}

/// The running daemon's readiness as an exit code; if not ready, prints the reason for a probe's
/// log.
///
/// # Errors
/// The configuration is wrong.
pub fn health(source: &Source) -> Result<ExitCode, ConfigError> {
    let why = match readiness(source)? {
        Ok(state) if state.ready => return Ok(ExitCode::SUCCESS),
        Ok(state) => state.reason.unwrap_or_else(|| "not ready".to_owned()),
        Err(why) => why,
    };
    eprintln!("{why}");
    Ok(ExitCode::FAILURE)
}
