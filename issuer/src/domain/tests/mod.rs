//! Every service method over dependencies in memory: success, every error, every dependency failing
//! at every call.
//!
//! - [`world`]: an issuer without sockets. [`memory_store`]: its store; [`conformance`] runs the
//!   stores' suite on it.
//! - [`faulty`]: dependencies that fail on request; [`faults`] fails each call of each method.
//! - [`login`], [`refresh`], [`logout`], [`revoke`], [`sessions`]: one method each.

mod conformance;
mod faults;
mod faulty;
mod login;
mod logout;
mod memory_store;
mod refresh;
mod revoke;
mod sessions;
mod world;
