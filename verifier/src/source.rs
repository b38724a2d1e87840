//! Where the daemon's settings come from.

use std::path::PathBuf;

use sidegate_runtime::settings::{ConfigError, ProcessEnvironment, Settings};

use crate::config::{Config, ListenConfig, SETTINGS};

/// The source of settings: the environment, and this file.
#[derive(Clone, Debug)]
pub struct Source {
    /// `--config`.
    pub file: Option<PathBuf>,
}

impl Source {
    /// Reads the current settings.
    ///
    /// # Errors
    /// The file or a secret's file cannot be read.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        Settings::load(SETTINGS, &ProcessEnvironment, self.file.as_deref())
    }

    /// Reads the current settings and the effective configuration.
    ///
    /// # Errors
    /// The first invalid setting.
    pub fn read(&self) -> Result<(Settings, Config), ConfigError> {
        let settings = self.settings()?;
        Config::read(&settings).map(|config| (settings, config))
    }

    /// The daemon's listeners: the only settings that a client command needs, so it works without
    /// keys.
    ///
    /// # Errors
    /// A setting of a listener is invalid.
    pub fn listen(&self) -> Result<ListenConfig, ConfigError> {
        ListenConfig::read(&self.settings()?)
    }
}
