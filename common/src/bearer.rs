//! The values of `Authorization` read strictly (RFC 6750 §2.1): one field, one token, nothing after it.

/// Returns the bearer token of a request's `Authorization` fields, or `None` if no field is there,
/// the scheme is another, or the scheme stands alone.
///
/// # Errors
/// Two fields, or anything but one token after `Bearer`; the message is for the log.
pub fn bearer<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<Option<&'a str>, &'static str> {
    const TWO: &str = "two Authorization headers";
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(TWO);
    }
    let scheme_end = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
    let (scheme, rest) = value.split_at(scheme_end);
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        // A field of another scheme has no bearer token, but a proxy may have joined two fields
        // with a comma.
        let joined = value.contains(&b',') && value.to_ascii_lowercase().windows(6).any(|word| word == b"bearer");
        return if joined { Err(TWO) } else { Ok(None) };
    }
    // RFC 6750 §2.1 allows spaces only, so a tab counts as part of the token and fails its check.
    let token = &rest[rest.iter().take_while(|byte| **byte == b' ').count()..];
    if token.is_empty() { Ok(None) } else { one_token(token).map(Some) }
}

/// Checks that `token` is one token and nothing else.
///
/// # Errors
/// More than one token, or characters that a token cannot have.
pub fn one_token(token: &[u8]) -> Result<&str, &'static str> {
    // No early exit: the compiler vectorises this fold.
    let fit = token.iter().fold(true, |fit, byte| fit & byte.is_ascii_graphic() & (*byte != b','));
    match std::str::from_utf8(token) {
        Ok(text) if fit => Ok(text),
        _ => Err("more than one token, or invalid characters"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(values: &[&'a [u8]]) -> Result<Option<&'a str>, &'static str> {
        bearer(values.iter().copied())
    }

    #[test]
    fn scheme_is_case_insensitive() {
        for value in [&b"Bearer a.b.c"[..], b"bearer a.b.c", b"BEARER  a.b.c"] {
            assert_eq!(of(&[value]), Ok(Some("a.b.c")));
        }
        for value in [&b""[..], b"Bearer", b"Bearer ", b"Basic YTpi", b"Basic YTpi,x", b"a.b.c", b"Bearerx a.b.c"] {
            assert_eq!(of(&[value]), Ok(None), "{value:?}");
        }
        assert_eq!(of(&[]), Ok(None));
    }

    #[test]
    fn more_or_less_than_one_token_is_an_error() {
        for value in [
            &b"Bearer a,bearer b"[..],
            b"Bearer a b",
            b"Bearer a\tb",
            b"Bearer \xff",
            b"Bearer a,",
            b"Bearer \ta.b.c",
            b"Bearer \t",
            b"Basic x,Bearer a.b.c",
        ] {
            assert!(of(&[value]).is_err(), "{value:?}");
        }
        assert!(of(&[b"Bearer a", b"Bearer a"]).is_err());
        assert!(of(&[b"Basic a", b"Bearer a"]).is_err());
    }
}
