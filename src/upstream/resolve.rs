//! Names to addresses, on the control thread: a worker never waits for DNS.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::HeaderValue;

use super::endpoint::{Address, Endpoint, Instance};
use super::tls::{ClientTls, UpstreamTlsError};
use crate::config::{self, Scheme, Target};

/// How long a start waits for names; after that they are looked up in the background.
const FIRST: Duration = Duration::from_secs(5);

/// Resolves once, then keeps the instance's addresses up to date until it is gone.
pub async fn follow(instance: &Arc<Instance>, configured: Vec<config::Endpoint>, interval: Duration) {
    if configured.iter().all(is_literal) {
        update(instance, &configured).await;
        return;
    }
    if tokio::time::timeout(FIRST, update(instance, &configured)).await.is_err() {
        tracing::warn!(instance = instance.name.as_str(), "names are still being looked up");
    }
    tokio::spawn(keep(Arc::downgrade(instance), configured, interval));
}

async fn keep(instance: Weak<Instance>, configured: Vec<config::Endpoint>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let Some(instance) = instance.upgrade() else { return };
        update(&instance, &configured).await;
    }
}

fn is_literal(endpoint: &config::Endpoint) -> bool {
    match &endpoint.target {
        Target::Unix(_) => true,
        Target::Host { name, .. } => name.parse::<std::net::IpAddr>().is_ok(),
    }
}

/// A name that cannot be looked up keeps the addresses it had: DNS being down must not take a service
/// down that works.
async fn update(instance: &Instance, configured: &[config::Endpoint]) {
    let mut endpoints = Vec::new();
    let before = instance.endpoints();
    for endpoint in configured {
        match addresses(endpoint).await {
            Ok(addresses) => {
                for address in addresses {
                    match made(endpoint, address, instance.tls.as_deref()) {
                        Ok(endpoint) => endpoints.push(endpoint),
                        Err(error) => tracing::error!(%error, %endpoint, "an endpoint cannot be used"),
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, %endpoint, "a name could not be looked up");
                let authority = authority(endpoint);
                let known = before.iter().filter(|known| Some(&known.authority) == authority.as_ref());
                for known in known {
                    let (scheme, name) = (known.scheme, known.server_name.clone());
                    let (address, authority) = (known.address.clone(), known.authority.clone());
                    endpoints.push(Endpoint::new(scheme, address, authority, name));
                }
            }
        }
    }
    instance.set_endpoints(endpoints);
}

async fn addresses(endpoint: &config::Endpoint) -> std::io::Result<Vec<Address>> {
    match &endpoint.target {
        Target::Unix(path) => Ok(vec![Address::Unix(path.clone())]),
        Target::Host { name, port } => {
            let found = tokio::net::lookup_host((name.as_str(), *port)).await?;
            let mut found: Vec<SocketAddr> = found.collect();
            // Sorted, so that an unchanged answer in another order changes nothing.
            found.sort_unstable();
            found.dedup();
            Ok(found.into_iter().map(Address::Tcp).collect())
        }
    }
}

fn authority(endpoint: &config::Endpoint) -> Option<HeaderValue> {
    let text = match &endpoint.target {
        Target::Unix(_) => "localhost".to_owned(),
        Target::Host { name, port } if name.contains(':') => format!("[{name}]:{port}"),
        Target::Host { name, port } => format!("{name}:{port}"),
    };
    HeaderValue::from_str(&text).ok()
}

fn made(
    endpoint: &config::Endpoint,
    address: Address,
    tls: Option<&ClientTls>,
) -> Result<Endpoint, UpstreamTlsError> {
    let name = match (&endpoint.target, tls) {
        (Target::Host { name, .. }, Some(tls)) if endpoint.scheme == Scheme::Https => {
            Some(tls.server_name(name)?)
        }
        _ => None,
    };
    let authority = authority(endpoint).unwrap_or_else(|| HeaderValue::from_static("localhost"));
    Ok(Endpoint::new(endpoint.scheme, address, authority, name))
}
