//! Settings: one table per program, read from the environment, then a TOML file, then defaults.
//!
//! The table is the only place that names a setting; `--help`, `check-config` and every error are
//! derived from it. An empty value counts as unset. A secret setting `X` may also be given as
//! `X_FILE`, the path of a file with the value.

pub mod checks;
mod mask;
mod near;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sidegate_common::secret::Secret;
use sidegate_common::time::parse_duration;

pub use mask::{mask_credentials, mask_if_url};
pub use near::NearMiss;
use near::{near_misses, suggestion};

/// The source of a default value.
const DEFAULT: &str = "default";

/// One setting, as in `--help`.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The environment variable; in a file the same name in any case.
    pub name: &'static str,
    /// The default; empty if the setting has no default.
    pub default: &'static str,
    /// Masked wherever it is printed; also readable from `NAME_FILE`.
    pub secret: bool,
    /// A URL, in which only the password is secret.
    pub url: bool,
    /// Reloaded on SIGHUP, without a restart.
    pub reloaded: bool,
    /// A description in one sentence.
    pub help: &'static str,
}

impl Setting {
    /// Marks the setting as reloaded on SIGHUP.
    #[must_use]
    pub const fn reloaded(self) -> Self {
        Self { reloaded: true, ..self }
    }
}

/// A setting that is not secret.
pub const fn setting(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { name, default, secret: false, url: false, reloaded: false, help }
}

/// A secret setting.
pub const fn secret(name: &'static str, help: &'static str) -> Setting {
    Setting { name, default: "", secret: true, url: false, reloaded: false, help }
}

/// A URL that may hold a password.
pub const fn secret_url(name: &'static str, help: &'static str) -> Setting {
    Setting { name, default: "", secret: true, url: true, reloaded: false, help }
}

/// A configuration error: the setting, what is wrong, and what would be right. Never shows a
/// secret's value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    /// The invalid setting.
    pub setting: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl ConfigError {
    /// An error about `setting`.
    pub fn new(setting: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { setting: setting.into(), problem: problem.into() }
    }
}

/// The source of environment variables: the process, or a map in tests.
pub trait Environment {
    /// The variable's value, if it is set.
    fn variable(&self, name: &str) -> Option<OsString>;
    /// The names of all variables that are UTF-8.
    fn names(&self) -> Vec<String>;
}

/// The process' own environment.
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }
}

impl Environment for BTreeMap<String, String> {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.get(name).map(OsString::from)
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

#[derive(Clone)]
struct Value {
    text: Secret,
    source: &'static str,
}

/// The effective settings of a program.
#[derive(Clone)]
pub struct Settings {
    table: &'static [Setting],
    values: BTreeMap<&'static str, Value>,
    near_misses: Vec<NearMiss>,
}

/// The effects of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Settings whose new value is in force now.
    pub taken_up: Vec<&'static str>,
    /// Settings whose new value needs a restart.
    pub need_restart: Vec<&'static str>,
}

impl Changes {
    /// Logs the effects of a reload.
    pub fn log(&self) {
        tracing::info!(taken_up = ?self.taken_up, "config reloaded");
        if !self.need_restart.is_empty() {
            tracing::warn!(settings = ?self.need_restart, "these settings have changed and need a restart");
        }
    }
}

impl Settings {
    /// Reads every setting of `table`: environment first, then `file`, then the default.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML, an unknown key, a secret's file that cannot be
    /// read, or both a secret and its file.
    pub fn load(
        table: &'static [Setting],
        environment: &impl Environment,
        file: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let mut from_file = file.map_or_else(|| Ok(BTreeMap::new()), |path| read_file(table, path))?;
        let mut values = BTreeMap::new();
        for setting in table {
            let mut look_up = |name: &str| match environment.variable(name).filter(|value| !value.is_empty()) {
                Some(value) => {
                    let text = value.into_string().map_err(|_| ConfigError::new(name, "is not UTF-8"))?;
                    Ok(Some((text, "environment")))
                }
                None => Ok(from_file.remove(name).map(|value| (value, "file"))),
            };
            let direct = look_up(setting.name)?;
            let by_file = if setting.secret { look_up(&format!("{}_FILE", setting.name))? } else { None };
            let found = match (direct, by_file) {
                (Some(_), Some(_)) => {
                    let problem = format!("is set, and so is {}_FILE; set only one of them", setting.name);
                    return Err(ConfigError::new(setting.name, problem));
                }
                (Some(found), None) => Some(found),
                (None, Some((path, _))) => Some((read_secret(setting.name, &path)?, "secret file")),
                (None, None) if setting.default.is_empty() => None,
                (None, None) => Some((setting.default.to_owned(), DEFAULT)),
            };
            if let Some((text, source)) = found {
                values.insert(setting.name, Value { text: Secret::new(text), source });
            }
        }
        Ok(Self { table, values, near_misses: near_misses(table, environment.names()) })
    }

    /// Unknown variables whose names are close to a setting's.
    pub fn near_misses(&self) -> &[NearMiss] {
        &self.near_misses
    }

    /// True if the value was set, and is not the default.
    pub fn is_given(&self, name: &'static str) -> bool {
        self.values.get(name).is_some_and(|value| value.source != DEFAULT)
    }

    /// Applies from `fresh` every value that is reloaded on SIGHUP, except those of `unable`; the
    /// others stay.
    pub fn take_up(&mut self, fresh: &Self, unable: &[&'static str]) -> Changes {
        let mut changes = Changes::default();
        for setting in self.table {
            let new = fresh.values.get(setting.name);
            if self.text(setting.name) == new.and_then(|value| value.text.expose_str()) {
                continue;
            }
            if !setting.reloaded || unable.contains(&setting.name) {
                changes.need_restart.push(setting.name);
                continue;
            }
            changes.taken_up.push(setting.name);
            match new {
                Some(value) => drop(self.values.insert(setting.name, value.clone())),
                None => drop(self.values.remove(setting.name)),
            }
        }
        changes
    }

    /// The value as text, if it is set or has a default.
    pub fn text(&self, name: &'static str) -> Option<&str> {
        debug_assert!(self.table.iter().any(|setting| setting.name == name), "{name} is in no table");
        self.values.get(name).and_then(|value| value.text.expose_str())
    }

    /// The value as secret bytes.
    pub fn secret(&self, name: &'static str) -> Option<Secret> {
        self.text(name).map(Secret::new)
    }

    /// The value of a required setting.
    ///
    /// # Errors
    /// It is not set.
    pub fn required(&self, name: &'static str) -> Result<&str, ConfigError> {
        self.text(name).ok_or_else(|| {
            let help = self.table.iter().find(|setting| setting.name == name).map_or("", |setting| setting.help);
            ConfigError::new(name, format!("is not set; {help}"))
        })
    }

    /// The value parsed as `T`.
    ///
    /// # Errors
    /// It is not set, or is not `expected`.
    pub fn parse<T: FromStr>(&self, name: &'static str, expected: &str) -> Result<T, ConfigError> {
        let text = self.required(name)?;
        text.parse().map_err(|_| self.unfit(name, expected))
    }

    /// The value parsed as `T`, if it is set.
    ///
    /// # Errors
    /// It is set and is not `expected`.
    pub fn parse_optional<T: FromStr>(&self, name: &'static str, expected: &str) -> Result<Option<T>, ConfigError> {
        if self.text(name).is_none() { Ok(None) } else { self.parse(name, expected).map(Some) }
    }

    /// A number within `range`.
    ///
    /// # Errors
    /// It is not a whole number, or out of range.
    pub fn number(&self, name: &'static str, range: std::ops::RangeInclusive<u64>) -> Result<u64, ConfigError> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let number: u64 = self.parse(name, &expected)?;
        if range.contains(&number) { Ok(number) } else { Err(self.unfit(name, &expected)) }
    }

    /// A duration such as `30s`, `15m`, `24h`, `30d`.
    ///
    /// # Errors
    /// The value is not a duration.
    pub fn duration(&self, name: &'static str) -> Result<Duration, ConfigError> {
        parse_duration(self.required(name)?)
            .map_err(|problem| self.unfit(name, &problem.to_string().replace("not ", "")))
    }

    /// A switch: `true` or `false` (also `1`/`0`, `yes`/`no`, `on`/`off`).
    ///
    /// # Errors
    /// The value is not a switch.
    pub fn flag(&self, name: &'static str) -> Result<bool, ConfigError> {
        match self.required(name)?.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err(self.unfit(name, "true or false")),
        }
    }

    /// One of a few words.
    ///
    /// # Errors
    /// The value is not one of `words`.
    pub fn one_of(&self, name: &'static str, words: &'static [&'static str]) -> Result<&'static str, ConfigError> {
        let text = self.required(name)?;
        let known = words.iter().find(|word| **word == text);
        known.copied().ok_or_else(|| self.unfit(name, &words.join(" or ")))
    }

    /// A comma separated list, without empty items.
    pub fn list(&self, name: &'static str) -> Vec<&str> {
        let text = self.text(name).unwrap_or_default();
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
    }

    /// An error that shows the value (masked if secret) and what would be right.
    pub fn unfit(&self, name: &'static str, expected: &str) -> ConfigError {
        let secret = self.table.iter().any(|setting| setting.name == name && setting.secret);
        let shown = if secret { "the value given" } else { self.text(name).unwrap_or_default() };
        let quoted = if secret { shown.to_owned() } else { format!("{shown:?}") };
        ConfigError::new(name, format!("{quoted} is not {expected}"))
    }

    /// The effective settings, one per line in TOML, with their source. Secrets are masked, in a
    /// URL only the password.
    pub fn describe(&self) -> String {
        let mut out = String::new();
        for setting in self.table {
            let line = match self.values.get(setting.name) {
                None => format!("# {} is not set\n", setting.name),
                Some(value) if setting.secret && !setting.url => {
                    format!("{} = \"***\"  # {}\n", setting.name, value.source)
                }
                Some(value) => {
                    let text = value.text.expose_str().unwrap_or_default();
                    let masked = if setting.secret { mask_credentials(text) } else { mask_if_url(text) };
                    format!("{} = {masked:?}  # {}\n", setting.name, value.source)
                }
            };
            out.push_str(&line);
        }
        out
    }
}

/// The part of `--help` that lists every setting.
pub fn help(table: &[Setting]) -> String {
    let mut out = String::from("Settings (environment variables; in the --config file under the same names):\n");
    for setting in table {
        let default =
            if setting.default.is_empty() { String::new() } else { format!(" [default: {}]", setting.default) };
        let file = if setting.secret { format!(" (or {}_FILE)", setting.name) } else { String::new() };
        let reloaded = if setting.reloaded { " [reloaded on SIGHUP]" } else { "" };
        out.push_str(&format!("  {}{file}\n      {}{default}{reloaded}\n", setting.name, setting.help));
    }
    out
}

fn read_file(table: &[Setting], path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let name = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|error| ConfigError::new(&name, format!("cannot be read: {error}")))?;
    let parsed: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| ConfigError::new(&name, format!("is not TOML: {}", error.message())))?;
    let mut out = BTreeMap::new();
    for (key, value) in parsed {
        let upper = key.to_ascii_uppercase();
        let known = table.iter().any(|s| s.name == upper || (s.secret && upper == format!("{}_FILE", s.name)));
        if !known {
            let meant = suggestion(table, &upper).map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
            return Err(ConfigError::new(key, format!("unknown setting (in {name}){meant}; see --help")));
        }
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            toml::Value::Array(items) => {
                let words = items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
                words.ok_or_else(|| ConfigError::new(&key, "is not an array of strings"))?.join(",")
            }
            _ => {
                return Err(ConfigError::new(
                    key,
                    "is not a string, a whole number, true, false or an array of strings",
                ));
            }
        };
        if !text.is_empty() && out.insert(upper, text).is_some() {
            return Err(ConfigError::new(key, format!("is set twice in {name}")));
        }
    }
    Ok(out)
}

fn read_secret(name: &str, path: &str) -> Result<String, ConfigError> {
    let secret = read_secret_file(path).map_err(|problem| ConfigError::new(format!("{name}_FILE"), problem))?;
    Ok(secret.expose_str().unwrap_or_default().to_owned())
}

/// The text of a file with a secret, without its line end; other users must not be able to write it.
///
/// # Errors
/// The path and what is wrong; never the content.
pub fn read_secret_file(path: &str) -> Result<Secret, String> {
    let cannot_read = |error| format!("{path} cannot be read: {error}");
    let mut file = File::open(path).map_err(cannot_read)?;
    let metadata = file.metadata().map_err(cannot_read)?;
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o002 != 0 {
        return Err(format!("{path} has mode {mode:04o}: every user of this machine can change it; make it 0600"));
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(cannot_read)?;
    let text = Secret::new(text);
    let text = text.expose_str().ok_or_else(|| format!("{path} is not UTF-8"))?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() { Err(format!("{path} is empty")) } else { Ok(Secret::new(line)) }
}

#[cfg(test)]
mod tests;
