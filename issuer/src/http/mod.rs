//! HTTP: bytes to domain commands and back. Knows no store, no SQL, no Redis.
//!
//! - [`api`]: the handlers' shared state. [`router`]: paths and methods. [`middleware`]: around
//!   every handler. [`response`]: what handlers build.
//! - [`call`]: a request in parts. [`fields`]: the body's fields. [`bearer`]: the `Authorization`
//!   header. [`origin`]: the client's address; CORS.
//! - [`login`], [`refresh`], [`logout`], [`me`], [`sessions`], [`jwks`], [`docs`]: one endpoint each.
//! - [`admin`]: the admin listener, with [`readiness`]. [`error`]: the only table from errors to
//!   responses.
//! - [`audit`]: audit events; never a secret.

pub mod admin;
pub mod api;
mod audit;
mod bearer;
mod call;
mod docs;
mod error;
pub mod fields;
pub mod jwks;
pub mod login;
pub mod logout;
mod me;
mod middleware;
pub mod openapi;
pub mod origin;
pub mod readiness;
pub mod refresh;
mod response;
pub mod router;
mod sessions;
