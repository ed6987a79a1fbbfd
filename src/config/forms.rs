//! What single texts in a configuration must look like: host patterns, paths, methods, regexes, file contents.
//!
//! Each function returns the canonical form, or the reason as one sentence.

use http::{HeaderName, Method};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::address::is_host_name;

/// Compiled size that one regex of a rule may reach; the crate's own default of 10 MiB times a hundred rules
/// would be felt.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// An exact host or `*.suffix`, without port, in lower case.
pub(super) fn host_pattern(text: &str) -> Result<String, String> {
    if text == "*" {
        return Err("\"*\" is not a host; leave `hosts` out to match any".into());
    }
    let name = text.strip_prefix("*.").unwrap_or(text);
    let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if literal.is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()) || is_host_name(name) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("{text:?} is not a host; write a name without scheme and port, or *.suffix"))
}

/// A path as it stands in a request line, without query; the final slash is dropped, since prefixes end on segments.
pub(super) fn path_prefix(text: &str) -> Result<String, String> {
    let path = request_path(text)?;
    let trimmed = path.trim_end_matches('/');
    Ok(if trimmed.is_empty() { "/".into() } else { trimmed.into() })
}

/// A path as it stands in a request line, without query.
pub(super) fn request_path(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|c| c.is_ascii_graphic() && c != b'?' && c != b'#');
    if !text.starts_with('/') || !plain {
        return Err(format!("{text:?} is not a path; write it as in a request: a leading slash, no query"));
    }
    if text.contains("//") || text.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(format!("{text:?} is not canonical; drop empty and dot segments"));
    }
    Ok(text.into())
}

/// A health check's path may carry a query.
pub(super) fn health_path(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|c| c.is_ascii_graphic() && c != b'#');
    if text.starts_with('/') && plain {
        return Ok(text.into());
    }
    Err(format!("{text:?} is not a path; write it as in a request, with a leading slash"))
}

/// As Prometheus has it.
pub(super) fn metric_name(text: &str) -> Result<String, String> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b':';
    let begins = text.bytes().next().is_some_and(|c| plain(c) && !c.is_ascii_digit());
    if begins && text.bytes().all(plain) {
        return Ok(text.into());
    }
    Err(format!(
        "{text:?} is not the name of a metric; write it as it stands on the page, without its labels"
    ))
}

/// RFC 6901; the empty one is the whole document.
pub(super) fn json_pointer(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('/') {
        return Ok(text.into());
    }
    Err(format!("{text:?} is no JSON pointer; begin it with \"/\", as in \"/version\""))
}

pub(super) fn method(text: &str) -> Result<String, String> {
    let upper = !text.bytes().any(|c| c.is_ascii_lowercase());
    if upper && Method::from_bytes(text.as_bytes()).is_ok() {
        return Ok(text.into());
    }
    Err(format!("{text:?} is not a method; write it in capitals, such as \"GET\""))
}

/// In lower case, as HTTP/2 has it.
pub(super) fn header_name(text: &str) -> Result<String, String> {
    HeaderName::from_bytes(text.as_bytes())
        .map(|name| name.as_str().to_owned())
        .map_err(|_| format!("{text:?} is not a header name"))
}

/// A cookie's name is a token, but unlike a header's its case counts.
pub(super) fn cookie_name(text: &str) -> Result<String, String> {
    header_name(text).map(|_| text.to_owned()).map_err(|_| format!("{text:?} is not a cookie name"))
}

pub(super) fn header_value(text: &str) -> Result<String, String> {
    http::HeaderValue::from_str(text)
        .map(|_| text.to_owned())
        .map_err(|_| format!("{text:?} is not a header's value"))
}

/// Of a command.
pub(super) fn argument(text: &str) -> Result<String, String> {
    if text.contains('\0') { Err("an argument holds no NUL".into()) } else { Ok(text.into()) }
}

pub(super) fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".into()) } else { Ok(text.into()) }
}

/// Checked here, compiled where it is used.
pub(super) fn regex(text: &str) -> Result<String, String> {
    let built = regex::RegexBuilder::new(text).size_limit(MAX_REGEX_BYTES).build();
    built.map(|_| text.to_owned()).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => format!("{text:?} is too large a regex; make it simpler"),
        // The crate draws a picture over several lines; the reason is the last of them.
        error => {
            let picture = error.to_string();
            let reason = picture.lines().next_back().unwrap_or_default().trim_start_matches("error: ");
            format!("{text:?} is not a regex: {reason}")
        }
    })
}

/// `package.Service/Method`.
pub(super) fn grpc_method(text: &str) -> Result<String, String> {
    let name = |part: &str| {
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
        part.split('.').all(|word| !word.is_empty() && word.bytes().all(plain))
    };
    match text.split_once('/') {
        Some((service, method)) if name(service) && name(method) && !method.contains('.') => Ok(text.into()),
        _ => Err(format!("{text:?} is not a gRPC method; write package.Service/Method")),
    }
}

/// A name that a certificate can be verified against.
pub(super) fn server_name(text: &str) -> Result<String, String> {
    ServerName::try_from(text)
        .map(|_| text.to_owned())
        .map_err(|_| format!("{text:?} is not a server name; write a DNS name or an IP address"))
}

/// It has to fit into an `Authorization: Bearer` header.
pub(super) fn token(text: &str) -> Result<String, String> {
    if text.starts_with("${") {
        return Err(
            "variables are not expanded; put the token into a file and name it in `token_file`".into()
        );
    }
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_graphic()) {
        return Err("a token is visible ASCII characters without spaces, at least one".into());
    }
    Ok(text.into())
}

/// The name of a service stands in URLs and metric labels.
pub(super) fn is_service_name(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    (1..=63).contains(&text.len()) && text.bytes().all(plain) && text.as_bytes().first() != Some(&b'.')
}

pub(super) fn certificates(pem: &[u8]) -> Result<(), String> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(()),
        _ => Err("holds no PEM certificate".into()),
    }
}

pub(super) fn private_key(pem: &[u8]) -> Result<(), String> {
    PrivateKeyDer::from_pem_slice(pem).map(|_| ()).map_err(|_| "holds no PEM private key".into())
}

/// The classifier decodes it; here it only has to be there.
#[expect(clippy::unnecessary_wraps, reason = "one of several checks of contents")]
pub(super) fn any_content(_: &[u8]) -> Result<(), String> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_one_leading_wildcard() {
        for (text, canonical) in [
            ("App.Example", "app.example"),
            ("*.example", "*.example"),
            ("[::1]", "[::1]"),
            ("10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(host_pattern(text).as_deref(), Ok(canonical));
        }
        for text in ["", "*", "*.", "a.*.b", "app:80", "http://app", "::1", "bücher.example"] {
            assert!(host_pattern(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes_end_on_segments() {
        assert_eq!(path_prefix("/api/").as_deref(), Ok("/api"));
        assert_eq!(path_prefix("/").as_deref(), Ok("/"));
        for text in ["", "api", "/a b", "/a?b", "/a//b", "/a/../b", "//"] {
            assert!(path_prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn grpc_methods_have_a_service_and_a_method() {
        assert!(grpc_method("shop.v1.Cart/Get").is_ok());
        for text in ["", "/shop.Cart/Get", "shop.Cart", "shop.Cart/Get/x", "shop..Cart/Get", "shop.Cart/"] {
            assert!(grpc_method(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_never_a_variable_by_mistake() {
        assert!(token("s3cret").is_ok());
        for text in ["", "two words", "${SEGUE_TOKEN}", "tökén"] {
            assert!(token(text).is_err(), "{text}");
        }
    }
}
