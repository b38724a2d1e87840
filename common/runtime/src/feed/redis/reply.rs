//! Parses Redis' replies strictly: heads_parse, pages, confirmations, pushes.

use redis::{PushKind, Value};
use sidegate_common::log_protocol::{LOG_FIELD, Position, is_epoch};
use sidegate_common::revocation::{EntryError, Revocation};
use sidegate_common::sync::{Entry, Head, Lineage, ProbeAnswer, Role};
use sidegate_common::time::UnixTime;

use crate::feed::FeedError;

/// The key layout version of this build.
const LAYOUT: u64 = 1;
/// The fields of `meta` that a probe reads.
pub(super) const META_FIELDS: [&str; 7] = ["v", "epoch", "last", "since", "partitions", "settled", "min_replicas"];

/// Parses the reply to `HMGET meta epoch partitions`.
pub(super) fn partitions(answer: &Value) -> Result<u16, FeedError> {
    let Value::Array(row) = answer else { return Err(malformed("HMGET")) };
    match &row[..] {
        [Value::Nil, _] | [_, Value::Nil] => Err(FeedError::NoEpoch),
        [_, partitions] => {
            let number = text(partitions).and_then(|text| text.parse().ok()).filter(|number| *number > 0);
            number.ok_or_else(|| malformed("HMGET"))
        }
        _ => Err(malformed("HMGET")),
    }
}

/// Checks the confirmation of a subscription.
pub(super) fn confirmed(answer: &Value) -> Result<(), FeedError> {
    let subscribed = |answer: &Value| matches!(answer, Value::Push { kind: PushKind::SSubscribe, .. });
    let confirmed = match answer {
        Value::Array(confirmations) => !confirmations.is_empty() && confirmations.iter().all(subscribed),
        single => subscribed(single),
    };
    if confirmed { Ok(()) } else { Err(malformed("SSUBSCRIBE")) }
}

/// Builds the row of `sidegate1_probe` from the replies of the transaction.
pub(super) fn row_of_transaction(answer: &Value) -> Option<Value> {
    let Value::Array(answers) = answer else { return None };
    let [Value::Array(meta), Value::Array(newest), Value::Array(time), info] = &answers[..] else { return None };
    let info = match info {
        Value::VerbatimString { text, .. } => text,
        other => text(other)?,
    };
    let info = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Value::BulkString(value.unwrap_or_default().trim().as_bytes().to_vec())
    };
    let empty = Value::BulkString(Vec::new());
    let meta = |at: usize| meta.get(at).filter(|value| **value != Value::Nil).unwrap_or(&empty).clone();
    let newest = match newest.first() {
        Some(Value::Array(entry)) => entry.first()?.clone(),
        _ => empty.clone(),
    };
    let replication = [info("role"), info("master_replid"), info("min_slaves_good_slaves")];
    let [role, replication_id, good] = replication;
    let row = [meta(0), meta(1), meta(2), meta(3), meta(4), newest, time.first()?.clone(), role, replication_id, good];
    Some(Value::Array(row.into_iter().chain([meta(5), meta(6)]).collect()))
}

/// Parses the row of `sidegate1_probe`; `None` if it is malformed.
pub(super) fn head(answer: &Value) -> Option<ProbeAnswer> {
    let Value::Array(row) = answer else { return None };
    let row: Vec<&str> = row.iter().map(text).collect::<Option<_>>()?;
    let [version, epoch, last, since, partitions, newest, now, role, replication_id, good, settled, min_replicas] =
        row[..]
    else {
        return None;
    };
    if epoch.is_empty() || last.is_empty() {
        return Some(ProbeAnswer::NoEpoch);
    }
    match version.parse::<u64>() {
        Ok(LAYOUT) => {}
        Ok(newer) if newer > LAYOUT => return Some(ProbeAnswer::NewerLayout),
        _ => return None,
    }
    if !is_epoch(epoch) {
        return None;
    }
    let last = Position::parse(last)?;
    let newest = if newest.is_empty() { Position::START } else { Position::parse(newest)? };
    if last != Position::START && last != newest {
        return Some(ProbeAnswer::LogDamaged);
    }
    let role = match (role, good) {
        ("master", "") => Role::ALONE,
        // A master that counts its replicas needs at least one, and as many as an issuer has
        // recorded.
        ("master", good) => {
            let replicas_needed = min_replicas.parse().unwrap_or(1).max(1);
            Role::Master { replicas_needed, replicas_good: good.parse().ok()? }
        }
        _ => Role::Replica,
    };
    Some(ProbeAnswer::Head(Head {
        lineage: Lineage { epoch: epoch.into(), replication_id: replication_id.into() },
        // A data set rebuilt over an old log starts without a last entry; the log's own entries
        // count.
        last: newest,
        empty: newest == Position::START,
        since: UnixTime(since.parse().ok()?),
        now: UnixTime(now.parse().ok()?),
        partitions: partitions.parse().ok()?,
        role,
        settled: settled.split_once(' ') == Some((epoch, replication_id)),
    }))
}

/// Parses an XRANGE reply into entries; `None` if it is malformed.
pub(super) fn page(answer: Value) -> Option<Vec<Entry>> {
    let Value::Array(rows) = answer else { return None };
    rows.into_iter().map(entry).collect()
}

fn entry(row: Value) -> Option<Entry> {
    let Value::Array(row) = row else { return None };
    let [id, fields] = &row[..] else { return None };
    let position = Position::parse(text(id)?)?;
    let Value::Array(fields) = fields else { return None };
    let revocation = match &fields[..] {
        [Value::BulkString(name), Value::BulkString(bytes)] if name == LOG_FIELD.as_bytes() => {
            Revocation::from_bytes(bytes)
        }
        _ => Err(EntryError::Malformed),
    };
    Some(Entry { position, revocation })
}

pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

fn malformed(command: &str) -> FeedError {
    FeedError::Refused(format!("malformed {command} reply"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fields: [&str; 12]) -> Value {
        Value::Array(fields.iter().map(|field| Value::BulkString(field.as_bytes().to_vec())).collect())
    }

    const GOOD: [&str; 12] = ["1", "e", "5-1", "1000", "2", "5-1", "2000", "master", "abc", "", "e abc", ""];

    fn with(index: usize, value: &'static str) -> Value {
        let mut fields = GOOD;
        fields[index] = value;
        row(fields)
    }

    #[test]
    fn heads_parse() {
        let Some(ProbeAnswer::Head(good)) = head(&row(GOOD)) else { panic!("no head") };
        assert_eq!(good.last, Position { ms: 5, sequence: 1 });
        assert_eq!((good.partitions, good.since, good.now), (2, UnixTime(1000), UnixTime(2000)));
        assert_eq!(good.role, Role::ALONE);
        assert_eq!(head(&with(1, "")), Some(ProbeAnswer::NoEpoch));
        assert_eq!(head(&with(2, "")), Some(ProbeAnswer::NoEpoch));
        assert_eq!(head(&with(5, "")), Some(ProbeAnswer::LogDamaged));
        assert_eq!(head(&with(5, "5-0")), Some(ProbeAnswer::LogDamaged));
        for (index, bad) in [(0, "0"), (1, "é"), (2, "x"), (3, ""), (4, "-1"), (6, "now"), (9, "many")] {
            assert_eq!(head(&with(index, bad)), None, "{index} {bad}");
        }
        assert_eq!(head(&Value::Nil), None);
    }

    #[test]
    fn log_is_settled_only_for_its_own_lineage() {
        let settled = |mark| match head(&with(10, mark)) {
            Some(ProbeAnswer::Head(head)) => head.settled,
            other => panic!("{other:?}"),
        };
        assert!(settled("e abc"));
        for other in ["", "e", "e ab", "f abc", "e abd", "e  abc", "e abc ", "abc e"] {
            assert!(!settled(other), "{other:?}");
        }
    }

    #[test]
    fn newer_layout_is_not_a_malformed_reply() {
        assert_eq!(head(&with(0, "2")), Some(ProbeAnswer::NewerLayout));
        assert_eq!(head(&with(0, "-2")), None);
        assert_eq!(head(&with(0, "two")), None);
    }

    #[test]
    fn master_reports_its_good_replicas() {
        let Some(ProbeAnswer::Head(counted)) = head(&with(9, "0")) else { panic!("no head") };
        assert_eq!(counted.role, Role::Master { replicas_needed: 1, replicas_good: 0 });
        let mut three = GOOD;
        (three[9], three[11]) = ("2", "3");
        let Some(ProbeAnswer::Head(three)) = head(&row(three)) else { panic!("no head") };
        assert_eq!(three.role, Role::Master { replicas_needed: 3, replicas_good: 2 }, "as the issuer has noted");
        let Some(ProbeAnswer::Head(replica)) = head(&with(7, "slave")) else { panic!("no head") };
        assert_eq!(replica.role, Role::Replica);
    }

    #[test]
    fn transaction_yields_the_functions_row() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let texts = |all: &[&str]| Value::Array(all.iter().map(|one| text(one)).collect());
        let info =
            "# Replication\r\nrole:master\r\nmin_slaves_good_slaves:2\r\nmaster_replid:abc\r\nmaster_replid2:0\r\n";
        let newest = Value::Array(vec![Value::Array(vec![text("5-1"), texts(&["r", "x"])])]);
        let meta =
            Value::Array(vec![text("1"), text("e"), text("5-1"), text("1000"), text("2"), Value::Nil, text("3")]);
        let answer = Value::Array(vec![meta, newest, texts(&["2000", "17"]), text(info)]);
        let expected = row(["1", "e", "5-1", "1000", "2", "5-1", "2000", "master", "abc", "2", "", "3"]);
        assert_eq!(row_of_transaction(&answer), Some(expected));
        let empty = Value::Array(vec![Value::Array(vec![Value::Nil; 7]), texts(&[]), texts(&["1", "2"]), text("")]);
        assert_eq!(row_of_transaction(&empty), Some(row(["", "", "", "", "", "", "1", "", "", "", "", ""])));
        assert_eq!(row_of_transaction(&Value::Nil), None);
    }

    #[test]
    fn rebuilt_data_set_counts_the_old_logs_entries() {
        let Some(ProbeAnswer::Head(head)) = head(&with(2, "0-0")) else { panic!("no head") };
        assert_eq!(head.last, Position { ms: 5, sequence: 1 });
    }

    #[test]
    fn page_keeps_unreadable_entries_in_place() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let rows = vec![Value::Array(vec![bulk("7-0"), Value::Array(vec![bulk("x"), bulk("y")])])];
        let entries = page(Value::Array(rows)).unwrap();
        assert_eq!(entries[0].revocation, Err(EntryError::Malformed));
        assert_eq!(page(Value::Array(vec![Value::Nil])), None);
    }

    #[test]
    fn partitions_need_a_data_set() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        assert_eq!(partitions(&Value::Array(vec![Value::Nil, Value::Nil])), Err(FeedError::NoEpoch));
        assert_eq!(partitions(&Value::Array(vec![bulk("e"), bulk("4")])), Ok(4));
        assert!(partitions(&Value::Array(vec![bulk("e"), bulk("0")])).is_err());
    }
}
