//! Errors as RFC 9457 problem documents, written in one place: handlers and the router only say what is
//! wrong, [`render`] makes the document and knows which call it was.

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::control::{MigrationError, TeeError};
use crate::instance::ProviderError;
use crate::migrate::switchover::Refused;

/// What went wrong with a call.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub status: StatusCode,
    pub detail: String,
    /// A stable word for programs, where the status alone does not tell.
    pub reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), reason: None }
    }

    pub fn because(self, reason: &'static str) -> Self {
        Self { reason: Some(reason), ..self }
    }

    pub fn no_service(name: &str) -> Self {
        let detail = format!("there is no service `{name}`; GET /v1/services lists them");
        Self::new(StatusCode::NOT_FOUND, detail).because("no_service")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Turns an error into its document; any other response passes.
pub(super) fn render(mut response: Response, method: &Method, path: &str) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let problem = response
        .extensions_mut()
        .remove::<Problem>()
        .unwrap_or_else(|| Problem::new(status, by_router(status, method, path)));
    let document = Document {
        r#type: "about:blank",
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        detail: &problem.detail,
        instance: path,
        reason: problem.reason,
    };
    let body = serde_json::to_vec(&document).unwrap_or_default();
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"segue\""));
    }
    *response.body_mut() = Body::from(body);
    response
}

/// The router's own errors carry no words.
fn by_router(status: StatusCode, method: &Method, path: &str) -> String {
    match status {
        StatusCode::NOT_FOUND => format!("there is nothing at {path}; GET /openapi.json lists what there is"),
        StatusCode::METHOD_NOT_ALLOWED => format!("{path} has no {method}; see the `Allow` header"),
        _ => "the call failed".to_owned(),
    }
}

impl From<TeeError> for Problem {
    fn from(error: TeeError) -> Self {
        let detail = error.to_string();
        match error {
            TeeError::NoService(name) => Self::no_service(&name),
            TeeError::NoPercent(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
            TeeError::Above(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail).because("above_5_percent")
            }
            TeeError::SessionKey(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail),
        }
    }
}

/// It could not start, so nothing has changed.
impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let reason = match &refused {
            Refused::NoService(name) => return Self::no_service(name),
            Refused::AlreadyActive(_) => "already_active",
            Refused::NoShadow => "no_shadow",
            Refused::Migrating(_) => "migration_under_way",
            Refused::Busy => "busy",
            Refused::Ending => "ending",
            Refused::NotReachable { .. } => "not_reachable",
            Refused::Store(_) => "store",
        };
        Self::new(StatusCode::CONFLICT, refused.to_string()).because(reason)
    }
}

impl From<MigrationError> for Problem {
    fn from(error: MigrationError) -> Self {
        let (status, reason) = match &error {
            MigrationError::NoService(name) => return Self::no_service(name),
            MigrationError::NoMigration(_) => (StatusCode::NOT_FOUND, "no_migration"),
            MigrationError::UnderWay(_) => (StatusCode::CONFLICT, "under_way"),
            MigrationError::Bad(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad"),
            MigrationError::NotNow(_) => (StatusCode::CONFLICT, "not_now"),
            MigrationError::Ending => (StatusCode::CONFLICT, "ending"),
            MigrationError::Provider(ProviderError::Unavailable { .. }) => {
                (StatusCode::SERVICE_UNAVAILABLE, "provider")
            }
            MigrationError::Provider(_) => (StatusCode::BAD_GATEWAY, "provider"),
            MigrationError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "store"),
        };
        Self::new(status, error.to_string()).because(reason)
    }
}
