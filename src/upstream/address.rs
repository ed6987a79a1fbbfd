//! A request's target and connection headers as HTTP/2 wants them; HTTP/1.1 writes them as it needs them.

use http::header::{CONNECTION, HOST, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Uri, Version};

use super::endpoint::Endpoint;
use super::lease::SendFault;
use crate::config::Scheme;

/// HTTP/2: the host moves into `:authority`, where it is already if the request is sent again.
pub(super) fn for_h2<B>(request: &mut Request<B>, endpoint: &Endpoint) -> Result<(), SendFault> {
    let named = request.uri().authority().and_then(|of| HeaderValue::from_str(of.as_str()).ok());
    let host = request.headers_mut().remove(HOST).or(named).unwrap_or_else(|| endpoint.authority.clone());
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

#[cfg(test)]
mod tests {
    use super::super::endpoint::Address;
    use super::*;

    #[test]
    fn a_request_that_is_sent_again_keeps_its_host() {
        let address = Address::Unix("/instance".into());
        let authority = HeaderValue::from_static("instance:80");
        let endpoint = Endpoint::new(Scheme::H2c, address, authority, None);
        let mut request = Request::get("/a?b").header(HOST, "caller.test").body(()).unwrap();
        for _ in 0..2 {
            for_h2(&mut request, &endpoint).unwrap();
            assert_eq!(request.uri(), "http://caller.test/a?b");
        }
        let mut request = Request::get("/").body(()).unwrap();
        for_h2(&mut request, &endpoint).unwrap();
        assert_eq!(request.uri(), "http://instance:80/");
    }
}
