//! What the annotated files in `config/` promise: they load, show the defaults and leave no key out.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[test]
fn the_smallest_file_is_the_smallest_settings() {
    let text = r#"
        [admin]
        listen = "127.0.0.1:9900"
        [[listeners]]
        address = "0.0.0.0:8080"
        [services.web]
        source = { endpoints = ["http://127.0.0.1:3000"] }
        shadow = { endpoints = ["http://127.0.0.1:3001"] }
        tee    = { percent = 2.0 }
    "#;
    let endpoint = |text: &str| text.parse::<Endpoint>().unwrap();
    let listen = SocketAddr::from(([0, 0, 0, 0], 8080));
    let shadow = Some(endpoint("http://127.0.0.1:3001"));
    assert_eq!(
        parse(text, "f").unwrap(),
        Settings::smallest(listen, endpoint("http://127.0.0.1:3000"), shadow)
    );
}

/// What the reader finds wrong with a file, but for what this build was built without.
fn faults(text: &str, name: &str) -> Vec<String> {
    let faults =
        parse(text, name).err().map(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>());
    let missing = "needs a Segue that was built with it";
    faults
        .unwrap_or_default()
        .into_iter()
        .filter(|fault| cfg!(feature = "ec2") || !fault.contains(missing))
        .collect()
}

fn example(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap()
}

/// Settings that are commented out are switched on: lines that start with `#` and no space.
fn switched_on(text: &str) -> String {
    let on = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(on).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_example_is_sound_as_it_stands_and_switched_on() {
    for name in ["segue.toml", "sidecar.toml", "edge.toml", "load-target.toml"] {
        let text = example(name);
        parse(&text, name).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(faults(&switched_on(&text), name), [""; 0], "switched on");
    }
}

#[test]
fn the_reference_shows_the_defaults() {
    let endpoint = |text: &str| text.parse::<Endpoint>().unwrap();
    let listen = SocketAddr::from(([0, 0, 0, 0], 8080));
    let shadow = Some(endpoint("http://127.0.0.1:3001"));
    let defaults = Settings::smallest(listen, endpoint("http://127.0.0.1:3000"), shadow);
    assert_eq!(parse(&example("segue.toml"), "f").unwrap(), defaults);

    let on = switched_on(&example("segue.toml"));
    let document = toml::de::DeTable::parse(&on).unwrap();
    let settings = reader::Sheet::new(Path::new(""), None).root(document.get_ref(), document::settings);
    let health = settings.services["web"].upstream.health.clone();
    assert_eq!(health, Some(HealthCheck::at("/healthz".into())));
}

#[test]
fn the_reference_leaves_no_key_out() {
    let text = switched_on(&example("segue.toml"));
    let document = toml::de::DeTable::parse(&text).unwrap();
    let sheet = reader::Sheet::new(Path::new(""), None);
    sheet.root(document.get_ref(), document::settings);
    let asked = sheet.asked.borrow();
    assert!(asked.len() > 60, "the reader says what it knows");
    for key in asked.iter() {
        let name = key.rsplit('.').next().unwrap();
        let shown = text.contains(&format!("{name} =")) || text.contains(&format!(".{name}]"));
        assert!(shown || text.contains(&format!("[{name}]")) || text.contains(&format!("[{name}.")), "{key}");
    }
}

#[test]
fn the_examples_say_what_their_names_promise() {
    let sidecar = parse(&example("sidecar.toml"), "f").unwrap();
    assert_eq!(sidecar.services["app"].source.endpoints[0].to_string(), "unix:/run/app/app.sock");
    let edge = parse(&example("edge.toml"), "f").unwrap();
    assert_eq!(edge.listeners[1].tls.as_ref().unwrap().certificates.len(), 2);
    let cookie = Sampling::Session(SessionKey::Cookie("sid".into()));
    assert_eq!(edge.services["shop"].tee.sampling, cookie);
    let api = &edge.services["shop-api"];
    assert_eq!(api.upstream.health.as_ref().unwrap().timeout, Duration::from_secs(1));
    assert_eq!(api.classify.rules[0].class, RuleClass::Write);
    let target = parse(&example("load-target.toml"), "f").unwrap();
    assert_eq!(target.services["origin"].tee.percent, Percent::ZERO);
    assert_eq!(target.services["origin"].source.endpoints[0].to_string(), "http://127.0.0.1:3000");
}

proptest! {
    /// Whatever an editor leaves behind: a part of the reference cut out, something typed in its place.
    #[test]
    fn a_mangled_file_has_faults_or_settings_but_never_panics(
        cut in 0.0..1.0f64, length in 0..400usize, typed in "[\\[\\]{}=\",.#a-z0-9\n ]{0,12}",
    ) {
        let text = switched_on(&example("segue.toml"));
        let from = text.floor_char_boundary((text.len() as f64 * cut) as usize);
        let to = text.floor_char_boundary((from + length).min(text.len()));
        let mangled = format!("{}{typed}{}", &text[..from], &text[to..]);
        if let Err(faults) = parse(&mangled, "f") {
            prop_assert!(faults.iter().count() > 0);
            prop_assert!(faults.iter().all(|fault| fault.line <= mangled.lines().count() + 1));
        }
    }
}
