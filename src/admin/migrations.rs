//! Calls about migrations. Each says what the migration is like once the call has been heard.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::events::{self, Streams};
use super::extract::{Caller, Id, Payload};
use super::problem::Problem;
use crate::control::{Control, MigrationError, MigrationRequest, MigrationView};

type Shared = State<Arc<Control>>;
type Answer<T> = Result<Json<T>, Problem>;

#[derive(Serialize)]
pub(super) struct MigrationList {
    migrations: Vec<MigrationView>,
}

/// An empty object, or nothing: what is asked for is in the path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoOptions {}

pub(super) async fn start(
    State(control): Shared,
    Extension(caller): Extension<Caller>,
    Payload(request): Payload<MigrationRequest>,
) -> Result<Response, Problem> {
    if let Some(depth) = request.dry_run {
        return tokio::select! {
            found = control.try_migration(request, depth) => Ok(Json(found?).into_response()),
            // It ends with whoever waits for it, and nobody reads this.
            () = caller.gone() => Err(MigrationError::Ending.into()),
        };
    }
    let view = control.start_migration(request).await?;
    let location = [(LOCATION, format!("/v1/migrations/{}", view.id))];
    Ok((StatusCode::CREATED, location, Json(view)).into_response())
}

pub(super) async fn list(State(control): Shared) -> Answer<MigrationList> {
    Ok(Json(MigrationList { migrations: control.migrations().await? }))
}

pub(super) async fn show(State(control): Shared, Id(id): Id) -> Answer<MigrationView> {
    Ok(Json(existing(&control, id).await?))
}

pub(super) async fn approve(
    State(control): Shared,
    Id(id): Id,
    Payload(NoOptions {}): Payload<NoOptions>,
) -> Answer<MigrationView> {
    Ok(Json(control.approve_migration(id).await?))
}

pub(super) async fn retire(
    State(control): Shared,
    Id(id): Id,
    Payload(NoOptions {}): Payload<NoOptions>,
) -> Answer<MigrationView> {
    Ok(Json(control.retire_source(id).await?))
}

pub(super) async fn roll_back(
    State(control): Shared,
    Id(id): Id,
    Payload(NoOptions {}): Payload<NoOptions>,
) -> Answer<MigrationView> {
    Ok(Json(control.roll_back_migration(id).await?))
}

pub(super) async fn cancel(
    State(control): Shared,
    Id(id): Id,
    Payload(NoOptions {}): Payload<NoOptions>,
) -> Answer<MigrationView> {
    Ok(Json(control.cancel_migration(id).await?))
}

/// The journal as it grows, from the entry after the one that the client has seen.
pub(super) async fn follow(
    State(control): Shared,
    Id(id): Id,
    streams: Streams,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let seen = events::last_seen(&headers)?;
    let view = existing(&control, id).await?;
    // A browser asks again and again when a stream ends, until it is told that there is no more.
    if view.over && seen > 0 && control.migration_events(id, seen).await?.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    events::stream(control, id, seen, streams)
}

async fn existing(control: &Control, id: u64) -> Result<MigrationView, MigrationError> {
    control.migration(id).await?.ok_or(MigrationError::NoMigration(id))
}
