//! The OpenAPI 3.1 description of the public listener, from tables that a test compares with the
//! router.

use serde_json::{Map, Value, json};
use sidegate_common::problem::{Code, MEDIA_TYPE};

/// The credentials that an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Anyone,
    Bearer,
    /// A bearer token, or a refresh token in the body.
    BearerOrBody,
}

/// One operation.
struct Operation {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    access: Access,
    /// The schema of the body, and whether a form is accepted as well as JSON.
    body: Option<(&'static str, bool)>,
    /// Status, description, and the schema of the body.
    success: (u16, &'static str, Option<&'static str>),
    failures: &'static [Code],
}

const OPERATIONS: [Operation; 8] = [
    Operation {
        method: "post",
        path: "/auth/login",
        summary: "Log in with email and password",
        access: Access::Anyone,
        body: Some(("Login", true)),
        success: (200, "A new session", Some("TokenPair")),
        failures: &[
            Code::InvalidRequest,
            Code::InvalidCredentials,
            Code::PayloadTooLarge,
            Code::UnsupportedMediaType,
            Code::TemporarilyUnavailable,
            Code::Internal,
        ],
    },
    Operation {
        method: "post",
        path: "/auth/refresh",
        summary: "Exchange a refresh token for a new pair",
        access: Access::Anyone,
        body: Some(("Refresh", true)),
        success: (
            200,
            "A new pair of tokens; a retry with the same refresh token gets the same pair",
            Some("TokenPair"),
        ),
        failures: &[
            Code::InvalidRequest,
            Code::InvalidGrant,
            Code::PayloadTooLarge,
            Code::UnsupportedMediaType,
            Code::TemporarilyUnavailable,
            Code::Internal,
        ],
    },
    Operation {
        method: "post",
        path: "/auth/logout",
        summary: "End sessions; their access tokens stop working everywhere",
        access: Access::BearerOrBody,
        body: Some(("Logout", false)),
        success: (204, "Ended, and the revocation is stored", None),
        failures: &[
            Code::InvalidRequest,
            Code::TokenMissing,
            Code::PayloadTooLarge,
            Code::UnsupportedMediaType,
            Code::TemporarilyUnavailable,
            Code::Internal,
        ],
    },
    Operation {
        method: "get",
        path: "/auth/me",
        summary: "The claims of the caller's token",
        access: Access::Bearer,
        body: None,
        success: (200, "The claims", Some("Claims")),
        failures: &[Code::TokenMissing, Code::TemporarilyUnavailable, Code::Internal],
    },
    Operation {
        method: "get",
        path: "/auth/sessions",
        summary: "The caller's live sessions",
        access: Access::Bearer,
        body: None,
        success: (200, "A page of sessions, most recently used first", Some("Sessions")),
        failures: &[Code::InvalidRequest, Code::TokenMissing, Code::TemporarilyUnavailable, Code::Internal],
    },
    Operation {
        method: "delete",
        path: "/auth/sessions/{sid}",
        summary: "End one of the caller's sessions",
        access: Access::Bearer,
        body: None,
        success: (204, "Ended, and the revocation is stored", None),
        failures: &[Code::TokenMissing, Code::NotFound, Code::TemporarilyUnavailable, Code::Internal],
    },
    Operation {
        method: "get",
        path: "/.well-known/jwks.json",
        summary: "The public keys of access tokens",
        access: Access::Anyone,
        body: None,
        success: (200, "A JWK set (RFC 7517)", Some("JwkSet")),
        failures: &[Code::Internal],
    },
    Operation {
        method: "get",
        path: "/openapi.json",
        summary: "This description",
        access: Access::Anyone,
        body: None,
        success: (200, "OpenAPI 3.1", Some("Any")),
        failures: &[Code::Internal],
    },
];

/// The methods and paths described, for the test that compares them with the router.
pub fn operations() -> impl Iterator<Item = (&'static str, &'static str)> {
    OPERATIONS.iter().map(|operation| (operation.method, operation.path))
}

/// The whole document.
pub fn document() -> Value {
    let mut paths = Map::new();
    for operation in &OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = operation.describe();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sidegate issuer",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Logins with access tokens that can be revoked within milliseconds.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
            "schemas": schemas(),
        },
    })
}

impl Operation {
    fn describe(&self) -> Value {
        let (status, meaning, schema) = self.success;
        let mut responses = Map::new();
        let mut success = json!({"description": meaning});
        if let Some(schema) = schema {
            success["content"] = json!({self.media_type(): {"schema": reference(schema)}});
        }
        responses.insert(status.to_string(), success);
        for code in self.failures {
            let answer = responses.entry(code.status().to_string()).or_insert_with(|| failure(*code));
            if matches!(code, Code::TemporarilyUnavailable) {
                answer["headers"] = json!({"Retry-After": {"schema": {"type": "string"}}});
            }
            if matches!(code, Code::TokenMissing) {
                answer["headers"] = json!({"WWW-Authenticate": {"schema": {"type": "string"}}});
            }
        }
        let mut described = json!({
            "operationId": format!("{}{}", self.method, self.path.replace(['/', '.', '{', '}', '-'], "_")),
            "summary": self.summary,
            "responses": responses,
        });
        match self.access {
            Access::Anyone => {}
            Access::Bearer => described["security"] = json!([{"bearer": []}]),
            Access::BearerOrBody => described["security"] = json!([{"bearer": []}, {}]),
        }
        if let Some((schema, required)) = self.body {
            let content = json!({"schema": reference(schema)});
            described["requestBody"] = json!({
                "required": required,
                "content": {"application/json": content, "application/x-www-form-urlencoded": {
                    "schema": reference(if schema == "Login" { "LoginForm" } else { schema }),
                }},
            });
        }
        if self.path.contains("{sid}") {
            described["parameters"] = json!([
                {"name": "sid", "in": "path", "required": true, "schema": {"type": "string"}},
            ]);
        }
        if self.path == "/auth/sessions" {
            described["parameters"] = json!([
                {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 100}},
                {"name": "after", "in": "query", "description": "`next` of the previous page", "schema": {"type": "string"}},
            ]);
        }
        described
    }

    fn media_type(&self) -> &'static str {
        if self.path.ends_with("jwks.json") { "application/jwk-set+json" } else { "application/json" }
    }
}

fn failure(code: Code) -> Value {
    json!({"description": code.title(), "content": {MEDIA_TYPE: {"schema": reference("Problem")}}})
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({"type": "object", "required": required, "properties": properties})
}

fn schemas() -> Value {
    let text = || json!({"type": "string"});
    let number = || json!({"type": "integer"});
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.name()).collect();
    let session = object(
        &["sid", "created", "refreshed", "ends", "address", "agent", "current"],
        json!({
            "sid": text(), "created": number(), "refreshed": number(), "ends": number(),
            "address": text(), "agent": text(), "current": {"type": "boolean"},
        }),
    );
    json!({
        "Any": {"type": "object"},
        "Login": object(&["email", "password"], json!({"email": text(), "password": {"type": "string", "format": "password"}})),
        "LoginForm": object(&["username", "password"], json!({"username": text(), "password": {"type": "string", "format": "password"}})),
        "Refresh": object(&["refresh_token"], json!({"refresh_token": text()})),
        "Logout": object(&[], json!({
            "refresh_token": text(),
            "scope": {"type": "string", "enum": ["local", "others", "global"], "default": "local"},
        })),
        "TokenPair": object(
            &["access_token", "refresh_token", "token_type", "expires_in"],
            json!({
                "access_token": text(), "refresh_token": text(), "token_type": {"const": "bearer"},
                "expires_in": number(),
            }),
        ),
        "Claims": object(
            &["iss", "aud", "sub", "client_id", "iat", "exp", "jti", "sid"],
            json!({
                "iss": text(), "aud": {}, "sub": text(), "client_id": text(), "iat": number(), "exp": number(),
                "jti": text(), "sid": text(), "scope": text(),
            }),
        ),
        "Sessions": object(&["sessions"], json!({
            "sessions": {"type": "array", "items": session},
            "next": {"type": "string", "description": "where the next page begins; absent on the last one"},
        })),
        "JwkSet": object(&["keys"], json!({"keys": {"type": "array", "items": {"type": "object"}}})),
        "Problem": object(
            &["type", "title", "status", "detail", "error", "error_description", "code"],
            json!({
                "type": text(), "title": text(), "status": number(), "detail": text(), "instance": text(),
                "error": text(), "error_description": text(), "code": {"type": "string", "enum": codes},
            }),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_resolves() {
        let document = document();
        let mut seen = 0;
        let mut rest = vec![&document];
        while let Some(value) = rest.pop() {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(to)) = members.get("$ref") {
                        let pointer = to.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{to}");
                        seen += 1;
                    }
                    rest.extend(members.values());
                }
                Value::Array(items) => rest.extend(items),
                _ => {}
            }
        }
        assert!(seen > 20);
    }

    #[test]
    fn operation_ids_are_distinct() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let ids: Vec<_> = paths.values().flat_map(|path| path.as_object().unwrap().values()).collect();
        let ids: std::collections::HashSet<_> = ids.iter().map(|one| one["operationId"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), OPERATIONS.len());
    }
}
