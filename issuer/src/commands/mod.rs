//! The program's commands; each returns its exit code.
#![allow(clippy::print_stderr)] // messages for the person at the terminal

pub mod admin;
pub mod demo;
pub mod keys;

use std::io::BufRead as _;
use std::path::PathBuf;
use std::process::ExitCode;

use sidegate_common::secret::Secret;
use sidegate_runtime::program::Signals;
use sidegate_runtime::settings::{ConfigError, ProcessEnvironment, Settings};
use sidegate_runtime::{logging, program, trace};

use crate::app::{self, App, StartError};
use crate::config::{self, Config, SETTINGS};
use crate::domain::password::{COST_MAX, COST_MIN, is_fit};

/// Sources of settings: the environment and a file.
#[derive(Clone, Debug)]
pub struct Source {
    /// `--config`.
    pub file: Option<PathBuf>,
}

impl Source {
    fn settings(&self) -> Result<Settings, ConfigError> {
        Settings::load(SETTINGS, &ProcessEnvironment, self.file.as_deref())
    }
}

/// Serves until SIGTERM.
///
/// # Errors
/// The configuration is wrong.
pub fn serve(source: &Source) -> Result<ExitCode, ConfigError> {
    let settings = source.settings()?;
    let config = Config::read(&settings)?;
    logging::start(&settings)?;
    for warning in config::warnings(&settings, &config) {
        tracing::warn!("{warning}");
    }
    if let Err(error) = program::harden() {
        tracing::warn!(%error, "hardening this process failed: other processes of the user may read its memory");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(config.worker_threads).enable_all().build();
    let again = source.clone();
    let reread = Box::new(move || {
        let settings = again.settings()?;
        Config::read(&settings).map(|config| (settings, config))
    });
    let run = async {
        let (signals, grace) = (Signals::listen()?, config.listen.grace);
        let traces = trace::start(&settings, "sidegate-issuer", signals.stop.clone());
        App::start(config, settings, reread).await?.run(signals).await?;
        traces.finish(grace).await;
        Ok::<(), StartError>(())
    };
    match runtime.map_err(StartError::from).and_then(|runtime| runtime.block_on(run)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(StartError::Config(error)) => Err(error),
        Err(error) => {
            tracing::error!(%error, "cannot start");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Checks and prints the configuration.
///
/// # Errors
/// The configuration is wrong.
pub fn check_config(source: &Source) -> Result<ExitCode, ConfigError> {
    let settings = source.settings()?;
    let config = Config::read(&settings)?;
    logging::check(&settings)?;
    app::check(&config)?;
    for warning in config::warnings(&settings, &config) {
        eprintln!("warning: {warning}");
    }
    print!("{}", settings.describe());
    Ok(ExitCode::SUCCESS)
}

/// Hashes the password on standard input.
///
/// # Errors
/// `BCRYPT_COST` is wrong.
pub fn hash_password(source: &Source) -> Result<ExitCode, ConfigError> {
    let cost = source.settings()?.number("BCRYPT_COST", u64::from(COST_MIN)..=u64::from(COST_MAX))?;
    let Some(password) = password_from_stdin() else { return Ok(ExitCode::FAILURE) };
    match bcrypt::hash(password.expose(), cost as u32) {
        Ok(hash) => {
            println!("{hash}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("cannot hash: {error}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Reads one line from standard input. Prints an error and returns `None` if no password can be
/// made of it.
fn password_from_stdin() -> Option<Secret> {
    let mut line = zeroize::Zeroizing::new(Vec::new());
    if let Err(error) = std::io::stdin().lock().read_until(b'\n', &mut line) {
        eprintln!("cannot read standard input: {error}");
        return None;
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    if line.is_empty() || !is_fit(&line) {
        eprintln!("the password must have 1 to 72 bytes and no NUL byte");
        return None;
    }
    Some(Secret::new(line.as_slice()))
}
