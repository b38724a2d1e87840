//! The folder of private keys: PEM files, and `keys.toml` with their states.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sidegate_common::key::SigningKey;
use zeroize::Zeroizing;

/// Names the signing key and the retired keys.
const STATES: &str = "keys.toml";
/// The longest file that is read, in bytes: an RSA key of 8192 bits has under 8 KiB.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// The most keys in a folder.
const KEYS_MAX: usize = 64;

/// State of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Verifiers know the key; it does not sign, or no longer.
    Published,
    /// The key signs new tokens.
    Signing,
    /// The key's tokens are revoked.
    Retired,
}

impl KeyState {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Signing => "signing",
            Self::Retired => "retired",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct States {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    signing: String,
    #[serde(default)]
    retired: Vec<String>,
}

/// A key file.
#[derive(Debug)]
pub struct FolderKey {
    /// The key itself.
    pub key: SigningKey,
    /// Its file.
    pub path: PathBuf,
    /// When the file was written, in Unix seconds: the time of publication.
    pub since: u64,
}

/// Contents of a key folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    keys: BTreeMap<String, FolderKey>,
    states: States,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file system operation failed.
    #[error("{0}: {1}")]
    Io(PathBuf, std::io::Error),
    /// A PEM file without a usable key.
    #[error("{0}: {1}")]
    Key(PathBuf, sidegate_common::key::KeyError),
    /// A private key that any user of the machine could replace.
    #[error("{0} can be written by every user of this machine (mode {1:04o}): chmod 600 it, and make a new key")]
    Writable(PathBuf, u32),
    /// Two files with the same key.
    #[error("{0} and {1} hold the same key")]
    Twice(PathBuf, PathBuf),
    /// `keys.toml` is malformed.
    #[error("{0}: {1}")]
    States(PathBuf, String),
    /// No key is named as signing.
    #[error("{0}: no key is signing; run `sidegate-issuer keys activate KID`")]
    NothingSigns(PathBuf),
    /// A key that is not in the folder.
    #[error("{0} has no key {1}")]
    NoSuchKey(PathBuf, String),
    /// The signing key cannot be retired.
    #[error("{0} is signing; activate another key first")]
    StillSigning(String),
    /// A retired key cannot be reactivated: its tokens are revoked for good.
    #[error("{0} is retired; generate another key")]
    Retired(String),
    /// More keys than the limit.
    #[error("{0} has more than {KEYS_MAX} keys; remove the files of retired ones")]
    TooMany(PathBuf),
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> FolderError + use<'_> {
    move |error| FolderError::Io(path.to_path_buf(), error)
}

fn read_small(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Refuses a private key that every user can write, and warns of one that every user can read.
fn check_mode(file: &Path, mode: u32) -> Result<(), FolderError> {
    let mode = mode & 0o777;
    if mode & 0o002 != 0 {
        return Err(FolderError::Writable(file.to_path_buf(), mode));
    }
    if mode & 0o004 != 0 {
        tracing::warn!(
            file = %file.display(), mode = format!("{mode:04o}"),
            "every user of this machine can read this private key (JWT_KEYS_DIR): its mode should be 0600 or 0440"
        );
    }
    Ok(())
}

/// The PEM files of a folder, through symbolic links, because Kubernetes mounts secrets that way.
fn pem_files(path: &Path) -> Result<Vec<PathBuf>, FolderError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io(path))? {
        let file = entry.map_err(io(path))?.path();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".pem") && !name.starts_with('.') && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    if files.len() > KEYS_MAX { Err(FolderError::TooMany(path.to_path_buf())) } else { Ok(files) }
}

/// A fingerprint that changes with anything in the folder. Unreadable files count as absent.
pub fn fingerprint(path: &Path) -> Vec<(PathBuf, u64, i64, i64, u64)> {
    let mut files = pem_files(path).unwrap_or_default();
    files.push(path.join(STATES));
    let stamp = |file: PathBuf| {
        let found = std::fs::metadata(&file).ok()?;
        Some((file, found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
    };
    files.into_iter().filter_map(stamp).collect()
}

impl Folder {
    /// Reads a folder.
    ///
    /// # Errors
    /// See [`FolderError`]. A missing signing key is no error here, but in [`Folder::into_keys`].
    pub fn read(path: &Path) -> Result<Self, FolderError> {
        let mut keys: BTreeMap<String, FolderKey> = BTreeMap::new();
        for file in pem_files(path)? {
            let pem = read_small(&file).map_err(io(&file))?;
            let key = SigningKey::from_pem(&pem).map_err(|error| FolderError::Key(file.clone(), error))?;
            let metadata = std::fs::metadata(&file).map_err(io(&file))?;
            check_mode(&file, metadata.mode())?;
            let since = metadata.mtime();
            let kid = key.kid().to_owned();
            let read = FolderKey { key, path: file.clone(), since: u64::try_from(since).unwrap_or(0) };
            if let Some(other) = keys.insert(kid, read) {
                return Err(FolderError::Twice(other.path, file));
            }
        }
        let states = read_states(path)?;
        Ok(Self { path: path.to_path_buf(), keys, states })
    }

    /// Every key with its state, by `kid`.
    pub fn keys(&self) -> impl Iterator<Item = (&FolderKey, KeyState)> {
        self.keys.values().map(|key| (key, self.state(key.key.kid())))
    }

    /// The state of a key.
    pub fn state(&self, kid: &str) -> KeyState {
        if self.states.retired.iter().any(|retired| retired == kid) {
            KeyState::Retired
        } else if self.signing_kid() == Some(kid) {
            KeyState::Signing
        } else {
            KeyState::Published
        }
    }

    /// The retired keys, even if their files are gone.
    pub fn retired(&self) -> &[String] {
        &self.states.retired
    }

    /// The signing key: the named one, or the only one.
    fn signing_kid(&self) -> Option<&str> {
        if !self.states.signing.is_empty() {
            return Some(&self.states.signing);
        }
        let mut alive = self.keys.keys().filter(|kid| !self.states.retired.contains(kid));
        alive.next().filter(|_| alive.next().is_none()).map(String::as_str)
    }

    /// Returns the signing key and the others.
    ///
    /// # Errors
    /// No key signs, or the named one is missing or retired.
    pub fn into_keys(mut self) -> Result<(SigningKey, Vec<SigningKey>), FolderError> {
        let kid = self.signing_kid().map(str::to_owned);
        let kid = kid.ok_or_else(|| FolderError::NothingSigns(self.path.join(STATES)))?;
        if self.states.retired.contains(&kid) {
            return Err(FolderError::Retired(kid));
        }
        let signing = self.keys.remove(&kid).ok_or_else(|| FolderError::NoSuchKey(self.path.clone(), kid))?;
        let retired = self.states.retired;
        let published =
            self.keys.into_values().map(|key| key.key).filter(|key| !retired.iter().any(|r| r == key.kid()));
        Ok((signing.key, published.collect()))
    }

    /// A key of the folder.
    ///
    /// # Errors
    /// No key has this `kid`.
    pub fn key(&self, kid: &str) -> Result<&FolderKey, FolderError> {
        self.keys.get(kid).ok_or_else(|| FolderError::NoSuchKey(self.path.clone(), kid.to_owned()))
    }

    /// Makes `kid` the signing key; the previous one stays published.
    ///
    /// # Errors
    /// The key does not exist, is retired, or `keys.toml` cannot be written.
    pub fn activate(&mut self, kid: &str) -> Result<(), FolderError> {
        self.key(kid)?;
        if self.state(kid) == KeyState::Retired {
            return Err(FolderError::Retired(kid.to_owned()));
        }
        kid.clone_into(&mut self.states.signing);
        self.save()
    }

    /// Retires a key: its tokens are revoked.
    ///
    /// # Errors
    /// The key signs, does not exist, or `keys.toml` cannot be written.
    pub fn retire(&mut self, kid: &str) -> Result<(), FolderError> {
        match self.state(kid) {
            KeyState::Retired => return Ok(()),
            KeyState::Signing => return Err(FolderError::StillSigning(kid.to_owned())),
            KeyState::Published => self.key(kid).map(|_| ())?,
        }
        // With more than one key, `keys.toml` must name the signing one.
        if self.states.signing.is_empty()
            && let Some(signing) = self.signing_kid()
        {
            self.states.signing = signing.to_owned();
        }
        self.states.retired.push(kid.to_owned());
        self.save()
    }

    /// Adds a private key: published, or signing if it is the first.
    ///
    /// # Errors
    /// The key is invalid, or the folder cannot be written.
    pub fn add(&mut self, pem: &[u8]) -> Result<String, FolderError> {
        let key = SigningKey::from_pem(pem).map_err(|error| FolderError::Key(self.path.clone(), error))?;
        let kid = key.kid().to_owned();
        // The only key signs without being named; it must be named before a second key is added.
        if let Some(signing) = self.signing_kid().map(str::to_owned) {
            self.states.signing = signing;
        } else if self.keys.is_empty() {
            self.states.signing.clone_from(&kid);
        }
        let file = self.path.join(format!("{kid}.pem"));
        let mut out = File::options().write(true).create_new(true).mode(0o600).open(&file).map_err(io(&file))?;
        out.write_all(pem).and_then(|()| out.sync_all()).map_err(io(&file))?;
        self.save()?;
        Ok(kid)
    }

    /// Replaces `keys.toml` atomically.
    fn save(&self) -> Result<(), FolderError> {
        let text = toml::to_string(&self.states)
            .map_err(|error| FolderError::States(self.path.join(STATES), error.to_string()))?;
        let (file, temporary) = (self.path.join(STATES), self.path.join(".keys.toml.new"));
        let write = || {
            let mut out = File::options().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
            out.write_all(text.as_bytes())?;
            out.sync_all()?;
            std::fs::rename(&temporary, &file)
        };
        write().map_err(io(&file))
    }
}

fn read_states(path: &Path) -> Result<States, FolderError> {
    let file = path.join(STATES);
    match read_small(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(States::default()),
        Err(error) => Err(FolderError::Io(file, error)),
        Ok(bytes) => {
            let text =
                std::str::from_utf8(&bytes).map_err(|error| FolderError::States(file.clone(), error.to_string()))?;
            toml::from_str(text).map_err(|error| FolderError::States(file, error.message().to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::generate::{KeyKind, generate};

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("sidegate-keys-{}-{name}", std::process::id()));
        let _gone = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn add(path: &Path) -> String {
        Folder::read(path).unwrap().add(&generate(KeyKind::EdDsa).unwrap()).unwrap()
    }

    #[test]
    fn a_private_key_that_every_user_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = scratch("modes");
        add(&path);
        let file = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
        let file = file.into_iter().find(|file| file.extension().is_some_and(|end| end == "pem")).unwrap();
        for (mode, good) in [(0o600, true), (0o440, true), (0o644, true), (0o666, false), (0o602, false)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = Folder::read(&path);
            assert_eq!(read.is_ok(), good, "{mode:o}");
            if let Err(error) = read {
                assert!(
                    matches!(error, FolderError::Writable(..)) && error.to_string().contains("chmod 600"),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn a_complete_rotation() {
        let path = scratch("rotation");
        assert!(matches!(Folder::read(&path).unwrap().into_keys(), Err(FolderError::NothingSigns(_))));
        let first = add(&path);
        assert_eq!(Folder::read(&path).unwrap().state(&first), KeyState::Signing, "the first signs at once");
        let before = fingerprint(&path);
        let second = add(&path);
        assert_ne!(fingerprint(&path), before);
        let mut folder = Folder::read(&path).unwrap();
        assert_eq!((folder.state(&first), folder.state(&second)), (KeyState::Signing, KeyState::Published));
        assert!(matches!(folder.retire(&first), Err(FolderError::StillSigning(_))));
        folder.activate(&second).unwrap();
        let mut folder = Folder::read(&path).unwrap();
        assert_eq!((folder.state(&first), folder.state(&second)), (KeyState::Published, KeyState::Signing));
        folder.retire(&first).unwrap();
        let mut folder = Folder::read(&path).unwrap();
        assert_eq!(folder.state(&first), KeyState::Retired);
        assert!(matches!(folder.activate(&first), Err(FolderError::Retired(_))));
        assert!(matches!(folder.activate("other"), Err(FolderError::NoSuchKey(..))));
        let (signing, published) = folder.into_keys().unwrap();
        assert_eq!(signing.kid(), second);
        assert!(published.is_empty(), "a retired key is not published");
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn errors_name_their_cause() {
        let path = scratch("wrong");
        let kid = add(&path);
        std::fs::write(path.join("b.pem"), "junk").unwrap();
        assert!(matches!(Folder::read(&path), Err(FolderError::Key(file, _)) if file.ends_with("b.pem")));
        std::fs::copy(path.join(format!("{kid}.pem")), path.join("b.pem")).unwrap();
        assert!(matches!(Folder::read(&path), Err(FolderError::Twice(..))));
        std::fs::remove_file(path.join("b.pem")).unwrap();
        std::fs::write(path.join(STATES), "signed = \"x\"\n").unwrap();
        assert!(matches!(Folder::read(&path), Err(FolderError::States(..))));
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn key_files_are_readable_only_by_the_owner() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = scratch("mode");
        let kid = add(&path);
        let mode = std::fs::metadata(path.join(format!("{kid}.pem"))).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(path).unwrap();
    }
}
