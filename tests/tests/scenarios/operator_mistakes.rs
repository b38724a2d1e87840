//! Operator mistakes: input, exit code or state, message. Each message names the setting and a
//! remedy.

use std::collections::BTreeMap;
use std::path::Path;

use sidegate_tests::program::{Program, free_port, run};
use sidegate_tests::scratch::Scratch;
use sidegate_tests::stack::SECRET;
use sidegate_tests::wait::eventually;

const ISSUER: &str = "sidegate-issuer";
const VERIFIER: &str = "sidegate-verifier";

/// The expected outcome of a mistake.
enum Outcome {
    /// `check-config` and `serve` both exit 64, and standard error contains all of these.
    Refused(&'static [&'static str]),
    /// `check-config` exits 0, and standard error has a warning with all of these; `serve` logs the
    /// same.
    Warned(&'static [&'static str]),
}
use Outcome::{Refused, Warned};

type Row = (&'static str, &'static [(&'static str, &'static str)], Outcome);

const LONG: &str = "/tmp/a-path-that-is-longer-than-the-one-hundred-and-seven-bytes-that-the-kernel-takes-for-the-address-of-a-socket/v.sock";

const ROWS: &[Row] = &[
    // Secrets.
    (ISSUER, &[("JWT_SECRET_KEY", "")], Refused(&["JWT_SECRET_KEY: is not set", "32 random bytes"])),
    (
        VERIFIER,
        &[("JWT_SECRET_KEY", "")],
        Refused(&["JWT_SECRET_KEY: is not set", "JWKS_URL, JWKS_FILE or ISSUERS_FILE"]),
    ),
    (ISSUER, &[("JWT_SECRET_KEY", "hunter2")], Refused(&["JWT_SECRET_KEY: ", "7 bytes", "at least 32 random ones"])),
    (
        ISSUER,
        &[("JWT_SECRET_KEY", "a-string-secret-at-least-256-bits-long")],
        Refused(&["JWT_SECRET_KEY: ", "well known", "use 32 or more random bytes"]),
    ),
    (
        VERIFIER,
        &[("JWT_SECRET_KEY", "your-super-secret-jwt-token-with-at-least-32-characters-long")],
        Refused(&["JWT_SECRET_KEY: ", "well known"]),
    ),
    (
        ISSUER,
        &[("SESSION_SECRET_KEY", "0123456789abcdef0123456789abcdef")],
        Refused(&["SESSION_SECRET_KEY: ", "well known"]),
    ),
    (
        ISSUER,
        &[("JWT_SECRET_KEY_PREVIOUS", SECRET)],
        Refused(&["JWT_SECRET_KEY_PREVIOUS: is the same as JWT_SECRET_KEY"]),
    ),
    (
        ISSUER,
        &[("SESSION_SECRET_KEY", SECRET)],
        Warned(&["SESSION_SECRET_KEY is the same as JWT_SECRET_KEY", "of its own"]),
    ),
    (
        ISSUER,
        &[("JWT_SECRET_KEY", ""), ("JWT_SECRET_KEY_FILE", "/nonexistent/secret")],
        Refused(&["JWT_SECRET_KEY_FILE: /nonexistent/secret cannot be read: No such file"]),
    ),
    (
        VERIFIER,
        &[("JWT_SECRET_KEY_FILE", "/dev/null")],
        Refused(&["JWT_SECRET_KEY: is set, and so is JWT_SECRET_KEY_FILE; set only one of them"]),
    ),
    (
        VERIFIER,
        &[("JWT_SECRET_KEY", ""), ("JWT_SECRET_KEY_FILE", "/dev/null")],
        Refused(&["JWT_SECRET_KEY_FILE: /dev/null is empty"]),
    ),
    (ISSUER, &[("ADMIN_TOKEN", "letmein")], Refused(&["ADMIN_TOKEN: ", "16 or more letters"])),
    (
        VERIFIER,
        &[("INTROSPECT_TOKEN", "short")],
        Refused(&["INTROSPECT_TOKEN: ", "shorter than 16 bytes; use 32 random ones"]),
    ),
    (
        ISSUER,
        &[("ISSUER_FEED_LISTEN", "0.0.0.0:8082")],
        Refused(&["FEED_TOKEN: is not set", "set it here and at the verifiers"]),
    ),
    (
        ISSUER,
        &[("JWT_KEYS_DIR", "/tmp"), ("SESSION_SECRET_KEY", "")],
        Refused(&["SESSION_SECRET_KEY: is not set; it is required with JWT_KEYS_DIR"]),
    ),
    (
        ISSUER,
        &[
            ("JWT_KEYS_DIR", "/nonexistent/keys"),
            ("SESSION_SECRET_KEY", "a-session-secret-of-thirty-two-bytes-or-more"),
        ],
        Refused(&["JWT_KEYS_DIR: ", "/nonexistent/keys"]),
    ),
    // Names.
    (
        ISSUER,
        &[("ACESS_TOKEN_TTL", "5m")],
        Warned(&["unknown setting ACESS_TOKEN_TTL", "did you mean ACCESS_TOKEN_TTL?"]),
    ),
    (VERIFIER, &[("MAX_STALENES", "5s")], Warned(&["unknown setting MAX_STALENES", "did you mean MAX_STALENESS?"])),
    (VERIFIER, &[("JWKS_URI", "http://issuer/keys")], Warned(&["did you mean JWKS_URL?"])),
    (ISSUER, &[("jwt_audience", "app")], Warned(&["did you mean JWT_AUDIENCE?"])),
    // Durations and numbers.
    (ISSUER, &[("ACCESS_TOKEN_TTL", "5 minutes")], Refused(&["ACCESS_TOKEN_TTL: \"5 minutes\" is not", "such as 30s"])),
    (ISSUER, &[("ACCESS_TOKEN_TTL", "48h")], Refused(&["ACCESS_TOKEN_TTL: \"48h\" is not at most MAX_TOKEN_LIFETIME"])),
    (ISSUER, &[("REFRESH_TOKEN_TTL", "-1d")], Refused(&["REFRESH_TOKEN_TTL: \"-1d\" is not"])),
    (
        ISSUER,
        &[("REFRESH_TOKEN_TTL", "365d")],
        Warned(&["REFRESH_TOKEN_TTL (365d) is longer than SESSION_TTL_MAX (90d)"]),
    ),
    (
        ISSUER,
        &[("REFRESH_TOKEN_TTL", "10s")],
        Warned(&["REFRESH_RETRY_WINDOW (30s) is longer than REFRESH_TOKEN_TTL (10s)"]),
    ),
    (ISSUER, &[("REFRESH_RETRY_WINDOW", "1h")], Refused(&["REFRESH_RETRY_WINDOW: \"1h\" is not from"])),
    (VERIFIER, &[("LEEWAY", "10m")], Refused(&["LEEWAY: \"10m\" is not at most 60s"])),
    (
        VERIFIER,
        &[("MAX_STALENESS", "1s"), ("PROBE_INTERVAL", "2s")],
        Refused(&["PROBE_INTERVAL: \"2s\" is not at most half of MAX_STALENESS (1s)"]),
    ),
    (
        ISSUER,
        &[("MAX_STALENESS", "1s"), ("PROBE_INTERVAL", "2s")],
        Refused(&["PROBE_INTERVAL: \"2s\" is not at most half of MAX_STALENESS (1s)"]),
    ),
    (VERIFIER, &[("JWKS_REFRESH", "10ms")], Refused(&["JWKS_REFRESH: \"10ms\" is not 1s or more"])),
    (
        ISSUER,
        &[("WORKER_THREADS", "many")],
        Refused(&["WORKER_THREADS: \"many\" is not a whole number from 1 to 1024"]),
    ),
    (VERIFIER, &[("TOKEN_CACHE_ENTRIES", "16k")], Refused(&["TOKEN_CACHE_ENTRIES: \"16k\" is not a whole number"])),
    (ISSUER, &[("BCRYPT_COST", "31")], Refused(&["BCRYPT_COST: \"31\" is not a whole number from 4 to 14"])),
    (
        ISSUER,
        &[("SESSIONS_PER_USER_MAX", "unlimited")],
        Refused(&["SESSIONS_PER_USER_MAX: \"unlimited\" is not a whole number from"]),
    ),
    (VERIFIER, &[("ON_STALE", "ignore")], Refused(&["ON_STALE: \"ignore\" is not deny or allow"])),
    (ISSUER, &[("USERS_REHASH", "maybe")], Refused(&["USERS_REHASH: \"maybe\" is not true or false"])),
    // Addresses and sockets.
    (
        ISSUER,
        &[("ISSUER_LISTEN", "8080")],
        Refused(&["ISSUER_LISTEN: \"8080\" is not an address and port such as 127.0.0.1:8080"]),
    ),
    (
        ISSUER,
        &[("ISSUER_LISTEN", "localhost:8080")],
        Refused(&["ISSUER_LISTEN: \"localhost:8080\" is not an address and port"]),
    ),
    (VERIFIER, &[("VERIFIER_LISTEN", ":8081")], Refused(&["VERIFIER_LISTEN: \":8081\" is not an address and port"])),
    (
        ISSUER,
        &[("ISSUER_LISTEN", "0.0.0.0:8080"), ("ISSUER_ADMIN_LISTEN", "127.0.0.1:8080")],
        Refused(&["ISSUER_ADMIN_LISTEN: has the same port as ISSUER_LISTEN"]),
    ),
    (
        VERIFIER,
        &[("VERIFIER_LISTEN", "127.0.0.1:9081")],
        Refused(&["VERIFIER_ADMIN_LISTEN: has the same port as VERIFIER_LISTEN"]),
    ),
    (
        VERIFIER,
        &[("VERIFIER_SOCKET", "@sidegate")],
        Refused(&["VERIFIER_SOCKET: \"@sidegate\" is not a path", "abstract sockets"]),
    ),
    (
        VERIFIER,
        &[("VERIFIER_SOCKET", "unix:/run/sidegate/verifier.sock")],
        Refused(&["VERIFIER_SOCKET: ", "write /run/sidegate/verifier.sock"]),
    ),
    (VERIFIER, &[("ATTACH_SOCKET", "unix:///run/a.sock")], Refused(&["ATTACH_SOCKET: ", "write /run/a.sock"])),
    (
        VERIFIER,
        &[("VERIFIER_SOCKET", "/run/sidegate/")],
        Refused(&["VERIFIER_SOCKET: \"/run/sidegate/\" is not the path of a socket"]),
    ),
    (VERIFIER, &[("VERIFIER_SOCKET", "off")], Refused(&["VERIFIER_SOCKET: is off and VERIFIER_LISTEN is not set"])),
    (
        VERIFIER,
        &[("VERIFIER_SOCKET", "/run/a"), ("ATTACH_SOCKET", "/run/a")],
        Refused(&["ATTACH_SOCKET: is the same as VERIFIER_SOCKET"]),
    ),
    (VERIFIER, &[("VERIFIER_SOCKET", LONG)], Refused(&["VERIFIER_SOCKET: is longer than the 107 bytes"])),
    (
        VERIFIER,
        &[("VERIFIER_SOCKET_MODE", "rw-rw----")],
        Refused(&["VERIFIER_SOCKET_MODE: \"rw-rw----\" is not a mode such as 0660"]),
    ),
    (
        VERIFIER,
        &[("VERIFIER_SOCKET_GROUP", "no-such-group")],
        Refused(&["VERIFIER_SOCKET_GROUP: \"no-such-group\" is not a group"]),
    ),
    (
        VERIFIER,
        &[("ATTACH_ALLOW_UIDS", "www-data")],
        Refused(&["ATTACH_ALLOW_UIDS: \"www-data\" is not a list of numbers"]),
    ),
    (
        VERIFIER,
        &[("ATTACH_SOCKET", "off"), ("ATTACH_ALLOW_UIDS", "33")],
        Warned(&["ATTACH_ALLOW_UIDS has no effect: ATTACH_SOCKET is off"]),
    ),
    // Stores and feeds.
    (
        ISSUER,
        &[("STORE_URL", "")],
        Warned(&["neither REDIS_URL nor STORE_URL is set", "sidegate-store.db", "set one of them"]),
    ),
    (
        ISSUER,
        &[("STORE_URL", "sqlite://:memory:")],
        Refused(&["STORE_URL: \"sqlite://:memory:\" is not sqlite://path"]),
    ),
    (ISSUER, &[("REDIS_PREFIX", "app")], Warned(&["REDIS_PREFIX has no effect: REDIS_URL is not set"])),
    (ISSUER, &[("REDIS_URL", "127.0.0.1:6379")], Refused(&["REDIS_URL: ", "redis://"])),
    (VERIFIER, &[("REDIS_URL", "http://redis:6379")], Refused(&["REDIS_URL: ", "redis+sentinel://"])),
    (VERIFIER, &[("REDIS_URL", "redis+sentinel://127.0.0.1:26379")], Refused(&["REDIS_URL: "])),
    (ISSUER, &[("REDIS_URL", "redis://:pa#ss@127.0.0.1:6379")], Refused(&["REDIS_URL: "])),
    (ISSUER, &[("REVOCATION_PARTITIONS", "4")], Refused(&["REVOCATION_PARTITIONS: must be 1 without REDIS_URL"])),
    (ISSUER, &[("REVOCATION_JOURNAL", "/tmp/journal")], Refused(&["REVOCATION_JOURNAL: requires REDIS_URL"])),
    (
        VERIFIER,
        &[("ISSUER_FEED_URL", "issuer:8082")],
        Refused(&["ISSUER_FEED_URL: \"issuer:8082\" is not a URL such as http://"]),
    ),
    (
        VERIFIER,
        &[("REDIS_URL", "redis://127.0.0.1:1"), ("FEED_TOKEN", "0123456789abcdef")],
        Warned(&["FEED_TOKEN has no effect: REDIS_URL is set"]),
    ),
    (
        VERIFIER,
        &[("SNAPSHOT_FILE", "/nonexistent/folder/list")],
        Refused(&["SNAPSHOT_FILE: ", "in a folder that exists"]),
    ),
    // Keys and claims.
    (
        VERIFIER,
        &[("JWKS_URL", "issuer/keys")],
        Refused(&["JWKS_URL: \"issuer/keys\" is not an http:// or https:// URL"]),
    ),
    (
        VERIFIER,
        &[("JWKS_URL", "http://i/"), ("JWKS_FILE", "/keys")],
        Refused(&["JWKS_FILE: is set beside JWKS_URL; set one of them"]),
    ),
    (
        VERIFIER,
        &[("JWKS_URL", "http://i/"), ("HTTP_PROXY", "http://proxy")],
        Warned(&["HTTP_PROXY is not used: JWKS_URL is fetched directly"]),
    ),
    (
        VERIFIER,
        &[("JWKS_REFRESH", "1m")],
        Warned(&["JWKS_REFRESH has no effect: neither JWKS_URL nor JWKS_FILE is set"]),
    ),
    (VERIFIER, &[("JWT_AUDIENCE", ",")], Refused(&["JWT_AUDIENCE: \",\" is not a comma separated list"])),
    (ISSUER, &[("JWT_AUDIENCE", "a,b")], Refused(&["JWT_AUDIENCE: \"a,b\" is not one audience"])),
    (
        ISSUER,
        &[("JWT_CLIENT_ID", "my app")],
        Refused(&["JWT_CLIENT_ID: \"my app\" is not 1 to 255 visible ASCII characters"]),
    ),
    (VERIFIER, &[("TOKEN_COOKIE", "my cookie")], Refused(&["TOKEN_COOKIE: \"my cookie\" is not a cookie name"])),
    (
        VERIFIER,
        &[("ROUTES_FILE", "/nonexistent/routes.toml")],
        Refused(&["ROUTES_FILE: /nonexistent/routes.toml: No such file"]),
    ),
    (ISSUER, &[("CORS_ORIGINS", "app.example.org")], Refused(&["CORS_ORIGINS: "])),
    (ISSUER, &[("CORS_ORIGINS", "https://app.example.org/login")], Refused(&["CORS_ORIGINS: "])),
    (ISSUER, &[("TRUSTED_PROXIES", "10.0.0.0/99")], Refused(&["TRUSTED_PROXIES: \"10.0.0.0/99\" is not a list"])),
    // The database, as text (its own mistakes: users_table.rs).
    (ISSUER, &[("DATABASE_URL", "")], Refused(&["DATABASE_URL: is not set", "postgres://"])),
    (ISSUER, &[("DATABASE_URL", "mysql://app@db/app")], Refused(&["DATABASE_URL: ", "postgres:// or sqlite://"])),
    (ISSUER, &[("DATABASE_URL", "postgres://app:pa#ss@db/app")], Refused(&["DATABASE_URL: "])),
    (ISSUER, &[("DATABASE_URL", "postgres://app:x@one,two/app")], Refused(&["DATABASE_URL: "])),
    (ISSUER, &[("DATABASE_URL", "postgres://app:x@db/app?sslmode=no-verify")], Refused(&["DATABASE_URL: "])),
    (ISSUER, &[("USERS_TABLE", "users;")], Refused(&["USERS_TABLE: "])),
    (ISSUER, &[("USERS_EMAIL_MATCH", "like")], Refused(&["USERS_EMAIL_MATCH: \"like\" is not ignore_case or exact"])),
    // Logs.
    (VERIFIER, &[("LOG_FORMAT", "logfmt")], Refused(&["LOG_FORMAT: \"logfmt\" is not json or text"])),
    (VERIFIER, &[("RUST_LOG", "sidegate=loud")], Refused(&["RUST_LOG: \"sidegate=loud\" is not a tracing filter"])),
];

/// Correct settings in `folder`, with changes.
fn settings(folder: &Scratch, changes: &[(&'static str, &'static str)]) -> Vec<(&'static str, String)> {
    let file = |name: &str| folder.file(name).display().to_string();
    let mut all = vec![
        ("JWT_SECRET_KEY", SECRET.to_owned()),
        ("DATABASE_URL", format!("sqlite://{}", file("app.db"))),
        ("STORE_URL", format!("sqlite://{}", file("store.db"))),
        ("SESSION_SECRET_KEY", "a-session-secret-for-the-tests-of-thirty-two-bytes".to_owned()),
        ("PATH", std::env::var("PATH").unwrap_or_default()),
    ];
    for (name, value) in changes {
        all.retain(|(earlier, _)| earlier != name);
        if !value.is_empty() {
            all.push((*name, (*value).to_owned()));
        }
    }
    all
}

fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    settings.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

#[test]
fn each_mistake_names_its_setting_and_a_remedy() {
    assert!(ROWS.len() >= 60, "{} rows", ROWS.len());
    let mut faults = Vec::new();
    for (program, changes, outcome) in ROWS {
        let folder = Scratch::new();
        let all = settings(&folder, changes);
        let checked = run(program, &["check-config"], &borrowed(&all), "");
        let text = String::from_utf8_lossy(&checked.stderr).into_owned();
        let (code, needed) = match outcome {
            Refused(needed) => (64, needed),
            Warned(needed) => (0, needed),
        };
        let said = |text: &str| needed.iter().all(|needed| text.contains(needed));
        if checked.status.code() != Some(code) || !said(&text) {
            faults.push(format!("{program} check-config {changes:?}: {:?}: {text}", checked.status.code()));
        }
        if let Refused(_) = outcome {
            let served = run(program, &["serve"], &borrowed(&all), "");
            let text = String::from_utf8_lossy(&served.stderr).into_owned();
            if served.status.code() != Some(64) || !said(&text) {
                faults.push(format!("{program} serve {changes:?}: {:?}: {text}", served.status.code()));
            }
            if folder.file("store.db").exists() {
                faults.push(format!("{program} {changes:?}: wrote to its store before it found the mistake"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn start(program: &'static str, folder: &Scratch, settings: &[(&'static str, String)]) -> Program {
    let all: BTreeMap<String, String> =
        settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Program::ours(program, &all, &folder.file("log"))
}

#[tokio::test]
async fn start_logs_warnings_and_the_store() {
    let folder = Scratch::new();
    sidegate_tests::users::sqlite(&folder.file("app.db"), &["alice@example.org"]).await;
    let mut all = settings(&folder, &[("ACESS_TOKEN_TTL", "5m"), ("ISSUER_LISTEN", "127.0.0.1:0")]);
    all.extend([("ISSUER_ADMIN_LISTEN", "127.0.0.1:0".to_owned()), ("ISSUER_FEED_LISTEN", "127.0.0.1:0".to_owned())]);
    let program = start(ISSUER, &folder, &all);
    eventually("the start", || async { program.output().contains("issuer started").then_some(()) }).await;
    let log = program.output();
    assert!(log.contains("did you mean ACCESS_TOKEN_TTL?"), "{log}");
    let store = format!("\"store\":\"sqlite://{}\"", folder.file("store.db").display());
    assert!(log.contains(&store), "{log}");
}

#[tokio::test]
async fn unavailable_address_is_reported_with_its_setting() {
    let folder = Scratch::new();
    sidegate_tests::users::sqlite(&folder.file("app.db"), &["alice@example.org"]).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|address| (address.to_string(), taken)).expect("its address");
    let file = |name: &str| folder.file(name).display().to_string();
    std::fs::write(folder.file("file.sock"), "precious").expect("written");
    let free = || format!("127.0.0.1:{}", free_port());
    let of_issuer = || vec![("ISSUER_LISTEN", free()), ("ISSUER_ADMIN_LISTEN", free()), ("ISSUER_FEED_LISTEN", free())];
    let of_verifier = || {
        let sockets = [("VERIFIER_SOCKET", file("v.sock")), ("ATTACH_SOCKET", file("a.sock"))];
        sockets.into_iter().chain([("VERIFIER_ADMIN_LISTEN", free())]).collect::<Vec<_>>()
    };
    let rows: &[(&'static str, &'static str, String, &[&str])] = &[
        (ISSUER, "ISSUER_LISTEN", taken.0.clone(), &["Address already in use", "set another address"]),
        (ISSUER, "ISSUER_ADMIN_LISTEN", taken.0.clone(), &["Address already in use", "set another address"]),
        (ISSUER, "ISSUER_FEED_LISTEN", taken.0.clone(), &["Address already in use", "set another address"]),
        (ISSUER, "ISSUER_LISTEN", "192.0.2.1:8080".into(), &["no interface of this machine has this address"]),
        (VERIFIER, "VERIFIER_LISTEN", taken.0.clone(), &["Address already in use", "set another address"]),
        (VERIFIER, "VERIFIER_ADMIN_LISTEN", taken.0.clone(), &["Address already in use", "set another address"]),
        (VERIFIER, "VERIFIER_SOCKET", file("file.sock"), &["not a socket", "remove the file"]),
        (
            VERIFIER,
            "VERIFIER_SOCKET",
            "/proc/sidegate/v.sock".into(),
            &["set a path where this user may write, such as"],
        ),
        (VERIFIER, "ATTACH_SOCKET", "/proc/sidegate/a.sock".into(), &["set a path where this user may write, such as"]),
    ];
    for (program, setting, value, needed) in rows {
        let mut all = settings(&folder, &[]);
        all.extend(if *program == ISSUER { of_issuer() } else { of_verifier() });
        all.retain(|(name, _)| name != setting);
        all.push((*setting, value.clone()));
        let output = run(program, &["serve"], &borrowed(&all), "");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{program} {setting}={value}: {text}");
        for needed in needed.iter().chain([&format!("{setting}: ").as_str()]) {
            assert!(text.contains(needed), "{program} {setting}={value}: {needed:?} is not in {text}");
        }
        assert!(!folder.file("store.db").exists(), "{program} {setting}={value}: nothing is written before it listens");
    }
    drop(taken);
}

#[test]
fn settings_of_one_program_are_no_mistakes_to_the_other() {
    let tables = [(ISSUER, sidegate_issuer::config::SETTINGS), (VERIFIER, sidegate_verifier::config::SETTINGS)];
    for (program, _) in tables {
        let folder = Scratch::new();
        let mut all = settings(&folder, &[]);
        for (_, table) in tables {
            // Empty counts as unset: only the names matter here.
            all.extend(table.iter().map(|one| (one.name, String::new())).filter(|(name, _)| *name != "JWT_SECRET_KEY"));
        }
        let known: Vec<_> = all.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| *name).collect();
        all.retain(|(name, value)| !value.is_empty() || !known.contains(name));
        let output = run(program, &["check-config"], &borrowed(&all), "");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !text.contains("did you mean"), "{program}: {text}");
    }
}

#[test]
fn unknown_file_key_is_refused_with_a_suggestion() {
    let folder = Scratch::new();
    let file = folder.file("sidegate.toml");
    let write = |text: &str| std::fs::write(&file, text).expect("written");
    let check = |file: &Path| {
        let all = settings(&folder, &[]);
        let arguments = ["check-config", "--config", file.to_str().expect("UTF-8")];
        let output = run(ISSUER, &arguments, &borrowed(&all), "");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (text, needed) in [
        (
            "acess_token_ttl = \"5m\"\n",
            &["acess_token_ttl: unknown setting", "did you mean ACCESS_TOKEN_TTL?", "--help"][..],
        ),
        ("[issuer]\nlisten = \"x\"\n", &["issuer: unknown setting"]),
        ("access_token_ttl = 5m\n", &["sidegate.toml: is not TOML"]),
        ("access_token_ttl = 1.5\n", &["access_token_ttl: is not a string, a whole number"]),
        ("access_token_ttl = \"5m\"\nACCESS_TOKEN_TTL = \"6m\"\n", &["access_token_ttl", "set twice"]),
    ] {
        write(text);
        let (code, said) = check(&file);
        assert_eq!(code, Some(64), "{text}: {said}");
        assert!(needed.iter().all(|needed| said.contains(needed)), "{text}: {said}");
    }
    let (code, said) = check(Path::new("/nonexistent/sidegate.toml"));
    assert!(code == Some(64) && said.contains("/nonexistent/sidegate.toml: cannot be read"), "{said}");
}
