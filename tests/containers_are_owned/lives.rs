//! From nothing to running, frozen, ended and gone, each call repeated as after a crash.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use segue::instance::docker::DockerProvider;
use segue::instance::{Provider, ProviderError, Role, State};

use crate::stage::{GRACE, Stage, address, answers, container, inspect, name_of, pid};
use crate::support::{PATIENCE, read_answer, until};

#[test]
fn made_once_it_runs_answers_stops_and_runs_again() {
    let Some(stage) = Stage::set() else { return };
    let spec = stage.spec(&[]);
    assert_eq!(stage.state(&spec.id), State::Absent);
    for _ in 0..2 {
        stage.wait(stage.provider.create(&spec)).unwrap();
        assert_eq!(stage.state(&spec.id), State::Made);
    }
    assert_eq!(Stage::traces(&format!("segue.instance={}", spec.id)).map(|found| found.len()), [1, 1, 0]);

    let address = stage.run(&spec);
    assert_eq!(name_of(address), "shadow");
    assert_eq!(stage.state(&spec.id), State::Running);
    let first = pid(&spec.id);
    assert_eq!(crate::stage::address(&stage.wait(stage.provider.start(&spec)).unwrap()), address);
    assert_eq!(pid(&spec.id), first, "a second start finds what runs");

    // What a Segue that starts again sees.
    let again = DockerProvider::connect(&stage.owner);
    assert_eq!(stage.wait(again.list()).unwrap(), std::slice::from_ref(&spec.id));
    assert_eq!(stage.wait(again.state(&spec.id)).unwrap(), State::Running);
    for _ in 0..2 {
        stage.wait(again.stop(&spec.id, GRACE)).unwrap();
        assert_eq!(stage.state(&spec.id), State::Made, "stopped, not ended by itself");
    }
    assert!(!answers(address));
    assert_eq!(name_of(stage.run(&spec)), "shadow");
}

#[test]
fn an_end_that_nobody_asked_for_is_told_with_its_code_and_last_words() {
    let Some(stage) = Stage::set() else { return };
    let spec = stage.spec(&[]);
    stage.run(&spec);
    crate::stage::docker(&["kill", &container(&spec.id)]);
    let ended = State::Ended { code: Some(137), out_of_memory: false };
    until("the end to be seen", || (stage.state(&spec.id) == ended).then_some(()));
    stage.wait(stage.provider.stop(&spec.id, GRACE)).unwrap();
    assert_eq!(stage.state(&spec.id), ended, "stopping it afterwards changes nothing");

    let wrong = stage.spec(&["--no-such-option"]);
    stage.wait(stage.provider.create(&wrong)).unwrap();
    // It ends so fast that it may not be seen running at all.
    if let Err(error) = stage.wait(stage.provider.start(&wrong)) {
        assert!(error.to_string().contains("no-such-option"), "{error}");
    }
    until("the end to be seen", || {
        matches!(stage.state(&wrong.id), State::Ended { code: Some(2), out_of_memory: false }).then_some(())
    });
    let tail = stage.wait(stage.provider.tail(&wrong.id));
    assert!(tail.contains("no-such-option"), "{tail}");
}

#[test]
fn fenced_it_takes_nothing_and_unfenced_it_goes_on() {
    let Some(stage) = Stage::set() else { return };
    let spec = stage.spec(&[]);
    let address = stage.run(&spec);
    for _ in 0..2 {
        assert!(stage.wait(stage.provider.fence(&spec.id)).unwrap());
        assert_eq!(stage.state(&spec.id), State::Fenced);
    }
    assert_eq!(crate::stage::address(&stage.wait(stage.provider.start(&spec)).unwrap()), address);
    assert_eq!(stage.state(&spec.id), State::Fenced, "a start does not thaw it");

    // The kernel still takes connections for it.
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(stream.peek(&mut [0]).is_err(), "frozen, it does not answer");
    for _ in 0..2 {
        stage.wait(stage.provider.unfence(&spec.id)).unwrap();
        assert_eq!(stage.state(&spec.id), State::Running);
    }
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(read_answer(&mut stream).unwrap().status, 200);

    assert!(stage.wait(stage.provider.fence(&spec.id)).unwrap());
    stage.wait(stage.provider.stop(&spec.id, GRACE)).unwrap();
    assert_eq!(stage.state(&spec.id), State::Made, "a frozen one can be stopped");
    let code = inspect(&format!("{}.stopped", container(&spec.id)), "{{.State.ExitCode}}");
    assert_eq!(code, "0", "it was asked, not killed");
}

#[test]
fn the_engine_brings_back_the_active_one_alone_and_never_a_fenced_one() {
    let Some(stage) = Stage::set() else { return };
    let policy =
        |spec: &segue::instance::Spec| inspect(&container(&spec.id), "{{.HostConfig.RestartPolicy.Name}}");
    let mut source = stage.spec(&[]);
    source.role = Role::Active;
    let shadow = stage.spec(&[]);
    stage.run(&source);
    stage.run(&shadow);
    assert_eq!((policy(&source).as_str(), policy(&shadow).as_str()), ("unless-stopped", "no"));
    assert!(stage.wait(stage.provider.fence(&source.id)).unwrap());
    assert_eq!(policy(&source), "no", "after the engine restarts nothing would be paused");
    for _ in 0..2 {
        stage.wait(stage.provider.promote(&shadow.id)).unwrap();
    }
    assert_eq!(policy(&shadow), "unless-stopped");

    let first = pid(&shadow.id);
    assert!(Command::new("kill").args(["-9", &first]).status().unwrap().success());
    // Zero while it has none.
    until("the engine to bring it back", || {
        (!["0", &first].contains(&pid(&shadow.id).as_str())).then_some(())
    });
    let address = address(&stage.wait(stage.provider.start(&shadow)).unwrap());
    until("it to answer", || answers(address).then_some(()));
    stage.wait(stage.provider.unfence(&source.id)).unwrap();
    assert_eq!(policy(&source), "unless-stopped");
}

#[test]
fn what_was_never_made_is_absent() {
    let Some(stage) = Stage::set() else { return };
    let spec = stage.spec(&[]);
    stage.wait(stage.provider.destroy(&spec.id)).unwrap();
    let absent = |error| matches!(error, ProviderError::Absent(_));
    assert!(absent(stage.wait(stage.provider.start(&spec)).unwrap_err()));
    assert!(absent(stage.wait(stage.provider.fence(&spec.id)).unwrap_err()));
    assert!(absent(stage.wait(stage.provider.usage(&spec.id)).unwrap_err()));
    assert!(absent(stage.wait(stage.provider.stop(&spec.id, GRACE)).unwrap_err()));
    assert!(absent(stage.wait(stage.provider.resize(&spec.id, spec.allocation)).unwrap_err()));
}
