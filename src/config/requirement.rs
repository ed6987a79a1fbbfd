//! What an application needs beside itself: `postgres://HOST:PORT`, or `/a/path`.
//!
//! Only whether it is there is looked at, so whatever a URL says beyond host and port is not wanted here, least of all
//! a password.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::address::{host_and_port, host_text};

/// Something that has to be in reach of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Takes connections over TCP, whatever is spoken there.
    Endpoint { scheme: String, host: String, port: u16 },
    /// A file, a folder or a socket, where the instance sees it.
    Path(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequirementError {
    #[error(
        "{0:?} is nothing that can be looked for; write SCHEME://HOST:PORT, such as \"postgres://10.0.0.5:5432\", or an \
         absolute path"
    )]
    Shape(String),
    /// Without repeating it: it may hold a password.
    #[error(
        "an endpoint of `requires` is host and port only; drop user, password and whatever follows the port"
    )]
    Beyond,
}

impl FromStr for Requirement {
    type Err = RequirementError;

    fn from_str(text: &str) -> Result<Self, RequirementError> {
        let shape = || RequirementError::Shape(text.to_owned());
        if text.starts_with('/') && !text.contains('\0') {
            return Ok(Self::Path(text.into()));
        }
        let Some((scheme, authority)) = text.split_once("://") else {
            return Err(if text.contains('@') { RequirementError::Beyond } else { shape() });
        };
        if authority.contains(['@', '/', '?', '#']) {
            return Err(RequirementError::Beyond);
        }
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.');
        if scheme.is_empty() || !scheme.bytes().all(plain) {
            return Err(shape());
        }
        let (host, port) = host_and_port(authority).ok_or_else(shape)?;
        Ok(Self::Endpoint { scheme: scheme.to_ascii_lowercase(), host, port })
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint { scheme, host, port } => write!(f, "{scheme}://{}:{port}", host_text(host)),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_is_an_endpoint_or_a_path() {
        for (text, shown) in [
            ("postgres://DB.internal:5432", "postgres://db.internal:5432"),
            ("tcp://[::1]:1", "tcp://[::1]:1"),
            ("/etc/app/licence", "/etc/app/licence"),
        ] {
            let found: Requirement = text.parse().unwrap();
            assert_eq!(found.to_string(), shown);
            assert_eq!(shown.parse(), Ok(found));
        }
        for text in ["", "db:5432", "postgres://db", "postgres://db:0", "://db:1", "etc/app", "tcp://a b:1"] {
            assert_eq!(text.parse::<Requirement>(), Err(RequirementError::Shape(text.to_owned())));
        }
    }

    #[test]
    fn a_password_is_refused_without_being_repeated() {
        for text in
            ["postgres://app:hunter2@db:5432", "postgres://db:5432/app?password=hunter2", "hunter2@db:1"]
        {
            let error = text.parse::<Requirement>().unwrap_err().to_string();
            assert!(error.contains("host and port only") && !error.contains("hunter2"), "{error}");
        }
    }
}
