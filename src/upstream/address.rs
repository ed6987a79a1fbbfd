//! A request's target and connection headers, for the protocol of the connection it goes out on.

use http::header::{CONNECTION, HOST, HeaderValue, TE};
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

/// HTTP/1.1: origin form, exactly one `Host`.
pub(super) fn for_h1<B>(request: &mut Request<B>, endpoint: &Endpoint) {
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(HOST) {
        let named = request.uri().authority().and_then(|of| HeaderValue::from_str(of.as_str()).ok());
        request.headers_mut().insert(HOST, named.unwrap_or_else(|| endpoint.authority.clone()));
    }
    if request.uri().scheme().is_some() {
        *request.uri_mut() = Uri::from(target(request));
    }
    // TE is hop-by-hop, so HTTP/1.1 wants it named.
    if request.headers().contains_key(TE) && !request.headers().contains_key(CONNECTION) {
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

fn target<B>(request: &Request<B>) -> PathAndQuery {
    request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
}
