//! A real Postgres of one's own, run as a user that is not root.
