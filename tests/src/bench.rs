//! Benchmarks: each row prints ours, the limit or peer measured in the same interleaved run, the ratio, its spread, the goal.
//!
//! # Map
//! - [`row`]: what is printed, and how pairs of measurements become one ratio.
//! - [`load`]: a lean HTTP/1.1 load generator over a Unix socket.
//! - [`bare`]: the peer: a hyper server that answers 200 and does nothing else.
//! - [`check`], [`revocation`], [`feed`], [`login`], [`memory`],
//!   [`reject`], [`idle`]: the rows.

pub mod bare;
pub mod check;
pub mod feed;
pub mod idle;
pub mod load;
pub mod login;
pub mod memory;
pub mod reject;
pub mod revocation;
pub mod row;
