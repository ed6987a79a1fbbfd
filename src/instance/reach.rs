//! Whether an instance takes connections: the first sign of life, before anything is asked of it.

use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use crate::config::{Endpoint, Target};

/// For one connection.
const PATIENCE: Duration = Duration::from_secs(2);

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
