//! Benchmarks. Each row prints our value, the limit or peer measured in the same interleaved run,
//! the ratio, its spread, the goal.
//!
//! # Map
//! - [`row`]: the output, and how pairs of measurements become one ratio.
//! - [`load`], [`h2`]: lean load generators, HTTP/1.1 and gRPC.
//! - [`bare`]: the peers: servers that allow everything and do nothing else.
//! - [`check`], [`grpc`], [`envoy`], [`module`], [`streams`], [`revocation`], [`feed`], [`login`], [`memory`],
//!   [`reject`], [`idle`], [`inprocess`], [`segment`], [`startup`]: the rows.
//! - [`open_streams`]: an application with endless responses, and a client that holds many.
//! - [`guarded_envoy`]: an Envoy with a filter, and what a request costs it.
//! - [`many_clients`]: a verifier with a large list, and clients that know many tokens; [`limits`]:
//!   the limits of the machine.

pub mod bare;
pub mod check;
pub mod envoy;
pub mod feed;
pub mod grpc;
pub mod guarded_envoy;
pub mod h2;
pub mod idle;
pub mod inprocess;
pub mod limits;
pub mod load;
pub mod login;
pub mod many_clients;
pub mod memory;
pub mod module;
pub mod open_streams;
pub mod reject;
pub mod revocation;
pub mod row;
pub mod segment;
pub mod startup;
pub mod streams;
