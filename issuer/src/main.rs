//! The program `sidegate-issuer`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use sidegate_issuer::commands::{self, Source};
use sidegate_issuer::config::SETTINGS;
use sidegate_runtime::program::refuse;
use sidegate_runtime::settings::help;

/// Issues access tokens, manages sessions, and keeps the revocation log.
#[derive(Parser)]
#[command(name = "sidegate-issuer", version)]
struct Arguments {
    /// TOML file with settings; environment variables take precedence
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM (the default)
    Serve,
    /// Check the configuration and print it, with secrets masked
    CheckConfig,
    /// Read one line from standard input and print its bcrypt hash, of cost BCRYPT_COST
    HashPassword,
    /// Create a user for the quickstart, in a SQLite database that Sidegate created; reads the password from standard input
    DemoUser {
        /// The user's email
        #[arg(long)]
        email: String,
        /// The user's scope
        #[arg(long, default_value = "")]
        scope: String,
    },
    /// Manage the private keys of JWT_KEYS_DIR
    #[command(subcommand)]
    Keys(Keys),
    /// Revoke through the admin API of a running issuer (ISSUER_ADMIN_LISTEN, ADMIN_TOKEN)
    Revoke {
        /// Another issuer, by its name in ISSUERS_FILE; ids are then those in its tokens
        #[arg(long, global = true, value_name = "NAME")]
        issuer: Option<String>,
        #[command(subcommand)]
        what: Revoke,
    },
    /// List sessions through the admin API of a running issuer
    #[command(subcommand)]
    Sessions(Sessions),
}

#[derive(Subcommand)]
enum Keys {
    /// Generate a private key; it is published, and signs at once if it is the first
    Generate {
        /// eddsa, es256 or rs256
        #[arg(long, default_value = "eddsa")]
        algorithm: String,
    },
    /// List the keys and their states
    List,
    /// Make a published key the signing key
    Activate {
        /// The key's identifier
        #[arg(allow_hyphen_values = true)]
        kid: String,
        /// Even before KEY_PREPUBLISH has passed: verifiers may not have the key yet
        #[arg(long)]
        now: bool,
    },
    /// Retire a key: its tokens stop working everywhere
    Retire {
        /// The key's identifier
        #[arg(allow_hyphen_values = true)]
        kid: String,
    },
}

#[derive(Subcommand)]
enum Revoke {
    /// One token: the JWT or its jti, or - to read it from standard input, where no process list shows it
    Token {
        /// The token
        #[arg(allow_hyphen_values = true)]
        token: String,
    },
    /// One session, by sid
    Session {
        /// The session's identifier
        #[arg(allow_hyphen_values = true)]
        sid: String,
    },
    /// All tokens and sessions of a user
    User {
        #[command(flatten)]
        id: UserId,
        /// Revoke the access tokens only: clients refresh, and get a changed scope
        #[arg(long)]
        keep_sessions: bool,
    },
    /// All tokens signed with a key, by kid
    Key {
        /// The key's identifier
        #[arg(allow_hyphen_values = true)]
        kid: String,
    },
    /// All tokens of --issuer whose claim has a value; the claim is one of its revocable
    Claim {
        /// The claim's name; of a nested claim the names from the outside in
        #[arg(required = true, num_args = 1..)]
        name: Vec<String>,
        /// The claim's value
        #[arg(long, allow_hyphen_values = true)]
        value: String,
    },
    /// All tokens and sessions
    All,
}

#[derive(Subcommand)]
enum Sessions {
    /// A user's live sessions, as JSON
    List {
        #[command(flatten)]
        id: UserId,
    },
}

/// A user, by id: as the argument or as `--user`.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct UserId {
    /// The user's id
    #[arg(value_name = "ID", allow_hyphen_values = true)]
    sub: Option<String>,
    /// The user's id, as an option
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    user: Option<String>,
}

impl UserId {
    fn text(self) -> String {
        self.sub.or(self.user).unwrap_or_default()
    }
}

/// Returns memory after a burst and does not fragment with many short-lived connections: see
/// docs/scale.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = Arguments::command().after_help(help(SETTINGS));
    let arguments = Arguments::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let source = Source { file: arguments.config };
    let done = match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => commands::serve(&source),
        Command::CheckConfig => commands::check_config(&source),
        Command::HashPassword => commands::hash_password(&source),
        Command::DemoUser { email, scope } => commands::demo::demo_user(&source, &email, &scope),
        Command::Keys(Keys::Generate { algorithm }) => commands::keys::generate_key(&source, &algorithm),
        Command::Keys(Keys::List) => commands::keys::list(&source),
        Command::Keys(Keys::Activate { kid, now }) => commands::keys::activate(&source, &kid, now),
        Command::Keys(Keys::Retire { kid }) => commands::keys::retire(&source, &kid),
        Command::Revoke { issuer, what } => commands::admin::revoke(
            &source,
            &match what {
                Revoke::Token { token } => commands::admin::What::Token(token),
                Revoke::Session { sid } => commands::admin::What::Session(sid),
                Revoke::User { id, keep_sessions } => commands::admin::What::User(id.text(), keep_sessions),
                Revoke::Key { kid } => commands::admin::What::Key(kid),
                Revoke::Claim { name, value } => commands::admin::What::Claim(name, value),
                Revoke::All => commands::admin::What::All,
            },
            issuer.as_deref(),
        ),
        Command::Sessions(Sessions::List { id }) => commands::admin::sessions(&source, &id.text()),
    };
    done.unwrap_or_else(|error| refuse(&error))
}
