//! systemd's side, played by hand: a socket that it has opened, and what it is told.

use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use segue::origin::{Origin, OriginSettings};

use crate::support::{PATIENCE, free_port, get, tools};

/// Puts the socket at descriptor 3 and says that it is meant for this very process, then becomes Segue.
const ACTIVATE: &str = "
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ['LISTEN_FDS'], os.environ['LISTEN_PID'] = '1', str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
";

#[test]
fn a_socket_that_systemd_opened_is_taken_over() {
    if !tools::has(tools::PYTHON) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let origin = Origin::start(OriginSettings::on_loopback()).unwrap();
    // Whoever connects before Segue is there waits in its queue.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let config = folder.path().join("segue.toml");
    let text = format!(
        "[admin]\nlisten = \"127.0.0.1:{}\"\n[[listeners]]\naddress = \"{address}\"\n\
         [services.web]\nsource = {{ endpoints = [\"http://{}\"] }}\n",
        free_port(),
        origin.addr().unwrap()
    );
    std::fs::write(&config, text).unwrap();
    let told = folder.path().join("notify");
    let manager = UnixDatagram::bind(&told).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).unwrap();
    let early = std::thread::spawn(move || get(address, "/").status);

    let mut segue = Command::new(tools::PYTHON)
        .args([
            "-c",
            ACTIVATE,
            &socket.as_raw_fd().to_string(),
            env!("CARGO_BIN_EXE_segue"),
            "run",
            "--config",
        ])
        .arg(&config)
        .env("NOTIFY_SOCKET", &told)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let hear = || {
        let mut message = [0; 256];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    assert_eq!(hear().lines().next(), Some("READY=1"));
    assert_eq!(early.join().unwrap(), 200, "it has waited, and is answered");
    drop(socket);
    assert_eq!(get(address, "/").status, 200, "the socket is Segue's own now");

    let id = segue.id().to_string();
    Command::new("kill").args(["-HUP", &id]).status().unwrap();
    assert!(hear().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(hear(), "READY=1");
    Command::new("kill").args(["-TERM", &id]).status().unwrap();
    assert_eq!(hear(), "STOPPING=1");
    assert!(segue.wait().unwrap().success());
}
