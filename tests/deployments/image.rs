//! The container image, built and run by a real engine.

use std::path::Path;
use std::process::Command;

use crate::support::tools;
use crate::support::{free_port, get, try_request, until};

/// A container of the image; removed when dropped.
struct Container(String);

impl Container {
    fn run(arguments: &[&str]) -> Self {
        let base = ["run", "--detach", "--network", "host", "--read-only", "--cap-drop", "ALL"];
        let id = docker(&[&base, arguments].concat());
        Self(id.trim().to_owned())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "--force", "--volumes", &self.0]).output();
    }
}

fn docker(arguments: &[&str]) -> String {
    let done = Command::new("docker").args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "docker {arguments:?}: {error}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn the_image_serves_as_a_user_without_rights_and_drains_on_sigterm() {
    if !tools::has("docker") || !tools::has("dockerd") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(root.join("target/image/segue").exists(), "scripts/build-static builds what the image holds");
    let image = format!("segue-test-{}", std::process::id());
    let dockerfile = root.join("docker/Dockerfile");
    docker(&[
        "build",
        "--quiet",
        "--target",
        "prebuilt",
        "--file",
        dockerfile.to_str().unwrap(),
        "--tag",
        &image,
        root.to_str().unwrap(),
    ]);
    let size: u64 = docker(&["image", "inspect", "--format", "{{.Size}}", &image]).trim().parse().unwrap();
    assert!(size < 32 << 20, "{size} bytes are no small image");
    assert_eq!(docker(&["image", "inspect", "--format", "{{.Config.User}}", &image]).trim(), "65532:65532");

    let (instance, port, admin) = (free_port(), free_port(), free_port());
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "[admin]\nlisten = \"127.0.0.1:{admin}\"\n[state]\nstore = \"/var/lib/segue\"\n\
         [[listeners]]\naddress = \"127.0.0.1:{port}\"\n\
         [services.web]\nsource = {{ endpoints = [\"http://127.0.0.1:{instance}\"] }}\n"
    );
    std::fs::write(folder.path().join("segue.toml"), config).unwrap();
    let listen = format!("127.0.0.1:{instance}");
    let origin = Container::run(&[&image, "origin", "--listen", &listen, "--name", "contained"]);
    let mount = format!("{}:/etc/segue:ro", folder.path().display());
    // The engine's user has to be able to read it.
    Command::new("chmod").args(["-R", "a+rX"]).arg(folder.path()).status().unwrap();
    let segue = Container::run(&["--volume", &mount, "--volume", "/var/lib/segue", &image]);

    let ready = "GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    until("the container to be ready", || {
        try_request(([127, 0, 0, 1], admin).into(), ready).ok().filter(|answer| answer.status == 200)
    });
    assert_eq!(get(([127, 0, 0, 1], port).into(), "/").header("x-instance"), Some("contained"));
    until("the engine's own health check", || {
        let health = docker(&["inspect", "--format", "{{.State.Health.Status}}", &segue.0]);
        (health.trim() == "healthy").then_some(())
    });
    docker(&["stop", "--time", "30", &segue.0]);
    let code = docker(&["inspect", "--format", "{{.State.ExitCode}}", &segue.0]);
    assert_eq!(code.trim(), "0", "SIGTERM drains");
    docker(&["rm", "--force", "--volumes", &segue.0]);
    drop(origin);
    docker(&["image", "rm", "--force", &image]);
}
