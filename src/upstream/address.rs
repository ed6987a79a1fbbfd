//! A request's target and connection headers as HTTP/2 wants them; HTTP/1.1 writes them as it needs them.

use http::header::{CONNECTION, HOST};
use http::uri::PathAndQuery;
use http::{Request, Uri, Version};

use super::endpoint::Endpoint;
use super::lease::SendFault;
use crate::config::Scheme;

/// HTTP/2: the host moves into `:authority`.
pub(super) fn for_h2<B>(request: &mut Request<B>, endpoint: &Endpoint) -> Result<(), SendFault> {
    let host = request.headers_mut().remove(HOST).unwrap_or_else(|| endpoint.authority.clone());
    request.headers_mut().remove(CONNECTION);
    let uri = Uri::builder()
        .scheme(if endpoint.scheme == Scheme::Https { "https" } else { "http" })
        .authority(host.as_bytes())
        .path_and_query(target(request))
        .build()
        .map_err(|_| SendFault::BadAuthority)?;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    Ok(())
}

fn target<B>(request: &Request<B>) -> PathAndQuery {
    request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
}
