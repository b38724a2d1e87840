//! Protected routes: ordered rules with methods and a path pattern, and the requirement of each.
//!
//! The first matching rule decides; without one, a good token is needed. Every doubt is decided
//! towards *protected*: a protecting rule matches whatever the case of letters and with or without
//! a trailing slash, while a public rule matches exactly. An ambiguous path is never public, and
//! needs everything that any rule requires.

use crate::text::{is_scope_token, scope_covers};

use crate::path::{Ambiguity, canonical};

/// The most rules in a file.
pub const RULES_MAX: usize = 4096;

/// What a good token must have in addition. The default requires nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirement {
    /// Scope words, space separated; all are required.
    pub scope: String,
    /// Audiences; the token must name all of them.
    pub audiences: Vec<String>,
}

/// What a token lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// A scope word.
    Scope,
    /// An audience.
    Audience,
}

impl Shortfall {
    /// The detail of the error; `scope` is the required one.
    pub fn detail(self, scope: &str) -> String {
        match self {
            Self::Scope => format!("the access token lacks the scope {scope}"),
            Self::Audience => "the audience (aud) is not accepted".to_owned(),
        }
    }
}

impl Requirement {
    /// Checks a good token: its scope, and whether it names an audience.
    ///
    /// # Errors
    /// What is missing.
    pub fn met_by(&self, scope: Option<&str>, names: impl Fn(&str) -> bool) -> Result<(), Shortfall> {
        if !self.audiences.iter().all(|audience| names(audience)) {
            return Err(Shortfall::Audience);
        }
        if !scope_covers(scope, &self.scope) {
            return Err(Shortfall::Scope);
        }
        Ok(())
    }

    /// Adds the requirements of `other`.
    pub fn add(&mut self, other: &Self) {
        for word in other.scope.split(' ').filter(|word| !word.is_empty()) {
            if !scope_covers(Some(&self.scope), word) {
                if !self.scope.is_empty() {
                    self.scope.push(' ');
                }
                self.scope.push_str(word);
            }
        }
        for audience in &other.audiences {
            if !self.audiences.contains(audience) {
                self.audiences.push(audience.clone());
            }
        }
    }
}

/// Who may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every request.
    Public,
    /// A request with a good token that meets the requirement.
    Token(Requirement),
}

/// Why a request got its [`Access`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The rule with this number, counted from 1 in the file.
    Rule(usize),
    /// No rule matches.
    NoRule,
    /// The path is ambiguous.
    Ambiguous(Ambiguity),
}

/// Why a routes file is invalid: the rule, counted from 1, and the fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoutesError {
    /// Not TOML, or an unknown key.
    #[error("{0}")]
    Malformed(String),
    /// More than [`RULES_MAX`] rules.
    #[error("there are more than {RULES_MAX} rules")]
    TooMany,
    /// An invalid rule.
    #[error("rule {0}: {1}")]
    Rule(usize, String),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    route: Vec<FileRule>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    methods: Option<Vec<String>>,
    path: String,
    access: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    audience: Option<String>,
}

/// Who may pass, as a rule of a routes file or a proxy's own route says it.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessConfig {
    /// `public` or `authenticated`, the default.
    pub access: Option<String>,
    /// Required scopes.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// The required audience.
    pub audience: Option<String>,
}

impl AccessConfig {
    /// What it means. `audiences` are all that a token can have, where they are known.
    ///
    /// # Errors
    /// What cannot be meant.
    pub fn access(&self, audiences: Option<&[String]>) -> Result<Access, String> {
        let requirement = self.requirement(audiences)?;
        match self.access.as_deref() {
            None | Some("authenticated") => Ok(Access::Token(requirement)),
            Some("public") if requirement == Requirement::default() => Ok(Access::Public),
            Some("public") => Err("a public route cannot require scopes or an audience".to_owned()),
            Some(other) => Err(format!("access {other:?} is not public or authenticated")),
        }
    }

    fn requirement(&self, audiences: Option<&[String]>) -> Result<Requirement, String> {
        if let Some(word) = self.scopes.iter().find(|word| !is_scope_token(word)) {
            return Err(format!("scope {word:?} is not one word (RFC 6749, section 3.3); list each scope by itself"));
        }
        let impossible = |audience: &&String| audiences.is_some_and(|known| !known.contains(audience));
        if let Some(audience) = self.audience.as_ref().filter(impossible) {
            return Err(format!("audience {audience:?} is not in JWT_AUDIENCE, so no token could ever meet it"));
        }
        Ok(Requirement { scope: self.scopes.join(" "), audiences: self.audience.iter().cloned().collect() })
    }
}

#[derive(Clone, Debug)]
struct Rule {
    methods: Option<Vec<String>>,
    path: String,
    segments: Vec<Segment>,
    access: Access,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// `*`: exactly one segment.
    One,
    /// `**`, last: any number of segments.
    Rest,
}

/// All rules of a file, in order.
#[derive(Clone, Debug)]
pub struct Routes {
    rules: Vec<Rule>,
    no_rule: Access,
    strictest: Access,
}

impl Routes {
    /// Parses a routes file (TOML). `audiences` are those that this verifier accepts: a rule with
    /// another audience could never be met.
    ///
    /// # Errors
    /// The first invalid rule.
    pub fn parse(text: &str, audiences: &[String]) -> Result<Self, RoutesError> {
        Self::read(text, Some(audiences))
    }

    /// Parses a file where the audiences that the verifier accepts are not known.
    ///
    /// # Errors
    /// The first invalid rule.
    pub fn parse_for_any_audience(text: &str) -> Result<Self, RoutesError> {
        Self::read(text, None)
    }

    fn read(text: &str, audiences: Option<&[String]>) -> Result<Self, RoutesError> {
        let file: File = toml::from_str(text).map_err(|error| RoutesError::Malformed(error.to_string()))?;
        if file.route.len() > RULES_MAX {
            return Err(RoutesError::TooMany);
        }
        let mut strictest = Requirement::default();
        let mut rules = Vec::with_capacity(file.route.len());
        for (index, rule) in file.route.into_iter().enumerate() {
            let rule = Rule::new(rule, audiences).map_err(|problem| RoutesError::Rule(index + 1, problem))?;
            if let Access::Token(requirement) = &rule.access {
                strictest.add(requirement);
            }
            rules.push(rule);
        }
        Ok(Self { rules, no_rule: Access::Token(Requirement::default()), strictest: Access::Token(strictest) })
    }

    /// The number of rules.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// True if the file has no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Who may send `method` to `target`, a raw request target.
    pub fn access(&self, method: &str, target: &[u8]) -> (&Access, Why) {
        let path = match canonical(target) {
            Ok(path) => path,
            Err(ambiguity) => return (&self.strictest, Why::Ambiguous(ambiguity)),
        };
        match self.rules.iter().position(|rule| rule.matches(method, &path)) {
            Some(index) => (&self.rules[index].access, Why::Rule(index + 1)),
            None => (&self.no_rule, Why::NoRule),
        }
    }

    /// Describes the rule that `method` and `target` match, and its requirement.
    pub fn explain(&self, method: &str, target: &str) -> String {
        let (access, why) = self.access(method, target.as_bytes());
        let reason = match why {
            Why::Rule(number) => format!("rule {number} ({})", self.rules[number - 1].describe()),
            Why::NoRule => "no rule matches".to_owned(),
            Why::Ambiguous(ambiguity) => format!("the path is ambiguous: {ambiguity}"),
        };
        format!("{method} {target}: {}; {reason}", describe_access(access))
    }
}

fn describe_access(access: &Access) -> String {
    let Access::Token(requirement) = access else {
        return "public".to_owned();
    };
    let mut out = "needs a good token".to_owned();
    if !requirement.scope.is_empty() {
        out.push_str(&format!(" with scope \"{}\"", requirement.scope));
    }
    if !requirement.audiences.is_empty() {
        out.push_str(&format!(" for audience \"{}\"", requirement.audiences.join("\" and \"")));
    }
    out
}

impl Rule {
    fn new(rule: FileRule, audiences: Option<&[String]>) -> Result<Self, String> {
        let segments = pattern(&rule.path)?;
        let config = AccessConfig { access: rule.access, scopes: rule.scopes, audience: rule.audience };
        let access = config.access(audiences)?;
        if let Some(methods) = &rule.methods {
            let fit =
                |method: &String| !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
            if methods.is_empty() || !methods.iter().all(fit) {
                return Err("methods is not a list of methods in capitals, such as [\"GET\", \"POST\"]".to_owned());
            }
        }
        Ok(Self { methods: rule.methods, path: rule.path, segments, access })
    }

    fn describe(&self) -> String {
        self.methods
            .as_ref()
            .map_or_else(|| self.path.clone(), |methods| format!("{} {}", methods.join(","), self.path))
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        let opens = self.access == Access::Public;
        self.matches_method(method, opens) && matches_path(&self.segments, path, opens)
    }

    /// A rule for GET also matches HEAD.
    fn matches_method(&self, method: &str, opens: bool) -> bool {
        let Some(methods) = &self.methods else { return true };
        let same = |known: &str| if opens { known == method } else { known.eq_ignore_ascii_case(method) };
        let as_get =
            |known: &str| known == "GET" && if opens { method == "HEAD" } else { method.eq_ignore_ascii_case("HEAD") };
        methods.iter().any(|known| same(known) || as_get(known))
    }
}

fn pattern(path: &str) -> Result<Vec<Segment>, String> {
    match canonical(path.as_bytes()) {
        Ok(canonical) if canonical == path => {}
        Ok(canonical) => return Err(format!("path {path:?} must be written decoded: {canonical:?}")),
        Err(ambiguity) => return Err(format!("path {path:?} could never match: {ambiguity}")),
    }
    let words: Vec<&str> = path[1..].split('/').collect();
    let last = words.len() - 1;
    let segment = |(index, word): (usize, &&str)| match *word {
        "**" if index == last => Ok(Segment::Rest),
        "**" => Err(format!("path {path:?}: ** may only stand at the end")),
        "*" => Ok(Segment::One),
        word if word.contains('*') => Err(format!("path {path:?}: * must be a whole segment")),
        word => Ok(Segment::Literal(word.to_owned())),
    };
    words.iter().enumerate().map(segment).collect()
}

/// `path` is canonical. `opens`: the rule makes it public, so only an exact match counts.
fn matches_path(pattern: &[Segment], path: &str, opens: bool) -> bool {
    let mut words = path[1..].split('/');
    for segment in pattern {
        match (segment, words.next()) {
            (Segment::Rest, _) => return true,
            (Segment::One, Some(word)) if !word.is_empty() => {}
            (Segment::Literal(literal), Some(word)) if same_word(literal, word, opens) => {}
            // A rule that protects `/a/` also protects `/a`.
            (Segment::Literal(literal), None) => return literal.is_empty() && !opens,
            _ => return false,
        }
    }
    match words.next() {
        None => true,
        // A rule that protects `/a` also protects `/a/`.
        Some("") => !opens && words.next().is_none(),
        Some(_) => false,
    }
}

/// An application may fold case, or letters outside ASCII into others: a protecting rule matches
/// every such word.
fn same_word(literal: &str, word: &str, opens: bool) -> bool {
    if opens { literal == word } else { literal.eq_ignore_ascii_case(word) || could_fold_into(word, literal) }
}

/// Whether folding could turn `word` into `literal`: each letter outside ASCII may become any
/// letters, or none.
fn could_fold_into(word: &str, literal: &str) -> bool {
    if word.is_ascii() {
        return false;
    }
    let (word, literal): (Vec<char>, Vec<char>) = (word.chars().collect(), literal.chars().collect());
    let (mut at, mut in_literal) = (0, 0);
    // Where the last free letter was, and how much of the literal it has matched so far.
    let mut free: Option<(usize, usize)> = None;
    while in_literal < literal.len() {
        match word.get(at) {
            Some(letter) if !letter.is_ascii() => {
                free = Some((at, in_literal));
                at += 1;
            }
            Some(letter) if letter.eq_ignore_ascii_case(&literal[in_literal]) => {
                at += 1;
                in_literal += 1;
            }
            _ => {
                let Some((letter, taken)) = free else { return false };
                free = Some((letter, taken + 1));
                (at, in_literal) = (letter + 1, taken + 1);
            }
        }
    }
    word[at..].iter().all(|letter| !letter.is_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[[route]]
path = "/admin/**"
scopes = ["admin"]

[[route]]
methods = ["GET"]
path = "/health"
access = "public"

[[route]]
path = "/billing/*/invoice"
audience = "billing"

[[route]]
methods = ["DELETE"]
path = "/public/**"

[[route]]
path = "/public/**"
access = "public"

[[route]]
path = "/"
access = "public"
"#;

    fn routes() -> Routes {
        Routes::parse(FILE, &["sidegate".into(), "billing".into()]).unwrap()
    }

    fn rule(method: &str, target: &str) -> Why {
        routes().access(method, target.as_bytes()).1
    }

    #[test]
    fn first_matching_rule_decides() {
        assert_eq!(rule("GET", "/public/a/b?x=1"), Why::Rule(5));
        assert_eq!(rule("DELETE", "/public/a"), Why::Rule(4));
        assert_eq!(rule("GET", "/health"), Why::Rule(2));
        assert_eq!(rule("HEAD", "/health"), Why::Rule(2));
        assert_eq!(rule("POST", "/health"), Why::NoRule);
        assert_eq!(rule("GET", "/billing/7/invoice"), Why::Rule(3));
        assert_eq!(rule("GET", "/billing//invoice"), Why::Ambiguous(Ambiguity::EmptySegment));
        assert_eq!(rule("GET", "/billing/7/8/invoice"), Why::NoRule);
        assert_eq!(rule("GET", "/"), Why::Rule(6));
        assert_eq!(rule("GET", "/other"), Why::NoRule);
    }

    #[test]
    fn protecting_rules_match_widely_and_public_ones_exactly() {
        for target in ["/admin", "/admin/", "/ADMIN/x", "/%41dmin/x", "/\u{ff41}dmin"] {
            assert_eq!(rule("GET", target), Why::Rule(1), "{target}");
        }
        for (method, target) in [("GET", "/HEALTH"), ("GET", "/health/"), ("get", "/health"), ("GET", "/Public/x")] {
            assert_eq!(rule(method, target), Why::NoRule, "{method} {target}");
        }
        assert_eq!(rule("delete", "/public/x"), Why::Rule(4));
        assert_eq!(rule("GET", "/public"), Why::Rule(5));
    }

    #[test]
    fn foldable_letters_match_protecting_rules() {
        for word in
            ["\u{ff41}dmin", "adm\u{131}n", "ad\u{2098}in", "\u{ff41}\u{ff44}\u{ff4d}\u{ff49}\u{ff4e}", "ADM\u{130}N"]
        {
            assert!(could_fold_into(word, "admin"), "{word}");
        }
        assert!(could_fold_into("of\u{fb01}ce", "office"), "one letter may become two");
        for word in ["über", "admin", "\u{e9}admins", "adminé1", "bé"] {
            assert!(!could_fold_into(word, "admin"), "{word}");
        }
    }

    #[test]
    fn ambiguous_path_needs_the_sum_of_all_rules() {
        let routes = routes();
        let (access, _) = routes.access("GET", b"/public/..;/admin");
        let strictest = Requirement { scope: "admin".into(), audiences: vec!["billing".into()] };
        assert_eq!(access, &Access::Token(strictest));
    }

    #[test]
    fn requirements_check_scope_and_audience() {
        let ask = |scope: &str, audiences: &[&str]| {
            let audiences = audiences.iter().map(|audience| (*audience).to_owned()).collect();
            Requirement { scope: scope.into(), audiences }.met_by(Some("read write"), |name| ["a", "b"].contains(&name))
        };
        assert_eq!(ask("", &[]), Ok(()));
        assert_eq!(ask("write read", &["a", "b"]), Ok(()));
        assert_eq!(ask("admin", &[]), Err(Shortfall::Scope));
        assert_eq!(ask("admin", &["c"]), Err(Shortfall::Audience));
    }

    #[test]
    fn errors_name_the_rule() {
        let refused = |text: &str| Routes::parse(text, &["sidegate".into()]).unwrap_err().to_string();
        let one = |line: &str| refused(&format!("[[route]]\n{line}\n"));
        assert!(one("path = \"a\"").starts_with("rule 1: "));
        assert!(one("path = \"/a/../b\"").contains("dot segment"));
        assert!(one("path = \"/%61\"").contains("must be written decoded: \"/a\""));
        assert!(one("path = \"/**/a\"").contains("at the end"));
        assert!(one("path = \"/a*\"").contains("whole segment"));
        assert!(one("path = \"/\"\naccess = \"open\"").contains("public or authenticated"));
        assert!(one("path = \"/\"\naccess = \"public\"\nscopes = [\"a\"]").contains("cannot require scopes"));
        assert!(one("path = \"/\"\nscopes = [\"a b\"]").contains("is not one word"));
        assert!(one("path = \"/\"\naudience = \"x\"").contains("JWT_AUDIENCE"));
        assert!(one("path = \"/\"\nmethods = [\"get\"]").contains("capitals"));
        assert!(one("path = \"/\"\nmethods = []").contains("capitals"));
        assert!(one("path = \"/\"\nscope = \"a\"").contains("scope"), "a mistyped key is an error");
        assert!(refused("[[routes]]\npath = \"/\"").contains("routes"));
    }

    #[test]
    fn explain_describes_rule_and_requirement() {
        let routes = routes();
        assert_eq!(routes.explain("GET", "/public/x"), "GET /public/x: public; rule 5 (/public/**)");
        assert!(routes.explain("GET", "/admin/x").contains("with scope \"admin\""));
        assert!(routes.explain("GET", "/a//b").contains("ambiguous"));
        assert!(routes.explain("GET", "/x").ends_with("needs a good token; no rule matches"));
    }
}
