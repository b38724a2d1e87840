//! How each proxy tells which request it asks about: one source of truth for each, all other hints are ignored.

use http::HeaderName;
use http::request::Parts;

use super::answer::{IDENTITY, STALE};
use super::bearer::{host, single};

/// The ways to ask over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// An application asks about a token; routes play no part.
    Check,
    /// Envoy's HTTP ext_authz with `path_prefix: /envoy`: the request line.
    Envoy,
    /// nginx `auth_request`: `X-Original-URI` and `X-Original-Method`.
    Nginx,
    /// Traefik and Caddy: `X-Forwarded-Uri` and `X-Forwarded-Method`.
    Forward,
    /// HAProxy with Sidegate's Lua: `X-Original-URI` and `X-Original-Method`.
    Haproxy,
}

/// Under which path the [`ProxyProtocol::Envoy`] requests come in.
const ENVOY_PREFIX: &str = "/envoy";

/// Which request is asked about. What is missing or repeated is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Its method.
    pub method: Option<&'a str>,
    /// Its path and query, raw.
    pub path: Option<&'a [u8]>,
    /// Its host, as the client sent it.
    pub host: Option<&'a [u8]>,
}

/// What is answered to a request with a header for which [`is_lookalike`] holds.
pub const LOOKALIKE: &str = "a header of this request can be mistaken for an identity header";

/// True for a header name that is not an identity header but has the same letters and digits, as `x!auth!subject` and
/// `x_auth_subject` have. Applications of the CGI kind (RFC 3875 §4.1.18) replace the rest by `_` and would take it for ours.
/// The identity headers themselves are removed or overwritten by the proxy.
pub fn is_lookalike(name: &str) -> bool {
    let letters = || name.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase());
    // Cheap for nearly every header of nearly every request.
    let mut first = letters();
    if first.next() != Some(b'x') || first.next() != Some(b'a') {
        return false;
    }
    let spells = |ours: &HeaderName| letters().eq(ours.as_str().bytes().filter(|byte| *byte != b'-'));
    IDENTITY.iter().chain([&STALE]).any(|ours| spells(ours) && !name.eq_ignore_ascii_case(ours.as_str()))
}

impl ProxyProtocol {
    /// The protocol spoken at a path of this server.
    pub fn at(path: &str) -> Option<Self> {
        match path {
            "/check" => Some(Self::Check),
            "/nginx" => Some(Self::Nginx),
            "/forward" => Some(Self::Forward),
            "/haproxy" => Some(Self::Haproxy),
            ENVOY_PREFIX => Some(Self::Envoy),
            path if path.strip_prefix(ENVOY_PREFIX).is_some_and(|rest| rest.starts_with('/')) => Some(Self::Envoy),
            _ => None,
        }
    }

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::Forward => "forward",
            Self::Haproxy => "haproxy",
        }
    }

    /// Its path in traces.
    pub const fn route(self) -> &'static str {
        match self {
            Self::Check => "/check",
            Self::Envoy => ENVOY_PREFIX,
            Self::Nginx => "/nginx",
            Self::Forward => "/forward",
            Self::Haproxy => "/haproxy",
        }
    }

    /// What a request that does not say what it asks about lacks.
    pub const fn lacks(self) -> &'static str {
        match self {
            Self::Check | Self::Envoy => "the request line has no path",
            Self::Nginx | Self::Haproxy => "X-Original-URI or X-Original-Method is missing or repeated",
            Self::Forward => "X-Forwarded-Uri or X-Forwarded-Method is missing or repeated",
        }
    }

    /// Which request `parts` asks about.
    pub fn target(self, parts: &Parts) -> Target<'_> {
        let method = |name| single(&parts.headers, name).and_then(|value| std::str::from_utf8(value).ok());
        match self {
            Self::Check => {
                Target { method: Some(parts.method.as_str()), path: None, host: host(&parts.headers, &parts.uri) }
            }
            Self::Envoy => {
                let line = parts.uri.path_and_query().map(http::uri::PathAndQuery::as_str);
                Target {
                    method: Some(parts.method.as_str()),
                    path: line.and_then(|line| line.strip_prefix(ENVOY_PREFIX)).map(str::as_bytes),
                    host: host(&parts.headers, &parts.uri),
                }
            }
            Self::Nginx | Self::Haproxy => Target {
                method: method("x-original-method"),
                path: single(&parts.headers, "x-original-uri"),
                host: host(&parts.headers, &parts.uri),
            },
            Self::Forward => Target {
                method: method("x-forwarded-method"),
                path: single(&parts.headers, "x-forwarded-uri"),
                host: single(&parts.headers, "x-forwarded-host"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(line: &str, headers: &[(&str, &str)]) -> Parts {
        let mut builder = http::Request::builder().method("POST").uri(line);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn each_path_speaks_one_dialect() {
        assert_eq!(ProxyProtocol::at("/envoy/a"), Some(ProxyProtocol::Envoy));
        assert_eq!(ProxyProtocol::at("/envoy"), Some(ProxyProtocol::Envoy));
        assert_eq!(ProxyProtocol::at("/envoyx"), None);
        assert_eq!(ProxyProtocol::at("/nginx"), Some(ProxyProtocol::Nginx));
        assert_eq!(ProxyProtocol::at("/nginx/x"), None);
        assert_eq!(ProxyProtocol::at("/"), None);
    }

    #[test]
    fn each_dialect_has_one_source_and_ignores_the_others() {
        let all = [
            ("host", "h"),
            ("x-original-uri", "/nginx-says"),
            ("x-original-method", "PUT"),
            ("x-forwarded-uri", "/forward-says"),
            ("x-forwarded-method", "DELETE"),
            ("x-forwarded-host", "fh"),
            ("x-envoy-original-path", "/no"),
        ];
        let target = |protocol: ProxyProtocol| {
            let parts = parts("/envoy/line?q=1", &all);
            let Target { method, path, host } = protocol.target(&parts);
            let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
            (method.map(str::to_owned), text(path), text(host))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(target(ProxyProtocol::Envoy), (some("POST"), some("/line?q=1"), some("h")));
        assert_eq!(target(ProxyProtocol::Nginx), (some("PUT"), some("/nginx-says"), some("h")));
        assert_eq!(target(ProxyProtocol::Haproxy), (some("PUT"), some("/nginx-says"), some("h")));
        assert_eq!(target(ProxyProtocol::Forward), (some("DELETE"), some("/forward-says"), some("fh")));
        assert_eq!(target(ProxyProtocol::Check), (some("POST"), None, some("h")));
    }

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
            assert!(is_lookalike(name), "{name}");
        }
        for name in
            ["x-auth-subject", "X-Auth-Stale", "x-auth-token", "x-auth-subjects", "authorization", "x-", "", "x"]
        {
            assert!(!is_lookalike(name), "{name}");
        }
    }

    #[test]
    fn a_repeated_or_missing_hint_is_none() {
        let twice =
            parts("/nginx", &[("x-original-uri", "/a"), ("x-original-uri", "/a"), ("x-original-method", "GET")]);
        assert_eq!(ProxyProtocol::Nginx.target(&twice).path, None);
        assert_eq!(ProxyProtocol::Forward.target(&twice).method, None);
    }
}
