//! A client's own identity headers never reach the application; the verifier's always do.

use sidegate_tests::daemon::good;
use sidegate_tests::proxies::{IDENTITY, Proxy};
use sidegate_tests::talk::Talk;

use crate::scenario::reached_in;

/// Spellings of `name` that a CGI-like application could fold into it: in lower case, upper case
/// and both, with every separator that a header name may contain (RFC 9110 §5.6.2) for each hyphen.
pub fn aliases(name: &str) -> Vec<String> {
    let mut spelled =
        vec![name.replace('-', ""), format!("{name}-"), name.replace('-', "--"), name.replacen('-', "", 1)];
    spelled.extend("!#$%&'*+-.^_`|~".chars().map(|by| name.replace('-', &by.to_string())));
    for by in ["_", ".", "!"] {
        spelled.push(name.replacen('-', by, 1));
        spelled.extend(name.rfind('-').map(|at| format!("{}{by}{}", &name[..at], &name[at + 1..])));
    }
    let mixed = |text: &str| {
        let letters = text.chars().enumerate();
        letters.map(|(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect::<String>()
    };
    let cased = |(at, text): (usize, String)| [text.clone(), text.to_ascii_uppercase(), mixed(&text)][at % 3].clone();
    let mut out: Vec<String> = spelled.into_iter().enumerate().map(cased).collect();
    out.extend([name.to_owned(), name.to_ascii_uppercase(), mixed(name)]);
    out
}

/// A request with a forged header passes under the right name, or is refused; the header does not
/// reach the application. `protected` and `public` are paths.
pub async fn removes_what_clients_make_up(proxy: &Proxy, protected: &str, public: Option<&str>) {
    let authorization = format!("Authorization: Bearer {}\r\n", good("alice"));
    let protected = [(protected, authorization.as_str(), "alice")];
    for (target, authorization, subject) in protected.into_iter().chain(public.map(|path| (path, "", "-"))) {
        let mut stream = Talk::connect(&proxy.at).await;
        for name in IDENTITY.into_iter().chain(["x-auth-stale"]) {
            for alias in aliases(name) {
                let spoofed = format!("{alias}: mallory\r\n{alias}: mallory\r\n");
                let request = format!("GET {target} HTTP/1.1\r\nHost: app\r\n{authorization}{spoofed}\r\n");
                let status = match stream.try_ask(request.as_bytes()).await {
                    Ok(status) => status,
                    // A proxy that refuses the head as malformed may close.
                    Err(_) => {
                        stream = Talk::connect(&proxy.at).await;
                        stream.try_ask(request.as_bytes()).await.unwrap_or(400)
                    }
                };
                if alias.eq_ignore_ascii_case(name) {
                    assert_eq!(status, 200, "{target}: {alias} itself is replaced");
                }
                if status != 200 {
                    assert!([400, 403].contains(&status), "{target}: {alias}: {status}");
                    stream = Talk::connect(&proxy.at).await;
                    continue;
                }
                let seen: serde_json::Value = serde_json::from_slice(stream.body()).unwrap();
                assert!(!reached_in(&seen, name).contains(&"mallory".to_owned()), "{target}: {alias} survived: {seen}");
                assert_eq!(reached_in(&seen, "x-auth-subject"), [subject], "{target}: {alias}");
            }
        }
    }
}

/// `Connection` names headers that the next hop must not receive (RFC 9110 §7.6.1): not ours.
pub async fn keeps_identity_whatever_connection_names(proxy: &Proxy, path: &str) {
    let token = good("alice");
    let all = IDENTITY.join(", ");
    let named = IDENTITY.into_iter().chain([all.as_str()]);
    for (name, also) in named.flat_map(|name| ["", "keep-alive, ", "close, ", "upgrade, "].map(|also| (name, also))) {
        for upgrade in ["", "Upgrade: h2c\r\n"] {
            let mut stream = Talk::connect(&proxy.at).await;
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: app\r\nAuthorization: Bearer {token}\r\nConnection: {also}{name}\r\n{upgrade}\r\n"
            );
            // Envoy answers 403 to unknown upgrades.
            let status = stream.ask(request.as_bytes()).await;
            if status != 200 && !upgrade.is_empty() {
                assert!([400, 403].contains(&status), "{also}{name}: {status}");
                continue;
            }
            assert_eq!(status, 200, "Connection: {also}{name}");
            let seen: serde_json::Value = serde_json::from_slice(stream.body()).unwrap();
            for header in IDENTITY {
                assert_eq!(reached_in(&seen, header).len(), 1, "{header} after Connection: {also}{name}: {seen}");
            }
            assert_eq!(reached_in(&seen, "x-auth-subject"), ["alice"], "Connection: {also}{name}");
            let options = reached_in(&seen, "connection").join(",").to_ascii_lowercase();
            assert!(!options.contains("x-auth"), "the next hop would drop it: {options}");
        }
    }
}
