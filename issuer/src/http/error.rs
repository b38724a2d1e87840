//! The only table from errors to responses.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use sidegate_common::problem::{Code, MEDIA_TYPE, Problem};
use sidegate_common::revocation_state;
use sidegate_common::token::Rejection;
use sidegate_runtime::fault_log::FaultLog;

use super::fields::Invalid;
use crate::domain::login::LoginError;
use crate::domain::logout::LogoutError;
use crate::domain::refresh::RefreshError;
use crate::domain::revoke::RevokeError;
use crate::domain::traits::DependencyUnavailable;

/// Seconds after which a client may try again when a store is down.
const RETRY_STORE_SECONDS: &str = "1";
/// Seconds after which a client may try again when the password queue is full.
const RETRY_QUEUE_SECONDS: &str = "3";

/// Logs one line for a lasting fault, however many requests fail.
static FAULTS: FaultLog = FaultLog::new();

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request is malformed; the text names the field.
    Invalid(String),
    NotFound,
    MethodNotAllowed,
    TooLarge,
    UnsupportedMediaType,
    /// The access token of a protected route was rejected.
    Denied(Rejection),
    /// The access token cannot be checked now.
    CannotCheck(revocation_state::Unavailable),
    Login(LoginError),
    Refresh(RefreshError),
    Logout(LogoutError),
    Revoke(RevokeError),
    Unavailable(DependencyUnavailable),
    /// An internal error.
    Internal,
}

impl From<Invalid> for Failure {
    fn from(Invalid(detail): Invalid) -> Self {
        Self::Invalid(detail)
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Denied(rejection)
    }
}

impl From<DependencyUnavailable> for Failure {
    fn from(error: DependencyUnavailable) -> Self {
        Self::Unavailable(error)
    }
}

impl Failure {
    /// The problem for the client, and after how many seconds it may retry.
    fn problem(&self) -> (Problem, Option<&'static str>) {
        let plain = |code| (Problem::new(code), None);
        let down = || (Problem::new(Code::TemporarilyUnavailable), Some(RETRY_STORE_SECONDS));
        match self {
            Self::Invalid(detail) => (Problem::with_detail(Code::InvalidRequest, detail.as_str()), None),
            Self::NotFound => plain(Code::NotFound),
            Self::MethodNotAllowed => plain(Code::MethodNotAllowed),
            Self::TooLarge => (Problem::with_detail(Code::PayloadTooLarge, "the body is limited to 16 KiB"), None),
            Self::UnsupportedMediaType => {
                let detail = "send application/json or application/x-www-form-urlencoded, without Content-Encoding";
                (Problem::with_detail(Code::UnsupportedMediaType, detail), None)
            }
            Self::Denied(rejection) | Self::Logout(LogoutError::Access(rejection)) => plain(rejection.code()),
            Self::CannotCheck(why) => (Problem::new(why.code()), Some(RETRY_STORE_SECONDS)),
            Self::Login(LoginError::Refused { .. }) => plain(Code::InvalidCredentials),
            Self::Login(LoginError::Overloaded(_)) => {
                (Problem::new(Code::TemporarilyUnavailable), Some(RETRY_QUEUE_SECONDS))
            }
            Self::Refresh(
                RefreshError::NotAuthentic(_)
                | RefreshError::Refused { .. }
                | RefreshError::UserGone { .. }
                | RefreshError::Reused { .. },
            )
            | Self::Logout(LogoutError::Refresh(_) | LogoutError::Refused { .. } | LogoutError::Reused { .. }) => {
                plain(Code::InvalidGrant)
            }
            Self::Revoke(error @ (RevokeError::Unfit(_) | RevokeError::Foreign(_))) => {
                (Problem::with_detail(Code::InvalidRequest, error.to_string()), None)
            }
            Self::Login(LoginError::Unavailable(_))
            | Self::Refresh(RefreshError::Unavailable(_))
            | Self::Logout(LogoutError::Unavailable(_))
            | Self::Revoke(RevokeError::Unavailable(_))
            | Self::Unavailable(_) => down(),
            Self::Login(LoginError::Mint(_)) | Self::Refresh(RefreshError::Mint(_)) | Self::Internal => {
                plain(Code::Internal)
            }
        }
    }

    /// Logs the failure, if it is worth a line.
    fn log(&self) {
        let unavailable = match self {
            Self::Login(LoginError::Unavailable(error))
            | Self::Refresh(RefreshError::Unavailable(error))
            | Self::Logout(LogoutError::Unavailable(error))
            | Self::Revoke(RevokeError::Unavailable(error))
            | Self::Unavailable(error) => Some(error),
            Self::Login(LoginError::Mint(error)) | Self::Refresh(RefreshError::Mint(error)) => {
                tracing::error!(%error, "no token can be made for this user");
                None
            }
            Self::CannotCheck(why) => {
                if let Some(unlogged) = FAULTS.happened(why.code().name()) {
                    tracing::warn!(%why, unlogged, "cannot check a token");
                }
                None
            }
            _ => None,
        };
        if let Some(error) = unavailable
            && let Some(unlogged) = FAULTS.happened(&error.to_string())
        {
            tracing::warn!(%error, unlogged, "a dependency is down");
        }
    }

    /// The response.
    pub(super) fn into_response(self, request_id: &str) -> Response<Body> {
        self.log();
        let (mut problem, retry_after) = self.problem();
        problem.request_id = Some(request_id.to_owned());
        let mut response = Response::new(Body::from(problem.to_json()));
        *response.status_mut() =
            StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        // A 401 always carries a challenge, even without a token (RFC 9110 §15.5.2).
        let bare = || (problem.code.status() == 401).then(|| "Bearer".to_owned());
        let challenge = problem.code.challenge(None).or_else(bare);
        if let Some(challenge) = challenge.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
