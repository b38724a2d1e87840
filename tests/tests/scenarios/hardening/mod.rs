//! What hostile clients and neighbours do to the programs themselves: through sockets, against the real ones.

mod calls_out;
mod h2;
mod host;
mod http1;
mod idle;
mod kit;
mod memory;
