//! What the access tokens of well-known identity providers look like, as data.

/// What distinguishes an access token from an ID token or a logout token where `typ` in the header
/// does not say `at+jwt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessMark {
    /// Only by `typ` in the header.
    Typ,
    /// The payload has this member with this value.
    Value(&'static str, &'static str),
    /// The payload has one of these members.
    AnyOf(&'static [&'static str]),
}

/// The shape of a provider's access tokens. Of several names the first that a token has counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// The name in `ISSUERS_FILE`.
    pub name: &'static str,
    /// The positive mark of an access token.
    pub mark: AccessMark,
    /// The user.
    pub subject: &'static str,
    /// The session.
    pub session: Option<&'static str>,
    /// The token's identifier.
    pub token: Option<&'static str>,
    /// The OAuth client.
    pub client: &'static [&'static str],
    /// The granted scope.
    pub scope: &'static str,
    /// The claim that names the audience.
    pub audience: &'static str,
}

const RFC9068: Preset = Preset {
    name: "rfc9068",
    mark: AccessMark::Typ,
    subject: "sub",
    session: Some("sid"),
    token: Some("jti"),
    client: &["client_id"],
    scope: "scope",
    audience: "aud",
};

/// The presets. Without one an issuer's tokens are taken to follow RFC 9068.
pub const PRESETS: [Preset; 8] = [
    Preset { name: "keycloak", mark: AccessMark::Value("typ", "Bearer"), client: &["azp"], ..RFC9068 },
    Preset {
        name: "auth0",
        mark: AccessMark::AnyOf(&["scope", "gty", "permissions"]),
        session: None,
        client: &["azp", "client_id"],
        ..RFC9068
    },
    Preset {
        name: "cognito",
        mark: AccessMark::Value("token_use", "access"),
        session: Some("origin_jti"),
        audience: "client_id",
        ..RFC9068
    },
    Preset {
        name: "entra",
        mark: AccessMark::AnyOf(&["scp", "roles"]),
        subject: "oid",
        token: Some("uti"),
        client: &["azp", "appid"],
        scope: "scp",
        ..RFC9068
    },
    Preset {
        name: "supabase",
        mark: AccessMark::AnyOf(&["role"]),
        session: Some("session_id"),
        client: &[],
        ..RFC9068
    },
    Preset { name: "hydra", mark: AccessMark::AnyOf(&["scp", "client_id"]), session: None, scope: "scp", ..RFC9068 },
    Preset {
        name: "okta",
        mark: AccessMark::AnyOf(&["cid"]),
        session: None,
        client: &["cid"],
        scope: "scp",
        ..RFC9068
    },
    RFC9068,
];

/// The preset with this name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}
