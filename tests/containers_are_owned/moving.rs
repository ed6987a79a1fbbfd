//! A service whose source is a container, callers for it, and what has to be so once it has moved.

use std::collections::BTreeMap;

use segue::load::{Load, LoadReport, LoadSettings, audit};
use serde_json::{Value, json};

use crate::stage::{PORT, Stage, docker};
use crate::support::{Segue, until};

/// Segue with one service, of a name that nobody else has: the source's container is called after it. Every container
/// is gone once this is.
pub struct Moving {
    pub segue: Segue,
    stage: Stage,
    folder: tempfile::TempDir,
}

impl Moving {
    /// `None`, having said so, where there is no engine. `environment` is Segue's.
    pub fn set(environment: &[(&str, &str)]) -> Option<Self> {
        let stage = Stage::set()?;
        let folder = tempfile::tempdir().unwrap();
        let shared = folder.path().to_str().unwrap();
        let source = format!(
            "{{ provider = \"docker\", image = \"{}\", port = {PORT}, command = {}, \
             volumes = [{{ source = \"{shared}\", target = \"/shared\" }}], \
             allocation = {{ cpu = 0.5, memory = \"64 MiB\", storage = \"1 MiB\" }} }}",
            stage.image,
            json!(command())
        );
        let text = format!(
            "workers = 2\n[services.{}]\nsource = {source}\n\
             tee = {{ percent = 100.0, allow_above_5_percent = true }}\n",
            stage.owner
        );
        Some(Self { segue: Segue::from_text_in(&text, environment, None), stage, folder })
    }

    /// To a container that is a little larger, at once and with few pairs.
    pub fn request(&self) -> Value {
        json!({
            "service": self.stage.owner,
            "to": {
                "provider": "docker", "image": self.stage.image, "port": PORT, "command": command(),
                "volumes": [{ "source": self.folder.path(), "target": "/shared" }],
                "allocation": { "cpu": 0.75, "memory": "96 MiB", "storage": "1 MiB" },
            },
            "min_pairs": 160, "watch_ms": 300, "grace_ms": 1,
        })
    }

    /// Callers, of whom half write.
    pub fn load(&self, rate: f64) -> Load {
        let mut settings = LoadSettings::new(self.segue.url().parse().unwrap(), rate);
        settings.write_share = 0.5;
        Load::start(settings).unwrap()
    }

    /// Which of the two instances serves.
    pub fn active(&self) -> Value {
        let path = format!("/v1/services/{}", self.stage.owner);
        self.segue.call("GET", &path, "").1["active"].clone()
    }

    pub fn until_over(&self) -> Value {
        until("the migration to be over", || {
            let (_, view) = self.segue.call("GET", "/v1/migrations/1", "");
            (view["over"] == true).then_some(view)
        })
    }

    /// The load's writes that were acknowledged are in the ledger, each once.
    pub fn finish(&self, load: Load) -> LoadReport {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let report = runtime.block_on(load.finish()).unwrap();
        let ledger = std::fs::read_to_string(self.folder.path().join("ledger")).unwrap();
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for (key, _) in ledger.lines().filter_map(|line| line.split_once(' ')) {
            *counts.entry(key.to_owned()).or_default() += 1;
        }
        let found = audit(&report, &counts);
        assert!(found.is_exact(), "{found:?}");
        report
    }

    /// Of this Segue, by whose image they are; also those that do not run.
    pub fn containers(&self) -> Vec<String> {
        let filter = format!("ancestor={}", self.stage.image);
        let names = docker(&["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"]);
        names.lines().map(str::to_owned).collect()
    }

    /// Networks and volumes of the Segue whose this container is.
    pub fn belongings(container: &str) -> [Vec<String>; 2] {
        let owner = crate::stage::inspect(container, "{{index .Config.Labels \"segue.owner\"}}");
        let [_, networks, volumes] = Stage::traces(&format!("segue.owner={owner}"));
        [networks, volumes]
    }
}

impl Drop for Moving {
    /// Containers outlive Segue, so they are ended by hand.
    fn drop(&mut self) {
        self.segue.kill();
        for name in self.containers() {
            let _ = std::process::Command::new("docker").args(["rm", "--force", &name]).output();
            let _ = std::process::Command::new("docker").args(["network", "rm", &name]).output();
        }
    }
}

fn command() -> Vec<String> {
    let listen = format!("0.0.0.0:{PORT}");
    let words =
        ["origin", "--listen", &listen, "--workers", "1", "--name", "{role}", "--ledger", "/shared/ledger"];
    words.map(str::to_owned).to_vec()
}
