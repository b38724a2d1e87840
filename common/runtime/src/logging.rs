//! Sets up logging: JSON lines by default, text for people.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::settings::{ConfigError, Setting, Settings, setting};

/// The settings of this module.
pub const SETTINGS: [Setting; 2] = [
    setting("LOG_FORMAT", "json", "json, or text (in colour on a terminal, unless NO_COLOR is set)"),
    setting("RUST_LOG", "info", "log filter in tracing's syntax, such as info or sidegate_issuer=debug"),
];

/// Checks the settings without starting.
///
/// # Errors
/// An unknown format or filter.
pub fn check(settings: &Settings) -> Result<(), ConfigError> {
    read(settings).map(drop)
}

/// Starts logging to standard error.
///
/// # Errors
/// An unknown format or filter.
pub fn start(settings: &Settings) -> Result<(), ConfigError> {
    let (format, filter) = read(settings)?;
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let ansi = std::io::stderr().is_terminal() && !no_color;
    let builder = fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first output.
    let _already_started = if format == "json" {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    } else {
        builder.try_init()
    };
    Ok(())
}

fn read(settings: &Settings) -> Result<(&'static str, EnvFilter), ConfigError> {
    let format = settings.one_of("LOG_FORMAT", &["json", "text"])?;
    let filter = EnvFilter::try_new(settings.required("RUST_LOG")?)
        .map_err(|_| settings.unfit("RUST_LOG", "a tracing filter such as info or sidegate_issuer=debug"))?;
    Ok((format, filter))
}
