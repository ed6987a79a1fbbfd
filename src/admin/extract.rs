//! What a call carries, with the words for what is wrong with it.

use std::error::Error;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::problem::Problem;

/// A JSON object; no body at all is an empty one. The content type is not looked at: `curl -d` sends a
/// form's, and what keeps foreign pages out is the guard.
pub(super) struct Payload<T>(pub T);

/// The query, with unknown keys refused where the type says so.
pub(super) struct Asked<T>(pub T);

/// The service in the path.
pub(super) struct Name(pub String);

/// The migration in the path.
pub(super) struct Id(pub u64);

/// Whoever made the call, for those few that are pointless once nobody waits for them.
#[derive(Clone)]
pub(super) struct Caller(watch::Receiver<()>);

impl Caller {
    /// The caller waits for as long as the sender lives.
    pub fn waiting() -> (watch::Sender<()>, Self) {
        let (waiting, caller) = watch::channel(());
        (waiting, Self(caller))
    }

    /// Resolves once it no longer waits.
    pub async fn gone(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Payload<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|error| Problem::new(error.status(), error.body_text()))?;
        let object = body.trim_ascii();
        let object = if object.is_empty() { b"{}" } else { object };
        match Json::from_bytes(object) {
            // A list would be taken for the fields in their order.
            Ok(_) if !object.starts_with(b"{") => {
                let detail = "the body has to be a JSON object, such as {}";
                Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))
            }
            Ok(Json(payload)) => Ok(Self(payload)),
            Err(rejection) => {
                let detail = match &rejection {
                    JsonRejection::JsonSyntaxError(error) => format!("the body is no JSON: {}", cause(error)),
                    JsonRejection::JsonDataError(error) => cause(error),
                    other => other.body_text(),
                };
                Err(Problem::new(rejection.status(), detail))
            }
        }
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Query(asked) = Query::try_from_uri(&parts.uri).map_err(|rejection| {
            Problem::new(rejection.status(), format!("the query: {}", cause(&rejection)))
        })?;
        Ok(Self(asked))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        in_path(parts, state).await.map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        in_path(parts, state).await.map(Self)
    }
}

async fn in_path<S: Send + Sync, T: DeserializeOwned + Send>(
    parts: &mut Parts,
    state: &S,
) -> Result<T, Problem> {
    let found = Path::from_request_parts(parts, state).await;
    found
        .map(|Path(value)| value)
        .map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))
}

/// What the rejection wraps: it names the field, where the rejection only says that there is an error.
fn cause(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}
