//! Callers that others wrote: load generators that count what fails, and gRPC's own client.

use std::process::Command;

use segue::origin::{Origin, OriginSettings};

use crate::support::{Segue, tools};

fn said(command: &str, arguments: &[&str]) -> String {
    let done = Command::new(command).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{command}: {error}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn wrk_and_h2load_see_no_request_fail() {
    let origin = Origin::start(OriginSettings::on_loopback()).unwrap();
    let segue = Segue::with(&format!("http://{}", origin.addr().unwrap()), None, "", "");
    let url = format!("{}/bytes/1024", segue.url());
    if tools::has("wrk") {
        let report = said("wrk", &["-c", "32", "-t", "1", "-d", "2s", &url]);
        assert!(report.contains("requests in"), "{report}");
        assert!(!report.contains("Non-2xx") && !report.contains("Socket errors"), "{report}");
    }
    if tools::has("h2load") {
        for protocol in [&["--h1"][..], &["-m", "20"]] {
            let report = said("h2load", &[&["-n", "3000", "-c", "8"], protocol, &[&url]].concat());
            assert!(report.contains("3000 succeeded, 0 failed, 0 errored, 0 timeout"), "{report}");
            assert!(report.contains("3000 2xx"), "{report}");
        }
    }
}

/// Calls one method three times on one channel, without generated code.
const GRPC: &str = "
import sys, grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    for method in ('Get', 'Put', 'Get'):
        ask = channel.unary_unary('/segue.sample.Sample/' + method)
        answer, call = ask.with_call(b'\\x08\\x01', timeout=10)
        print(call.code().name, len(answer) > 0)
";

#[test]
fn the_grpc_client_of_grpc_itself_is_answered() {
    if !tools::has("python3-grpc") {
        return;
    }
    let origin = Origin::start(OriginSettings::on_loopback()).unwrap();
    let segue = Segue::with(&format!("h2c://{}", origin.addr().unwrap()), None, "", "");
    let report = said(tools::PYTHON, &["-c", GRPC, &segue.address.to_string()]);
    assert_eq!(report, "OK True\n".repeat(3));
    assert_eq!(origin.ledger().unwrap().values().sum::<u64>(), 1, "the write arrived once");
}
