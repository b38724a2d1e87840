//! The bodies of the targets that parse a request: its headers, its path.

use std::sync::LazyLock;

use sidegate_common::path::canonical;
use sidegate_common::routes::{Access, Routes, Why};
use sidegate_verifier::domain::request::Presented;
use sidegate_verifier::wire::bearer::present;

/// Header lines: one `A`, `C` or `O` and a value per line, for `Authorization`, `Cookie` and
/// `Origin`.
pub fn authorization(data: &[u8]) {
    let mut headers = http::HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(16) {
        let Some((name, value)) = line.split_first() else { continue };
        let name = match name {
            b'C' => http::header::COOKIE,
            b'O' => http::header::ORIGIN,
            _ => http::header::AUTHORIZATION,
        };
        if let Ok(value) = http::HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    for (cookie, method) in [(None, "GET"), (Some("token"), "GET"), (Some("token"), "POST")] {
        if let Presented::Token(found) = present(&headers, cookie, method, Some(b"app.example")) {
            assert!(!found.is_empty() && found.bytes().all(|byte| byte.is_ascii_graphic() && byte != b','));
            assert!(
                headers.get_all(http::header::AUTHORIZATION).iter().count() <= 1,
                "one header, or none is looked at"
            );
            assert!(cookie.is_some() || headers.contains_key(http::header::AUTHORIZATION));
        }
    }
}

static ROUTES: LazyLock<Routes> = LazyLock::new(|| {
    let text = r#"
        [[route]]
        path = "/public/**"
        access = "public"
        [[route]]
        methods = ["GET"]
        path = "/docs/*"
        access = "public"
        [[route]]
        path = "/admin/**"
        scopes = ["admin"]
    "#;
    Routes::parse(text, &["sidegate".to_owned()]).expect("good routes")
});

/// The first byte selects: the rest is a routes file, or a request target.
pub fn routes(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    if mode & 1 == 0 {
        let Ok(text) = std::str::from_utf8(data) else { return };
        if let Ok(routes) = Routes::parse(text, &["sidegate".to_owned()]) {
            for target in ["/", "/public/a", "//", "/a/../b", "*"] {
                let _ = routes.explain("GET", target);
            }
        }
        return;
    }
    let (access, why) = ROUTES.access("GET", data);
    if *access == Access::Public {
        let path = canonical(data).expect("what is ambiguous is not public");
        assert!(path.starts_with("/public") || path.starts_with("/docs/"), "{path:?}");
        assert!(path.split('/').all(|segment| ![".", ".."].contains(&segment)), "{path:?}");
        assert!(!path.contains('%') && !path.contains(';') && !path.contains("//"), "{path:?}");
        assert!(!matches!(why, Why::Ambiguous(_)));
    }
}
