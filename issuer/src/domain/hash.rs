//! Stored hashes as applications write them: scheme, cost and wrapping.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::password::{COST_MAX, COST_MIN};

/// Upper limit of the memory of one Argon2id hash, in KiB.
pub const ARGON2_MEMORY_MAX: u32 = 256 * 1024;
/// Upper limit of memory times passes of one Argon2id hash, in KiB: about a second of a core.
pub const ARGON2_WORK_MAX: u64 = 1024 * 1024;
/// Upper limit of passes and of lanes.
const ARGON2_PASSES_MAX: u32 = 64;
/// The longest salt or digest, in bytes.
const ARGON2_BYTES_MAX: usize = 64;

/// Prefixes that other programs put before a hash: Spring, Dovecot, OpenLDAP, Django. In lower
/// case.
const WRAPPINGS: [&str; 8] = [
    "{bcrypt}",
    "{blf-crypt}",
    "{crypt}",
    "{argon2}",
    "{argon2@springsecurity_v5_8}",
    "{argon2id}",
    "bcrypt$",
    "argon2",
];

/// Prefixes of schemes that are recognised but not supported. In lower case, the longer first.
const OTHER_SCHEMES: [(&str, &str); 26] = [
    ("$argon2id$", "argon2id"),
    ("$argon2i$", "argon2i"),
    ("$argon2d$", "argon2d"),
    ("$scrypt$", "scrypt"),
    ("scrypt:", "scrypt"),
    ("scrypt$", "scrypt"),
    ("{scrypt", "scrypt"),
    ("$7$", "scrypt"),
    ("$y$", "yescrypt"),
    ("$gy$", "gost-yescrypt"),
    ("$pbkdf2", "pbkdf2"),
    ("pbkdf2", "pbkdf2"),
    ("{pbkdf2", "pbkdf2"),
    ("bcrypt_sha256$", "bcrypt_sha256"),
    ("$bcrypt-sha256$", "bcrypt-sha256"),
    ("$6$", "sha512-crypt"),
    ("$5$", "sha256-crypt"),
    ("$1$", "md5-crypt"),
    ("$apr1$", "apr1"),
    ("$p$", "phpass"),
    ("$h$", "phpass"),
    ("{ssha", "ssha"),
    ("{sha", "sha"),
    ("{noop}", "plain text"),
    ("md5$", "md5"),
    ("sha1$", "sha1"),
];

/// A hash that can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredHash<'a> {
    /// The prefix in the table.
    pub wrapping: &'a str,
    /// The hash itself.
    pub hash: &'a str,
    /// Scheme and cost.
    pub scheme: Scheme,
}

/// Scheme of a hash, with its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `$2a$`, `$2b$`, `$2x$` or `$2y$`.
    Bcrypt {
        /// From [`COST_MIN`] to [`COST_MAX`].
        cost: u32,
    },
    /// `$argon2id$v=19$`.
    Argon2id(Argon2Parameters),
}

/// The cost parameters of Argon2id (RFC 9106 §3.1), within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Parameters {
    /// Memory, in KiB.
    pub memory: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Argon2Parameters {
    /// KiB filled in total: the measure of the work. Argon2 uses memory in multiples of four KiB
    /// per lane.
    pub const fn work(self) -> u64 {
        self.memory_used() as u64 * self.passes as u64
    }

    /// KiB of memory used.
    pub const fn memory_used(self) -> u32 {
        self.memory - self.memory % (4 * self.lanes)
    }

    /// Reads `m=65536,t=3,p=4`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut values = text.split(',');
        let mut value = |name: &str| -> Option<u32> {
            let digits = values.next()?.strip_prefix(name)?.strip_prefix('=')?;
            digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
        };
        let parameters = Self { memory: value("m")?, passes: value("t")?, lanes: value("p")? };
        let within = (1..=ARGON2_PASSES_MAX).contains(&parameters.passes)
            && (1..=ARGON2_PASSES_MAX).contains(&parameters.lanes)
            && (8 * parameters.lanes..=ARGON2_MEMORY_MAX).contains(&parameters.memory)
            && parameters.work() <= ARGON2_WORK_MAX;
        (within && values.next().is_none()).then_some(parameters)
    }
}

/// Why a stored hash cannot be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnusableHash {
    /// Of a known scheme that is not supported, or with unsupported parameters.
    OtherScheme(&'static str),
    /// Not a hash.
    Malformed,
}

impl<'a> StoredHash<'a> {
    /// Parses a stored value. Ignores surrounding white space and the prefixes of other programs.
    ///
    /// # Errors
    /// The hash is malformed or unsupported.
    pub fn parse(stored: &'a str) -> Result<Self, UnusableHash> {
        let stored = stored.trim();
        let (wrapping, hash) = unwrap(stored);
        let scheme = match (bcrypt_cost(hash), hash.strip_prefix("$argon2id$v=19$")) {
            (Some(cost), _) => Some(Scheme::Bcrypt { cost }),
            (None, Some(rest)) => argon2(rest).map(|(parameters, _, _)| Scheme::Argon2id(parameters)),
            (None, None) => None,
        };
        match scheme {
            Some(scheme) => Ok(Self { wrapping, hash, scheme }),
            None => Err(unusable(stored, hash)),
        }
    }
}

/// Splits the wrapping from the hash.
fn unwrap(stored: &str) -> (&str, &str) {
    for wrapping in WRAPPINGS {
        let Some((head, rest)) = stored.split_at_checked(wrapping.len()) else { continue };
        // Django writes `bcrypt$` before `$2b$…`; others omit one of the two dollars.
        if head.eq_ignore_ascii_case("bcrypt$") && rest.starts_with('2') {
            return stored.split_at(head.len() - 1);
        }
        if head.eq_ignore_ascii_case(wrapping) && rest.starts_with('$') {
            return (head, rest);
        }
    }
    ("", stored)
}

fn unusable(stored: &str, hash: &str) -> UnusableHash {
    let start = |text: &str| text.bytes().take(24).map(|byte| byte.to_ascii_lowercase() as char).collect::<String>();
    let (whole, inner) = (start(stored), start(hash));
    let known = OTHER_SCHEMES.iter().find(|(prefix, _)| whole.starts_with(prefix) || inner.starts_with(prefix));
    known.map_or(UnusableHash::Malformed, |(_, name)| UnusableHash::OtherScheme(name))
}

/// The cost of a supported bcrypt hash: `$2a$`, `$2b$`, `$2x$` or `$2y$`, two digits from 4 to 14,
/// and 53 characters of bcrypt's base64.
pub fn bcrypt_cost(hash: &str) -> Option<u32> {
    let (cost, digest) = bcrypt_parts(hash)?;
    let plain = digest.len() == 53 && digest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'/');
    plain.then_some(cost)
}

/// The cost and the rest of the text.
fn bcrypt_parts(hash: &str) -> Option<(u32, &str)> {
    let rest = ["$2a$", "$2b$", "$2x$", "$2y$"].iter().find_map(|prefix| hash.strip_prefix(prefix))?;
    let (cost, digest) = rest.split_once('$')?;
    if cost.len() != 2 || !cost.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let cost = cost.parse().ok()?;
    (COST_MIN..=COST_MAX).contains(&cost).then_some((cost, digest))
}

/// Parameters, salt and digest from the text after `$argon2id$v=19$`.
pub fn argon2(rest: &str) -> Option<(Argon2Parameters, Vec<u8>, Vec<u8>)> {
    let mut parts = rest.split('$');
    let parameters = Argon2Parameters::parse(parts.next()?)?;
    let mut bytes = |least: usize| {
        let bytes = STANDARD_NO_PAD.decode(parts.next()?).ok()?;
        (least..=ARGON2_BYTES_MAX).contains(&bytes.len()).then_some(bytes)
    };
    let (salt, digest) = (bytes(8)?, bytes(12)?);
    parts.next().is_none().then_some((parameters, salt, digest))
}

/// The scheme of parameters such as `$2b$12$` or `$m=65536,t=3,p=4$`.
pub fn scheme_of_parameters(text: &str) -> Option<Scheme> {
    match bcrypt_parts(text) {
        Some((cost, "")) => Some(Scheme::Bcrypt { cost }),
        _ => {
            let parameters = text.strip_prefix('$')?.trim_end_matches('$');
            Argon2Parameters::parse(parameters).map(Scheme::Argon2id)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";
    const ARGON2: &str = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b4QZw";
    const ARGON2_PARAMETERS: Argon2Parameters = Argon2Parameters { memory: 65536, passes: 3, lanes: 4 };

    fn bcrypt() -> String {
        format!("$2b$10${DIGEST}")
    }

    #[test]
    fn supported_bcrypt_hashes_are_parsed() {
        for variant in ["2a", "2b", "2x", "2y"] {
            assert_eq!(bcrypt_cost(&format!("${variant}$10${DIGEST}")), Some(10));
        }
        assert_eq!(bcrypt_cost(&format!("$2b$04${DIGEST}")), Some(4));
        assert_eq!(bcrypt_cost(&format!("$2b$14${DIGEST}")), Some(14));
    }

    #[test]
    fn unsupported_bcrypt_hashes_are_refused() {
        for bad in [
            String::new(),
            "x".into(),
            format!("$2b$+4${DIGEST}"),
            format!("$2b$4${DIGEST}"),
            format!("$2b$03${DIGEST}"),
            format!("$2b$15${DIGEST}"),
            format!("$2b$31${DIGEST}"),
            format!("$2c$10${DIGEST}"),
            format!("$2$10${DIGEST}"),
            format!("$2b$10${DIGEST}x"),
            format!("$2b$10${}", &DIGEST[1..]),
            format!("$2b$10$!{}", &DIGEST[1..]),
        ] {
            assert_eq!(StoredHash::parse(&bad), Err(UnusableHash::Malformed), "{bad}");
        }
    }

    #[test]
    fn prefixes_of_other_programs_and_white_space_are_ignored() {
        let hash = bcrypt();
        for (stored, wrapping) in [
            (hash.clone(), ""),
            (format!("  {hash}\r\n"), ""),
            (format!("{{bcrypt}}{hash}"), "{bcrypt}"),
            (format!("{{BLF-CRYPT}}{hash} "), "{BLF-CRYPT}"),
            (format!("{{CRYPT}}{hash}"), "{CRYPT}"),
            (format!("bcrypt${hash}"), "bcrypt$"),
            (format!("bcrypt{hash}"), "bcrypt"),
        ] {
            let parsed = StoredHash::parse(&stored).unwrap_or_else(|error| panic!("{stored}: {error:?}"));
            assert_eq!(
                (parsed.wrapping, parsed.hash, parsed.scheme),
                (wrapping, hash.as_str(), Scheme::Bcrypt { cost: 10 })
            );
        }
        for stored in
            [ARGON2.to_owned(), format!("argon2{ARGON2}"), format!("{{argon2@SpringSecurity_v5_8}}{ARGON2}\n")]
        {
            let parsed = StoredHash::parse(&stored).unwrap_or_else(|error| panic!("{stored}: {error:?}"));
            assert_eq!((parsed.hash, parsed.scheme), (ARGON2, Scheme::Argon2id(ARGON2_PARAMETERS)));
        }
    }

    #[test]
    fn unsupported_schemes_are_recognised_by_name() {
        for (stored, name) in [
            ("$argon2i$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b4QZw", "argon2i"),
            ("$argon2id$v=16$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b4QZw", "argon2id"),
            ("$argon2id$v=19$m=2097152,t=1,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b4QZw", "argon2id"),
            ("$argon2id$v=19$m=262144,t=5,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b4QZw", "argon2id"),
            ("$argon2id$v=19$m=8,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b4QZw", "argon2id"),
            ("$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA", "argon2id"),
            ("pbkdf2_sha256$720000$salt$hash=", "pbkdf2"),
            ("pbkdf2:sha256:600000$salt$hash", "pbkdf2"),
            ("scrypt:32768:8:1$salt$hash", "scrypt"),
            ("{SSHA}c2FsdA==", "ssha"),
            ("{CRYPT}$6$salt$hash", "sha512-crypt"),
            ("$P$Bsalt", "phpass"),
            ("bcrypt_sha256$$2b$12$x", "bcrypt_sha256"),
            ("{noop}secret", "plain text"),
        ] {
            assert_eq!(StoredHash::parse(stored), Err(UnusableHash::OtherScheme(name)), "{stored}");
        }
        for stored in ["", "hunter2", "$2b$31$x", "password$with$dollars", "\u{e4}\u{f6}\u{fc}"] {
            assert_eq!(StoredHash::parse(stored), Err(UnusableHash::Malformed), "{stored}");
        }
    }

    #[test]
    fn parameters_without_digest_are_parsed() {
        assert_eq!(scheme_of_parameters("$2y$12$"), Some(Scheme::Bcrypt { cost: 12 }));
        assert_eq!(scheme_of_parameters("$m=65536,t=3,p=4$"), Some(Scheme::Argon2id(ARGON2_PARAMETERS)));
        for other in ["$2b$15$", "$2b$12$x", "$20000$", "$m=1,t=1,p=1$", "$m=65536,t=3,p=4,x=1$", ""] {
            assert_eq!(scheme_of_parameters(other), None, "{other}");
        }
        assert_eq!(ARGON2_PARAMETERS.work(), 196_608);
        assert_eq!(
            Argon2Parameters { memory: 37, passes: 2, lanes: 4 }.work(),
            64,
            "memory in multiples of 4 KiB a lane"
        );
    }
}
