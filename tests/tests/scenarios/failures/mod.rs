//! F1–F9, F13, F14, F20–F22 of the protocol's table of failures, one test each, on real
//! redis-servers (replica pairs, a Sentinel and a Cluster among them) with the issuer's own store
//! and a complete verifier. docs/testing.md says where the others are tested, and which are
//! simulated.

mod connection;
mod data;
mod desk;
mod herd;
mod outage;
mod topology;
