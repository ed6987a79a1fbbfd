//! What is to be run, and by whom: of a source that Segue runs itself, and of a migration's destination.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Endpoint;

/// By whom it is run, and what: the `to` of a migration, without its allocation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "provider", rename_all = "snake_case")]
pub enum Workload {
    Process(Process),
    Docker(Docker),
    Ec2(Ec2),
    External(External),
}

/// A command of this machine. In its arguments and its environment `{port}` stands for the port that it is to
/// listen on (also `PORT`), `{data}` for its data directory (also `SEGUE_DATA`) and `{role}` for its role (also
/// `SEGUE_ROLE`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The program and its arguments.
    pub command: Vec<String>,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Where it starts; default: its data directory.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    #[serde(default)]
    pub protocol: ServiceProtocol,
    /// What a shadow may reach beside Segue, as `HOST:PORT`. `None`: egress is not restricted, and said so.
    #[serde(default)]
    pub egress: Option<Vec<String>>,
    /// The restriction holds for life, and not only until it is active.
    #[serde(default)]
    pub keep_egress: bool,
}

/// A container of the Docker engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Docker {
    /// As in `docker run`; it has to be there already or be pulled by the engine.
    pub image: String,
    /// Instead of the image's own; the same stand-ins as a process's.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// That the application listens on inside the container.
    pub port: u16,
    #[serde(default)]
    pub protocol: ServiceProtocol,
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// A network of the engine to join; default: one of the instance's own, without a way out, and the engine's
    /// default one too once it is active.
    #[serde(default)]
    pub network: Option<String>,
    /// It stays without a way out for life, and not only until it is active.
    #[serde(default)]
    pub keep_egress: bool,
}

/// Where data lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// A volume of the engine (created when missing), or an absolute path of the host.
    pub source: String,
    pub target: PathBuf,
    #[serde(default)]
    pub read_only: bool,
}

/// A machine of EC2, in the region of the settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ec2 {
    /// The id of an AMI.
    pub image: String,
    /// The instance types that may be used. An allocation gets the smallest of them that has as much.
    pub types: Vec<String>,
    /// Its id; Segue has to reach the addresses in it.
    pub subnet: String,
    /// Their ids. What they let out is what a shadow reaches.
    pub security_groups: Vec<String>,
    /// The group that takes their place while it is fenced: one that lets nothing in.
    #[serde(default)]
    pub fence_group: Option<String>,
    /// That the application listens on.
    pub port: u16,
    #[serde(default)]
    pub protocol: ServiceProtocol,
    /// Given to the machine when it boots for the first time; `{port}` and `{role}` stand for these.
    #[serde(default)]
    pub user_data: Option<String>,
    /// The name of a key pair, to log in with.
    #[serde(default)]
    pub key: Option<String>,
    /// The name of an IAM instance profile: what the application may do at AWS.
    #[serde(default)]
    pub instance_profile: Option<String>,
    /// As of an external instance; `{address}` stands for the machine's address.
    #[serde(default)]
    pub usage: Option<String>,
}

/// Run by somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct External {
    #[serde(with = "as_text")]
    pub endpoints: Vec<Endpoint>,
    /// Nothing that it does reaches the world: only then is anything beyond the tee sent to it.
    #[serde(default)]
    pub isolated: bool,
    /// The http:// URL of a page of metrics in Prometheus' text format, of a node exporter or cAdvisor, that usage is
    /// read from. Of a page about many containers a fragment such as `#name=web` chooses the rows with that label.
    #[serde(default)]
    pub usage: Option<String>,
}

/// What is spoken on an instance's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceProtocol {
    #[default]
    Http,
    /// HTTP/2 in clear, prior knowledge.
    H2c,
}

impl Workload {
    /// The word that chooses the provider.
    pub const fn provider(&self) -> &'static str {
        match self {
            Self::Process(_) => "process",
            Self::Docker(_) => "docker",
            Self::Ec2(_) => "ec2",
            Self::External(_) => "external",
        }
    }
}

/// Endpoints as an operator writes them.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::config::Endpoint;

    pub fn serialize<S: Serializer>(endpoints: &[Endpoint], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(endpoints.iter().map(ToString::to_string))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_read_by_its_provider_and_unknown_keys_are_refused() {
        let read = |text: &str| serde_json::from_str::<Workload>(text);
        let process = read(r#"{"provider":"process","command":["app","{port}"]}"#).unwrap();
        assert_eq!(process.provider(), "process");
        let external = read(r#"{"provider":"external","endpoints":["http://127.0.0.1:3000"]}"#).unwrap();
        assert_eq!(serde_json::to_value(&external).unwrap()["endpoints"][0], "http://127.0.0.1:3000");
        for wrong in [
            r#"{"provider":"process","command":["app"],"comand":[]}"#,
            r#"{"provider":"docker","image":"app"}"#,
            r#"{"provider":"ec2","image":"ami-1","types":["t3.small"],"subnet":"subnet-1","port":80}"#,
            r#"{"provider":"external","endpoints":["ftp://x"]}"#,
            r#"{"provider":"slurm"}"#,
            r#"{"command":["app"]}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
