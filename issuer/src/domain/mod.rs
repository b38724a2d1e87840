//! What login, refresh and logout mean. No sockets, no SQL, no Redis, no HTTP, no clock.
//!
//! - [`ports`]: what the domain needs of the world.
//! - [`session`]: a session's record and the rules of rotation.
//! - [`refresh_token`]: the refresh token's shape.
//! - [`password`]: which hashes are taken, and what a refusal costs.

pub mod password;
pub mod ports;
pub mod refresh_token;
pub mod session;
