//! The statements of the embedded store, one function each.

use sidegate_common::log_protocol::Position;
use sidegate_common::revocation::Id;
use sidegate_common::time::UnixTime;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, query};

use super::log::{EmbeddedHead, LogEntry};
use crate::domain::session::{PageCursor, Session, UserSessions};
use crate::store::new_epoch;

/// The schema's version, and the mark of an embedded store (`PRAGMA application_id`: "Sdgt").
const VERSION: i64 = 1;
const APPLICATION_ID: i64 = 0x5364_6774;
/// How many outdated rows one change may delete.
const SWEEP_MAX: i64 = 8;

/// The row with the state of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) epoch: String,
    pub(super) last: Position,
    pub(super) since: UnixTime,
    pub(super) all_dead: UnixTime,
    pub(super) peak: UnixTime,
}

impl Meta {
    pub(super) fn head(&self, first: Option<Position>) -> EmbeddedHead {
        EmbeddedHead { epoch: self.epoch.clone(), last: self.last, since: self.since, first, all_dead: self.all_dead }
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(row: &SqliteRow, column: &str) -> Result<u64, sqlx::Error> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn moment(row: &SqliteRow, column: &str) -> Result<UnixTime, sqlx::Error> {
    unsigned(row, column).map(UnixTime)
}

/// Creates missing tables and reads the state of the log, and whether the data set is new. `None`
/// if the file is not an embedded store of this version.
pub(super) async fn prepare(
    connection: &mut SqliteConnection,
    since: u64,
) -> Result<Option<(Meta, bool)>, super::OpenError> {
    let id: i64 = query("PRAGMA application_id").fetch_one(&mut *connection).await?.try_get(0)?;
    let tables: i64 = query("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await?.try_get(0)?;
    if id != APPLICATION_ID && (id != 0 || tables != 0) {
        return Ok(None);
    }
    sqlx::raw_sql("PRAGMA application_id = 1399089012").execute(&mut *connection).await?;
    sqlx::raw_sql(include_str!("schema.sql")).execute(&mut *connection).await?;
    let made = query("INSERT OR IGNORE INTO meta VALUES (1, ?, ?, 0, 0, ?, 0, 0)")
        .bind(VERSION)
        .bind(new_epoch()?)
        .bind(number(since))
        .execute(&mut *connection)
        .await?;
    let version: i64 = query("SELECT version FROM meta").fetch_one(&mut *connection).await?.try_get(0)?;
    if version != VERSION {
        return Ok(None);
    }
    Ok(Some((read_meta(connection).await?, made.rows_affected() > 0)))
}

/// Reads the state of the log.
pub(super) async fn read_meta(connection: &mut SqliteConnection) -> Result<Meta, sqlx::Error> {
    let row = query("SELECT * FROM meta").fetch_one(&mut *connection).await?;
    Ok(Meta {
        epoch: row.try_get("epoch")?,
        last: Position { ms: unsigned(&row, "last_ms")?, sequence: unsigned(&row, "last_sequence")? },
        since: moment(&row, "since")?,
        all_dead: moment(&row, "all_dead")?,
        peak: moment(&row, "peak")?,
    })
}

/// True once a mark was kept beside this data set ([`super::mark`]).
pub(super) async fn is_marked(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let version: i64 = query("PRAGMA user_version").fetch_one(connection).await?.try_get(0)?;
    Ok(version > 0)
}

pub(super) async fn set_marked(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("PRAGMA user_version = 1").execute(connection).await.map(|_| ())
}

/// Turns the data set into a new one: other `epoch` and `since`.
pub(super) async fn renew(connection: &mut SqliteConnection, meta: &Meta) -> Result<(), sqlx::Error> {
    query("UPDATE meta SET epoch = ?, since = ?, all_dead = ?, peak = ?")
        .bind(&meta.epoch)
        .bind(number(meta.since.0))
        .bind(number(meta.all_dead.0))
        .bind(number(meta.peak.0))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn save_meta(connection: &mut SqliteConnection, meta: &Meta) -> Result<(), sqlx::Error> {
    query("UPDATE meta SET last_ms = ?, last_sequence = ?, all_dead = ?, peak = ?")
        .bind(number(meta.last.ms))
        .bind(number(meta.last.sequence))
        .bind(number(meta.all_dead.0))
        .bind(number(meta.peak.0))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn append(
    connection: &mut SqliteConnection,
    position: Position,
    entry: &[u8],
) -> Result<(), sqlx::Error> {
    query("INSERT INTO log VALUES (?, ?, ?)")
        .bind(number(position.ms))
        .bind(number(position.sequence))
        .bind(entry)
        .execute(connection)
        .await?;
    Ok(())
}

/// Deletes entries older than `before_ms`; true if there were any.
pub(super) async fn trim(connection: &mut SqliteConnection, before_ms: u64) -> Result<bool, sqlx::Error> {
    let done = query("DELETE FROM log WHERE ms < ?").bind(number(before_ms)).execute(connection).await?;
    Ok(done.rows_affected() > 0)
}

pub(super) async fn first_position(connection: &mut SqliteConnection) -> Result<Option<Position>, sqlx::Error> {
    let row = query("SELECT ms, sequence FROM log ORDER BY ms, sequence LIMIT 1").fetch_optional(connection).await?;
    row.map(|row| position(&row)).transpose()
}

fn position(row: &SqliteRow) -> Result<Position, sqlx::Error> {
    Ok(Position { ms: unsigned(row, "ms")?, sequence: unsigned(row, "sequence")? })
}

/// At most `limit` entries after `after`, in order.
pub(super) async fn entries(
    connection: &mut SqliteConnection,
    after: Position,
    limit: u32,
) -> Result<Vec<LogEntry>, sqlx::Error> {
    let rows = query("SELECT * FROM log WHERE (ms, sequence) > (?, ?) ORDER BY ms, sequence LIMIT ?")
        .bind(number(after.ms))
        .bind(number(after.sequence))
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| Ok(LogEntry { position: position(row)?, entry: row.try_get("entry")? })).collect()
}

/// Inserts or updates a session's record.
pub(super) async fn save_session(connection: &mut SqliteConnection, session: &Session) -> Result<(), sqlx::Error> {
    query("INSERT OR REPLACE INTO session VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
        .bind(session.sid.to_string())
        .bind(&session.sub)
        .bind(session.generation)
        .bind(number(session.created.0))
        .bind(number(session.refreshed.0))
        .bind(number(session.rotated.0))
        .bind(number(session.issued.0))
        .bind(number(session.exp_max.0))
        .bind(number(session.idle_ends.0))
        .bind(number(session.ends.0))
        .bind(&session.address)
        .bind(&session.agent)
        .bind(number(session.kept_until().0))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn session(connection: &mut SqliteConnection, sid: &Id) -> Result<Option<Session>, sqlx::Error> {
    let row = query("SELECT * FROM session WHERE sid = ?").bind(sid.to_string()).fetch_optional(connection).await?;
    row.map(|row| read_session(&row)).transpose()
}

/// Up to `limit` of a user's sessions after `after` that could be refreshed at `now` and were
/// created after `ended_up_to`, last to expire first; and whether there are more.
pub(super) async fn sessions_of(
    connection: &mut SqliteConnection,
    sub: &str,
    ended_up_to: UnixTime,
    now: UnixTime,
    after: Option<&PageCursor>,
    limit: u32,
) -> Result<(Vec<Session>, bool), sqlx::Error> {
    let (kept_until, sid) =
        after.map_or((i64::MAX, String::new()), |after| (number(after.kept_until.0), after.sid.to_string()));
    let rows = query(
        "SELECT * FROM session WHERE sub = ? AND (kept_until, sid) < (?, ?) \
         AND iif(generation = 0, issued, created) > ? AND idle_ends > ? AND ends > ? \
         ORDER BY kept_until DESC, sid DESC LIMIT ?",
    )
    .bind(sub)
    .bind(kept_until)
    .bind(sid)
    .bind(number(ended_up_to.0))
    .bind(number(now.0))
    .bind(number(now.0))
    .bind(i64::from(limit) + 1)
    .fetch_all(&mut *connection)
    .await?;
    let mut sessions = rows.iter().map(read_session).collect::<Result<Vec<_>, _>>()?;
    let more = sessions.len() > limit as usize;
    sessions.truncate(limit as usize);
    Ok((sessions, more))
}

/// Every session of a user whose record is kept.
pub(super) async fn session_ids(
    connection: &mut SqliteConnection,
    sub: &str,
    now: UnixTime,
) -> Result<Vec<Id>, sqlx::Error> {
    let statement = query("SELECT sid FROM session WHERE sub = ? AND kept_until > ?").bind(sub).bind(number(now.0));
    statement.fetch_all(connection).await?.iter().map(sid_of).collect()
}

/// The user's first sessions to expire, up to `limit`, by which there are more than `most`.
pub(super) async fn surplus(
    connection: &mut SqliteConnection,
    sub: &str,
    now: UnixTime,
    most: u32,
    limit: u32,
) -> Result<Vec<Session>, sqlx::Error> {
    let count = query("SELECT count(*) FROM session WHERE sub = ? AND kept_until > ?").bind(sub).bind(number(now.0));
    let count: i64 = count.fetch_one(&mut *connection).await?.try_get(0)?;
    let surplus = count - i64::from(most);
    if surplus <= 0 {
        return Ok(Vec::new());
    }
    let first = query("SELECT * FROM session WHERE sub = ? AND kept_until > ? ORDER BY kept_until LIMIT ?");
    let first = first.bind(sub).bind(number(now.0)).bind(surplus.min(i64::from(limit)));
    first.fetch_all(connection).await?.iter().map(read_session).collect()
}

/// How many of a user's sessions could be refreshed at `now`.
pub(super) async fn live(
    connection: &mut SqliteConnection,
    sub: &str,
    ended_up_to: UnixTime,
    now: UnixTime,
) -> Result<u64, sqlx::Error> {
    let count = "SELECT count(*) FROM session WHERE sub = ? AND iif(generation = 0, issued, created) > ? \
                 AND idle_ends > ? AND ends > ?";
    let count = query(count).bind(sub).bind(number(ended_up_to.0)).bind(number(now.0)).bind(number(now.0));
    let count: i64 = count.fetch_one(connection).await?.try_get(0)?;
    Ok(count.unsigned_abs())
}

fn sid_of(row: &SqliteRow) -> Result<Id, sqlx::Error> {
    let sid: String = row.try_get("sid")?;
    Id::parse(&sid).ok_or_else(|| sqlx::Error::Decode("not a session id".into()))
}

fn read_session(row: &SqliteRow) -> Result<Session, sqlx::Error> {
    Ok(Session {
        sid: sid_of(row)?,
        sub: row.try_get("sub")?,
        generation: row.try_get("generation")?,
        created: moment(row, "created")?,
        refreshed: moment(row, "refreshed")?,
        rotated: moment(row, "rotated")?,
        issued: moment(row, "issued")?,
        exp_max: moment(row, "exp_max")?,
        idle_ends: moment(row, "idle_ends")?,
        ends: moment(row, "ends")?,
        address: row.try_get("address")?,
        agent: row.try_get("agent")?,
    })
}

/// Deletes a session's record; true if there was one.
pub(super) async fn delete_session(connection: &mut SqliteConnection, sid: &Id) -> Result<(), sqlx::Error> {
    query("DELETE FROM session WHERE sid = ?").bind(sid.to_string()).execute(connection).await?;
    Ok(())
}

/// The latest `iat` of any session of a user.
pub(super) async fn latest_issued(connection: &mut SqliteConnection, sub: &str) -> Result<UnixTime, sqlx::Error> {
    let latest = "SELECT coalesce(max(issued), 0) AS latest FROM session WHERE sub = ?";
    moment(&query(latest).bind(sub).fetch_one(connection).await?, "latest")
}

pub(super) async fn delete_sessions_of(connection: &mut SqliteConnection, sub: &str) -> Result<(), sqlx::Error> {
    query("DELETE FROM session WHERE sub = ?").bind(sub).execute(connection).await?;
    Ok(())
}

/// Deletes a few expired rows, so that no separate job is needed.
pub(super) async fn sweep(connection: &mut SqliteConnection, now: UnixTime) -> Result<(), sqlx::Error> {
    for statement in [
        "DELETE FROM session WHERE sid IN (SELECT sid FROM session WHERE kept_until <= ? LIMIT ?)",
        "DELETE FROM watermark WHERE sub IN (SELECT sub FROM watermark WHERE kept_until <= ? LIMIT ?)",
        "DELETE FROM token_watermark WHERE sub IN (SELECT sub FROM token_watermark WHERE kept_until <= ? LIMIT ?)",
    ] {
        query(statement).bind(number(now.0)).bind(SWEEP_MAX).execute(&mut *connection).await?;
    }
    Ok(())
}

/// A user's two watermarks: of revocations that ended the sessions, and of those that kept them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Watermarks {
    /// Tokens issued, and sessions created, at or before this time are revoked.
    pub(super) sessions: Option<UnixTime>,
    /// Tokens issued at or before this time are revoked.
    pub(super) tokens: Option<UnixTime>,
}

pub(super) async fn watermarks(
    connection: &mut SqliteConnection,
    sub: &str,
    now: UnixTime,
) -> Result<Watermarks, sqlx::Error> {
    let row = query(
        "SELECT (SELECT dead FROM watermark WHERE sub = ?1 AND kept_until > ?2), \
         (SELECT dead FROM token_watermark WHERE sub = ?1 AND kept_until > ?2)",
    )
    .bind(sub)
    .bind(number(now.0))
    .fetch_one(connection)
    .await?;
    let moment = |at: usize| {
        let dead: Option<i64> = row.try_get(at)?;
        dead.map(|dead| u64::try_from(dead).map(UnixTime).map_err(|error| sqlx::Error::Decode(error.into())))
            .transpose()
    };
    Ok(Watermarks { sessions: moment(0)?, tokens: moment(1)? })
}

pub(super) async fn save_watermark(
    connection: &mut SqliteConnection,
    sub: &str,
    sessions: UserSessions,
    dead: UnixTime,
    kept_until: UnixTime,
) -> Result<(), sqlx::Error> {
    query(match sessions {
        UserSessions::End => "INSERT OR REPLACE INTO watermark VALUES (?, ?, ?)",
        UserSessions::Keep => "INSERT OR REPLACE INTO token_watermark VALUES (?, ?, ?)",
    })
    .bind(sub)
    .bind(number(dead.0))
    .bind(number(kept_until.0))
    .execute(connection)
    .await?;
    Ok(())
}
