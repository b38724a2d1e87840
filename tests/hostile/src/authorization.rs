//! Sets of `Authorization` headers as raw bytes (RFC 9110 §11.6.2, RFC 6750 §2.1).

use crate::Expected;

/// The headers of a request, and the expected verdict.
#[derive(Clone, Debug)]
pub struct HeaderSet {
    /// The attack.
    pub name: &'static str,
    /// Header lines without their line ends.
    pub lines: Vec<Vec<u8>>,
    /// The verdict; with [`HeaderSet::may_be_400`], if the server accepts the request at all.
    pub expected: Expected,
    /// True if an HTTP server may also reject the request as malformed (400).
    pub may_be_400: bool,
}

/// Header sets around a good token.
pub fn sets(token: &str) -> Vec<HeaderSet> {
    let mut sets = good(token);
    sets.extend(hostile(token));
    sets.extend(malformed(token));
    sets
}

fn set(name: &'static str, lines: &[String], expected: Expected) -> HeaderSet {
    let lines = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
    HeaderSet { name, lines, expected, may_be_400: false }
}

fn good(token: &str) -> Vec<HeaderSet> {
    use Expected::{Good, Missing};
    vec![
        set("as usual", &[format!("Authorization: Bearer {token}")], Good),
        set("scheme in lower case", &[format!("Authorization: bearer {token}")], Good),
        set("scheme in upper case", &[format!("Authorization: BEARER {token}")], Good),
        set("header in lower case", &[format!("authorization: Bearer {token}")], Good),
        set("header in upper case", &[format!("AUTHORIZATION: Bearer {token}")], Good),
        set("no space after the colon", &[format!("Authorization:Bearer {token}")], Good),
        set("spaces around the value", &[format!("Authorization:  \t Bearer {token} \t")], Good),
        set("beside another header", &["X-Authorization: x".into(), format!("Authorization: Bearer {token}")], Good),
        set(
            "beside a proxy's credentials",
            &["Proxy-Authorization: Bearer x".into(), format!("Authorization: Bearer {token}")],
            Good,
        ),
        set("none", &[], Missing),
        set("in a proxy's header only", &[format!("Proxy-Authorization: Bearer {token}")], Missing),
        set("in an X- header only", &[format!("X-Authorization: Bearer {token}")], Missing),
        set("with an underscore", &[format!("Authorization_: Bearer {token}")], Missing),
        set("in a cookie that is not configured", &[format!("Cookie: token={token}; access_token={token}")], Missing),
        set("in X-Auth-Subject", &["X-Auth-Subject: admin".into()], Missing),
    ]
}

fn hostile(token: &str) -> Vec<HeaderSet> {
    use Expected::{Invalid, Missing};
    let bearer = format!("Authorization: Bearer {token}");
    vec![
        set("twice, alike", &[bearer.clone(), bearer.clone()], Invalid),
        set("twice, first junk", &["Authorization: Bearer junk".into(), bearer.clone()], Invalid),
        set("twice, last junk", &[bearer.clone(), "Authorization: Bearer junk".into()], Invalid),
        set("twice, one Basic", &[bearer.clone(), "Authorization: Basic YTpi".into()], Invalid),
        set("twice, Basic first", &["Authorization: Basic YTpi".into(), bearer.clone()], Invalid),
        set("twice, one empty", &[bearer.clone(), "Authorization: ".into()], Invalid),
        set("twice, in two cases", &[bearer.clone(), format!("authorization: bearer {token}")], Invalid),
        set("thrice", &[bearer.clone(), bearer.clone(), bearer.clone()], Invalid),
        set("joined by a comma", &[format!("Authorization: Bearer {token},Bearer {token}")], Invalid),
        set("joined by a comma and a space", &[format!("Authorization: Bearer {token}, Bearer {token}")], Invalid),
        set("a comma after", &[format!("Authorization: Bearer {token},")], Invalid),
        set("a comma before", &[format!("Authorization: Bearer ,{token}")], Invalid),
        set("a word after", &[format!("Authorization: Bearer {token} x")], Invalid),
        set("two tokens", &[format!("Authorization: Bearer {token} {token}")], Invalid),
        set("a parameter after", &[format!("Authorization: Bearer {token};a=b")], Invalid),
        set("in quotes", &[format!("Authorization: Bearer \"{token}\"")], Invalid),
        set("scheme twice", &[format!("Authorization: Bearer Bearer {token}")], Invalid),
        set("scheme with a colon", &[format!("Authorization: Bearer: {token}")], Missing),
        set("scheme with a tab", &[format!("Authorization: Bearer\t{token}")], Missing),
        set("a tab after the space", &[format!("Authorization: Bearer \t{token}")], Invalid),
        set("a tab between spaces", &[format!("Authorization: Bearer \t {token}")], Invalid),
        set("scheme without a space", &[format!("Authorization: Bearer{token}")], Missing),
        set("no scheme", &[format!("Authorization: {token}")], Missing),
        set("another scheme", &[format!("Authorization: Token {token}")], Missing),
        set("scheme JWT", &[format!("Authorization: JWT {token}")], Missing),
        set("scheme DPoP", &[format!("Authorization: DPoP {token}")], Missing),
        set("scheme Bearerx", &[format!("Authorization: Bearerx {token}")], Missing),
        set("Basic with the token", &[format!("Authorization: Basic {token}")], Missing),
        set("Negotiate", &["Authorization: Negotiate AAAA".into()], Missing),
        set("scheme alone", &["Authorization: Bearer".into()], Missing),
        set("scheme and a space", &["Authorization: Bearer ".into()], Missing),
        set("empty", &["Authorization:".into()], Missing),
        set("9 KiB", &[format!("Authorization: Bearer {}", "A".repeat(9 * 1024))], Invalid),
        set("a URL", &["Authorization: Bearer http://127.0.0.1:9/".into()], Invalid),
        set("percent-encoded", &[format!("Authorization: Bearer {}", token.replace('.', "%2E"))], Invalid),
        set("named parameter", &[format!("Authorization: Bearer token={token}")], Invalid),
        set("named parameter in quotes", &[format!("Authorization: Bearer token=\"{token}\"")], Invalid),
    ]
}

fn malformed(token: &str) -> Vec<HeaderSet> {
    let with = |name: &'static str, lines: &[&[u8]]| HeaderSet {
        name,
        lines: lines.iter().map(|line| line.to_vec()).collect(),
        expected: Expected::Invalid,
        may_be_400: true,
    };
    let bearer = format!("Authorization: Bearer {token}");
    let raw = |before: &[u8], after: &[u8]| [before, token.as_bytes(), after].concat();
    vec![
        with("a zero byte after", &[&raw(b"Authorization: Bearer ", b"\0")]),
        with("a zero byte before", &[&raw(b"Authorization: Bearer \0", b"")]),
        with("Latin-1 after", &[&raw(b"Authorization: Bearer ", b"\xe9")]),
        with("UTF-8 after", &[&raw(b"Authorization: Bearer ", "\u{1f600}".as_bytes())]),
        with("invalid UTF-8 after", &[&raw(b"Authorization: Bearer ", b"\xff\xfe")]),
        with("a bare carriage return after", &[&raw(b"Authorization: Bearer ", b"\rX: y")]),
        with("a folded line", &[b"Authorization: Bearer", format!(" {token}").as_bytes()]),
        with("a folded second token", &[bearer.as_bytes(), format!(" {token}").as_bytes()]),
        with("a space before the colon, and twice", &[bearer.as_bytes(), &raw(b"Authorization : Bearer ", b"")]),
        with("a delete character", &[&raw(b"Authorization: Bearer ", b"\x7f")]),
        with("an escape character", &[&raw(b"Authorization: Bearer \x1b[2J", b"")]),
        // Another scheme, so there is no bearer token.
        HeaderSet {
            expected: Expected::Missing,
            ..with("a no-break space for the space", &[&raw(b"Authorization: Bearer\xa0", b"")])
        },
    ]
}
