//! Spellings of one protected path, for tests that none of them is ever public.

/// Everything is public but one folder, the most permissive case of a routes file.
pub const ROUTES: &str = r#"
[[route]]
path = "/admin/**"
[[route]]
path = "/**"
access = "public"
"#;

/// Spellings that some program reads as `/admin/users`.
pub fn corpus() -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let plain = ["/admin", "/admin/", "/admin/users", "/admin/users/", "/admin/users?x=/public", "/admin?"];
    out.extend(plain.map(str::to_owned));
    // Case, and percent-encoded letters.
    for admin in ["ADMIN", "Admin", "aDMIN", "%61dmin", "%61%64%6d%69%6e", "%41DMIN", "adm%69n", "adm%49n"] {
        out.extend([
            format!("/{admin}"),
            format!("/{admin}/"),
            format!("/{admin}/users"),
            format!("/{admin}/users?q=1"),
        ]);
    }
    // Paths out of a public folder.
    let dots = [
        "..",
        "%2e%2e",
        "%2E%2e",
        ".%2e",
        "%2e.",
        "%252e%252e",
        "%c0%ae%c0%ae",
        "%e0%80%ae%e0%80%ae",
        "..;",
        "..;x=1",
        "..%00",
        "..%20",
    ];
    let slashes = ["/", "%2f", "%2F", "\\", "%5c", "%5C", "%252f", "%c0%af", "%e0%80%af", "//", "/./", ";/", "%00/"];
    for dot in dots {
        for slash in slashes {
            out.push(format!("/public/{dot}{slash}admin/users"));
        }
    }
    // Doubled, hidden and truncated.
    for before in [
        "//",
        "///",
        "/./",
        "/%2e/",
        "/.//",
        "/;/",
        "/;x/",
        "/%3b/",
        "/\\",
        "/%5c",
        "/%2f",
        "/%252f",
        "/x/../",
        "/x/%2e%2e/",
        "/%09/",
        "/%0a",
    ] {
        for path in ["admin", "admin/users"] {
            out.push(format!("{before}{path}"));
        }
    }
    for after in [
        ";",
        ";x",
        ";x=1",
        ";/",
        "%3b",
        "%3Bx",
        ".",
        "..",
        "/.",
        "/..",
        "/./users",
        "//users",
        "%20",
        "%2e",
        "#",
        "#x",
        "%23",
        "%3f",
        "%3fx",
        "%00",
        "%00.html",
        "%09",
        "%0d%0a",
        "\\",
        "%5c",
        "%2f",
        "%2fusers",
        "%5cusers",
        "%252fusers",
        "%",
        "%2",
        "%zz",
        "%u002f",
        "/%c0%af",
        "%ff",
    ] {
        out.push(format!("/admin{after}"));
    }
    out
}

/// Whole request targets that are not plain paths.
pub const NOT_PATHS: [&str; 8] = ["", "*", "admin", "admin/users", "http://h/admin", "//h/admin", "?/admin", "\\admin"];
