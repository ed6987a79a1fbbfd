//! What is in a service's two slots once migrations have filled and emptied them: the settings as they are in
//! effect.
//!
//! A service has two slots, `source` and `shadow`, named as in its configuration. A migration puts its new instance
//! into the slot that does not serve, and empties the slot of the instance that it retires; both outlive the process.
//! What the operator writes afterwards wins: a slot is given back to the configuration as soon as that says something
//! else there than it did when the slot was filled.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::{self, Endpoint, InstanceName, Settings};
use crate::instance::{InstanceId, Spec};
use crate::store::{ActiveRecord, SlotRow, Store, StoreError};

/// What a migration has put there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// None: the instance was retired.
    pub endpoints: Vec<String>,
    /// Where Segue itself runs the instance.
    pub spec: Option<Spec>,
    /// A digest of what the configuration said of this slot then.
    configured: String,
}

/// Every slot that is not the configuration's.
#[derive(Clone, Debug, Default)]
pub struct Slots(Vec<(Arc<str>, InstanceName, Slot)>);

impl Slot {
    pub fn new(
        endpoints: &[Endpoint],
        spec: Option<Spec>,
        configured: &config::Service,
        name: InstanceName,
    ) -> Self {
        let endpoints = endpoints.iter().map(ToString::to_string).collect();
        Self { endpoints, spec, configured: said(configured, name) }
    }
}

impl Slot {
    /// The same instance, elsewhere.
    #[must_use]
    pub fn at(self, endpoints: Vec<String>) -> Self {
        Self { endpoints, ..self }
    }

    /// Whether this instance is in it.
    pub fn holds(&self, id: &InstanceId) -> bool {
        self.spec.as_ref().is_some_and(|spec| spec.id == *id)
    }

    /// Whether it was filled while the configuration said what it says now.
    pub fn is_of(&self, configured: &config::Service, name: InstanceName) -> bool {
        self.configured == said(configured, name)
    }
}

impl Slot {
    /// Whether the configuration has these endpoints, in either slot.
    fn is_named(&self, configured: &config::Service) -> bool {
        let instances = [Some(&configured.source), configured.shadow.as_ref()];
        instances.into_iter().flatten().any(|of| {
            of.endpoints.len() == self.endpoints.len()
                && of.endpoints.iter().all(|endpoint| self.endpoints.contains(&endpoint.to_string()))
        })
    }
}

impl Slots {
    pub async fn load(store: &Store) -> Result<Self, StoreError> {
        // One that is not understood may be the instance that serves, so nothing goes on without it.
        Ok(Self(store.slots().await?.into_iter().map(decode).collect::<Result<_, _>>()?))
    }

    pub fn get(&self, service: &str, instance: InstanceName) -> Option<&Slot> {
        let found = self.0.iter().find(|(of, name, _)| **of == *service && *name == instance);
        found.map(|(.., slot)| slot)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, InstanceName, &Slot)> {
        self.0.iter().map(|(service, name, slot)| (service, *name, slot))
    }

    /// The settings as they are in effect. The slot that serves, by `recorded`, is given back only to a configuration
    /// that names the same endpoints somewhere: a new shadow must not become the active instance by being written down.
    pub fn overlay(&self, configured: &Settings, recorded: &[(String, ActiveRecord)]) -> Settings {
        let mut settings = configured.clone();
        for (name, instance, slot) in &self.0 {
            let Some(service) = settings.services.get_mut(&**name) else { continue };
            let Some(of) = configured.services.get(&**name) else { continue };
            let active = recorded.iter().find(|(service, _)| **service == **name);
            let serves = active.is_some_and(|(_, record)| record.instance == *instance);
            let held = serves && !slot.endpoints.is_empty() && !slot.is_named(of);
            if held && !slot.is_of(of, *instance) {
                tracing::warn!(
                    service = &**name,
                    slot = instance.as_str(),
                    endpoints = slot.endpoints.join(", "),
                    "what the settings say here is ignored: the instance that serves was put there by a migration; \
                     write its endpoints under `source` to go on from it"
                );
            } else if !slot.is_of(of, *instance) {
                tracing::info!(
                    service = &**name,
                    slot = instance.as_str(),
                    "the configuration decides again"
                );
                continue;
            }
            let endpoints =
                slot.endpoints.iter().filter_map(|text| text.parse().ok()).collect::<Vec<Endpoint>>();
            match instance {
                InstanceName::Source => service.source.endpoints = endpoints,
                InstanceName::Shadow => {
                    service.shadow =
                        Some(config::Instance::at(endpoints)).filter(|of| !of.endpoints.is_empty());
                }
            }
        }
        settings
    }
}

fn said(service: &config::Service, instance: InstanceName) -> String {
    let of = match instance {
        InstanceName::Source => Some(&service.source),
        InstanceName::Shadow => service.shadow.as_ref(),
    };
    let text = of.map(|of| {
        let mut endpoints: Vec<_> = of.endpoints.iter().map(ToString::to_string).collect();
        endpoints.sort_unstable();
        serde_json::json!([endpoints, of.run]).to_string()
    });
    blake3::hash(text.unwrap_or_default().as_bytes()).to_hex().to_string()
}

fn decode(row: SlotRow) -> Result<(Arc<str>, InstanceName, Slot), StoreError> {
    let slot = serde_json::from_value(row.record).map_err(|error| StoreError::Damaged {
        path: format!("slot `{}` of service `{}`", row.instance.as_str(), row.service).into(),
        detail: error.to_string(),
    })?;
    Ok((row.service.into(), row.instance, slot))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        config::parse(&format!("listeners = [{{ address = \"127.0.0.1:1\" }}]\n{text}"), "f").unwrap()
    }

    #[test]
    fn a_slot_holds_until_the_configuration_says_something_else_there() {
        let before = settings("services.web.source.endpoints = [\"http://a\"]");
        let web = before.services.get("web").unwrap();
        let new: Endpoint = "http://b".parse().unwrap();
        let slots = Slots(vec![
            ("web".into(), InstanceName::Source, Slot::new(&[], None, web, InstanceName::Source)),
            ("web".into(), InstanceName::Shadow, Slot::new(&[new], None, web, InstanceName::Shadow)),
        ]);
        let record = ActiveRecord {
            instance: InstanceName::Shadow,
            generation: 2,
            fingerprint: crate::store::Fingerprint::of(&[]),
            changed_at: 1,
        };
        let recorded = [("web".to_owned(), record)];
        let effective = |text: &str| {
            let settings = slots.overlay(&settings(text), &recorded);
            let web = settings.services.get("web").unwrap();
            let show = |of: &[Endpoint]| of.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            (show(&web.source.endpoints), web.shadow.as_ref().map(|of| show(&of.endpoints)))
        };
        let shadow = Some("http://b:80".to_owned());
        assert_eq!(
            effective("services.web.source.endpoints = [\"http://a\"]"),
            (String::new(), shadow.clone())
        );
        // The operator has taken the result over.
        assert_eq!(
            effective("services.web.source.endpoints = [\"http://b\"]"),
            ("http://b:80".to_owned(), shadow)
        );
        let named = "services.web = { source.endpoints = [\"http://a\"], shadow.endpoints = [\"http://c\"] }";
        assert_eq!(
            effective(named),
            (String::new(), Some("http://b:80".to_owned())),
            "what serves is not replaced"
        );
    }
}
