//! A bad configuration gives one clear error with its place, and exit code 2, before anything starts.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::certificates::Authority;
use crate::support::free_port;

fn segue(arguments: &[&str], file: &Path) -> Output {
    // What should have been refused would run for ever.
    Command::new("timeout")
        .args(["20", env!("CARGO_BIN_EXE_segue")])
        .args(arguments)
        .arg(file)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn each_fault_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (one, other) = (authority.issue("one", &["one.test"]), authority.issue("other", &["other.test"]));
    let file = folder.path().join("segue.toml");
    let good = format!(
        "[admin]\nlisten = \"off\"\n[[listeners]]\naddress = \"127.0.0.1:{}\"\n\
         [services.web]\nsource = {{ endpoints = [\"http://127.0.0.1:1\"] }}\n",
        free_port()
    );
    std::fs::write(&file, &good).unwrap();
    let checked = segue(&["check", "--config"], &file);
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));

    let tls = |cert: &Path, key: &Path| {
        good.replace(
            "[services.web]",
            &format!(
                "tls = {{ cert = \"{}\", key = \"{}\" }}\n[services.web]",
                cert.display(),
                key.display()
            ),
        )
    };
    let nowhere = folder.path().join("nowhere.pem");
    let cases = [
        (good.replace("source", "sauce"), ":6:1:", "did you mean `source`"),
        (good.replace("http://", "htp://"), ":6:", "is not an endpoint"),
        (
            good.replace("[services.web]\n", "[services.web]\ntee = { percent = 50 }\n"),
            ":6:",
            "allow_above_5_percent",
        ),
        (format!("{good}workers ="), ":7:", ""),
        (
            good.replace("[[listeners]]\naddress = \"127.0.0.1", "[[listeners]]\naddress = \"elsewhere"),
            ":4:11:",
            "address",
        ),
        (tls(&nowhere, &one.key), ":5:", "nowhere.pem"),
        (tls(&one.key, &one.key), ":5:", "no PEM certificate"),
        (tls(&one.cert, &other.key), "", "does not"),
        (String::new(), ":1:1:", ""),
    ];
    for (text, place, words) in cases {
        std::fs::write(&file, &text).unwrap();
        let mut said = Vec::new();
        for verb in ["run", "check"] {
            let output = segue(&[verb, "--config"], &file);
            let stderr = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{verb}: {stderr}\n{text}");
            let place = format!("{}{place}", file.display());
            assert!(
                stderr.contains(&place) && stderr.contains(words),
                "{verb}: {stderr}\nexpected {place} {words}\n{text}"
            );
            assert!(!stderr.contains("panicked"), "{stderr}");
            assert!(output.stdout.is_empty());
            said.push(stderr.lines().filter(|line| line.contains(&*file.to_string_lossy())).count());
        }
        assert!(said[0] >= 1 && said[0] == said[1], "run and check say the same: {said:?}");
    }
    let output = segue(&["run", "--config"], &folder.path().join("absent.toml"));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("absent.toml:1:1: cannot be read"), "{}", stderr(&output));
}

#[test]
fn a_port_in_use_is_the_configurations_fault() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("segue.toml");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    for (listener, admin) in
        [(taken.to_string(), "off".to_owned()), (format!("127.0.0.1:{}", free_port()), taken.to_string())]
    {
        let text = format!(
            "[admin]\nlisten = \"{admin}\"\n[[listeners]]\naddress = \"{listener}\"\n\
             [services.web]\nsource = {{ endpoints = [\"http://127.0.0.1:1\"] }}\n"
        );
        let _held = TcpListener::bind(taken);
        std::fs::write(&file, text).unwrap();
        let output = segue(&["run", "--config"], &file);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&*file.to_string_lossy()) && said.contains(&taken.to_string()), "{said}");
        assert!(said.contains("in use"), "{said}");
    }
}
