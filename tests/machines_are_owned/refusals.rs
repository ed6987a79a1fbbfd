//! An API that says no, is too busy, or is not there.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use segue::instance::ec2::Patience;
use segue::instance::{InstanceId, Provider, ProviderError};
use tokio::runtime::Runtime;

use crate::stage::{HURRY, Stage, provider, provider_with};
use crate::support::certificates::Authority;
use crate::support::recorder::Recorder;
use crate::support::{PATIENCE, Segue, free_port};

const NONE: &str = "<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\">\
                    <reservationSet/></DescribeInstancesResponse>";

fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").into_bytes()
}

fn refusal(code: &str) -> String {
    format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>The answer is no.</Message></Error></Errors></Response>"
    )
}

/// An API that says this to the first `times` calls, and then that there is nothing.
fn stub(times: usize, first: impl Fn() -> Option<Vec<u8>> + Send + Sync + 'static) -> Recorder {
    let calls = Arc::new(AtomicUsize::new(0));
    Recorder::answering(move |_| {
        if calls.fetch_add(1, Ordering::Relaxed) < times { first() } else { Some(answer("200 OK", NONE)) }
    })
}

fn list(url: &str, patience: Patience) -> Result<Vec<InstanceId>, ProviderError> {
    let listed = async {
        let provider = provider("mine", url, patience);
        tokio::time::timeout(PATIENCE, provider.list()).await.expect("each call is bounded")
    };
    Runtime::new().unwrap().block_on(listed)
}

#[test]
fn one_that_is_too_busy_is_asked_again_and_given_up_in_the_end() {
    let busy = || Some(answer("503 Service Unavailable", &refusal("RequestLimitExceeded")));
    let api = stub(2, busy);
    assert_eq!(list(&api.url(), HURRY).unwrap(), []);
    assert_eq!(api.count(), 3);
    let api = stub(usize::MAX, busy);
    let error = list(&api.url(), HURRY).unwrap_err();
    assert_eq!(api.count(), 3);
    assert!(error.is_transient());
    let error = error.to_string();
    assert!(
        error.contains("RequestLimitExceeded: The answer is no.") && error.contains("3 times"),
        "{error}"
    );
}

#[test]
fn an_answer_that_is_lost_is_asked_for_again() {
    let lost: [fn() -> Option<Vec<u8>>; 3] = [
        || None,
        || Some(answer("502 Bad Gateway", "<html>")),
        || Some(answer("500 Internal Server Error", &refusal("InternalError"))),
    ];
    for lost in lost {
        let api = stub(1, lost);
        assert_eq!(list(&api.url(), HURRY).unwrap(), []);
        assert_eq!(api.count(), 2);
    }
}

#[test]
fn one_that_says_no_is_not_asked_again() {
    let api = stub(usize::MAX, || Some(answer("403 Forbidden", &refusal("UnauthorizedOperation"))));
    let error = list(&api.url(), HURRY).unwrap_err().to_string();
    assert_eq!(api.count(), 1);
    assert!(error.contains("UnauthorizedOperation: The answer is no"), "{error}");
    assert!(error.contains("allow `ec2:DescribeInstances`"), "{error}");
}

#[test]
fn one_that_is_not_there_hangs_or_is_no_api_is_given_up_with_a_reason() {
    let error = list(&format!("http://127.0.0.1:{}", free_port()), HURRY).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("refused"), "{error}");

    // The kernel takes the connections; nobody ever reads them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let error = list(&url, Patience { attempt: Duration::from_millis(50), ..HURRY }).unwrap_err().to_string();
    assert!(error.contains("has not answered within 50ms"), "{error}");

    let page = stub(usize::MAX, || Some(answer("200 OK", "Welcome!")));
    let error = list(&page.url(), HURRY).unwrap_err().to_string();
    assert!(error.contains("`ec2.endpoint_url`"), "{error}");
}

#[test]
fn only_the_owner_of_the_keys_is_let_in_and_only_to_what_is_allowed() {
    let Some(stage) = Stage::set() else { return };
    let spec = stage.spec();
    let (id, secret) = stage.account.lock("Describe*");
    let of = |id: &str, secret: &str| {
        let keys = [("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)];
        provider_with("mine", &stage.account.url(), HURRY, &keys)
    };
    let good = of(&id, &secret);
    stage.wait(good.state(&spec.id)).expect("moto computes the signature itself");
    let denied = stage.wait(good.create(&spec)).unwrap_err();
    assert!(!denied.is_transient(), "{denied}");
    assert!(denied.to_string().contains("allow `ec2:RunInstances`"), "{denied}");

    for (id, secret) in [(id.as_str(), "wrong"), ("AKIANOBODY", secret.as_str())] {
        let error = stage.wait(of(id, secret).state(&spec.id)).unwrap_err();
        assert!(!error.is_transient(), "{error}");
        let error = error.to_string();
        assert!(error.contains("AuthFailure: ") && error.contains("those of AWS_ACCESS_KEY_ID"), "{error}");
    }
}

#[test]
fn over_tls_the_api_has_to_be_who_it_says() {
    let api = stub(0, || None);
    let authority = Authority::new();
    let port = free_port();
    let listener = format!(
        "[[listeners]]\naddress = \"127.0.0.1:{port}\"\ntls = {{ {} }}\n",
        authority.issue("api", &["127.0.0.1"]).toml()
    );
    let _front = Segue::with(&api.url(), None, "", &listener);
    let url = format!("https://127.0.0.1:{port}");
    let ca = authority.ca();
    let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    let trusting = [keys[0], keys[1], ("AWS_CA_BUNDLE", ca.to_str().unwrap())];
    let runtime = Runtime::new().unwrap();
    let listed = |with: &[(&str, &str)]| runtime.block_on(provider_with("mine", &url, HURRY, with).list());
    assert_eq!(listed(&trusting).unwrap(), []);
    assert_eq!(api.count(), 1);
    let error = listed(&keys).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("certificate"), "{error}");
    assert_eq!(api.count(), 1, "nothing was shown to a stranger");
}
