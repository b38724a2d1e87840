//! `ISSUERS_FILE`: one `[[issuer]]` table for each issuer whose tokens are accepted beside, or
//! instead of, the home issuer's. Pure: the caller reads the file, and any secret it names.

use std::path::PathBuf;

use toml::value::{Datetime, Offset};
use toml::{Table, Value};

use super::ids::ClaimPath;
use super::preset::{AccessMark, PRESETS, Preset, preset};
use crate::key::Algorithm;
use crate::text::is_identifier;
use crate::time::{LEEWAY_MAX_SECONDS, UnixTime, parse_duration};

/// The most issuers in a file.
pub const ISSUERS_MAX: usize = 256;
/// The most revocable claims of an issuer.
pub const REVOCABLE_MAX: usize = 4;
/// The largest `clock_slack`, in seconds.
pub const CLOCK_SLACK_MAX: u64 = 300;

/// Where an issuer's verification keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysFrom {
    /// The JWK set that the issuer's metadata names (OpenID Connect Discovery, then RFC 8414).
    Discovery,
    /// A JWK set at this URL.
    Url(String),
    /// A JWK set in this file.
    File(PathBuf),
    /// A shared HS256 secret in this file.
    Secret(PathBuf),
}

/// One issuer of `ISSUERS_FILE`, with its preset applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerEntry {
    /// `name`: in logs, metrics, headers and the admin API.
    pub name: String,
    /// `iss`, compared exactly.
    pub iss: String,
    /// Where its keys come from.
    pub keys: KeysFrom,
    /// `audiences`: a token must name at least one.
    pub audiences: Vec<String>,
    /// `audience_claim`: the claim that names the audience.
    pub audience: ClaimPath,
    /// `algorithms`.
    pub algorithms: Vec<Algorithm>,
    /// `max_lifetime`, in seconds.
    pub lifetime_max: u64,
    /// `clock_slack`, in seconds.
    pub clock_slack: u64,
    /// `enrolled_at`: from when on its tokens could be revoked here, so that a log which began by then lacks none.
    pub enrolled_at: Option<UnixTime>,
    /// `subject_prefix`: whether applications see `name:subject`.
    pub subject_prefix: bool,
    /// The positive mark of an access token.
    pub mark: AccessMark,
    /// `claims.subject`.
    pub subject: ClaimPath,
    /// `claims.session`.
    pub session: Option<ClaimPath>,
    /// `claims.token`.
    pub token: Option<ClaimPath>,
    /// `claims.client`, of which the first that a token has counts.
    pub client: Vec<ClaimPath>,
    /// `claims.scope`.
    pub scope: ClaimPath,
    /// `claims.revocable`: claims by whose value tokens can be revoked.
    pub revocable: Vec<ClaimPath>,
}

/// What the file is checked against.
#[derive(Clone, Copy, Debug)]
pub struct FileLimits<'a> {
    /// The home issuer's `iss`, if there is a home issuer.
    pub home: Option<&'a str>,
    /// `MAX_TOKEN_LIFETIME`, in seconds.
    pub lifetime_max: u64,
    /// The present moment.
    pub now: UnixTime,
}

/// What is wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Not TOML, or something beside `[[issuer]]` tables.
    #[error("{0}")]
    Malformed(String),
    /// An issuer without a valid name, counted from 1.
    #[error("issuer {0}: name {1}")]
    Name(usize, &'static str),
    /// A key of a named issuer.
    #[error("issuer {issuer}: {key} {problem}")]
    Key {
        /// The issuer's name.
        issuer: String,
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Parses the file.
///
/// # Errors
/// The first mistake, with the issuer and the key.
pub fn parse(text: &str, limits: FileLimits<'_>) -> Result<Vec<IssuerEntry>, FileError> {
    let mut file: Table = text.parse().map_err(|error: toml::de::Error| FileError::Malformed(error.to_string()))?;
    let tables = match file.remove("issuer") {
        Some(Value::Array(tables)) => tables,
        _ => return Err(FileError::Malformed("the file has no [[issuer]] table".to_owned())),
    };
    if let Some(other) = file.keys().next() {
        return Err(FileError::Malformed(format!("{other} is not [[issuer]]")));
    }
    if tables.len() > ISSUERS_MAX {
        return Err(FileError::Malformed(format!("there are more than {ISSUERS_MAX} issuers")));
    }
    let mut entries: Vec<IssuerEntry> = Vec::new();
    for (number, table) in (1..).zip(tables) {
        let Value::Table(mut table) = table else { return Err(FileError::Name(number, "is missing")) };
        let name = match table.remove("name") {
            Some(Value::String(name)) if is_name(&name) => name,
            Some(_) => return Err(FileError::Name(number, "must match [a-z][a-z0-9-]{0,31} and not be home")),
            None => return Err(FileError::Name(number, "is missing")),
        };
        if entries.iter().any(|earlier| earlier.name == name) {
            return Err(FileError::Name(number, "is that of another issuer"));
        }
        let entry = EntryReader { issuer: name, table }.read(limits)?;
        check_unique(&entry, &entries, limits)?;
        entries.push(entry);
    }
    Ok(entries)
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name != "home"
        && name.len() <= 32
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(fits)
}

fn check_unique(entry: &IssuerEntry, earlier: &[IssuerEntry], limits: FileLimits<'_>) -> Result<(), FileError> {
    let fault =
        |key: &str, problem: String| Err(FileError::Key { issuer: entry.name.clone(), key: key.to_owned(), problem });
    if limits.home == Some(entry.iss.as_str()) {
        return fault("iss", "is the home issuer's (JWT_ISSUER)".to_owned());
    }
    if let Some(other) = earlier.iter().find(|other| other.iss == entry.iss) {
        return fault("iss", format!("is that of issuer {}", other.name));
    }
    if !entry.subject_prefix {
        let other = earlier.iter().find(|other| !other.subject_prefix).map(|other| other.name.as_str());
        if let Some(other) = limits.home.map(|_| "home").or(other) {
            return fault("subject_prefix", format!("is false, but the subjects of {other} have no prefix either"));
        }
    }
    Ok(())
}

/// Takes the keys out of an issuer's table; what remains is unknown.
struct EntryReader {
    issuer: String,
    table: Table,
}

impl EntryReader {
    fn fault<T>(&self, key: &str, problem: impl Into<String>) -> Result<T, FileError> {
        Err(FileError::Key { issuer: self.issuer.clone(), key: key.to_owned(), problem: problem.into() })
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, FileError> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() && !text.contains('\0') => Ok(Some(text)),
            Some(_) => self.fault(key, "must be a string that is not empty"),
        }
    }

    fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>, FileError> {
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        let texts = value.as_array().and_then(|values| {
            values
                .iter()
                .map(|value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned))
                .collect::<Option<Vec<_>>>()
        });
        match texts {
            Some(texts) if texts.is_empty() => self.fault(key, "is empty"),
            Some(texts) => Ok(Some(texts)),
            None => self.fault(key, "must be an array of strings"),
        }
    }

    fn seconds(&mut self, key: &str, default: u64) -> Result<u64, FileError> {
        let Some(text) = self.text(key)? else { return Ok(default) };
        match parse_duration(&text) {
            Ok(duration) => Ok(duration.as_secs()),
            Err(error) => self.fault(key, format!("is {error}")),
        }
    }

    fn moment(&mut self, key: &str) -> Result<Option<UnixTime>, FileError> {
        let moment = match self.table.remove(key) {
            None => return Ok(None),
            Some(Value::Datetime(written)) => unix_time(&written),
            Some(_) => None,
        };
        match moment {
            Some(moment) => Ok(Some(moment)),
            None => self.fault(key, "must be a date and time with an offset, such as 2026-11-27T12:00:00Z"),
        }
    }

    fn read(mut self, limits: FileLimits<'_>) -> Result<IssuerEntry, FileError> {
        let Some(iss) = self.text("iss")? else { return self.fault("iss", "is missing") };
        let preset = self.preset()?;
        let Some(audiences) = self.texts("audiences")? else { return self.fault("audiences", "is missing") };
        let audience = self.text("audience_claim")?.unwrap_or_else(|| preset.audience.to_owned());
        let (keys, algorithms) = self.keys(&iss)?;
        let lifetime_max = self.seconds("max_lifetime", limits.lifetime_max)?;
        if lifetime_max == 0 || lifetime_max > limits.lifetime_max {
            let most = limits.lifetime_max;
            return self.fault("max_lifetime", format!("must be 1 s to MAX_TOKEN_LIFETIME, which is {most} s"));
        }
        let clock_slack = self.seconds("clock_slack", LEEWAY_MAX_SECONDS)?;
        if !(LEEWAY_MAX_SECONDS..=CLOCK_SLACK_MAX).contains(&clock_slack) {
            return self.fault("clock_slack", format!("must be {LEEWAY_MAX_SECONDS}s to {CLOCK_SLACK_MAX}s"));
        }
        let enrolled_at = self.moment("enrolled_at")?;
        if enrolled_at.is_some_and(|moment| moment > limits.now) {
            return self.fault("enrolled_at", "is in the future");
        }
        let subject_prefix = match self.table.remove("subject_prefix") {
            None => true,
            Some(Value::Boolean(prefix)) => prefix,
            Some(_) => return self.fault("subject_prefix", "must be true or false"),
        };
        let claims = match self.table.remove("claims") {
            None => Table::new(),
            Some(Value::Table(claims)) => claims,
            Some(_) => return self.fault("claims", "must be a table"),
        };
        if let Some(unknown) = self.table.keys().next() {
            return self.fault(unknown, "is not a key of an issuer");
        }
        let mut claims = ClaimsReader { issuer: self.issuer.clone(), claims };
        let entry = IssuerEntry {
            name: self.issuer,
            iss,
            keys,
            audiences,
            audience: ClaimPath::top(&audience),
            algorithms,
            lifetime_max,
            clock_slack,
            enrolled_at,
            subject_prefix,
            mark: preset.mark,
            subject: claims.path("subject")?.unwrap_or_else(|| ClaimPath::top(preset.subject)),
            session: claims.path("session")?.or_else(|| preset.session.map(ClaimPath::top)),
            token: claims.path("token")?.or_else(|| preset.token.map(ClaimPath::top)),
            client: match claims.path("client")? {
                Some(path) => vec![path],
                None => preset.client.iter().map(|name| ClaimPath::top(name)).collect(),
            },
            scope: claims.path("scope")?.unwrap_or_else(|| ClaimPath::top(preset.scope)),
            revocable: claims.paths("revocable")?,
        };
        claims.end()?;
        Ok(entry)
    }

    fn preset(&mut self) -> Result<&'static Preset, FileError> {
        let name = self.text("preset")?.unwrap_or_else(|| "rfc9068".to_owned());
        match preset(&name) {
            Some(preset) => Ok(preset),
            None => self.fault("preset", format!("must be one of {}", PRESETS.map(|preset| preset.name).join(", "))),
        }
    }

    fn keys(&mut self, iss: &str) -> Result<(KeysFrom, Vec<Algorithm>), FileError> {
        let (url, file, secret) = (self.text("jwks_url")?, self.text("jwks_file")?, self.text("secret_file")?);
        let given = self.texts("algorithms")?;
        let keys = match (url, file, secret) {
            (None, None, None) if is_web_url(iss) => KeysFrom::Discovery,
            (None, None, None) => return self.fault("jwks_url", "is missing: iss is not a URL with metadata below it"),
            (Some(url), None, None) if is_web_url(&url) => KeysFrom::Url(url),
            (Some(_), None, None) => return self.fault("jwks_url", "must be https, or http on loopback"),
            (None, Some(file), None) => KeysFrom::File(file.into()),
            (None, None, Some(file)) => KeysFrom::Secret(file.into()),
            (_, _, Some(_)) => return self.fault("secret_file", "is set beside a JWKS"),
            (Some(_), Some(_), None) => return self.fault("jwks_file", "is set beside jwks_url"),
        };
        let secret = matches!(keys, KeysFrom::Secret(_));
        let default = if secret { "HS256" } else { "RS256" };
        let mut algorithms = Vec::new();
        for name in given.unwrap_or_else(|| vec![default.to_owned()]) {
            match Algorithm::named(&name) {
                Some(Algorithm::Hs256) if !secret => return self.fault("algorithms", "HS256 needs secret_file"),
                Some(other) if secret && other != Algorithm::Hs256 => {
                    return self.fault("algorithms", format!("{name} cannot be used with secret_file"));
                }
                Some(algorithm) if !algorithms.contains(&algorithm) => algorithms.push(algorithm),
                Some(_) => return self.fault("algorithms", format!("has {name} twice")),
                None => return self.fault("algorithms", "must be of RS256, PS256, ES256, EdDSA and HS256"),
            }
        }
        Ok((keys, algorithms))
    }
}

/// The moment, in whole seconds since 1970; `None` without date, time or offset, or before 1970.
fn unix_time(written: &Datetime) -> Option<UnixTime> {
    let (date, clock) = (written.date?, written.time?);
    let minutes = match written.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i32::from(minutes),
    };
    let date = time::Date::from_calendar_date(i32::from(date.year), date.month.try_into().ok()?, date.day).ok()?;
    let local = date.with_hms(clock.hour, clock.minute, clock.second.unwrap_or(0)).ok()?;
    let offset = time::UtcOffset::from_whole_seconds(minutes * 60).ok()?;
    u64::try_from(local.assume_offset(offset).unix_timestamp()).ok().map(UnixTime)
}

/// True for an https URL, or an http URL of this machine.
pub fn is_web_url(url: &str) -> bool {
    url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) || is_loopback_url(url)
}

/// True for an http URL of this machine, which only tests and development need.
pub fn is_loopback_url(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    ["127.0.0.1", "[::1]", "localhost"].iter().any(|host| {
        let port = authority.strip_prefix(host);
        port.is_some_and(|port| {
            port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
        })
    })
}

/// Takes the keys out of `[issuer.claims]`.
struct ClaimsReader {
    issuer: String,
    claims: Table,
}

impl ClaimsReader {
    fn fault<T>(&self, key: &str, problem: &str) -> Result<T, FileError> {
        Err(FileError::Key { issuer: self.issuer.clone(), key: format!("claims.{key}"), problem: problem.to_owned() })
    }

    fn path(&mut self, key: &str) -> Result<Option<ClaimPath>, FileError> {
        let Some(value) = self.claims.remove(key) else { return Ok(None) };
        match claim_path(&value) {
            Some(path) => Ok(Some(path)),
            None => self.fault(key, "must be a claim's name, or an array of member names"),
        }
    }

    fn paths(&mut self, key: &str) -> Result<Vec<ClaimPath>, FileError> {
        let Some(value) = self.claims.remove(key) else { return Ok(Vec::new()) };
        let paths = value.as_array().and_then(|paths| paths.iter().map(claim_path).collect::<Option<Vec<_>>>());
        match paths {
            Some(paths) if paths.len() <= REVOCABLE_MAX => Ok(paths),
            _ => self.fault(key, "must be an array of at most 4 claims"),
        }
    }

    fn end(self) -> Result<(), FileError> {
        match self.claims.keys().next() {
            None => Ok(()),
            Some(unknown) => self.fault(unknown, "is not a claim that can be set"),
        }
    }
}

fn claim_path(value: &Value) -> Option<ClaimPath> {
    let path = match value {
        Value::String(name) => vec![name.clone()],
        Value::Array(names) => names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<_>>()?,
        _ => return None,
    };
    let fits = (1..=8).contains(&path.len()) && path.iter().all(|name| is_identifier(name) || name == "-");
    fits.then_some(ClaimPath(path))
}
