//! The client's address behind trusted proxies, and web pages of other origins (CORS).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV4};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use sidegate_runtime::serve::Peer;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A network: an address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Not an address or network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address such as 10.0.0.1 or a network such as 10.0.0.0/8")]
pub struct NotANetwork;

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(width), str::parse).map_err(|_| NotANetwork)?;
        if bits > width { Err(NotANetwork) } else { Ok(Self { address, bits }) }
    }
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        let wide = |address: IpAddr| match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
            IpAddr::V6(v6) => (v6.to_bits(), false),
        };
        let ((ours, ours_v4), (theirs, theirs_v4)) = (wide(self.address), wide(address.to_canonical()));
        let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
        ours_v4 == theirs_v4 && ours & mask == theirs & mask
    }
}

/// Proxies whose `X-Forwarded-For` and `Forwarded` are trusted (`TRUSTED_PROXIES`).
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(pub Vec<Network>);

impl TrustedProxies {
    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

/// The client's address: the peer, or, behind trusted proxies, the last address that is not a
/// trusted proxy's. The list is read from the right, because a client can only forge the left.
/// `Forwarded` counts if there is no `X-Forwarded-For`.
pub(super) fn client_address(peer: Option<&Peer>, headers: &HeaderMap, proxies: &TrustedProxies) -> String {
    let Some(Peer::Tcp(peer)) = peer else { return String::new() };
    let mut client = peer.ip().to_canonical();
    let by_name = |name: &HeaderName| headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    let mut fields = by_name(&X_FORWARDED_FOR);
    let rfc_7239 = fields.is_empty();
    if rfc_7239 {
        fields = by_name(&header::FORWARDED);
    }
    for hop in fields.iter().rev().flat_map(|field| field.rsplit(|byte| *byte == b',')) {
        if !proxies.trusts(client) {
            break;
        }
        let node = if rfc_7239 { forwarded_for(hop) } else { Some(hop) };
        match node.and_then(node_address) {
            Some(address) => client = address.to_canonical(),
            None => break,
        }
    }
    client.to_string()
}

/// The `for` parameter of one element of `Forwarded` (RFC 7239 §4).
fn forwarded_for(element: &[u8]) -> Option<&[u8]> {
    element.split(|byte| *byte == b';').find_map(|pair| {
        let (name, value) = pair.split_at(pair.iter().position(|byte| *byte == b'=')?);
        name.trim_ascii().eq_ignore_ascii_case(b"for").then(|| &value[1..])
    })
}

/// An address in the spellings that proxies use: `192.0.2.7`, `192.0.2.7:80`, `2001:db8::1`,
/// `[2001:db8::1]`, `[2001:db8::1]:80`, each with or without quotes.
fn node_address(node: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(node).ok()?.trim().trim_matches('"');
    let port = |text: &str| text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, rest) = bracketed.split_once(']')?;
        return address.parse::<Ipv6Addr>().ok().filter(|_| port(rest)).map(IpAddr::V6);
    }
    text.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddrV4| IpAddr::V4(*address.ip())))
}

/// Origins whose web pages may call (`CORS_ORIGINS`); `*` stands for all.
#[derive(Clone, Debug, Default)]
pub struct CorsOrigins {
    allowed: Vec<String>,
    /// Refused origins that were logged: each is logged once.
    logged: Arc<Mutex<BTreeSet<String>>>,
}

/// A malformed origin, and the correct spelling.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin:?} {problem}")]
pub struct NotAnOrigin {
    origin: String,
    problem: String,
}

/// How many refused origins are kept.
const LOGGED_MAX: usize = 64;
const ORIGIN_BYTES_MAX: usize = 256;

impl CorsOrigins {
    /// Normalizes origins to the spelling that browsers send (RFC 6454 §6.2): lower case, no
    /// default port, no trailing slash.
    ///
    /// # Errors
    /// An origin that no browser sends.
    pub fn parse<'a>(origins: impl IntoIterator<Item = &'a str>) -> Result<Self, NotAnOrigin> {
        let allowed = origins.into_iter().map(normal_origin).collect::<Result<_, _>>()?;
        Ok(Self { allowed, logged: Arc::default() })
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        self.allowed.iter().any(|allowed| allowed == "*" || allowed == origin)
    }

    /// Logs a refused origin once, so that an operator can find a missing entry.
    fn log_refused(&self, origin: &HeaderValue) {
        let Ok(origin) = origin.to_str() else { return };
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if origin.len() <= ORIGIN_BYTES_MAX && logged.len() < LOGGED_MAX && logged.insert(origin.to_owned()) {
            tracing::warn!(origin, allowed = ?self.allowed, "origin refused; CORS_ORIGINS does not name it");
        }
    }

    /// True if CORS is on.
    pub(super) const fn is_on(&self) -> bool {
        !self.allowed.is_empty()
    }

    /// True for a preflight request (Fetch standard, "CORS-preflight fetch") to be answered here.
    pub(super) fn is_preflight(&self, method: &Method, headers: &HeaderMap) -> bool {
        self.is_on()
            && *method == Method::OPTIONS
            && headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Adds the headers that let a page of an allowed origin read the response.
    pub(super) fn allow(&self, origin: Option<&HeaderValue>, preflight: bool, answer: &mut HeaderMap) {
        if !self.is_on() {
            return;
        }
        answer.append(header::VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = origin else { return };
        if !self.allows(origin) {
            self.log_refused(origin);
            return;
        }
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if preflight {
            for (name, value) in [
                (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE"),
                // Swagger UI sends all of these when it logs in.
                (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, accept, x-requested-with"),
                (header::ACCESS_CONTROL_MAX_AGE, "600"),
            ] {
                answer.insert(name, HeaderValue::from_static(value));
            }
        } else {
            let exposed = HeaderValue::from_static("www-authenticate, retry-after, x-request-id");
            answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
}

fn normal_origin(text: &str) -> Result<String, NotAnOrigin> {
    let refused = |problem: String| NotAnOrigin { origin: text.to_owned(), problem };
    if text == "*" {
        return Ok("*".to_owned());
    }
    if text.contains('*') {
        return Err(refused("has a wildcard; name each origin, or write * alone for all".to_owned()));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(refused(format!("has no scheme; write https://{}", text.trim_end_matches('/'))));
    };
    let scheme = scheme.to_ascii_lowercase();
    let rest = rest.strip_suffix('/').unwrap_or(rest).to_ascii_lowercase();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let bare = authority.rsplit('@').next().unwrap_or_default();
    if bare != rest {
        return Err(refused(format!("is more than an origin; write {scheme}://{bare}")));
    }
    let default_port = match scheme.as_str() {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    let shorter = rest.strip_suffix(default_port).unwrap_or(&rest);
    let scheme_fits = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    match shorter.parse::<http::uri::Authority>() {
        Ok(_) if scheme_fits => Ok(format!("{scheme}://{shorter}")),
        _ => Err(refused("is not an origin such as https://app.example or http://localhost:3000".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(networks: &[&str]) -> TrustedProxies {
        TrustedProxies(networks.iter().map(|network| network.parse().unwrap()).collect())
    }

    fn address(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        client_address(Some(&Peer::Tcp(peer.parse().unwrap())), &headers, &proxies(trusted))
    }

    #[test]
    fn only_trusted_proxies_name_the_client() {
        let peer = "10.0.0.1:5";
        assert_eq!(address(peer, &["192.0.2.7"], &[]), "10.0.0.1");
        assert_eq!(address(peer, &["192.0.2.7"], &["10.0.0.0/8"]), "192.0.2.7");
        assert_eq!(address(peer, &["6.6.6.6, 192.0.2.7"], &["10.0.0.0/8"]), "192.0.2.7", "what a client adds is not");
        assert_eq!(address(peer, &["6.6.6.6", "192.0.2.7, 10.2.3.4"], &["10.0.0.0/8"]), "192.0.2.7");
        assert_eq!(address(peer, &["nonsense"], &["10.0.0.0/8"]), "10.0.0.1");
        assert_eq!(address("[::ffff:10.0.0.1]:5", &["2001:db8::1"], &["10.0.0.1"]), "2001:db8::1");
        assert_eq!(address(peer, &[], &["0.0.0.0/0"]), "10.0.0.1");
    }

    #[test]
    fn usual_spellings_of_an_address_are_parsed() {
        for (node, right) in [
            ("192.0.2.7:4711", "192.0.2.7"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            (" \"192.0.2.7\" ", "192.0.2.7"),
            ("\u{e9}, 192.0.2.7", "192.0.2.7"),
            ("\"a, 192.0.2.7", "192.0.2.7"),
        ] {
            assert_eq!(address("10.0.0.1:5", &[node], &["10.0.0.0/8"]), right, "{node}");
        }
        for node in
            ["192.0.2.7:x", "192.0.2.7:", "[192.0.2.7]", "[2001:db8::1", "[2001:db8::1]x", "unknown", "_hidden", ""]
        {
            assert_eq!(address("10.0.0.1:5", &[node], &["10.0.0.0/8"]), "10.0.0.1", "{node}");
        }
    }

    #[test]
    fn forwarded_is_parsed_as_in_rfc_7239() {
        let of = |fields: &[&str], also: Option<&str>, trusted: &[&str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(header::FORWARDED, HeaderValue::from_bytes(field.as_bytes()).unwrap());
            }
            headers.extend(also.map(|value| (X_FORWARDED_FOR, HeaderValue::from_str(value).unwrap())));
            client_address(Some(&Peer::Tcp("10.0.0.1:5".parse().unwrap())), &headers, &proxies(trusted))
        };
        let trusted = &["10.0.0.0/8"][..];
        assert_eq!(of(&["for=192.0.2.7;proto=https;by=10.0.0.1"], None, trusted), "192.0.2.7");
        assert_eq!(of(&["proto=http; For=\"[2001:db8:cafe::17]:4711\""], None, trusted), "2001:db8:cafe::17");
        assert_eq!(of(&["for=6.6.6.6, for=192.0.2.7", "for=10.9.9.9"], None, trusted), "192.0.2.7");
        assert_eq!(of(&["for=\"6.6.6.6, for=192.0.2.7"], None, trusted), "192.0.2.7", "an open quote hides nothing");
        assert_eq!(of(&["for=192.0.2.7"], None, &[]), "10.0.0.1");
        assert_eq!(of(&["for=unknown"], None, trusted), "10.0.0.1");
        assert_eq!(of(&["for=6.6.6.6"], Some("192.0.2.7"), trusted), "192.0.2.7");
    }

    #[test]
    fn origins_are_normalized_as_browsers_send_them() {
        for (written, right) in [
            ("https://app.example/", "https://app.example"),
            ("https://app.example:443", "https://app.example"),
            ("HTTPS://App.Example", "https://app.example"),
            ("http://localhost:80/", "http://localhost"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("*", "*"),
        ] {
            assert_eq!(normal_origin(written).as_deref(), Ok(right), "{written}");
        }
        for (written, said) in [
            ("app.example", "write https://app.example"),
            ("https://*.app.example", "name each origin, or write * alone"),
            ("https://app.example/login", "write https://app.example"),
            ("https://me@app.example", "write https://app.example"),
            ("https://", "such as https://app.example"),
            ("1://x", "such as https://app.example"),
            ("null", "has no scheme"),
        ] {
            let error = normal_origin(written).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains(written), "{error}");
        }
    }

    #[test]
    fn networks_are_parsed_strictly() {
        for bad in ["", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "x/8"] {
            assert_eq!(bad.parse::<Network>(), Err(NotANetwork), "{bad}");
        }
        assert!(!"10.0.0.0/8".parse::<Network>().unwrap().contains("11.0.0.1".parse().unwrap()));
        assert!("::/0".parse::<Network>().unwrap().contains("2001:db8::1".parse().unwrap()));
        assert!(!"::/0".parse::<Network>().unwrap().contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn unlisted_origins_are_refused() {
        let cors = CorsOrigins::parse(["https://App.example/"]).unwrap();
        let page = HeaderValue::from_static("https://app.example");
        let other = HeaderValue::from_static("https://evil.example");
        let mut answer = HeaderMap::new();
        cors.allow(Some(&page), true, &mut answer);
        assert_eq!(answer[header::ACCESS_CONTROL_ALLOW_ORIGIN], page);
        assert!(answer[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().contains("x-requested-with"));
        let mut answer = HeaderMap::new();
        cors.allow(Some(&other), false, &mut answer);
        assert!(!answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
        cors.allow(Some(&other), false, &mut answer);
        assert_eq!(cors.logged.lock().unwrap().len(), 1, "logged once");
        let mut answer = HeaderMap::new();
        CorsOrigins::default().allow(Some(&page), false, &mut answer);
        assert!(answer.is_empty());
    }
}
