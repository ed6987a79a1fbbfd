//! A request's target and connection headers as HTTP/2 wants them; HTTP/1.1 writes them as it needs them.

use http::header::{CONNECTION, HOST, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Uri, Version};

use super::endpoint::Endpoint;
use super::lease::SendFault;
use crate::config::Scheme;

/// HTTP/2: the host moves into `:authority`, where it is already if the request is sent again. A request that cannot be
/// sent so is left as it is.
pub(super) fn for_h2<B>(request: &mut Request<B>, endpoint: &Endpoint) -> Result<(), SendFault> {
    let named = request.uri().authority().and_then(|of| HeaderValue::from_str(of.as_str()).ok());
    // An empty one is none: HTTP/1.1 wants the header, HTTP/2 a name.
    let host = request.headers().get(HOST).filter(|host| !host.is_empty()).cloned().or(named);
    let host = host.as_ref().unwrap_or(&endpoint.authority);
    let uri = Uri::builder()
        .scheme(if endpoint.scheme == Scheme::Https { "https" } else { "http" })
        .authority(host.as_bytes())
        .path_and_query(target(request))
        .build()
        .map_err(|_| SendFault::BadAuthority)?;
    request.headers_mut().remove(HOST);
    request.headers_mut().remove(CONNECTION);
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
        let without = Request::get("/");
        let empty = Request::get("/").header(HOST, "");
        for request in [without, empty] {
            let mut request = request.body(()).unwrap();
            for_h2(&mut request, &endpoint).unwrap();
            assert_eq!(
                (request.uri().to_string().as_str(), request.headers().len()),
                ("http://instance:80/", 0)
            );
        }
        let mut request = Request::get("/a").header(HOST, "a%62c").body(()).unwrap();
        assert!(matches!(for_h2(&mut request, &endpoint), Err(SendFault::BadAuthority)));
        assert_eq!(
            (request.uri().to_string().as_str(), request.headers()[HOST].as_bytes()),
            ("/a", &b"a%62c"[..])
        );
    }
}
