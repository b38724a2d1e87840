//! Settings: one table per program, read from the environment, then a TOML file, then defaults.
//!
//! The table is the only place that names a setting; `--help`, `check-config` and every error come from it. An empty
//! value counts as unset. A secret setting `X` may also be given as `X_FILE`, the name of a file that holds it.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sidegate_common::secret::Secret;
use sidegate_common::time::parse_duration;

/// One setting, as `--help` shows it.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The environment variable; in a file the same name in any case.
    pub name: &'static str,
    /// The default, or empty for none.
    pub default: &'static str,
    /// Masked wherever it is printed, and also readable from `NAME_FILE`.
    pub secret: bool,
    /// What it does, in one sentence.
    pub help: &'static str,
}

/// A setting that is not secret.
pub const fn setting(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { name, default, secret: false, help }
}

/// A secret setting.
pub const fn secret(name: &'static str, help: &'static str) -> Setting {
    Setting { name, default: "", secret: true, help }
}

/// What is wrong with the configuration: the setting, and what would be right. Never shows a secret's value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    /// The setting at fault.
    pub setting: String,
    /// What is wrong with it and what would be right.
    pub problem: String,
}

impl ConfigError {
    /// An error about `setting`.
    pub fn new(setting: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { setting: setting.into(), problem: problem.into() }
    }
}

/// Where environment variables come from: the process, or a map in tests.
pub trait Environment {
    /// The variable's value, if it is set and UTF-8.
    fn variable(&self, name: &str) -> Option<String>;
}

/// The process' own environment.
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

impl Environment for BTreeMap<String, String> {
    fn variable(&self, name: &str) -> Option<String> {
        self.get(name).cloned()
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
}

impl Settings {
    /// Reads every setting of `table`: environment first, then `file`, then the default.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML, a key that is no setting, a secret's file that cannot be read, or both
    /// a secret and its file.
    pub fn load(
        table: &'static [Setting],
        environment: &impl Environment,
        file: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let mut from_file = file.map_or_else(|| Ok(BTreeMap::new()), |path| read_file(table, path))?;
        let mut values = BTreeMap::new();
        for setting in table {
            let mut look_up = |name: &str| {
                let set = environment.variable(name).filter(|value| !value.is_empty());
                set.map(|value| (value, "environment")).or_else(|| from_file.remove(name).map(|value| (value, "file")))
            };
            let direct = look_up(setting.name);
            let by_file = if setting.secret { look_up(&format!("{}_FILE", setting.name)) } else { None };
            let found = match (direct, by_file) {
                (Some(_), Some(_)) => {
                    let problem = format!("set both here and as {}_FILE; set one of them", setting.name);
                    return Err(ConfigError::new(setting.name, problem));
                }
                (Some(found), None) => Some(found),
                (None, Some((path, _))) => Some((read_secret(setting.name, &path)?, "secret file")),
                (None, None) if setting.default.is_empty() => None,
                (None, None) => Some((setting.default.to_owned(), "default")),
            };
            if let Some((text, source)) = found {
                values.insert(setting.name, Value { text: Secret::new(text), source });
            }
        }
        Ok(Self { table, values })
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

    /// The value of a setting that must be there.
    ///
    /// # Errors
    /// It is not set.
    pub fn required(&self, name: &'static str) -> Result<&str, ConfigError> {
        self.text(name).ok_or_else(|| {
            let help = self.table.iter().find(|setting| setting.name == name).map_or("", |setting| setting.help);
            ConfigError::new(name, format!("is not set; {help}"))
        })
    }

    /// The value read as `T`.
    ///
    /// # Errors
    /// It is not set, or is not `expected`.
    pub fn parse<T: FromStr>(&self, name: &'static str, expected: &str) -> Result<T, ConfigError> {
        let text = self.required(name)?;
        text.parse().map_err(|_| self.unfit(name, expected))
    }

    /// The value read as `T`, where it is set.
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
    /// It is not one.
    pub fn duration(&self, name: &'static str) -> Result<Duration, ConfigError> {
        parse_duration(self.required(name)?)
            .map_err(|problem| self.unfit(name, &problem.to_string().replace("not ", "")))
    }

    /// A switch: `true` or `false` (also `1`/`0`, `yes`/`no`, `on`/`off`).
    ///
    /// # Errors
    /// Anything else.
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
    /// None of them.
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

    /// An error that shows the value (masked if secret) and says what would be right.
    pub fn unfit(&self, name: &'static str, expected: &str) -> ConfigError {
        let secret = self.table.iter().any(|setting| setting.name == name && setting.secret);
        let shown = if secret { "the value given" } else { self.text(name).unwrap_or_default() };
        let quoted = if secret { shown.to_owned() } else { format!("{shown:?}") };
        ConfigError::new(name, format!("{quoted} is not {expected}"))
    }

    /// The effective settings, one a line as a TOML file would have them, with their source; secrets masked.
    pub fn describe(&self) -> String {
        let mut out = String::new();
        for setting in self.table {
            let line = match self.values.get(setting.name) {
                None => format!("# {} is not set\n", setting.name),
                Some(value) if setting.secret => {
                    format!("{} = \"***\"  # {}\n", setting.name, value.source)
                }
                Some(value) => {
                    let text = value.text.expose_str().unwrap_or_default();
                    let masked = mask_credentials(text);
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
        out.push_str(&format!("  {}{file}\n      {}{default}\n", setting.name, setting.help));
    }
    out
}

/// Replaces the password of a URL, and nothing else.
pub fn mask_credentials(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let authority_end = rest.find('/').unwrap_or(rest.len());
    let Some(at) = rest[..authority_end].rfind('@') else {
        return text.to_owned();
    };
    let user = rest[..at].split(':').next().unwrap_or_default();
    format!("{scheme}://{user}:***{}", &rest[at..])
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
            return Err(ConfigError::new(key, format!("is no setting of this program (in {name}); see --help")));
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
    let unfit = |problem: String| ConfigError::new(format!("{name}_FILE"), format!("{path} {problem}"));
    let text = std::fs::read(path).map(Secret::new).map_err(|error| unfit(format!("cannot be read: {error}")))?;
    let text = text.expose_str().ok_or_else(|| unfit("is not UTF-8".to_owned()))?;
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(unfit("is empty".to_owned()));
    }
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    static TABLE: &[Setting] = &[
        setting("LISTEN", "127.0.0.1:1", "where to listen"),
        setting("TTL", "24h", "how long"),
        setting("STORE", "", "where to store"),
        secret("KEY", "the key"),
    ];

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn load(pairs: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        Settings::load(TABLE, &environment(pairs), None)
    }

    fn scratch(name: &str, text: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("sidegate-settings-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn environment_beats_file_beats_default() {
        let path = scratch("a.toml", "listen = \"127.0.0.1:2\"\nttl = \"1h\"\n");
        let settings =
            Settings::load(TABLE, &environment(&[("LISTEN", "127.0.0.1:3"), ("STORE", "")]), Some(&path)).unwrap();
        assert_eq!(settings.text("LISTEN"), Some("127.0.0.1:3"));
        assert_eq!(settings.duration("TTL"), Ok(Duration::from_secs(3600)));
        assert_eq!(settings.text("STORE"), None, "empty counts as unset");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn errors_name_the_setting_and_what_would_be_right() {
        let error = load(&[("TTL", "soon")]).unwrap().duration("TTL").unwrap_err();
        assert_eq!(error.setting, "TTL");
        assert!(error.problem.contains("\"soon\" is not a duration such as 30s"), "{error}");
        let error = load(&[]).unwrap().required("STORE").unwrap_err();
        assert_eq!(error.to_string(), "STORE: is not set; where to store");
    }

    #[test]
    fn a_secret_comes_from_a_file_and_is_never_shown() {
        let path = scratch("key", "canary-value\n");
        let settings = load(&[("KEY_FILE", path.to_str().unwrap())]).unwrap();
        assert_eq!(settings.text("KEY"), Some("canary-value"));
        assert!(!settings.describe().contains("canary"));
        assert!(!settings.unfit("KEY", "better").to_string().contains("canary"));
        let both = load(&[("KEY_FILE", path.to_str().unwrap()), ("KEY", "x")]).err().unwrap();
        assert_eq!(both.setting, "KEY");
        std::fs::remove_file(path).unwrap();
        assert_eq!(load(&[("KEY_FILE", "/nonexistent/key")]).err().unwrap().setting, "KEY_FILE");
    }

    #[test]
    fn a_key_that_is_no_setting_is_refused() {
        let path = scratch("b.toml", "lisen = \"x\"\n");
        let error = Settings::load(TABLE, &environment(&[]), Some(&path)).err().unwrap();
        assert_eq!(error.setting, "lisen");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn passwords_in_urls_are_masked() {
        assert_eq!(mask_credentials("redis://u:p@ss@h:1/0"), "redis://u:***@h:1/0");
        assert_eq!(mask_credentials("sqlite://a/b@c"), "sqlite://a/b@c");
        assert_eq!(mask_credentials("plain"), "plain");
    }

    #[test]
    fn help_lists_every_setting() {
        let text = help(TABLE);
        for setting in TABLE {
            assert!(text.contains(setting.name) && text.contains(setting.help));
        }
        assert!(text.contains("KEY_FILE"));
    }
}
