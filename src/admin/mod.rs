//! The admin API: what can be seen and changed while callers are served, on a socket of its own.
//!
//! ```text
//! connection ─ guard (token; host and origin) ─ body, bounded ─ router ─ Control
//!                                                   answer or problem document
//! ```
//!
//! It runs on the control thread and shares nothing with the callers' path. A call is carried out to its
//! end even when whoever made it leaves: a scrape that is dropped half-way would lose the histograms that
//! the workers had handed over for it.

mod events;
mod extract;
mod guard;
mod metrics;
mod migrations;
mod problem;
mod routes;
mod server;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use self::extract::Caller;
use self::guard::Guard;
use self::problem::{Problem, render};
pub use self::server::Running;
use crate::config::Address;
use crate::control::Control;
use crate::net;

/// No call needs more than a few hundred bytes.
const MAX_BODY: usize = 64 << 10;
/// A body that is not here by then does not come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("the admin API cannot listen on {address}: {error}; is another process there?")]
    Bind { address: Address, error: std::io::Error },
    #[error("the admin socket cannot be served: {0}")]
    Socket(#[from] std::io::Error),
    #[error(
        "the admin API on {0} can be reached by others; set `admin.token`, or listen on loopback or unix:/PATH"
    )]
    Exposed(SocketAddr),
}

/// Serves the API on `listener`, a socket that listens already. Runs on a `LocalRuntime`, until the
/// returned handle is stopped or dropped.
pub fn serve(control: Arc<Control>, listener: OwnedFd, token: Option<&str>) -> Result<Running, AdminError> {
    let address = net::local_address(&listener)?;
    let guard = Guard::new(token, address)?;
    let listening = net::Listening::register(&listener)?;
    // What is polled is a duplicate.
    drop(listener);
    Ok(server::start(app(control, guard), listening, address))
}

/// Binds and serves what the settings say; `None` where they switch the API off.
pub fn open(control: &Arc<Control>) -> Result<Option<Running>, AdminError> {
    let settings = control.settings();
    let Some(address) = &settings.admin.listen else { return Ok(None) };
    let listener =
        net::bind(address).map_err(|error| AdminError::Bind { address: address.clone(), error })?;
    serve(Arc::clone(control), listener, settings.admin.token.as_deref()).map(Some)
}

fn app(control: Arc<Control>, guard: Guard) -> Router {
    routes::router().with_state(control).layer(middleware::from_fn_with_state(Arc::new(guard), around))
}

/// Around every call: who may, how much, and how errors look.
async fn around(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // Held for as long as the connection waits for the answer.
    let (_waiting, caller) = Caller::waiting();
    let response = match admit(&guard, request).await.map(|request| with(request, caller)) {
        Err(problem) => problem.into_response(),
        // A task of its own, so that it ends even when the connection does not wait for it.
        Ok(request) => tokio::spawn(next.run(request)).await.unwrap_or_else(|error| {
            tracing::error!(%error, %method, path, "an admin call failed");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the call failed; the log says more")
                .into_response()
        }),
    };
    let mut response = render(response, &method, &path);
    let headers = response.headers_mut();
    let fixed: [(HeaderName, &'static str); 2] =
        [(CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn with(mut request: Request, caller: Caller) -> Request {
    request.extensions_mut().insert(caller);
    request
}

/// The request with its whole body, if its caller may.
async fn admit(guard: &Guard, request: Request) -> Result<Request, Problem> {
    guard.check(request.uri(), request.headers())?;
    let (parts, body) = request.into_parts();
    let too_large =
        || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a body may have up to {MAX_BODY} bytes"));
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    let whole = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await;
    match whole {
        Ok(Ok(body)) => Ok(Request::from_parts(parts, Body::from(body.to_bytes()))),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            Err(Problem::new(StatusCode::BAD_REQUEST, format!("the body did not arrive whole: {error}")))
        }
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive within {BODY_TIMEOUT:?}"),
        )),
    }
}

#[cfg(test)]
mod tests;
