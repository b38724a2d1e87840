//! sidegate-verifier
