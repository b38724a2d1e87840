//! The identity headers, and the other names that an application could mistake for them.

/// The identity headers. All of them are always set and never empty, so that a proxy overwrites any
/// that a client has forged.
pub const NAMES: [&str; 7] = [
    "x-auth-subject",
    "x-auth-session",
    "x-auth-token-id",
    "x-auth-client",
    "x-auth-scope",
    "x-auth-expires",
    "x-auth-issuer",
];
/// The list's age in seconds, if it is older than allowed and `ON_STALE=allow` let the request
/// pass.
pub const STALE: &str = "x-auth-stale";
/// The value of an identity header that has none.
pub const ABSENT: &str = "-";
/// The name of the issuer that `JWT_ISSUER` and the home keys describe.
pub const HOME_ISSUER: &str = "home";

/// True for an identity header in any spelling: a name with the same letters and digits, as
/// `x!auth!subject` and `x_auth_subject` have. CGI-like applications (RFC 3875 §4.1.18) replace all
/// other characters by `_` and would mistake it for an identity header.
pub fn spells_identity(name: &[u8]) -> bool {
    let letters = || name.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase);
    // A cheap test that excludes nearly every header.
    let mut first = letters();
    if first.next() != Some(b'x') || first.next() != Some(b'a') {
        return false;
    }
    let spells = |ours: &str| letters().eq(ours.bytes().filter(|byte| *byte != b'-'));
    NAMES.iter().chain([&STALE]).any(|ours| spells(ours))
}

/// True for a header name that is not an identity header but spells one. The identity headers
/// themselves are removed or overwritten by the proxy.
pub fn is_lookalike(name: &str) -> bool {
    spells_identity(name.as_bytes()) && !NAMES.iter().chain([&STALE]).any(|ours| name.eq_ignore_ascii_case(ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookalikes_of_identity_headers_are_recognised() {
        for name in [
            "x!auth!subject",
            "x_auth_subject",
            "X.Auth.Subject",
            "x-auth_token.id",
            "xauthissuer",
            "x-auth-scope-",
            "x-a-u-t-h-stale",
            "~x-auth-expires",
        ] {
            assert!(is_lookalike(name) && spells_identity(name.as_bytes()), "{name}");
        }
        for name in ["x-auth-subject", "X-Auth-Stale"] {
            assert!(!is_lookalike(name) && spells_identity(name.as_bytes()), "{name}");
        }
        for name in ["x-auth-token", "x-auth-subjects", "authorization", "x-", "", "x"] {
            assert!(!is_lookalike(name) && !spells_identity(name.as_bytes()), "{name}");
        }
    }
}
