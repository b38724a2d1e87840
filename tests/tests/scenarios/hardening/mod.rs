//! Attacks by hostile clients and neighbouring processes on the real programs.

mod calls_out;
mod h2;
mod host;
mod http1;
mod idle;
mod memory;
mod support;
