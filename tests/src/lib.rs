//! sidegate-tests
