//! sidegate-runtime
