//! What the program can be told to do; each command returns its exit code.
#![allow(clippy::print_stderr)] // messages for the person at the terminal

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use sidegate_runtime::program::Signals;
use sidegate_runtime::settings::{ConfigError, ProcessEnvironment, Settings};
use sidegate_runtime::{logging, program};

use crate::app::{self, App};
use crate::ask::{At, ask};
use crate::config::{Config, SETTINGS};
use crate::wire::admin::Readiness;

/// Exit code for "cannot be said" (EX_UNAVAILABLE of sysexits.h).
const EX_UNAVAILABLE: u8 = 69;

/// Where settings come from: the environment, and this file.
#[derive(Clone, Debug)]
pub struct Source {
    /// `--config`.
    pub file: Option<PathBuf>,
}

impl Source {
    fn settings(&self) -> Result<Settings, ConfigError> {
        Settings::load(SETTINGS, &ProcessEnvironment, self.file.as_deref())
    }

    /// The effective configuration as it is now.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn config(&self) -> Result<Config, ConfigError> {
        Config::read(&self.settings()?)
    }
}

/// Serves until a signal says stop.
///
/// # Errors
/// The configuration is wrong.
pub fn serve(source: &Source) -> Result<ExitCode, ConfigError> {
    let settings = source.settings()?;
    let config = Config::read(&settings)?;
    let routes = app::read_routes(&config)?;
    logging::start(&settings)?;
    if let Err(error) = program::harden() {
        tracing::warn!(%error, "this process' memory could not be hidden from others of the same user");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(config.worker_threads).enable_all().build();
    let run = async {
        let signals = Signals::listen()?;
        let app = App::start(config, routes, source.clone())?;
        app.run(signals).await;
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

/// Checks and prints the configuration; explains which rules `routes` ("GET /a") meet.
///
/// # Errors
/// The configuration is wrong.
pub fn check_config(source: &Source, routes: &[String]) -> Result<ExitCode, ConfigError> {
    let settings = source.settings()?;
    let config = Config::read(&settings)?;
    logging::check(&settings)?;
    let rules = app::read_routes(&config)?;
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

/// Asks the running daemon about a token.
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
    let listen = source.config()?.listen;
    let Some(at) = listen.socket.map(At::Unix).or(listen.tcp.map(At::Tcp)) else {
        return Ok(ExitCode::from(EX_UNAVAILABLE));
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
            println!("cannot be said: {}: {}", said("code"), said("detail"));
            Ok(ExitCode::from(EX_UNAVAILABLE))
        }
        _ => {
            println!("denied: {}: {}", said("code"), said("detail"));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn readiness(source: &Source) -> Result<Result<Readiness, String>, ConfigError> {
    let Some(admin) = source.config()?.listen.admin else {
        return Err(ConfigError::new("VERIFIER_ADMIN_LISTEN", "is off; status and health need it"));
    };
    let answer = ask(&At::Tcp(admin), "GET", "/readyz", b"");
    Ok(answer.map_err(|error| format!("the daemon does not answer at {admin}: {error}")).and_then(|answer| {
        serde_json::from_slice(&answer.body).map_err(|_| format!("what answers at {admin} is not a verifier"))
    }))
}

/// Shows what the running daemon knows of itself.
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
    println!("proven:       {age}");
    println!("revocations:  {}", state.revocations);
    println!(
        "segment:      {}",
        if state.segment == 0 { "none".to_owned() } else { format!("{:016x}", state.segment) }
    );
    println!("version:      {}", state.version);
    Ok(if state.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the running daemon can judge, as an exit code.
///
/// # Errors
/// The configuration is wrong.
pub fn health(source: &Source) -> Result<ExitCode, ConfigError> {
    let ready = readiness(source)?.is_ok_and(|state| state.ready);
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
