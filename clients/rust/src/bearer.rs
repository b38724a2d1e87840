//! The bearer token of a request (RFC 6750 §2.1), read by the same rules as the daemon's.

use std::borrow::Cow;

use crate::Denied;

const TWO_HEADERS: Denied = Denied::Invalid { why: Cow::Borrowed("two Authorization headers") };
const NOT_ONE_TOKEN: Denied = Denied::Invalid { why: Cow::Borrowed("more than one token, or invalid characters") };

/// The token in the values of all `Authorization` fields of a request.
///
/// # Errors
/// [`Denied::Missing`] if no bearer token was sent; [`Denied::Invalid`] if there are two fields, or anything but one token
/// after the scheme.
pub fn bearer<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<&'a str, Denied> {
    let mut values = values.into_iter();
    let value = values.next().ok_or(Denied::Missing)?;
    if values.next().is_some() {
        return Err(TWO_HEADERS);
    }
    let scheme_end = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
    let (scheme, rest) = value.split_at(scheme_end);
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        // Another scheme has no bearer token; but a proxy may have joined two headers with a comma.
        let joined = value.contains(&b',') && value.to_ascii_lowercase().windows(6).any(|word| word == b"bearer");
        return Err(if joined { TWO_HEADERS } else { Denied::Missing });
    }
    // Spaces only: a tab is a character that no token has.
    let token = &rest[rest.iter().take_while(|byte| **byte == b' ').count()..];
    if token.is_empty() {
        return Err(Denied::Missing);
    }
    // No early return, so that the loop is vectorised.
    let fits = token.iter().fold(true, |fits, byte| fits & byte.is_ascii_graphic() & (*byte != b','));
    std::str::from_utf8(token).ok().filter(|_| fits).ok_or(NOT_ONE_TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(values: &[&'a [u8]]) -> Result<&'a str, &'static str> {
        bearer(values.iter().copied()).map_err(|denied| match denied {
            Denied::Missing => "missing",
            Denied::Invalid { .. } => "invalid",
            _ => "something else",
        })
    }

    #[test]
    fn bearer_token_is_read_as_the_daemon_reads_it() {
        for value in [&b"Bearer a.b.c"[..], b"bearer a.b.c", b"BEARER  a.b.c"] {
            assert_eq!(of(&[value]), Ok("a.b.c"));
        }
        for value in [&b""[..], b"Bearer", b"Bearer ", b"Bearer\ta.b.c", b"Basic YTpi,x", b"a.b.c", b"Bearerx a"] {
            assert_eq!(of(&[value]), Err("missing"), "{value:?}");
        }
        for value in
            [&b"Bearer \ta.b.c"[..], b"Bearer \t", b"Bearer a b", b"Bearer a,b", b"Bearer \xe9", b"Basic x, Bearer y"]
        {
            assert_eq!(of(&[value]), Err("invalid"), "{value:?}");
        }
        assert_eq!(of(&[]), Err("missing"));
        assert_eq!(of(&[b"Bearer a", b"Bearer a"]), Err("invalid"));
        assert_eq!(of(&[b"Basic a", b"Bearer a"]), Err("invalid"));
    }
}
