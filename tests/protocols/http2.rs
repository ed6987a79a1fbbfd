//! HTTP/2 from end to end: gRPC with its trailers, many streams on one connection.

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use segue::origin::{Origin, OriginSettings};

use crate::resting::status;
use crate::support::frames::{END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, frame, get};
use crate::support::{Segue, until};

async fn connect(segue: &Segue) -> SendRequest<Full<Bytes>> {
    let tcp = tokio::net::TcpStream::connect(segue.address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn call(segue: &Segue, method: &str) -> Request<Full<Bytes>> {
    Request::post(format!("http://{}/segue.sample.Sample/{method}", segue.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "5S")
        .body(Full::new(Bytes::from_static(b"\0\0\0\0\x02\x08\x01")))
        .unwrap()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn grpc_passes_unharmed() {
    let origin = Origin::start(OriginSettings::on_loopback()).unwrap();
    let segue = Segue::with(&format!("h2c://{}", origin.addr().unwrap()), None, "", "");
    block_on(async {
        let mut sender = connect(&segue).await;
        for method in ["Get", "Put", "Get"] {
            let answer = sender.send_request(call(&segue, method)).await.unwrap();
            assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
            assert_eq!(answer.headers()["content-type"], "application/grpc");
            let whole = answer.into_body().collect().await.unwrap();
            let trailers = whole.trailers().expect("a gRPC answer ends in trailers").clone();
            assert_eq!(trailers["grpc-status"], "0");
            let body = whole.to_bytes();
            assert!(body.len() >= 5, "one message: {body:?}");
        }
    });
    assert_eq!(origin.ledger().unwrap().values().sum::<u64>(), 1, "the write arrived once");
}

#[test]
fn many_streams_share_a_connection_and_none_waits_for_a_slow_one() {
    let origin = Origin::start(OriginSettings::on_loopback()).unwrap();
    for scheme in ["http", "h2c"] {
        let segue = Segue::with(&format!("{scheme}://{}", origin.addr().unwrap()), None, "", "");
        block_on(async {
            let sender = connect(&segue).await;
            let get = |path: String| {
                let mut sender = sender.clone();
                let request = Request::get(format!("http://{}{path}", segue.address));
                let request = request.body(Full::new(Bytes::new())).unwrap();
                async move {
                    let answer = sender.send_request(request).await.unwrap();
                    assert_eq!(answer.status(), StatusCode::OK);
                    answer.into_body().collect().await.unwrap().to_bytes()
                }
            };
            let mut slow = Box::pin(get("/slow/25000".into()));
            let fast = async {
                for round in 0..5_usize {
                    let all = (0..60).map(|n| get(format!("/bytes/{}", n * 1000 + round)));
                    for (n, body) in futures_util::future::join_all(all).await.iter().enumerate() {
                        assert_eq!(body.len(), n * 1000 + round);
                    }
                }
            };
            tokio::select! {
                _ = &mut slow => panic!("the fast ones waited for the slow one"),
                () = fast => {}
            }
        });
    }
}

/// A caller that has been answered once.
pub fn answered(segue: &Segue) -> Frames {
    let mut caller = Frames::open(segue.address, &[]);
    caller.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get("/"))).unwrap();
    loop {
        let next = caller.next().unwrap();
        if next.stream == 1 && next.flags & END_STREAM != 0 {
            return caller;
        }
    }
}

#[test]
fn of_too_many_idle_connections_the_oldest_are_told_to_go() {
    let origin = Origin::start(OriginSettings::on_loopback()).unwrap();
    let rest = "workers = 1\n[callers]\nmax_idle_http2 = 3\n";
    let segue = Segue::with(&format!("http://{}", origin.addr().unwrap()), None, "", rest);
    let mut callers = [(); 5].map(|()| answered(&segue));
    let (oldest, others) = callers.split_at_mut(2);
    for caller in oldest {
        let told = caller.find(GOAWAY).expect("a word before the end");
        assert_eq!(told.payload[4..8], [0; 4], "no error");
        assert_eq!(caller.find(GOAWAY).map(|last| last.payload[..4].to_vec()), Some(vec![0, 0, 0, 1]));
        assert!(caller.find(GOAWAY).is_none(), "and the end");
    }
    until("three to be left", || (status(&segue, "connections") == 3).then_some(()));
    for caller in others {
        caller.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &get("/"))).unwrap();
        assert!(caller.find(HEADERS).is_some(), "the others go on");
    }
}

#[test]
fn one_that_does_not_answer_its_goaway_is_closed_all_the_same() {
    let origin = Origin::start(OriginSettings::on_loopback()).unwrap();
    let rest = "[callers]\nidle_timeout = \"1s\"\n";
    let segue = Segue::with(&format!("http://{}", origin.addr().unwrap()), None, "", rest);
    // It reads nothing from here on, so that it acknowledges nothing either.
    let _silent = answered(&segue);
    until("none to be left", || (status(&segue, "connections") == 0).then_some(()));
}
