//! What is to be run: everything that a provider needs to make an instance, and to find it again.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::{Allocation, Workload};

/// Names an instance wherever it leaves a trace: cgroup, container, folder, network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name an instance; use 1 to 63 lower-case letters, digits and \"-\", a letter first")]
pub struct InvalidId(String);

/// One instance, wanted. Stored with a migration before anything is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    pub id: InstanceId,
    pub service: String,
    pub role: Role,
    pub allocation: Allocation,
    pub workload: Workload,
}

/// The part that an instance plays when it starts; it learns it from `SEGUE_ROLE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Shadow,
    Active,
}

impl InstanceId {
    /// What Linux and Docker both take as a name.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
        let text = text.into();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let first = text.chars().next().is_some_and(|c| c.is_ascii_lowercase());
        if first && text.len() <= 63 && text.chars().all(plain) {
            Ok(Self(text))
        } else {
            Err(InvalidId(text))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for InstanceId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.0
    }
}

impl Spec {
    /// Whether Segue keeps it from reaching the world. That is for shadows, whose effects would come twice; an active
    /// instance is confined only where somebody wants it to be.
    pub fn is_confined(&self) -> bool {
        let (asked, for_life) = match &self.workload {
            Workload::Process(of) => (of.egress.is_some(), of.keep_egress),
            Workload::Docker(of) => (of.network.is_none(), of.keep_egress),
            Workload::Ec2(_) | Workload::External(_) => return false,
        };
        asked && (for_life || self.role == Role::Shadow)
    }
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shadow => "shadow",
            Self::Active => "active",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_everywhere() {
        for good in ["web-1", "a", "web-shadow-7f3a"] {
            assert_eq!(InstanceId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "1a", "-a", "Web", "a/b", "a.b", "a b", &"a".repeat(64)] {
            assert!(InstanceId::new(bad).is_err(), "{bad}");
        }
    }
}
