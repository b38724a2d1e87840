//! The program `sidegate-verifier`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use sidegate_runtime::program::refuse;
use sidegate_runtime::settings::help;
use sidegate_verifier::commands;
use sidegate_verifier::config::SETTINGS;
use sidegate_verifier::source::Source;

/// Checks access tokens: signature, claims and revocation.
#[derive(Parser)]
#[command(name = "sidegate-verifier", version)]
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
    CheckConfig {
        /// Print the rule of ROUTES_FILE that matches a request, such as "GET /a/b"
        #[arg(long, value_name = "METHOD PATH")]
        route: Vec<String>,
    },
    /// Check a token with the running daemon; exit code 0 if it is good, 1 if not, 69 if it could not be checked
    Check {
        /// The token, or - to read it from standard input, where no process list shows it
        token: String,
    },
    /// Print whether the running daemon is ready, and if not, why
    Status,
    /// Exit code 0 if the running daemon is ready, 1 if not
    Health,
}

/// Returns memory after a burst, and does not fragment under many short-lived connections:
/// docs/scale.md has the figures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command = Arguments::command().after_help(help(SETTINGS));
    let arguments = Arguments::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let source = Source { file: arguments.config };
    let done = match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => commands::serve(&source),
        Command::CheckConfig { route } => commands::check_config(&source, &route),
        Command::Check { token } => commands::check(&source, &token),
        Command::Status => commands::status(&source),
        Command::Health => commands::health(&source),
    };
    done.unwrap_or_else(|error| refuse(&error))
}
