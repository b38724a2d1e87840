-- The embedded store. Moments are Unix seconds by this machine's clock; `ms` is in milliseconds.
CREATE TABLE IF NOT EXISTS meta (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    version INTEGER NOT NULL,
    epoch TEXT NOT NULL,
    last_ms INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    since INTEGER NOT NULL,
    -- The last `iat` that is dead for everybody, and the highest one ever given to or killed for anybody.
    all_dead INTEGER NOT NULL,
    peak INTEGER NOT NULL
) STRICT;

CREATE TABLE IF NOT EXISTS log (
    ms INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    entry BLOB NOT NULL,
    PRIMARY KEY (ms, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS session (
    sid TEXT PRIMARY KEY,
    sub TEXT NOT NULL,
    generation INTEGER NOT NULL,
    created INTEGER NOT NULL,
    refreshed INTEGER NOT NULL,
    rotated INTEGER NOT NULL,
    issued INTEGER NOT NULL,
    exp_max INTEGER NOT NULL,
    idle_ends INTEGER NOT NULL,
    ends INTEGER NOT NULL,
    address TEXT NOT NULL,
    agent TEXT NOT NULL,
    kept_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS session_of_user_by_end ON session (sub, kept_until);
DROP INDEX IF EXISTS session_of_user;
CREATE INDEX IF NOT EXISTS session_kept_until ON session (kept_until);

-- Tokens issued, and sessions created, at or before `dead` are dead.
CREATE TABLE IF NOT EXISTS watermark (
    sub TEXT PRIMARY KEY,
    dead INTEGER NOT NULL,
    kept_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS watermark_kept_until ON watermark (kept_until);

-- The same of tokens only: the sessions were kept.
CREATE TABLE IF NOT EXISTS token_watermark (
    sub TEXT PRIMARY KEY,
    dead INTEGER NOT NULL,
    kept_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS token_watermark_kept_until ON token_watermark (kept_until);
