//! Masks the password in a URL.

/// Query parameters whose names contain one of these are secret.
const SECRET_PARAMETERS: [&str; 4] = ["pass", "secret", "token", "key"];

/// Masks the password of a URL, before the last `@` or in the query. A password with unescaped `/`,
/// `?`, `#` or `@` is masked completely, and if its end is unclear also what follows.
pub fn mask_credentials(text: &str) -> String {
    if text.starts_with("sqlite:") {
        return text.to_owned();
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        // Not a URL: a password could be anywhere.
        return "***".to_owned();
    };
    let (masked, rest) = match rest.rsplit_once('@') {
        None => (String::new(), rest),
        Some((credentials, rest)) => match credentials.split_once(':') {
            Some((user, _)) if !user.contains(['/', '?']) => (format!("{user}:***@"), rest),
            _ => ("***@".to_owned(), rest),
        },
    };
    let rest = match rest.split_once('?') {
        None => rest.to_owned(),
        Some((path, query)) => {
            let shown: Vec<String> = query.split('&').map(mask_parameter).collect();
            format!("{path}?{}", shown.join("&"))
        }
    };
    format!("{scheme}://{masked}{rest}")
}

/// Masks a password in a setting that is not secret and need not be a URL.
pub fn mask_if_url(text: &str) -> String {
    let authority = text.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
    if authority.is_some_and(|authority| authority.contains('@')) { mask_credentials(text) } else { text.to_owned() }
}

fn mask_parameter(parameter: &str) -> String {
    let Some((name, _)) = parameter.split_once('=') else { return parameter.to_owned() };
    let lower = name.to_ascii_lowercase();
    let secret = SECRET_PARAMETERS.iter().any(|word| lower.contains(word));
    if secret { format!("{name}=***") } else { parameter.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_is_masked() {
        for (url, shown) in [
            ("redis://u:p@h:6379/0", "redis://u:***@h:6379/0"),
            ("redis://h:6379", "redis://h:6379"),
            ("redis://:p@h", "redis://:***@h"),
            ("redis+sentinel://p@a:1,b:2/service", "redis+sentinel://***@a:1,b:2/service"),
            ("sqlite:///var/lib/app.db?mode=rwc", "sqlite:///var/lib/app.db?mode=rwc"),
            ("postgres://app:p/w@h/db", "postgres://app:***@h/db"),
            ("postgres://app:p#w?x=1@h/db", "postgres://app:***@h/db"),
            ("postgres://app:p@w@h/db", "postgres://app:***@h/db"),
            ("postgres://h/db?user=app&password=p", "postgres://h/db?user=app&password=***"),
            ("postgres://h/db?sslpassword=p&sslmode=require", "postgres://h/db?sslpassword=***&sslmode=require"),
            ("app:p@h", "***"),
            ("sqlite://a/b@c", "sqlite://a/b@c"),
        ] {
            assert_eq!(mask_credentials(url), shown, "{url}");
        }
        for (text, shown) in [
            ("plain", "plain"),
            ("mailto:a@b", "mailto:a@b"),
            ("https://idp/@corp", "https://idp/@corp"),
            ("http://u:p@issuer/keys", "http://u:***@issuer/keys"),
        ] {
            assert_eq!(mask_if_url(text), shown);
        }
    }
}
