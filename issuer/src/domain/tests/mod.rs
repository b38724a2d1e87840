//! Every service method over ports in memory: the happy path, every error, and every port failing at every call.
//!
//! - [`world`]: an issuer without sockets. [`memory_store`]: its store; [`conformance`] holds it to the suite of the real ones.
//! - [`faulty`]: ports that fail when told to; [`faults`] fails each call of each method.
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
