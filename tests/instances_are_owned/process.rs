//! The `process` provider.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use segue::config::ByteSize;
use segue::instance::{Finding, Gravity, Provider, ProviderError, Role, Spec, State, Workload};

use crate::stage::{
    Home, SEGUE, address, allocation, answers, id, is_alive, origin, script, spec, with_argument,
};
use crate::support::{get, try_request, until};

const GRACE: Duration = Duration::from_secs(5);

#[test]
fn an_instance_lives_and_leaves_nothing_but_its_log() {
    for home in Home::of_both_kinds() {
        let web = origin("web-2", &["--name", "{role}"]);
        let state = || home.wait(home.provider.state(&web.id)).unwrap();
        assert_eq!(state(), State::Absent);
        home.wait(home.provider.create(&web)).unwrap();
        home.wait(home.provider.create(&web)).unwrap();
        assert_eq!(state(), State::Made);
        let at = home.run(&web);
        assert_eq!((state(), get(at, "/").header("x-instance")), (State::Running, Some("shadow")));
        assert_eq!(home.wait(home.provider.list()).unwrap(), std::slice::from_ref(&web.id));
        let (pid, groups) = (home.pid(&web.id), home.groups(&web.id));

        home.wait(home.provider.stop(&web.id, GRACE)).unwrap();
        home.wait(home.provider.stop(&web.id, GRACE)).unwrap();
        assert_eq!(state(), State::Made);
        assert!(!is_alive(pid) && !answers(at));
        assert_eq!(home.run(&web), at, "it is found at the same place");

        let pid = home.pid(&web.id);
        home.wait(home.provider.destroy(&web.id)).unwrap();
        home.wait(home.provider.destroy(&web.id)).unwrap();
        assert_eq!(state(), State::Absent);
        assert!(!is_alive(pid) && TcpStream::connect(at).is_err());
        assert!(!home.folder.join("web-2").exists());
        for group in groups.values() {
            assert!(!group.exists() && !group.parent().unwrap().exists(), "{}", group.display());
        }
        assert_eq!(home.wait(home.provider.list()).unwrap(), []);
        let told = home.wait(home.provider.tail(&web.id));
        assert!(told.contains("listening on"), "{told}");
        let refused = home.wait(home.provider.start(&web));
        assert!(matches!(refused, Err(ProviderError::Absent(_))), "{refused:?}");
    }
}

#[test]
fn starting_it_again_starts_no_second_one() {
    let home = Home::new();
    let web = origin("web", &[]);
    home.wait(home.provider.create(&web)).unwrap();
    let both = home.wait(async { tokio::join!(home.provider.start(&web), home.provider.start(&web)) });
    let at = address(&both.0.unwrap());
    assert_eq!(address(&both.1.unwrap()), at);
    let pid = home.pid(&web.id);
    assert_eq!(address(&home.wait(home.provider.start(&web)).unwrap()), at);
    home.wait(home.provider.create(&web)).unwrap();
    assert_eq!(home.pid(&web.id), pid);
    assert_eq!(with_argument(&format!("127.0.0.1:{}", at.port())), [pid]);
}

#[test]
fn a_segue_that_starts_again_finds_what_runs() {
    let mut home = Home::new();
    let web = origin("web", &[]);
    let at = home.run(&web);
    let pid = home.pid(&web.id);
    home.reopen();
    assert_eq!(home.wait(home.provider.state(&web.id)).unwrap(), State::Running);
    assert_eq!(address(&home.wait(home.provider.start(&web)).unwrap()), at);
    assert_eq!(home.pid(&web.id), pid);
    home.wait(home.provider.stop(&web.id, GRACE)).unwrap();
    assert!(!is_alive(pid));
}

/// The folder that [`stands_in_for_a_segue`] runs an instance in.
const FOLDER: &str = "SEGUE_TEST_INSTANCES";
const GROUP: &str = "SEGUE_TEST_GROUP";

/// No test of its own: the process that the next one kills.
#[test]
fn stands_in_for_a_segue() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let home = Home::at(folder.as_ref(), std::env::var(GROUP).ok());
    home.run(&origin("web", &[]));
    println!("\nrunning");
    std::thread::park();
}

#[test]
fn kill_9_of_segue_ends_no_instance() {
    let home = Home::new();
    let segue = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::stands_in_for_a_segue", "--nocapture"])
        .env(FOLDER, &home.folder)
        .env(GROUP, home.group().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut segue = Stranger(segue);
    let lines = BufReader::new(segue.0.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "running"));
    drop(segue); // kill -9

    let web = origin("web", &[]);
    assert_eq!(home.wait(home.provider.state(&web.id)).unwrap(), State::Running);
    let pid = home.pid(&web.id);
    assert!(answers(address(&home.wait(home.provider.start(&web)).unwrap())));
    assert_eq!(home.pid(&web.id), pid);
    // Nobody here is its parent, so nobody here can see its code.
    Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    let ended = State::Ended { code: None, out_of_memory: false };
    until("its end to be seen", || (home.wait(home.provider.state(&web.id)).unwrap() == ended).then_some(()));
    home.run(&web);
    assert_ne!(home.pid(&web.id), pid);
}

#[test]
fn one_that_a_killed_segue_had_just_begun_cannot_come_to_life_later() {
    let home = Home::new();
    let web = origin("web", &[]);
    home.wait(home.provider.create(&web)).unwrap();
    // The launcher as it is before it has joined or written anything: it waits for somebody to write the port.
    let folder = home.folder.join("web");
    fs::remove_file(folder.join("port")).unwrap();
    assert!(Command::new("mkfifo").arg(folder.join("port")).status().unwrap().success());
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let launcher = Command::new(SEGUE)
        .args(["launch", "--folder"])
        .arg(&folder)
        .stdin(lock)
        .stdout(Stdio::null())
        .spawn();
    let mut launcher = Stranger(launcher.unwrap());
    home.wait(home.provider.stop(&web.id, GRACE)).unwrap();
    assert!(until("the launcher to end", || launcher.0.try_wait().unwrap()).code().is_none(), "killed");
    assert_eq!(home.wait(home.provider.state(&web.id)).unwrap(), State::Made);
}

#[test]
fn its_children_end_with_it() {
    for home in Home::of_both_kinds() {
        // One that does as it is told, one that does not, and one in a session of its own.
        let word = format!("{}", fastrand::u32(1_000_000_000..));
        let web = script(
            "web",
            &format!("sleep {word} & (trap '' TERM; sleep {word}; sleep {word}) & setsid sleep {word} &"),
        );
        home.run(&web);
        until("the children to be there", || (with_argument(&word).len() == 3).then_some(()));
        home.wait(home.provider.stop(&web.id, Duration::from_millis(300))).unwrap();
        assert!(with_argument(&word).is_empty(), "group {:?}", home.group());
        assert_eq!(home.wait(home.provider.state(&web.id)).unwrap(), State::Made);
    }
}

#[test]
fn its_code_is_known_as_soon_as_its_end_is_seen() {
    let home = Home::without_cgroups();
    let short = spec("short", &["sh", "-c", "exit 3"]);
    home.wait(home.provider.create(&short)).unwrap();
    // Between its end and the note of its code lies an instant that a look has to fall into.
    for _ in 0..100 {
        home.wait(home.provider.start(&short)).unwrap();
        let seen = until("its end to be seen", || {
            // Many at a time, as it waits between two of its own.
            let mut looks = (0..1000).map(|_| home.wait(home.provider.state(&short.id)).unwrap());
            looks.find(|state| *state != State::Running)
        });
        assert_eq!(seen, State::Ended { code: Some(3), out_of_memory: false });
    }
}

#[test]
fn children_of_one_that_ended_do_not_live_beside_the_next() {
    for home in Home::of_both_kinds() {
        let word = format!("{}", fastrand::u32(1_000_000_000..));
        let crashing = spec("web", &["sh", "-c", &format!("setsid sleep {word} & echo it broke; exit 3")]);
        home.wait(home.provider.create(&crashing)).unwrap();
        home.wait(home.provider.start(&crashing)).unwrap();
        let ended = State::Ended { code: Some(3), out_of_memory: false };
        until("its end to be seen", || {
            (home.wait(home.provider.state(&crashing.id)).unwrap() == ended).then_some(())
        });
        until("its child to be there", || (with_argument(&word).len() == 1).then_some(()));
        home.run(&origin("web", &[]));
        assert!(with_argument(&word).is_empty(), "group {:?}", home.group());
    }
}

#[test]
fn a_fenced_one_takes_nothing_until_it_is_unfenced() {
    for mut home in Home::of_both_kinds() {
        let web = origin("web", &[]);
        let at = home.run(&web);
        assert!(home.wait(home.provider.fence(&web.id)).unwrap());
        assert!(home.wait(home.provider.fence(&web.id)).unwrap());
        home.reopen();
        assert_eq!(home.wait(home.provider.state(&web.id)).unwrap(), State::Fenced);
        // The kernel takes the connection; the frozen process does not.
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let answered = try_request(at, "PUT /k HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\n\r\nv");
            let _ = sender.send(answered.is_ok());
        });
        assert!(receiver.recv_timeout(Duration::from_millis(300)).is_err(), "it answered");
        home.wait(home.provider.unfence(&web.id)).unwrap();
        assert!(receiver.recv_timeout(crate::support::PATIENCE).unwrap(), "it answers now");
        assert_eq!(home.wait(home.provider.state(&web.id)).unwrap(), State::Running);
    }
}

#[test]
fn a_fenced_one_is_ended_without_being_let_go() {
    for home in Home::of_both_kinds() {
        let web = script("web", "trap 'echo said goodbye; exit' TERM; sleep 1000 & wait; :");
        home.wait(home.provider.create(&web)).unwrap();
        home.wait(home.provider.start(&web)).unwrap();
        let pid = home.pid(&web.id);
        home.wait(home.provider.fence(&web.id)).unwrap();
        home.wait(home.provider.stop(&web.id, GRACE)).unwrap();
        assert!(!is_alive(pid));
        let told = home.wait(home.provider.tail(&web.id));
        assert!(!told.contains("goodbye"), "{told}");
        home.run(&origin("web", &[]));
    }
}

#[test]
fn one_that_cannot_run_says_why() {
    let home = Home::new();
    let lost = spec("lost", &["/no/such/program", "{port}"]);
    home.wait(home.provider.create(&lost)).unwrap();
    let error = home.wait(home.provider.start(&lost)).unwrap_err().to_string();
    assert!(error.contains("/no/such/program") && error.contains("No such file"), "{error}");
    let told = home.wait(home.provider.tail(&lost.id));
    assert!(told.contains("/no/such/program"), "{told}");
    assert_eq!(
        home.wait(home.provider.state(&lost.id)).unwrap(),
        State::Ended { code: Some(127), out_of_memory: false }
    );

    let short = spec("short", &["sh", "-c", "echo no database at $SEGUE_DATA >&2; exit 3"]);
    home.wait(home.provider.create(&short)).unwrap();
    home.wait(home.provider.start(&short)).unwrap();
    let ended = State::Ended { code: Some(3), out_of_memory: false };
    until("its end to be seen", || {
        (home.wait(home.provider.state(&short.id)).unwrap() == ended).then_some(())
    });
    let told = home.wait(home.provider.tail(&short.id));
    assert!(told.ends_with(&format!("no database at {}/short/data", home.folder.display())), "{told}");
}

#[test]
fn it_gets_its_own_environment_and_nothing_of_segues() {
    let home = Home::new();
    let mut web = spec("web", &["sh", "-c", "pwd; env; exec sleep 1000"]);
    web.role = Role::Active;
    let Workload::Process(process) = &mut web.workload else { unreachable!() };
    process.environment.insert("LISTEN_URL".into(), "http://[::1]:{port}/{role}".into());
    let mut segue = Command::new(std::env::current_exe().unwrap());
    segue.args(["--exact", "process::starts_what_it_is_told", "--nocapture"]);
    segue.env(FOLDER, &home.folder).env(SPEC, serde_json::to_string(&web).unwrap());
    segue
        .env("NOTIFY_SOCKET", "/n")
        .env("LISTEN_FDS", "1")
        .env("SEGUE_TOKEN", "secret")
        .env("LANGUAGE", "eo");
    assert!(segue.stdout(Stdio::null()).status().unwrap().success());

    let text = until("it to tell", || {
        let text = fs::read_to_string(home.folder.join("web/log")).unwrap();
        text.contains("LANGUAGE=eo\n").then_some(text)
    });
    let port = fs::read_to_string(home.folder.join("web/port")).unwrap();
    let data = home.folder.join("web/data").display().to_string();
    for line in [
        data.clone(),
        format!("SEGUE_DATA={data}"),
        format!("PORT={port}"),
        "SEGUE_ROLE=active".into(),
        format!("LISTEN_URL=http://[::1]:{port}/active"),
    ] {
        assert!(text.lines().any(|told| told == line), "{line} is missing in {text}");
    }
    for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "SEGUE_TOKEN", FOLDER] {
        assert!(!text.contains(&format!("{name}=")), "{name} is in {text}");
    }
}

const SPEC: &str = "SEGUE_TEST_SPEC";

/// No test of its own: a Segue with an environment that the one above chooses.
#[test]
fn starts_what_it_is_told() {
    let (Some(folder), Ok(spec)) = (std::env::var_os(FOLDER), std::env::var(SPEC)) else { return };
    let home = Home::at(folder.as_ref(), None);
    let spec = serde_json::from_str(&spec).unwrap();
    home.wait(home.provider.create(&spec)).unwrap();
    home.wait(home.provider.start(&spec)).unwrap();
    std::process::exit(0); // without destroying it
}

#[test]
fn a_stranger_with_its_number_is_neither_adopted_nor_ended() {
    for home in Home::of_both_kinds() {
        let web = origin("web", &[]);
        home.run(&web);
        let file = home.folder.join("web/pid");
        let mut run: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        home.wait(home.provider.stop(&web.id, GRACE)).unwrap();
        let mut stranger = Stranger(Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap());
        run["pid"] = stranger.0.id().into();
        fs::write(&file, run.to_string()).unwrap();
        let state = home.wait(home.provider.state(&web.id)).unwrap();
        assert_eq!(state, State::Ended { code: None, out_of_memory: false });
        home.run(&web);
        home.wait(home.provider.stop(&web.id, GRACE)).unwrap();
        fs::write(&file, run.to_string()).unwrap();
        home.wait(home.provider.destroy(&web.id)).unwrap();
        assert!(stranger.0.try_wait().unwrap().is_none(), "the stranger was ended");
    }
}

/// A process that is no instance; it ends with the test.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_it_consumes_is_seen() {
    for home in Home::of_both_kinds() {
        let web = origin("web", &["--cpu-us", "20000", "--memory", "32MiB"]);
        let at = home.run(&web);
        let before = home.wait(home.provider.usage(&web.id)).unwrap();
        fs::write(home.folder.join("web/data/rows"), vec![1; 1 << 20]).unwrap();
        for _ in 0..20 {
            get(at, "/");
        }
        let after = home.wait(home.provider.usage(&web.id)).unwrap();
        let burnt = after.cpu.unwrap().saturating_sub(before.cpu.unwrap());
        // 0.4 s were asked for; the clock of /proc has ticks of 10 ms.
        assert!(burnt >= Duration::from_millis(300), "{burnt:?}");
        assert!(after.memory.unwrap() >= ByteSize::mib(32).bytes(), "{after:?}");
        assert!(after.storage.unwrap() - before.storage.unwrap() >= 1 << 20, "{after:?}");
        if home.group().is_some() && home.has_limits() {
            assert!(after.memory_peak >= after.memory && after.oom_kills == Some(0), "{after:?}");
            assert!(after.throttling.is_some(), "{after:?}");
        }
    }
}

#[test]
fn a_live_resize_is_what_the_kernel_holds_it_to() {
    let home = Home::new();
    if !home.has_limits() {
        return;
    }
    let web = origin("web", &["--memory", "32MiB"]);
    let at = home.run(&web);
    let limits = || {
        let groups = home.groups(&web.id);
        let read = |group: &str, file: &str| fs::read_to_string(groups.get(group)?.join(file)).ok();
        let quota = read("cpu", "cpu.cfs_quota_us").or_else(|| read("unified", "cpu.max")).unwrap();
        let memory =
            read("memory", "memory.limit_in_bytes").or_else(|| read("unified", "memory.max")).unwrap();
        let number = |text: &str| text.split_whitespace().next().unwrap().parse::<u64>().unwrap();
        (number(&quota), ByteSize(number(&memory)))
    };
    assert_eq!(limits(), (100_000, ByteSize::mib(256)));
    for (cpu, memory) in [(500, 128), (1500, 512)] {
        let asked = allocation(cpu, memory);
        let resized = home.wait(home.provider.resize(&web.id, asked)).unwrap();
        assert_eq!(resized.to, asked);
        assert!(resized.cpu_enforced && resized.memory_enforced);
        assert_eq!(limits(), (u64::from(cpu) * 100, ByteSize::mib(memory)));
    }

    let resized = home.wait(home.provider.resize(&web.id, allocation(500, 8))).unwrap();
    let in_use = ByteSize::mib(32);
    assert!(resized.to.memory > in_use && resized.to.memory < ByteSize::mib(128), "{resized:?}");
    assert_eq!(limits(), (50_000, resized.to.memory));
    assert_eq!(get(at, "/").status, 200);
    assert_eq!(home.wait(home.provider.usage(&web.id)).unwrap().oom_kills, Some(0));
}

#[test]
fn one_that_writes_without_end_fills_its_own_disk() {
    let mut home = Home::new();
    let mut web = script("web", "head -c 200M /dev/zero > $SEGUE_DATA/rows");
    web.allocation = allocation(1000, 256);
    let findings = home.wait(home.provider.preflight(&web));
    let storage = findings.iter().find(|finding| finding.subject == "storage").unwrap();
    if storage.gravity != Gravity::Fine {
        eprintln!("SKIPPED: {}", storage.message);
        return;
    }
    home.run(&web);
    let rows = home.folder.join("web/data/rows");
    let full = fs::metadata(&rows).unwrap().len();
    let asked = web.allocation.storage.bytes();
    assert!((asked..asked * 2).contains(&full), "{full} of {asked}");
    assert!(home.wait(home.provider.tail(&web.id)).contains("No space left"));

    // What it has stays when it is stopped, and there is more room after a resize: at once where the kernel lets a
    // volume in use grow, else from the next start on.
    let mut more = web.allocation;
    more.storage = ByteSize::mib(64);
    let resized = home.wait(home.provider.resize(&web.id, more)).unwrap();
    let now = resized.to.storage.bytes();
    assert!(resized.storage_enforced && (now == more.storage.bytes() || now < full), "{resized:?}");
    home.wait(home.provider.stop(&web.id, GRACE)).unwrap();
    assert_eq!(fs::metadata(&rows).unwrap().len(), full);
    home.reopen();
    web.allocation = more;
    home.run(&web);
    let full = fs::metadata(&rows).unwrap().len();
    assert!(full >= more.storage.bytes(), "{full}");
    let less = home.wait(home.provider.resize(&web.id, allocation(1000, 256))).unwrap();
    assert!(less.storage_enforced && less.to.storage >= more.storage, "{less:?}");

    // After a reboot nothing is mounted.
    home.wait(home.provider.stop(&web.id, GRACE)).unwrap();
    assert!(Command::new("umount").arg(home.folder.join("web/data")).status().unwrap().success());
    assert!(!rows.exists());
    home.run(&web);
    assert!(rows.exists());
    home.wait(home.provider.destroy(&web.id)).unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&home.folder.display().to_string()), "{mounts}");
}

#[test]
fn limits_that_cannot_be_set_are_advice() {
    let home = Home::without_cgroups();
    let web = origin("web", &[]);
    home.run(&web);
    let asked = allocation(500, 8);
    let resized = home.wait(home.provider.resize(&web.id, asked)).unwrap();
    assert_eq!(resized.to, asked);
    assert!(!resized.cpu_enforced && !resized.memory_enforced);
    let findings = home.wait(home.provider.preflight(&web));
    let limits = findings.iter().find(|finding| finding.subject == "limits").unwrap();
    assert!(limits.message.contains("/sys/fs/cgroup"), "{limits:?}");
}

#[test]
fn a_kill_for_want_of_memory_is_told_from_other_ends() {
    let home = Home::new();
    if !home.has_limits() {
        return;
    }
    let mut web = origin("web", &["--memory", "256MiB"]);
    web.allocation = allocation(1000, 64);
    home.wait(home.provider.create(&web)).unwrap();
    home.wait(home.provider.start(&web)).unwrap();
    let ended = State::Ended { code: Some(137), out_of_memory: true };
    until("the kernel to end it", || {
        let state = home.wait(home.provider.state(&web.id)).unwrap();
        assert!(matches!(state, State::Running) || state == ended, "{state:?}");
        (state == ended).then_some(())
    });
    // Its count goes on in the same cgroup; the next end is another.
    let small = origin("web", &[]);
    home.run(&small);
    Command::new("kill").args(["-9", &home.pid(&id("web")).to_string()]).status().unwrap();
    let killed = State::Ended { code: Some(137), out_of_memory: false };
    until("its end to be seen", || {
        (home.wait(home.provider.state(&web.id)).unwrap() == killed).then_some(())
    });
}

#[test]
fn a_shadow_reaches_what_is_allowed_and_nothing_else() {
    let home = Home::new();
    // An address of this machine that is not its loopback, and two services there.
    let Some(machine) = outward() else {
        eprintln!("SKIPPED: needs a network beside the loopback");
        return;
    };
    let allowed = TcpListener::bind((machine, 0)).unwrap();
    let refused = TcpListener::bind((machine, 0)).unwrap();
    let everywhere = TcpListener::bind(("::", 0)).unwrap();
    let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = |listener: &TcpListener| format!("{machine} {}", listener.local_addr().unwrap().port());
    let mut web = script(
        "web",
        &format!(
            "try() {{ if timeout 2 bash -c \"exec 3<>/dev/tcp/$1/$2\" 2>/dev/null; then echo $3 reached; else echo $3 refused; fi; }}\n\
             try {} allowed; try {} other; try {} everywhere; try 127.0.0.1 {} loopback",
            to(&allowed),
            to(&refused),
            to(&everywhere),
            loopback.local_addr().unwrap().port(),
        ),
    );
    let Workload::Process(process) = &mut web.workload else { unreachable!() };
    process.egress = Some(vec![allowed.local_addr().unwrap().to_string()]);
    let egress =
        home.wait(home.provider.preflight(&web)).into_iter().find(|finding| finding.subject == "egress");
    if let Some(Finding { gravity: Gravity::Fault, message, .. }) = egress {
        eprintln!("SKIPPED: {message}");
        return;
    }

    let at = home.run(&web);
    assert!(!at.ip().is_loopback(), "{at}");
    let told = home.wait(home.provider.tail(&web.id));
    for line in ["allowed reached", "other refused", "everywhere refused", "loopback refused"] {
        assert!(told.contains(line), "{line} is missing in {told}");
    }
    home.wait(home.provider.stop(&web.id, GRACE)).unwrap();
    assert_eq!(home.run(&web), at);
    let network: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(home.folder.join("web/network")).unwrap()).unwrap();
    home.wait(home.provider.destroy(&web.id)).unwrap();
    let left = Command::new("sh")
        .args(["-c", "ip netns; ip link; iptables -S; iptables -t nat -S"])
        .output()
        .unwrap();
    let left = String::from_utf8_lossy(&left.stdout);
    for name in ["namespace", "interface", "chain"] {
        let name = network[name].as_str().unwrap();
        assert!(!left.contains(name), "{name} is left: {left}");
    }
}

#[test]
fn an_active_instance_reaches_everything_unless_it_is_kept_from_it() {
    let Some(machine) = outward() else {
        eprintln!("SKIPPED: needs a network beside the loopback");
        return;
    };
    let outside = TcpListener::bind((machine, 0)).unwrap();
    let port = outside.local_addr().unwrap().port();
    for (kept, after) in [(false, "reached"), (true, "refused")] {
        let mut home = Home::new();
        // It tries as it starts, and whenever it is told to by a file.
        let lines = format!(
            "try() {{ if timeout 2 bash -c 'exec 3<>/dev/tcp/{machine}/{port}' 2>/dev/null; then echo $1 reached; else echo $1 refused; fi; }}\n\
             try start-$SEGUE_ROLE; {{ until [ -e again ]; do sleep 0.02; done; try promoted; }} &"
        );
        let mut web = script("web", &lines);
        let Workload::Process(process) = &mut web.workload else { unreachable!() };
        (process.egress, process.keep_egress) = (Some(Vec::new()), kept);
        let findings = home.wait(home.provider.preflight(&web));
        let egress = findings.into_iter().find(|finding| finding.subject == "egress");
        if let Some(Finding { gravity: Gravity::Fault, message, .. }) = egress {
            eprintln!("SKIPPED: {message}");
            return;
        }
        let said = |home: &Home, what: &str| {
            until(what, || {
                let told = home.wait(home.provider.tail(&web.id));
                let line = told.lines().find(|line| line.starts_with(what)).map(str::to_owned);
                line.filter(|line| line.split(' ').count() == 2)
            })
        };
        let at = home.run(&web);
        assert_eq!(said(&home, "start-shadow"), "start-shadow refused");
        for _ in 0..2 {
            home.wait(home.provider.promote(&web.id)).unwrap();
            // As by the next Segue, after this one was killed.
            home.reopen();
        }
        assert!(answers(at), "its address stays");
        fs::write(home.folder.join("web/data/again"), "").unwrap();
        assert_eq!(said(&home, "promoted"), format!("promoted {after}"), "kept: {kept}");

        home.wait(home.provider.stop(&web.id, GRACE)).unwrap();
        home.reopen();
        let active = Spec { role: Role::Active, ..web.clone() };
        let at = address(&home.wait(home.provider.start(&active)).unwrap());
        until("it to answer where it is now", || answers(at).then_some(()));
        assert_eq!(said(&home, "start-active"), format!("start-active {after}"), "kept: {kept}");
        assert_eq!(at.ip().is_loopback(), !kept, "{at}");
    }
}

/// The address that this machine would be seen with; nothing is sent.
fn outward() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[test]
fn the_launcher_is_not_for_people() {
    let home = Home::new();
    home.wait(home.provider.create(&origin("web", &[]))).unwrap();
    let output = Command::new(SEGUE)
        .args(["launch", "--folder"])
        .arg(home.folder.join("web"))
        .stdin(Stdio::null())
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("for Segue itself"), "{output:?}");
    let help = Command::new(SEGUE).arg("--help").output().unwrap();
    assert!(!String::from_utf8_lossy(&help.stdout).contains("launch"), "{help:?}");
}
