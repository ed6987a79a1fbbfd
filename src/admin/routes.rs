//! The calls. Each one reads or changes [`Control`] and says what is now so.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, patch, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::extract::{Asked, Name, Payload};
use super::metrics::{self, BOUNDS, Format};
use super::migrations;
use super::problem::Problem;
use crate::control::{Control, ProcessStatus, ServiceStatus, SwitchoverRequest, TeeChange, TeeStatus};
use crate::migrate::switchover::Ended;
use crate::record::{Direction, ExportError, Side};
use crate::tee::compare::Pair;

type Shared = State<Arc<Control>>;
type Answer<T> = Result<Json<T>, Problem>;

const OPENAPI: &str = include_str!("openapi.json");

/// Pairs that are listed unless asked otherwise; a few hundred are remembered at all.
const PAIRS: usize = 50;

type Route = (&'static str, fn() -> MethodRouter<Arc<Control>>);

/// Every path, and what it answers.
pub(super) const ROUTES: [Route; 21] = [
    ("/healthz", || get(healthz)),
    ("/readyz", || get(readyz)),
    ("/metrics", || get(metrics)),
    ("/openapi.json", || get(openapi)),
    ("/v1/status", || get(status)),
    ("/v1/tee", || patch(stop_tees)),
    ("/v1/services", || get(services)),
    ("/v1/services/{service}", || get(service)),
    ("/v1/services/{service}/tee", || patch(change_tee)),
    ("/v1/services/{service}/latency", || get(latency)),
    ("/v1/services/{service}/pairs", || get(pairs)),
    ("/v1/services/{service}/switchover", || post(switchover)),
    ("/v1/services/{service}/rollback", || post(rollback)),
    ("/v1/migrations", || get(migrations::list).post(migrations::start)),
    ("/v1/migrations/{id}", || get(migrations::show)),
    ("/v1/migrations/{id}/approve", || post(migrations::approve)),
    // Whoever says yes to the switch says so at once or beforehand: both are an approval.
    ("/v1/migrations/{id}/switchover", || post(migrations::approve)),
    ("/v1/migrations/{id}/rollback", || post(migrations::roll_back)),
    ("/v1/migrations/{id}/retire", || post(migrations::retire)),
    ("/v1/migrations/{id}/cancel", || post(migrations::cancel)),
    ("/v1/migrations/{id}/events", || get(migrations::follow)),
];

pub(super) fn router() -> Router<Arc<Control>> {
    ROUTES.iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods()))
}

/// The process answers; whether callers should be sent here is another question.
async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn readyz(State(control): Shared) -> Answer<Value> {
    if control.is_ready() {
        return Ok(Json(json!({ "status": "ready" })));
    }
    let detail = "Segue is ending; callers belong elsewhere";
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).because("ending"))
}

async fn metrics(State(control): Shared, headers: HeaderMap) -> Result<Response, Problem> {
    let accepted = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let format = Format::accepted(accepted);
    let page = metrics::page(control.measure(&BOUNDS).await, format)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(CONTENT_TYPE, format.content_type())], page).into_response())
}

async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], OPENAPI)
}

async fn status(State(control): Shared) -> Json<ProcessStatus> {
    Json(control.status().await)
}

#[derive(Serialize)]
struct ServiceList {
    services: Vec<ServiceStatus>,
}

async fn services(State(control): Shared) -> Json<ServiceList> {
    Json(ServiceList { services: control.status().await.services })
}

async fn service(State(control): Shared, Name(name): Name) -> Answer<ServiceStatus> {
    control.service(&name).await.map(Json).ok_or_else(|| Problem::no_service(&name))
}

/// Answers how the tee is set from now on.
async fn change_tee(
    State(control): Shared,
    Name(name): Name,
    Payload(change): Payload<TeeChange>,
) -> Answer<TeeStatus> {
    control.change_tee(&name, change)?;
    let service = control.service(&name).await.ok_or_else(|| Problem::no_service(&name))?;
    Ok(Json(service.tee))
}

/// The one switch; what is absent stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    stopped: Option<bool>,
}

async fn stop_tees(State(control): Shared, Payload(switch): Payload<Switch>) -> Json<Value> {
    if let Some(stopped) = switch.stopped {
        control.stop_tees(stopped);
        tracing::info!(stopped, "the switch of all tees was set");
    }
    Json(json!({ "stopped": control.tees_are_stopped() }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LatencyQuery {
    #[serde(default)]
    format: LatencyFormat,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LatencyFormat {
    #[default]
    Summary,
    Hdr,
    Routes,
}

/// `HdrHistogram` V2 in base64 of the times to the last byte; `None` where nothing is recorded.
#[derive(Serialize)]
struct Exported {
    source: Option<String>,
    shadow: Option<String>,
}

#[derive(Serialize)]
struct ExportedService {
    service: String,
    #[serde(flatten)]
    forward: Exported,
    reverse: Exported,
}

async fn latency(
    State(control): Shared,
    Name(name): Name,
    Asked(query): Asked<LatencyQuery>,
) -> Result<Response, Problem> {
    match query.format {
        LatencyFormat::Summary => {
            let view = control.latency(&name).await.ok_or_else(|| Problem::no_service(&name))?;
            Ok(Json(view).into_response())
        }
        LatencyFormat::Routes => {
            let view = control.routes(&name).ok_or_else(|| Problem::no_service(&name))?;
            Ok(Json(view).into_response())
        }
        LatencyFormat::Hdr => {
            let forward = export(&control, &name, Direction::Forward).await?;
            let reverse = export(&control, &name, Direction::Reverse).await?;
            Ok(Json(ExportedService { service: name, forward, reverse }).into_response())
        }
    }
}

async fn export(control: &Control, name: &str, direction: Direction) -> Result<Exported, Problem> {
    let of = |side| async move {
        match control.export(name, side, direction).await.ok_or_else(|| Problem::no_service(name))? {
            Ok(histogram) => Ok(Some(histogram)),
            Err(ExportError::Empty) => Ok(None),
            Err(error) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        }
    };
    Ok(Exported { source: of(Side::Source).await?, shadow: of(Side::Shadow).await? })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PairsQuery {
    #[serde(default)]
    mismatched: bool,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct PairList {
    pairs: Vec<Pair>,
}

async fn pairs(
    State(control): Shared,
    Name(name): Name,
    Asked(query): Asked<PairsQuery>,
) -> Answer<PairList> {
    let pairs = control.pairs(&name, query.mismatched, query.limit.unwrap_or(PAIRS));
    pairs.map(|pairs| Json(PairList { pairs })).ok_or_else(|| Problem::no_service(&name))
}

async fn switchover(
    State(control): Shared,
    Name(name): Name,
    Payload(request): Payload<SwitchoverRequest>,
) -> Answer<Ended> {
    Ok(Json(control.switchover(&name, request).await?))
}

async fn rollback(
    State(control): Shared,
    Name(name): Name,
    Payload(request): Payload<SwitchoverRequest>,
) -> Answer<Ended> {
    Ok(Json(control.rollback(&name, request).await?))
}
