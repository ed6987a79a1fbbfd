//! Where an instance is, and whether it takes connections there: the first sign of life, before anything is asked of it.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream, lookup_host};

use crate::config::{Endpoint, Target};

/// For one connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where these endpoints lead, so that two names of one place can be seen to be one. What cannot be found leads nowhere.
pub async fn places(endpoints: &[Endpoint]) -> BTreeSet<String> {
    let mut places = BTreeSet::new();
    for endpoint in endpoints {
        match &endpoint.target {
            Target::Host { name, port } => {
                let found = lookup_host((name.as_str(), *port));
                if let Ok(Ok(found)) = tokio::time::timeout(PATIENCE, found).await {
                    places.extend(found.map(|address| address.to_string()));
                }
            }
            Target::Unix(path) => {
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                places.insert(path.display().to_string());
            }
        }
    }
    places
}

/// Connects to each endpoint once; says which one did not answer, and why.
pub async fn takes_connections(endpoints: &[Endpoint]) -> Result<(), String> {
    for endpoint in endpoints {
        let connected = async {
            match &endpoint.target {
                Target::Host { name, port } => TcpStream::connect((name.as_str(), *port)).await.map(drop),
                Target::Unix(path) => UnixStream::connect(path).await.map(drop),
            }
        };
        match tokio::time::timeout(PATIENCE, connected).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(format!("{endpoint}: {error}")),
            Err(_) => return Err(format!("{endpoint}: no answer within {PATIENCE:?}")),
        }
    }
    Ok(())
}
