//! The Lua scripts, and how they are called: by digest, and with their text where the server does not know them yet.

use std::sync::LazyLock;

use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind, ToRedisArgs, Value};
use sidegate_common::revocation::Id;
use sidegate_common::time::UnixTime;

use super::link::StoreLink;
use crate::domain::session::{Refusal, Reuse, Rotated, Session, Standing, TokenLifetimes};

/// A script of the folder `scripts/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Init,
    Create,
    Rotate,
    End,
    RevokeSubject,
    RevokeAll,
    Append,
    Sessions,
    Probe,
    LogHead,
    Replay,
    Forget,
    MinReplicas,
}

const PRELUDE: &str = include_str!("scripts/prelude.lua");
const BODIES: [&str; 13] = [
    include_str!("scripts/init.lua"),
    include_str!("scripts/create.lua"),
    include_str!("scripts/rotate.lua"),
    include_str!("scripts/end.lua"),
    include_str!("scripts/revoke_subject.lua"),
    include_str!("scripts/revoke_all.lua"),
    include_str!("scripts/append.lua"),
    include_str!("scripts/sessions.lua"),
    include_str!("scripts/probe.lua"),
    include_str!("scripts/heartbeat.lua"),
    include_str!("scripts/replay.lua"),
    include_str!("scripts/forget.lua"),
    include_str!("scripts/min_replicas.lua"),
];

/// Which argument of every script names the issuer (`prelude.lua`).
const ISSUER_ARGUMENT: usize = 2;

struct Text {
    code: String,
    digest: String,
}

static TEXTS: LazyLock<Vec<Text>> = LazyLock::new(|| {
    let text = |body: &&str| {
        let code = format!("{PRELUDE}{body}");
        let digest = redis::Script::new(&code).get_hash().to_owned();
        Text { code, digest }
    };
    BODIES.iter().map(text).collect()
});

/// A script with its keys and arguments.
#[derive(Clone)]
pub(super) struct Call {
    script: Script,
    keys: Vec<String>,
    arguments: Vec<Vec<u8>>,
}

impl Call {
    pub(super) const fn new(script: Script) -> Self {
        Self { script, keys: Vec::new(), arguments: Vec::new() }
    }

    pub(super) fn key(mut self, key: String) -> Self {
        self.keys.push(key);
        self
    }

    pub(super) fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        self.arguments.extend(argument.to_redis_args());
        self
    }

    /// The same, refused by a server with another replication id.
    pub(super) fn expecting(mut self, issuer: &str, replid: &str) -> Self {
        if let Some(argument) = self.arguments.get_mut(ISSUER_ARGUMENT) {
            *argument = format!("{issuer} {replid}").into_bytes();
        }
        self
    }

    /// Runs it and reads the answer.
    ///
    /// # Errors
    /// Redis does not answer, the script refuses, or the answer is not of type `T`.
    pub(super) async fn run<T: FromRedisValue>(&self, link: &StoreLink) -> Result<T, RedisError> {
        let text = &TEXTS[self.script as usize];
        let answer = match link.call(&self.command("EVALSHA", &text.digest)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                link.call(&self.command("EVAL", &text.code)).await
            }
            answer => answer,
        };
        T::from_redis_value(answer?).map_err(RedisError::from)
    }

    fn command(&self, verb: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(verb);
        command.arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.arguments);
        command
    }
}

pub(super) fn append_args(call: Call, entry: &[u8], terms: &TokenLifetimes) -> Call {
    let expires_at = entry[1..5].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    call.arg(entry[..1].to_vec()).arg(expires_at).arg(entry[5..].to_vec()).arg(terms.lifetime_max)
}

/// The fields of a session's record, in the order that [`session`] takes them.
const FIELDS: [&str; 12] =
    ["v", "sub", "gen", "created", "refreshed", "rotated", "issued", "exp_max", "idle", "ends", "addr", "agent"];

/// The command that reads a session's record.
pub(super) fn read_session(key: &str) -> Cmd {
    let mut command = redis::cmd("HMGET");
    command.arg(key).arg(&FIELDS);
    command
}

/// A session from the answer to [`read_session`]; none if there is no record.
pub(super) fn session(sid: Id, row: Value) -> Result<Option<Session>, RedisError> {
    let row: Vec<Value> = Vec::from_redis_value(row)?;
    if matches!(row.first(), None | Some(Value::Nil)) {
        return Ok(None);
    }
    let text = |at: usize| text(row.get(at));
    let moment = |at: usize| number(row.get(at)).map(UnixTime);
    if text(0)? != "1" {
        return Err(RedisError::from((ErrorKind::Parse, "a session of another version")));
    }
    Ok(Some(Session {
        sid,
        sub: text(1)?,
        generation: u32::try_from(number(row.get(2))?).unwrap_or(u32::MAX),
        created: moment(3)?,
        refreshed: moment(4)?,
        rotated: moment(5)?,
        issued: moment(6)?,
        exp_max: moment(7)?,
        idle_ends: moment(8)?,
        ends: moment(9)?,
        address: text(10)?,
        agent: text(11)?,
    }))
}

/// Sessions from the answer of `sessions.lua`.
pub(super) fn sessions(flat: Vec<Value>) -> Result<Vec<Session>, RedisError> {
    let mut sessions = Vec::with_capacity(flat.len() / 2);
    let mut rest = flat.into_iter();
    while let (Some(sid), Some(row)) = (rest.next(), rest.next()) {
        let sid = text(Some(&sid))?;
        let sid = Id::parse(&sid).ok_or((ErrorKind::Parse, "not a session id"))?;
        sessions.extend(session(sid, row)?);
    }
    Ok(sessions)
}

/// The answer of `rotate.lua` to a refresh.
pub(super) fn rotated(answer: &[Value]) -> Result<Rotated, RedisError> {
    let word = text(answer.first())?;
    if word == "traded" || word == "retried" {
        let issued = UnixTime(number(answer.get(2))?);
        return Ok(Rotated::Traded { generation: short(answer.get(1))?, issued, retried: word == "retried" });
    }
    Ok(match standing(answer)? {
        Standing::Reused(reuse) => Rotated::Reused(reuse),
        Standing::Refused(refusal) => Rotated::Refused(refusal),
        Standing::Current => return Err((ErrorKind::Parse, "nothing was rotated").into()),
    })
}

/// The answer of `rotate.lua` to a look.
pub(super) fn standing(answer: &[Value]) -> Result<Standing, RedisError> {
    Ok(match text(answer.first())?.as_str() {
        "current" => Standing::Current,
        "reused" => {
            Standing::Reused(Reuse { generations_old: short(answer.get(1))?, rotated_ago: number(answer.get(2))? })
        }
        _ => Standing::Refused(match text(answer.get(1))?.as_str() {
            "gone" => Refusal::Gone,
            "expired" => Refusal::Expired,
            _ => Refusal::Revoked,
        }),
    })
}

fn short(value: Option<&Value>) -> Result<u32, RedisError> {
    number(value).map(|value| u32::try_from(value).unwrap_or(u32::MAX))
}

/// An answer's element as text.
pub(super) fn text(value: Option<&Value>) -> Result<String, RedisError> {
    let value = value.ok_or((ErrorKind::Parse, "the answer is too short"))?;
    String::from_redis_value_ref(value).map_err(RedisError::from)
}

/// An answer's element as a number.
pub(super) fn number(value: Option<&Value>) -> Result<u64, RedisError> {
    let value = value.ok_or((ErrorKind::Parse, "the answer is too short"))?;
    u64::from_redis_value_ref(value).map_err(RedisError::from)
}
