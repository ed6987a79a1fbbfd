//! What is on the engine afterwards, what others have there, and what a container reaches.

use std::net::TcpListener;
use std::process::Command;

use segue::instance::docker::DockerProvider;
use segue::instance::{Gravity, InstanceId, Provider, ProviderError, Role, State, Volume};

use crate::stage::{GRACE, Stage, address, answers, container, docker, inspect, pid, workload};

fn volume(source: &str, target: &str) -> Volume {
    Volume { source: source.into(), target: target.into(), read_only: false }
}

#[test]
fn nothing_of_a_destroyed_one_stays_and_what_was_there_before_does() {
    let Some(stage) = Stage::set() else { return };
    let (made, there) = (format!("{}-made", stage.owner), format!("{}-there", stage.owner));
    docker(&["volume", "create", &there]);
    let mut spec = stage.spec(&[]);
    workload(&mut spec).volumes = vec![volume(&made, "/made"), volume(&there, "/there")];
    stage.run(&spec);
    let label = format!("segue.owner={}", stage.owner);
    let [containers, networks, volumes] = Stage::traces(&label);
    assert_eq!((containers, networks), (vec![container(&spec.id)], vec![container(&spec.id)]));
    assert_eq!(volumes, std::slice::from_ref(&made));

    // Another instance has come to use the volume: data is not taken from under it.
    let mut other = stage.spec(&[]);
    workload(&mut other).volumes = vec![volume(&made, "/made")];
    stage.run(&other);
    stage.wait(stage.provider.destroy(&spec.id)).unwrap();
    assert_eq!(stage.state(&spec.id), State::Absent);
    assert_eq!(Stage::traces(&label), [vec![container(&other.id)], vec![container(&other.id)], vec![made]]);
    stage.wait(stage.provider.destroy(&other.id)).unwrap();
    for id in stage.wait(stage.provider.list()).unwrap() {
        assert_eq!(id, spec.id, "for its volume");
        stage.wait(stage.provider.destroy(&id)).unwrap();
    }
    assert_eq!(Stage::traces(&label), [const { Vec::<String>::new() }; 3]);
    assert!(stage.wait(stage.provider.list()).unwrap().is_empty());
    docker(&["volume", "rm", &there]);
}

#[test]
fn what_a_create_that_was_cut_short_left_is_found_and_removed() {
    let Some(stage) = Stage::set() else { return };
    let mut spec = stage.spec(&[]);
    let image = std::mem::replace(&mut workload(&mut spec).image, "segue-test-no-such-image".into());
    let error = stage.wait(stage.provider.create(&spec)).unwrap_err();
    assert!(error.to_string().contains("docker pull segue-test-no-such-image"), "{error}");
    assert!(!error.is_transient());
    // The network is made by then.
    assert_eq!(stage.wait(stage.provider.list()).unwrap(), [spec.id.clone()]);
    assert_eq!(stage.state(&spec.id), State::Absent);
    workload(&mut spec).image = image;
    stage.run(&spec);
    let label = format!("segue.instance={}", spec.id);
    assert_eq!(Stage::traces(&label)[1].len(), 1, "the network that was there is taken");
    stage.wait(stage.provider.destroy(&spec.id)).unwrap();
    assert_eq!(Stage::traces(&label), [const { Vec::<String>::new() }; 3]);
}

#[test]
fn what_another_segue_or_a_person_has_is_left_alone() {
    let Some(stage) = Stage::set() else { return };
    let spec = stage.spec(&[]);
    stage.run(&spec);
    let stranger = DockerProvider::connect("somebody-else");
    assert!(stage.wait(stranger.list()).unwrap().is_empty());
    assert_eq!(stage.wait(stranger.state(&spec.id)).unwrap(), State::Absent);
    stage.wait(stranger.destroy(&spec.id)).unwrap();
    assert!(matches!(stage.wait(stranger.fence(&spec.id)), Err(ProviderError::Absent(_))));
    let findings = stage.wait(stranger.preflight(&spec));
    assert!(findings.iter().any(|finding| finding.subject == "name" && finding.gravity == Gravity::Fault));
    let refused = stage.wait(stranger.create(&spec)).unwrap_err().to_string();
    assert!(refused.contains(&container(&spec.id)) && refused.contains("remove or rename"), "{refused}");
    stage.wait(stranger.destroy(&spec.id)).unwrap();
    assert_eq!(Stage::traces("segue.owner=somebody-else"), [const { Vec::<String>::new() }; 3]);
    assert_eq!(stage.state(&spec.id), State::Running, "untouched");
}

/// Somebody who listens on a network that is no instance's own.
struct Outside {
    network: String,
    listener: TcpListener,
}

impl Outside {
    fn of(stage: &Stage) -> Self {
        let network = format!("{}-outside", stage.owner);
        docker(&["network", "create", &network]);
        // Its gateway is an address of this host.
        let gateway = inspect(&network, "{{(index .IPAM.Config 0).Gateway}}");
        Self { network, listener: TcpListener::bind((gateway.as_str(), 0)).unwrap() }
    }

    /// Whether the container can connect.
    fn reaches(&self, id: &InstanceId) -> bool {
        let address = self.listener.local_addr().unwrap();
        let connect = format!("exec 3<>/dev/tcp/{}/{}", address.ip(), address.port());
        let arguments = ["--target", &pid(id), "--net", "timeout", "5", "bash", "-c", &connect];
        Command::new("nsenter").args(arguments).output().unwrap().status.success()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["network", "rm", &self.network]).output();
    }
}

#[test]
fn a_container_reaches_nothing_but_by_a_network_that_it_was_given() {
    let Some(stage) = Stage::set() else { return };
    let outside = Outside::of(&stage);
    let confined = stage.spec(&[]);
    stage.run(&confined);
    let mut free = stage.spec(&[]);
    workload(&mut free).network = Some(outside.network.clone());
    stage.run(&free);
    assert!(!outside.reaches(&confined.id));
    assert!(outside.reaches(&free.id), "the test can tell");

    let egress = |spec| {
        let findings = stage.wait(stage.provider.preflight(spec));
        findings.into_iter().find(|finding| finding.subject == "network").unwrap().gravity
    };
    assert_eq!((egress(&confined), egress(&free)), (Gravity::Fine, Gravity::Warning));
    stage.wait(stage.provider.destroy(&free.id)).unwrap();
}

#[test]
fn an_active_container_has_a_way_out_unless_it_is_kept_from_it() {
    let Some(stage) = Stage::set() else { return };
    let outside = Outside::of(&stage);
    let mut source = stage.spec(&[]);
    source.role = Role::Active;
    stage.run(&source);
    assert!(outside.reaches(&source.id), "from its start");
    for kept in [false, true] {
        let mut spec = stage.spec(&[]);
        workload(&mut spec).keep_egress = kept;
        let at = stage.run(&spec);
        assert!(!outside.reaches(&spec.id), "as a shadow");
        for _ in 0..2 {
            // By another Segue each time, as after a kill.
            let provider = DockerProvider::connect(&stage.owner);
            stage.wait(provider.promote(&spec.id)).unwrap();
        }
        assert_eq!(outside.reaches(&spec.id), !kept, "kept: {kept}");
        assert_eq!(address(&stage.wait(stage.provider.start(&spec)).unwrap()), at, "its address stays");
        assert!(answers(at));

        stage.wait(stage.provider.stop(&spec.id, GRACE)).unwrap();
        spec.role = Role::Active;
        stage.run(&spec);
        assert_eq!(outside.reaches(&spec.id), !kept, "started again, kept: {kept}");

        // The end of a Segue between the swap and the promotion.
        let mut late = stage.spec(&[]);
        workload(&mut late).keep_egress = kept;
        stage.wait(stage.provider.create(&late)).unwrap();
        late.role = Role::Active;
        stage.run(&late);
        assert_eq!(outside.reaches(&late.id), !kept, "not promoted, kept: {kept}");
    }
    for id in stage.wait(stage.provider.list()).unwrap() {
        stage.wait(stage.provider.destroy(&id)).unwrap();
    }
}

#[test]
fn a_preflight_says_what_is_missing_and_makes_nothing() {
    let Some(stage) = Stage::set() else { return };
    let good = stage.spec(&[]);
    let findings = stage.wait(stage.provider.preflight(&good));
    assert!(findings.iter().all(|finding| finding.gravity < Gravity::Fault), "{findings:?}");
    let mut bad = stage.spec(&[]);
    let docker = workload(&mut bad);
    docker.image = "segue-test-no-such-image".into();
    docker.network = Some("segue-test-no-such-network".into());
    docker.volumes = vec![volume("/no/such/folder", "/data"), volume("segue-test-volume", "/more")];
    let findings = stage.wait(stage.provider.preflight(&bad));
    let faults: Vec<_> = findings
        .iter()
        .filter(|finding| finding.gravity == Gravity::Fault)
        .map(|finding| finding.subject.as_str())
        .collect();
    assert_eq!(faults, ["image", "network", "volume"], "{findings:?}");
    assert!(findings.iter().any(|finding| finding.message.contains("docker pull segue-test-no-such-image")));
    let label = format!("segue.owner={}", stage.owner);
    assert_eq!(Stage::traces(&label), [const { Vec::<String>::new() }; 3]);
}
