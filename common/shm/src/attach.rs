//! How a reader gets the segment's file descriptor: over a Unix stream on which only the daemon
//! sends.
//!
//! The daemon sends one fixed-size message with the descriptor, and another for every later segment
//! while the reader stays connected. The reader never sends. docs/shm.md has the bytes.

mod client;
mod message;
mod server;

pub use client::{AttachError, Attachment, dial};
pub use message::{AttachMessage, MESSAGE_BYTES, MessageError};
pub use server::{Allow, AttachServer, SegmentOffer};
