//! The `keys` commands: they change the folder, and a running issuer applies the change.

use std::path::PathBuf;
use std::process::ExitCode;

use sidegate_runtime::clock::unix_now;
use sidegate_runtime::settings::{ConfigError, Settings};

use super::Source;
use crate::keys::folder::{Folder, FolderError, KeyState};
use crate::keys::generate::{KeyKind, generate};

fn folder_path(settings: &Settings) -> Result<PathBuf, ConfigError> {
    settings.required("JWT_KEYS_DIR").map(PathBuf::from)
}

fn report<T>(done: Result<T, FolderError>, say: impl FnOnce(T)) -> ExitCode {
    match done {
        Ok(done) => {
            say(done);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Generates a key and prints its `kid`.
///
/// # Errors
/// `JWT_KEYS_DIR` is not set.
pub fn generate_key(source: &Source, algorithm: &str) -> Result<ExitCode, ConfigError> {
    let path = folder_path(&source.settings()?)?;
    let Some(kind) = KeyKind::parse(algorithm) else {
        eprintln!("{algorithm:?} is not eddsa, es256 or rs256");
        return Ok(ExitCode::FAILURE);
    };
    let pem = match generate(kind) {
        Ok(pem) => pem,
        Err(error) => {
            eprintln!("{error}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let made = std::fs::create_dir_all(&path)
        .map_err(|error| FolderError::Io(path.clone(), error))
        .and_then(|()| Folder::read(&path)?.add(&pem));
    Ok(report(made, |kid| println!("{kid}")))
}

/// Prints every key: `kid`, algorithm, state.
///
/// # Errors
/// `JWT_KEYS_DIR` is not set.
pub fn list(source: &Source) -> Result<ExitCode, ConfigError> {
    let path = folder_path(&source.settings()?)?;
    Ok(report(Folder::read(&path), |folder| {
        for (key, state) in folder.keys() {
            println!("{} {} {}", key.key.kid(), key.key.algorithm().name(), state.name());
        }
    }))
}

/// Makes a key the signing key.
///
/// # Errors
/// `JWT_KEYS_DIR` is not set, or `KEY_PREPUBLISH` is wrong.
pub fn activate(source: &Source, kid: &str, now: bool) -> Result<ExitCode, ConfigError> {
    let settings = source.settings()?;
    let path = folder_path(&settings)?;
    let prepublish = settings.duration("KEY_PREPUBLISH")?.as_secs();
    let mut folder = match Folder::read(&path) {
        Ok(folder) => folder,
        Err(error) => return Ok(report::<()>(Err(error), |()| {})),
    };
    let signs = folder.keys().any(|(_, state)| state == KeyState::Signing);
    if let Ok(key) = folder.key(kid)
        && signs
        && !now
        && folder.state(kid) == KeyState::Published
    {
        let age = unix_now().0.saturating_sub(key.since);
        if age < prepublish {
            eprintln!(
                "{kid} has been published for {age} s and verifiers may not know it yet: wait {} s more, or use --now",
                prepublish - age
            );
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(report(folder.activate(kid), |()| println!("{kid} is the signing key now")))
}

/// Retires a key.
///
/// # Errors
/// `JWT_KEYS_DIR` is not set.
pub fn retire(source: &Source, kid: &str) -> Result<ExitCode, ConfigError> {
    let path = folder_path(&source.settings()?)?;
    let done = Folder::read(&path).and_then(|mut folder| folder.retire(kid));
    Ok(report(done, |()| println!("{kid} is retired; a running issuer now revokes its tokens everywhere")))
}
