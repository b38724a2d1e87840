//! How a reader gets the segment's file descriptor: a Unix stream on which the daemon speaks first.
//!
//! One fixed-size message, with the descriptor beside it; another one for every later segment, for as long as the
//! reader keeps the connection. The reader never says anything. docs/shm.md has the bytes.

mod client;
mod message;
mod server;

pub use client::{AttachError, Attachment, dial};
pub use message::{MESSAGE_BYTES, Message, MessageError};
pub use server::{Allow, AttachServer, SegmentOffer};
