//! A private Postgres, run as a user that is not root.
