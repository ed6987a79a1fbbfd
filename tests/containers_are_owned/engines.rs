//! An engine that is not there, or does not answer. These need none.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use segue::instance::docker::DockerProvider;
use segue::instance::{Gravity, InstanceId, Provider, ProviderError};
use tokio::runtime::Runtime;

use crate::support::PATIENCE;

fn unavailable(provider: &DockerProvider) -> String {
    let runtime = Runtime::new().unwrap();
    let id = InstanceId::new("web-1").unwrap();
    let outcomes = runtime.block_on(async {
        let calls = async {
            [
                provider.state(&id).await.unwrap_err(),
                provider.list().await.unwrap_err(),
                provider.fence(&id).await.unwrap_err(),
                provider.stop(&id, Duration::ZERO).await.unwrap_err(),
                provider.destroy(&id).await.unwrap_err(),
            ]
        };
        tokio::time::timeout(PATIENCE, calls).await.expect("each call is bounded")
    });
    for error in &outcomes {
        assert!(error.is_transient(), "{error}");
        assert!(matches!(error, ProviderError::Unavailable { provider: "docker", .. }), "{error:?}");
    }
    let tail = runtime.block_on(provider.tail(&id));
    assert!(tail.contains("does not answer"), "{tail}");
    outcomes[0].to_string()
}

#[test]
fn one_that_is_not_running_is_unavailable_and_the_way_out_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let provider = DockerProvider::at("test", &socket, PATIENCE);
    let error = unavailable(&provider);
    assert!(error.contains(socket.to_str().unwrap()) && error.contains("start it"), "{error}");

    // A socket that a dead engine has left.
    drop(UnixListener::bind(&socket).unwrap());
    let error = unavailable(&provider);
    assert!(error.contains("refused") && error.contains("start it"), "{error}");
}

#[test]
fn one_that_hangs_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    // The kernel takes the connections; nobody ever reads them.
    let _listener = UnixListener::bind(&socket).unwrap();
    let provider = DockerProvider::at("test", &socket, Duration::from_millis(100));
    let error = unavailable(&provider);
    assert!(error.contains("has not answered"), "{error}");
    let spec = serde_json::from_value(serde_json::json!({
        "id": "web-1", "service": "web", "role": "shadow",
        "allocation": {"cpu": 1.0, "memory": "64MiB", "storage": "1GiB"},
        "workload": {"provider": "docker", "image": "app", "port": 80},
    }))
    .unwrap();
    let findings = Runtime::new().unwrap().block_on(provider.preflight(&spec));
    assert_eq!(findings.len(), 1);
    assert_eq!((findings[0].subject.as_str(), findings[0].gravity), ("engine", Gravity::Fault));
}
