//! sidegate-common
