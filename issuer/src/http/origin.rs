//! Where a request comes from: the client's address behind trusted proxies, and web pages of other origins (CORS).

use std::net::IpAddr;
use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use sidegate_runtime::serve::Peer;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A network: an address and how many of its first bits count.
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

/// Whose `X-Forwarded-For` is believed (`TRUSTED_PROXIES`).
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(pub Vec<Network>);

impl TrustedProxies {
    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

/// The client's address: the peer, or, behind trusted proxies, the last address that no trusted proxy has.
pub(super) fn client_address(peer: Option<&Peer>, headers: &HeaderMap, proxies: &TrustedProxies) -> String {
    let Some(Peer::Tcp(peer)) = peer else { return String::new() };
    let mut client = peer.ip().to_canonical();
    let forwarded: Vec<_> = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    for hop in forwarded.iter().rev().flat_map(|field| field.rsplit(',')) {
        if !proxies.trusts(client) {
            break;
        }
        match hop.trim().parse::<IpAddr>() {
            Ok(address) => client = address.to_canonical(),
            Err(_) => break,
        }
    }
    client.to_string()
}

/// Which web pages of other origins may call (`CORS_ORIGINS`); `*` stands for all.
#[derive(Clone, Debug, Default)]
pub struct CorsOrigins(pub Vec<String>);

impl CorsOrigins {
    fn allows(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        self.0.iter().any(|allowed| allowed == "*" || allowed == origin)
    }

    /// Whether CORS is on at all.
    pub(super) const fn is_on(&self) -> bool {
        !self.0.is_empty()
    }

    /// True for a preflight request (Fetch standard, "CORS-preflight fetch") that is to be answered here.
    pub(super) fn is_preflight(&self, method: &Method, headers: &HeaderMap) -> bool {
        self.is_on()
            && *method == Method::OPTIONS
            && headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Adds to an answer what lets a page of an allowed origin read it.
    pub(super) fn allow(&self, origin: Option<&HeaderValue>, preflight: bool, answer: &mut HeaderMap) {
        if !self.is_on() {
            return;
        }
        answer.append(header::VARY, HeaderValue::from_static("Origin"));
        let Some(origin) = origin.filter(|origin| self.allows(origin)) else { return };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(networks: &[&str]) -> TrustedProxies {
        TrustedProxies(networks.iter().map(|network| network.parse().unwrap()).collect())
    }

    fn address(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_str(value).unwrap());
        }
        client_address(Some(&Peer::Tcp(peer.parse().unwrap())), &headers, &proxies(trusted))
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
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
    fn networks_are_read_strictly() {
        for bad in ["", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "x/8"] {
            assert_eq!(bad.parse::<Network>(), Err(NotANetwork), "{bad}");
        }
        assert!(!"10.0.0.0/8".parse::<Network>().unwrap().contains("11.0.0.1".parse().unwrap()));
        assert!("::/0".parse::<Network>().unwrap().contains("2001:db8::1".parse().unwrap()));
        assert!(!"::/0".parse::<Network>().unwrap().contains("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn other_origins_need_to_be_named() {
        let cors = CorsOrigins(vec!["https://app.example".into()]);
        let page = HeaderValue::from_static("https://app.example");
        let other = HeaderValue::from_static("https://evil.example");
        let mut answer = HeaderMap::new();
        cors.allow(Some(&page), true, &mut answer);
        assert_eq!(answer[header::ACCESS_CONTROL_ALLOW_ORIGIN], page);
        assert!(answer[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().contains("x-requested-with"));
        let mut answer = HeaderMap::new();
        cors.allow(Some(&other), false, &mut answer);
        assert!(!answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
        let mut answer = HeaderMap::new();
        CorsOrigins::default().allow(Some(&page), false, &mut answer);
        assert!(answer.is_empty());
    }
}
