//! The wire: bytes to domain commands and back. Knows no store, no SQL, no Redis.
//!
//! - [`api`]: what handlers share. [`router`]: paths and methods. [`frame`]: what every answer gets.
//! - [`call`]: a request taken apart. [`fields`]: its body's fields. [`bearer`]: the `Authorization` header. [`origin`]: who the client is; CORS.
//! - [`login`], [`refresh`], [`logout`], [`me`], [`sessions`], [`jwks`], [`docs`]: one endpoint each.
//! - [`admin`]: the admin listener, with what [`readiness`] says. [`error`]: the one table from errors to answers.
//! - [`audit`]: who did what, when, from where, with what result; never a secret.

pub mod admin;
pub mod api;
mod audit;
mod bearer;
mod call;
mod docs;
mod error;
pub mod fields;
mod frame;
pub mod jwks;
pub mod login;
pub mod logout;
mod me;
pub mod openapi;
pub mod origin;
pub mod readiness;
pub mod refresh;
pub mod router;
mod sessions;
