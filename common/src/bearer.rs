//! The values of `Authorization` read strictly (RFC 6750 §2.1): one field, one token, nothing after it.

/// The bearer token among the values of every `Authorization` field of a request; none if there is no such field, or one of
/// another scheme, or the scheme alone.
///
/// # Errors
/// Two fields, or something else than one token after `Bearer`; the words are for the log.
pub fn bearer<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<Option<&'a str>, &'static str> {
    const TWO: &str = "two Authorization headers";
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(TWO);
    }
    let scheme_end = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
    let (scheme, rest) = value.split_at(scheme_end);
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        // Another scheme presents no bearer token; but a proxy may have joined two headers with a comma.
        let joined = value.contains(&b',') && value.to_ascii_lowercase().windows(6).any(|word| word == b"bearer");
        return if joined { Err(TWO) } else { Ok(None) };
    }
    // RFC 6750 §2.1 has spaces only: a tab is part of what no token has.
    let token = &rest[rest.iter().take_while(|byte| **byte == b' ').count()..];
    if token.is_empty() { Ok(None) } else { one_token(token).map(Some) }
}

/// One token that stands alone in a header.
///
/// # Errors
/// There are more, or characters that no token has.
pub fn one_token(token: &[u8]) -> Result<&str, &'static str> {
    // Without a way out in between, so that many bytes are looked at at once.
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
    fn one_bearer_token_in_any_spelling_of_the_scheme() {
        for value in [&b"Bearer a.b.c"[..], b"bearer a.b.c", b"BEARER  a.b.c"] {
            assert_eq!(of(&[value]), Ok(Some("a.b.c")));
        }
        for value in [&b""[..], b"Bearer", b"Bearer ", b"Basic YTpi", b"Basic YTpi,x", b"a.b.c", b"Bearerx a.b.c"] {
            assert_eq!(of(&[value]), Ok(None), "{value:?}");
        }
        assert_eq!(of(&[]), Ok(None));
    }

    #[test]
    fn anything_but_one_token_is_refused() {
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
