//! The examples of docs/protocol.md match the code: a change of format must change that page.

use sidegate_common::foreign::ids::{ClaimId, ClaimPath, SUBJECT, foreign_id};
use sidegate_common::log_protocol::{LOG_FIELD, MESSAGE_BYTES_MAX, MESSAGE_VERSION, Message, RedisKeys};
use sidegate_common::revocation::{Id, Revocation, SubjectTag, Target};
use sidegate_common::time::{REVOCATION_MARGIN_SECONDS, UnixTime};

const PAGE: &str = include_str!("../../../docs/protocol.md");
const EXPIRES_AT: UnixTime = UnixTime(1_800_000_000);
const THRESHOLD: UnixTime = UnixTime(1_700_000_000);

/// The bytes in the table row that begins with `revocation`.
fn example(revocation: &str) -> Vec<u8> {
    let row = PAGE.lines().find_map(|line| line.strip_prefix(&format!("| {revocation} | `")));
    let hex = row.and_then(|rest| rest.strip_suffix("` |")).unwrap_or_else(|| panic!("no row for {revocation}"));
    let digits: Vec<_> = hex.bytes().collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn entries_match_the_page() {
    let id = |text| Id::parse(text).unwrap();
    let subject = Some(SubjectTag::of("42"));
    let packed = "AAECAwQFBgcICQoLDA0ODw";
    let all = [
        ("token `AAECAwQFBgcICQoLDA0ODw` of subject `42`", Target::Token { jti: id(packed), subject }),
        ("token `order-17`, subject unknown", Target::Token { jti: id("order-17"), subject: None }),
        ("session `AAECAwQFBgcICQoLDA0ODw` of subject `42`", Target::Session { sid: id(packed), subject }),
        (
            "subject `alice@example.org` up to 1700000000",
            Target::Subject { sub: "alice@example.org".into(), threshold: THRESHOLD },
        ),
        ("all up to 1700000000", Target::All { threshold: THRESHOLD }),
        ("key `k1`", Target::Key { kid: "k1".into() }),
        ("claim `azp` = `app1` of `https://idp.example.com` up to 1700000000", {
            let claim = ClaimId::of("https://idp.example.com", &ClaimPath::top("azp").kind(), "app1");
            Target::Claim { claim, threshold: THRESHOLD }
        }),
        ("subject `alice` of `https://idp.example.com` up to 1700000000", {
            let subject = foreign_id("https://idp.example.com", SUBJECT, "alice");
            Target::ForeignSubject { subject, threshold: THRESHOLD }
        }),
    ];
    for (row, target) in all {
        let bytes = example(row);
        let revocation = Revocation { target, expires_at: EXPIRES_AT };
        let written: String = revocation.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(PAGE.contains(&format!("`{written}`")), "{row} is written {written}");
        assert_eq!(Revocation::from_bytes(&bytes), Ok(revocation), "{row}");
    }
}

#[test]
fn keys_and_messages_match_the_page() {
    let keys = RedisKeys::new("sidegate", 0);
    for (key, kind) in [(keys.meta(), "hash"), (keys.log(), "stream"), (keys.channel(), "shard channel")] {
        assert!(PAGE.contains(&format!("| `{key}` | {kind} |")), "{key}");
    }
    assert!(PAGE.contains(&format!("one field `{LOG_FIELD}` with the entry's bytes")));
    assert!(PAGE.contains(&format!("Readers drop messages over {MESSAGE_BYTES_MAX} bytes")));
    let head = format!("{MESSAGE_VERSION} 5k3J_example 1700000000000-0 1700000000007-0 ");
    assert!(PAGE.contains(&format!("`{head}`")));
    let entry = example("key `k1`");
    let message = Message::parse(&[head.as_bytes(), &entry].concat()).unwrap();
    assert_eq!((message.previous.ms, message.position.ms), (1_700_000_000_000, 1_700_000_000_007));
    assert!(message.revocation.is_ok());
}

#[test]
fn retention_matches_the_page() {
    assert_eq!(REVOCATION_MARGIN_SECONDS, 70);
    assert!(PAGE.contains("Retention is `MAX_TOKEN_LIFETIME` plus 70 s"));
}
