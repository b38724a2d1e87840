//! sidegate-issuer
