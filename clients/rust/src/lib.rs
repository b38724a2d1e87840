//! sidegate-client
