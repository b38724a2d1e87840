//! Which strings are valid as a claim, a header value, a scope.

/// The longest identifier claim, in bytes.
pub const IDENTIFIER_BYTES_MAX: usize = 255;
/// The longest scope, in bytes: a proxy sends it in one header line.
pub const SCOPE_BYTES_MAX: usize = 1024;

/// True for a valid `sub`, `sid`, `jti` or `client_id`: 1 to 255 visible ASCII characters, and not
/// `-`, which means "absent" in identity headers.
pub fn is_identifier(value: &str) -> bool {
    (1..=IDENTIFIER_BYTES_MAX).contains(&value.len())
        && value != "-"
        && value.bytes().all(|byte| (0x21..=0x7e).contains(&byte))
}

/// True for a scope by RFC 6749 §3.3: tokens of `%x21 / %x23-5B / %x5D-7E`, one space between them, none repeated;
/// and not `-`.
pub fn is_scope(value: &str) -> bool {
    value.len() <= SCOPE_BYTES_MAX && value != "-" && value.split(' ').all(is_scope_token)
}

/// True for one scope word (RFC 6749 §3.3, scope-token).
pub fn is_scope_token(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// True if `granted` (space separated) has every word of `required` (space separated; empty
/// requires none).
pub fn scope_covers(granted: Option<&str>, required: &str) -> bool {
    required
        .split(' ')
        .filter(|word| !word.is_empty())
        .all(|word| granted.is_some_and(|granted| granted.split(' ').any(|have| have == word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers() {
        for good in ["1", "a-b", "--", "!~", &"x".repeat(255)] {
            assert!(is_identifier(good), "{good}");
        }
        for bad in ["", "-", " ", "a b", "a\u{7f}", "é", "a\0", "a\n", &"x".repeat(256)] {
            assert!(!is_identifier(bad), "{bad:?}");
        }
    }

    #[test]
    fn scopes() {
        for good in ["a", "read write", "a:b/c", "!", "--"] {
            assert!(is_scope(good), "{good}");
        }
        for bad in ["", " ", "a ", " a", "a  b", "a\"b", "a\\b", "a\tb", "é", "-", &"x".repeat(1025)] {
            assert!(!is_scope(bad), "{bad:?}");
        }
    }

    #[test]
    fn scope_words_are_compared_whole() {
        assert!(scope_covers(Some("read write"), "write"));
        assert!(scope_covers(Some("read write"), "write read"));
        assert!(scope_covers(None, ""));
        assert!(!scope_covers(Some("readwrite"), "read"));
        assert!(!scope_covers(Some("Read"), "read"));
        assert!(!scope_covers(None, "read"));
    }
}
