//! How each proxy describes the request to check: one source of truth per proxy; all other hints
//! are ignored.

use http::request::Parts;

use super::bearer::{host, single};

/// The protocols for checks over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// An application checks a token; routes do not apply.
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

/// The path prefix of [`ProxyProtocol::Envoy`] requests.
const ENVOY_PREFIX: &str = "/envoy";

/// The request to check. Missing or repeated values are `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestTarget<'a> {
    /// Its method.
    pub method: Option<&'a str>,
    /// Its path and query, raw.
    pub path: Option<&'a [u8]>,
    /// Its host, as sent by the client.
    pub host: Option<&'a [u8]>,
}

/// The error detail for a request with a header for which
/// [`is_lookalike`](sidegate_common::identity_headers::is_lookalike) is true.
pub const LOOKALIKE: &str = "a header of this request can be mistaken for an identity header";

impl ProxyProtocol {
    /// The protocol at a path of this server.
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

    /// What the proxy's request lacks if it does not describe the request to check.
    pub const fn lacks(self) -> &'static str {
        match self {
            Self::Check | Self::Envoy => "the request line has no path",
            Self::Nginx | Self::Haproxy => "X-Original-URI or X-Original-Method is missing or repeated",
            Self::Forward => "X-Forwarded-Uri or X-Forwarded-Method is missing or repeated",
        }
    }

    /// The request that `parts` describe.
    pub fn target(self, parts: &Parts) -> RequestTarget<'_> {
        let method = |name| single(&parts.headers, name).and_then(|value| std::str::from_utf8(value).ok());
        match self {
            Self::Check => RequestTarget {
                method: Some(parts.method.as_str()),
                path: None,
                host: host(&parts.headers, &parts.uri),
            },
            Self::Envoy => {
                let line = parts.uri.path_and_query().map(http::uri::PathAndQuery::as_str);
                RequestTarget {
                    method: Some(parts.method.as_str()),
                    path: line.and_then(|line| line.strip_prefix(ENVOY_PREFIX)).map(str::as_bytes),
                    host: host(&parts.headers, &parts.uri),
                }
            }
            Self::Nginx | Self::Haproxy => RequestTarget {
                method: method("x-original-method"),
                path: single(&parts.headers, "x-original-uri"),
                host: host(&parts.headers, &parts.uri),
            },
            Self::Forward => RequestTarget {
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
    fn each_path_has_one_protocol() {
        assert_eq!(ProxyProtocol::at("/envoy/a"), Some(ProxyProtocol::Envoy));
        assert_eq!(ProxyProtocol::at("/envoy"), Some(ProxyProtocol::Envoy));
        assert_eq!(ProxyProtocol::at("/envoyx"), None);
        assert_eq!(ProxyProtocol::at("/nginx"), Some(ProxyProtocol::Nginx));
        assert_eq!(ProxyProtocol::at("/nginx/x"), None);
        assert_eq!(ProxyProtocol::at("/"), None);
    }

    #[test]
    fn each_protocol_reads_only_its_own_source() {
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
            let RequestTarget { method, path, host } = protocol.target(&parts);
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
    fn repeated_or_missing_hint_is_ignored() {
        let twice =
            parts("/nginx", &[("x-original-uri", "/a"), ("x-original-uri", "/a"), ("x-original-method", "GET")]);
        assert_eq!(ProxyProtocol::Nginx.target(&twice).path, None);
        assert_eq!(ProxyProtocol::Forward.target(&twice).method, None);
    }
}
