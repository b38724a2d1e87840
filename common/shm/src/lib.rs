//! sidegate-shm
