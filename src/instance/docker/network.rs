//! An instance's own network: this host reaches it, and it reaches nothing until it is active. Then it joins the
//! engine's default network as well, which is how it keeps its address.
//!
//! That the engine calls a network internal is not enough. Engine 20.10, for one, keeps the default route and leaves
//! the rest to the host's firewall, which does not hold for the host's own addresses, and not at all where the
//! engine may not touch the firewall. So the default route here leads to an address that nobody has. For that the
//! subnet has to be known beforehand: a first network finds out which one the engine would take, and makes room for
//! the network proper.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use bollard::Docker as Client;
use bollard::models::{
    EndpointSettings, Ipam, IpamConfig, Network, NetworkConnectRequest, NetworkCreateRequest,
};
use bollard::query_parameters::ListNetworksOptions;

use super::{DockerProvider, Found, KEPT, name};
use crate::instance::{InstanceId, ProviderError, Spec};

/// What the engine calls the network of containers that name none.
pub(super) const DEFAULT: &str = "bridge";

/// The engine's name for an address that containers have as their gateway instead of the bridge.
const GATEWAY: &str = "DefaultGatewayIPv4";
/// Whoever makes networks at the same time may take the subnet in between.
const ATTEMPTS: usize = 5;

impl DockerProvider {
    /// Makes it or finds it. Its id: names of networks need not be unique.
    pub(super) async fn own_network(&self, client: &Client, spec: &Spec) -> Result<String, ProviderError> {
        let mut lost = None;
        for _ in 0..ATTEMPTS {
            let there = self.own_networks(client, spec).await?;
            if let Some(id) =
                there.iter().find(|network| leads_nowhere(network)).and_then(|one| one.id.clone())
            {
                return Ok(id);
            }
            let Some(first) = there.into_iter().next() else {
                self.ask(&spec.id, client.create_network(self.wanted(spec, None))).await?;
                continue;
            };
            let refused = |message| ProviderError::Refused { id: spec.id.clone(), message };
            let Some(config) = config_of(&first) else {
                return Err(refused(
                    "the engine gives networks no IPv4 addresses, or less than 8; see its `default-address-pools`"
                        .to_owned(),
                ));
            };
            self.ask(&spec.id, client.remove_network(&first.id.unwrap_or_default())).await?;
            match self.engine.ask(client.create_network(self.wanted(spec, Some(config)))).await {
                Ok(made) => return Ok(made.id),
                Err(failure) => lost = Some(failure),
            }
        }
        let silent = || super::Failure::Silent("networks that were made are not found; try again".to_owned());
        Err(lost.unwrap_or_else(silent).about(&spec.id))
    }

    /// Gives a container a way out, beside the network of its own; one that has another already is left as it is.
    pub(super) async fn let_out(
        &self,
        client: &Client,
        id: &InstanceId,
        found: &Found,
    ) -> Result<(), ProviderError> {
        if !found.is_on(&name(id)) || found.is_on(DEFAULT) || found.label(KEPT).is_some() {
            return Ok(());
        }
        let wanted = NetworkConnectRequest {
            container: found.key.clone(),
            // Of two networks, this is the one whose gateway counts.
            endpoint_config: Some(EndpointSettings { gw_priority: Some(1), ..EndpointSettings::default() }),
        };
        match self.engine.ask(client.connect_network(DEFAULT, wanted)).await {
            Err(failure) if failure.is_absence() => Err(ProviderError::Refused {
                id: id.clone(),
                message: format!(
                    "the engine has no network `{DEFAULT}`, so that it cannot be let out; connect it to another with \
                     `docker network connect`, and name that as `network` next time"
                ),
            }),
            joined => joined.map_err(|failure| failure.about(id)),
        }
    }

    async fn own_networks(&self, client: &Client, spec: &Spec) -> Result<Vec<Network>, ProviderError> {
        let options = ListNetworksOptions { filters: Some(self.mine(Some(&spec.id))) };
        self.ask(&spec.id, client.list_networks(Some(options))).await
    }

    fn wanted(&self, spec: &Spec, config: Option<IpamConfig>) -> NetworkCreateRequest {
        NetworkCreateRequest {
            name: name(&spec.id),
            driver: Some("bridge".to_owned()),
            internal: Some(true),
            ipam: config.map(|config| Ipam { config: Some(vec![config]), ..Ipam::default() }),
            labels: Some(self.labels(spec)),
            ..NetworkCreateRequest::default()
        }
    }
}

fn configs(network: &Network) -> impl Iterator<Item = &IpamConfig> {
    network.ipam.iter().filter_map(|ipam| ipam.config.as_ref()).flatten()
}

fn leads_nowhere(network: &Network) -> bool {
    configs(network)
        .any(|config| config.auxiliary_addresses.as_ref().is_some_and(|all| all.contains_key(GATEWAY)))
}

/// The addresses that `network` has, and a gateway that is none.
fn config_of(network: &Network) -> Option<IpamConfig> {
    configs(network).find_map(|config| {
        let subnet = config.subnet.clone()?;
        let nobody = last_address(&subnet)?;
        Some(IpamConfig {
            subnet: Some(subnet),
            auxiliary_addresses: Some(HashMap::from([(GATEWAY.to_owned(), nobody.to_string())])),
            ..IpamConfig::default()
        })
    })
}

/// The last one of a subnet that a container could have. `None` where there is none to spare beside the bridge's and the
/// container's.
fn last_address(subnet: &str) -> Option<Ipv4Addr> {
    let (address, prefix) = subnet.split_once('/')?;
    let (address, prefix) = (address.parse::<Ipv4Addr>().ok()?, prefix.parse::<u32>().ok()?);
    let hosts = u32::MAX.checked_shr(prefix).filter(|hosts| *hosts >= 7)?;
    Some(Ipv4Addr::from_bits((address.to_bits() | hosts) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_address_of_a_subnet_is_nobodys() {
        for (subnet, last) in [
            ("172.18.0.0/16", Some([172, 18, 255, 254])),
            ("192.168.16.0/20", Some([192, 168, 31, 254])),
            ("10.0.0.8/29", Some([10, 0, 0, 14])),
            ("10.0.0.0/30", None),
            ("10.0.0.0/33", None),
            ("fd00::/64", None),
            ("", None),
        ] {
            assert_eq!(last_address(subnet), last.map(Ipv4Addr::from), "{subnet}");
        }
    }
}
