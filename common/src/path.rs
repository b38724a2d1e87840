//! The canonical form of a request's path, and which paths are ambiguous.
//!
//! Proxies and applications disagree about dot segments, encoded slashes, `;`, doubled slashes and
//! the like: one reads `/public/..;/admin` as public, another as `/admin`. This module does not
//! guess. A path that two programs could read differently is *ambiguous*, and an ambiguous path is
//! never public (see [`crate::routes`]).

use std::borrow::Cow;

/// Why two programs could read a path differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguity {
    /// It does not start with `/`: an absolute URI, `*`, an authority, or nothing.
    #[error("it does not start with a slash")]
    NotAPath,
    /// `//`: some programs merge the slashes.
    #[error("it holds an empty segment (//)")]
    EmptySegment,
    /// `.` or `..`, plain or encoded, or a segment that ends in a dot or a space, which Windows
    /// drops.
    #[error("it holds a dot segment, or a segment that ends in a dot or a space")]
    DotSegment,
    /// `%2f`, `%5c` or `\`: some programs read them as a slash.
    #[error("it holds an encoded slash or a backslash")]
    HiddenSlash,
    /// `;`, plain or encoded: some programs cut the segment there.
    #[error("it holds a semicolon")]
    Semicolon,
    /// `#`, `%23` or `%3f`: some programs cut the path there.
    #[error("it holds a number sign or an encoded question mark")]
    HiddenEnd,
    /// `%25`: decoding twice gives another path; or a stray `%`.
    #[error("it holds an encoded or stray percent sign")]
    Percent,
    /// A control character, plain or encoded.
    #[error("it holds a control character")]
    Control,
    /// Not UTF-8 (overlong forms included), or a character outside ASCII that is not a letter or
    /// digit, and which a program might fold into a slash or a dot.
    #[error("it is not UTF-8, or holds punctuation from outside ASCII")]
    NotText,
}

/// The path of a request target, without its query, percent-decoded. The result has no `%`, `;`,
/// `\`, `#`, `?`, control character, dot segment, or empty segment except the last, after a
/// trailing slash.
///
/// # Errors
/// Two programs could read the path differently.
pub fn canonical(target: &[u8]) -> Result<Cow<'_, str>, Ambiguity> {
    let raw = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    if raw.first() != Some(&b'/') {
        return Err(Ambiguity::NotAPath);
    }
    let decoded = decode(raw)?;
    let text = match decoded {
        Cow::Borrowed(bytes) => Cow::Borrowed(std::str::from_utf8(bytes).map_err(|_| Ambiguity::NotText)?),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).map_err(|_| Ambiguity::NotText)?),
    };
    if text.chars().any(|c| !c.is_ascii() && !c.is_alphanumeric()) {
        return Err(Ambiguity::NotText);
    }
    check_segments(&text)?;
    Ok(text)
}

fn decode(raw: &[u8]) -> Result<Cow<'_, [u8]>, Ambiguity> {
    if raw.iter().all(|byte| *byte != b'%') {
        raw.iter().try_for_each(|byte| check_byte(*byte))?;
        return Ok(Cow::Borrowed(raw));
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let (hex, after) = after.split_first_chunk::<2>().ok_or(Ambiguity::Percent)?;
            let decoded = (nibble(hex[0])? << 4) | nibble(hex[1])?;
            match decoded {
                b'/' => return Err(Ambiguity::HiddenSlash),
                b'?' => return Err(Ambiguity::HiddenEnd),
                b'%' => return Err(Ambiguity::Percent),
                other => check_byte(other)?,
            }
            out.push(decoded);
            rest = after;
        } else {
            check_byte(byte)?;
            out.push(byte);
            rest = after;
        }
    }
    Ok(Cow::Owned(out))
}

fn nibble(hex: u8) -> Result<u8, Ambiguity> {
    char::from(hex).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or(Ambiguity::Percent)
}

/// Rejects bytes that are ambiguous both plain and encoded.
const fn check_byte(byte: u8) -> Result<(), Ambiguity> {
    match byte {
        0..=0x1f | 0x7f => Err(Ambiguity::Control),
        b'\\' => Err(Ambiguity::HiddenSlash),
        b';' => Err(Ambiguity::Semicolon),
        b'#' => Err(Ambiguity::HiddenEnd),
        _ => Ok(()),
    }
}

fn check_segments(path: &str) -> Result<(), Ambiguity> {
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return Err(Ambiguity::EmptySegment);
        }
        if segment.ends_with(['.', ' ']) {
            return Err(Ambiguity::DotSegment);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(target: &str) -> Result<String, Ambiguity> {
        canonical(target.as_bytes()).map(Cow::into_owned)
    }

    #[test]
    fn plain_paths_do_not_change() {
        for path in ["/", "/a", "/a/b", "/a/", "/a.b/.well-known/x", "/a~b_c-d", "/a,b@c:d!$&'()*+=", "/a b"] {
            assert_eq!(of(path).as_deref(), Ok(path));
        }
        assert!(matches!(canonical(b"/a/b?x=%2f..;"), Ok(Cow::Borrowed("/a/b"))), "the query is ignored");
    }

    #[test]
    fn harmless_encodings_are_decoded() {
        assert_eq!(of("/%61dmin").as_deref(), Ok("/admin"));
        assert_eq!(of("/a%20b").as_deref(), Ok("/a b"));
        assert_eq!(of("/%C3%BCber").as_deref(), Ok("/über"));
        assert_eq!(of("/über").as_deref(), Ok("/über"));
        assert_eq!(of("/a%2Eb").as_deref(), Ok("/a.b"));
    }

    #[test]
    fn each_ambiguity_has_its_error() {
        use Ambiguity::*;
        let cases: &[(&str, Ambiguity)] = &[
            ("", NotAPath),
            ("*", NotAPath),
            ("?a", NotAPath),
            ("http://host/a", NotAPath),
            ("a/b", NotAPath),
            ("//", EmptySegment),
            ("//a", EmptySegment),
            ("/a//b", EmptySegment),
            ("/a//", EmptySegment),
            ("/a/./b", DotSegment),
            ("/a/../b", DotSegment),
            ("/a/%2e%2E/b", DotSegment),
            ("/..", DotSegment),
            ("/a/...", DotSegment),
            ("/a.", DotSegment),
            ("/a%20", DotSegment),
            ("/a%2fb", HiddenSlash),
            ("/a%2Fb", HiddenSlash),
            ("/a\\b", HiddenSlash),
            ("/a%5cb", HiddenSlash),
            ("/a;b", Semicolon),
            ("/a%3bb", Semicolon),
            ("/a#b", HiddenEnd),
            ("/a%23b", HiddenEnd),
            ("/a%3fb", HiddenEnd),
            ("/a%252fb", Percent),
            ("/a%", Percent),
            ("/a%2", Percent),
            ("/a%zz", Percent),
            ("/a%+1", Percent),
            ("/a%u002fb", Percent),
            ("/a%00", Control),
            ("/a\tb", Control),
            ("/a%7f", Control),
            ("/%c0%af", NotText),
            ("/%ff", NotText),
            ("/\u{ff0f}admin", NotText),
            ("/a\u{200b}b", NotText),
        ];
        for (target, why) in cases {
            assert_eq!(of(target), Err(*why), "{target:?}");
        }
    }
}
