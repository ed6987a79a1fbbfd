//! What would keep a process from running on this machine, and what will be weaker than asked. Only looks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};

use super::group::Site;
use super::{network, storage};
use crate::config::ByteSize;
use crate::instance::{Allocation, Finding, Process, Role, stand_in};

/// Of an ELF file, as far as its machine; of a script, its first line.
const HEAD: u64 = 256;

/// `data` is where its data directory would be, or one above that.
pub fn findings(
    process: &Process,
    allocation: &Allocation,
    role: Role,
    data: &Path,
    site: &Site,
    volumes: bool,
) -> Vec<Finding> {
    let mut findings = program(process);
    findings.push(limits(site));
    findings.extend(directory(process));
    findings.extend(stand_ins(process));
    findings.extend(names(&process.environment));
    findings.extend(resources(allocation, data));
    findings.push(egress(process, role));
    findings.push(
        match storage::obstacle().filter(|_| volumes).or((!volumes).then_some("volumes are off")) {
            None => Finding::fine("storage", "its data directory is a volume of a fixed size"),
            Some(why) => {
                Finding::warning("storage", format!("storage is watched and not enforced, since {why}"))
            }
        },
    );
    findings
}

fn program(process: &Process) -> Vec<Finding> {
    let Some(name) = process.command.first().filter(|name| !name.is_empty()) else {
        return vec![Finding::fault("command", "the command is empty; give the program and its arguments")];
    };
    if !stand_in::unknown(name).is_empty() || name.contains('{') {
        let message = format!("{name:?} cannot be looked for before the instance is made");
        return vec![Finding::warning("command", message)];
    }
    let Some(path) = find(name, process) else {
        let message = format!("there is no program {name:?}; give its whole path, or set PATH");
        return vec![Finding::fault("command", message)];
    };
    if !path.is_file() || access(&path, Access::EXEC_OK).is_err() {
        return vec![Finding::fault(
            "command",
            format!("{} is not executable; see its mode", path.display()),
        )];
    }
    let Some(begins) = head(&path) else {
        let message = format!("{} cannot be read, so its architecture is unknown", path.display());
        return vec![Finding::warning("command", message)];
    };
    let Some(line) = begins.strip_prefix(b"#!") else { return vec![architecture(&path, &begins)] };
    let line = String::from_utf8_lossy(line);
    let interpreter = line.lines().next().unwrap_or_default().split_whitespace().next().unwrap_or_default();
    if access(interpreter, Access::EXEC_OK).is_err() {
        let message = format!("{} wants {interpreter:?}, which is not there", path.display());
        return vec![Finding::fault("command", message)];
    }
    let script = Finding::fine("command", format!("{} is a script for {interpreter}", path.display()));
    let interpreter = Path::new(interpreter);
    // One that is a script itself says nothing.
    let its = head(interpreter).filter(|begins| machine(begins).is_some());
    [script].into_iter().chain(its.map(|begins| architecture(interpreter, &begins))).collect()
}

fn head(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head)).ok().map(|_| head)
}

fn architecture(path: &Path, begins: &[u8]) -> Finding {
    let own = head(Path::new("/proc/self/exe")).as_deref().and_then(machine);
    match (machine(begins), own) {
        (None, _) => {
            Finding::fault("architecture", format!("{} is neither a program nor a script", path.display()))
        }
        (Some(its), Some(own)) if its != own => Finding::fault(
            "architecture",
            format!(
                "{} is built for {}, and this machine is {}; give one that is built for it",
                path.display(),
                name_of(its),
                name_of(own)
            ),
        ),
        (Some(its), _) => Finding::fine(
            "architecture",
            format!("{} is built for this machine, {}", path.display(), name_of(its)),
        ),
    }
}

/// As `execvp` would, in the directory and with the PATH that it will have.
fn find(name: &str, process: &Process) -> Option<PathBuf> {
    if name.contains('/') {
        let directory = process.directory.clone().unwrap_or_default();
        return Some(directory.join(name)).filter(|path| path.exists());
    }
    let set = process.environment.get("PATH").map(Into::into);
    let path = set.or_else(|| std::env::var_os("PATH")).unwrap_or_else(|| "/bin:/usr/bin".into());
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// `e_machine` of an ELF header.
fn machine(head: &[u8]) -> Option<u16> {
    head.strip_prefix(b"\x7fELF")?;
    let bytes = [*head.get(18)?, *head.get(19)?];
    match head.get(5)? {
        1 => Some(u16::from_le_bytes(bytes)),
        2 => Some(u16::from_be_bytes(bytes)),
        _ => None,
    }
}

fn name_of(machine: u16) -> String {
    match machine {
        3 => "x86".into(),
        40 => "arm".into(),
        62 => "x86-64".into(),
        183 => "arm64".into(),
        243 => "RISC-V".into(),
        other => format!("machine {other} of ELF"),
    }
}

fn directory(process: &Process) -> Option<Finding> {
    let directory = process.directory.as_ref()?;
    if directory.is_dir() {
        return None;
    }
    Some(Finding::fault(
        "directory",
        format!("there is no directory {}; make it, or name another", directory.display()),
    ))
}

fn stand_ins(process: &Process) -> Vec<Finding> {
    let texts = process.command.iter().chain(process.environment.values());
    let unknown = texts.flat_map(|text| stand_in::unknown(text));
    let told = unknown.map(|name| {
        let message = format!(
            "{{{name}}} stands for nothing and is passed as it is; there are {{port}}, {{data}} and {{role}}"
        );
        Finding::warning("stand_in", message)
    });
    told.collect()
}

fn names(environment: &BTreeMap<String, String>) -> Vec<Finding> {
    let wrong = environment
        .iter()
        .filter(|(name, value)| name.is_empty() || name.contains(['=', '\0']) || value.contains('\0'));
    wrong
        .map(|(name, _)| Finding::fault("environment", format!("{name:?} cannot be set in an environment")))
        .collect()
}

fn limits(site: &Site) -> Finding {
    match (site.limits_cpu(), site.limits_memory()) {
        (true, true) => Finding::fine("limits", "the kernel holds it to its CPU and memory"),
        (cpu, memory) => {
            let place =
                site.closed.first().map_or("/sys/fs/cgroup".into(), |path| path.display().to_string());
            let what = match (cpu, memory) {
                (true, _) => "memory is",
                (_, true) => "CPU is",
                _ => "CPU and memory are",
            };
            let message = format!(
                "{what} only watched, since no cgroup can be made below {place}; run Segue as root there, or have \
                 it delegated (systemd: Delegate=yes with DelegateSubgroup=; containers: a writable cgroup mount)"
            );
            Finding::warning("limits", message)
        }
    }
}

/// What there is, and what of it does not suffice.
fn resources(allocation: &Allocation, data: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut there = Finding::fine("resources", "");
    let mut told = Vec::new();
    if let Ok(cores) = std::thread::available_parallelism() {
        let cores = cores.get() as u32;
        told.push(format!("there are {cores} cores"));
        there = there.number("cpu_millicores", u64::from(cores) * 1000);
        if allocation.cpu.0 > cores.saturating_mul(1000) {
            let message =
                format!("{} of CPU are wanted, and there are {cores} cores; ask for less", allocation.cpu);
            findings.push(Finding::fault("cpu", message));
        }
    }
    if let Some(available) = available_memory() {
        let text = ByteSize::mib(available.bytes() >> 20);
        told.push(format!("{text} of memory are free"));
        there = there.number("memory_free_bytes", available.0);
        if available < allocation.memory {
            let message = format!(
                "{} of memory are wanted, and {text} are to be had; ask for less, or free some",
                allocation.memory,
            );
            findings.push(Finding::fault("memory", message));
        }
    }
    let place = data.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if let Ok(disk) = statvfs(place) {
        let free = ByteSize(disk.f_bavail.saturating_mul(disk.f_frsize));
        let text = ByteSize::mib(free.bytes() >> 20);
        told.push(format!("{text} of storage are free"));
        there = there.number("storage_free_bytes", free.0);
        if free < allocation.storage {
            let message = format!(
                "{} of storage are wanted, and {text} are free at {}; ask for less, or move [state] store",
                allocation.storage,
                place.display()
            );
            findings.push(Finding::fault("storage", message));
        }
    }
    there.message = told.join(", ");
    findings.push(there);
    findings
}

/// Without swapping.
fn available_memory() -> Option<ByteSize> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok().map(ByteSize::kib)
}

fn egress(process: &Process, role: Role) -> Finding {
    let Some(list) = &process.egress else {
        if process.keep_egress {
            let message =
                "`keep_egress` keeps what `egress` lists, and there is none; add `egress = []`, or drop it";
            return Finding::fault("egress", message);
        }
        return match role {
            Role::Shadow => Finding::warning(
                "egress",
                "the shadow can reach whatever this machine can; set `egress`, or give it credentials that can do \
                 no harm",
            ),
            Role::Active => Finding::fine("egress", "egress is not restricted"),
        };
    };
    if let Some(obstacle) = network::obstacle() {
        return Finding::fault(
            "egress",
            format!("egress cannot be restricted: {obstacle}, or drop `egress`"),
        );
    }
    match network::allowed(list) {
        Err(error) => Finding::fault("egress", error.to_string()),
        Ok(allowed) if (!allowed.is_empty() || !process.keep_egress) && !network::forwards() => {
            Finding::warning(
                "egress",
                "this machine forwards no packets, so the instance reaches the machine itself at most, until it is \
                 started again as the active one; `sysctl -w net.ipv4.ip_forward=1` lets it reach the rest",
            )
        }
        Ok(allowed) => {
            let until = if process.keep_egress { "for life" } else { "until it is active" };
            Finding::fine(
                "egress",
                format!("it reaches Segue and {} allowed addresses, {until}", allowed.len()),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{Gravity, Millicores, ServiceProtocol};

    fn process(command: &[&str]) -> Process {
        Process {
            command: command.iter().map(ToString::to_string).collect(),
            environment: BTreeMap::new(),
            directory: None,
            protocol: ServiceProtocol::Http,
            egress: None,
            keep_egress: false,
        }
    }

    const LITTLE: Allocation =
        Allocation { cpu: Millicores(100), memory: ByteSize::mib(1), storage: ByteSize::mib(1) };

    /// Subjects of the faults and the words in which they are told.
    fn faults(process: &Process, allocation: &Allocation) -> Vec<(String, String)> {
        let at = std::env::temp_dir();
        let found = findings(process, allocation, Role::Shadow, &at, &Site::default(), false);
        let faults = found.into_iter().filter(|finding| finding.gravity == Gravity::Fault);
        faults.map(|finding| (finding.subject, finding.message)).collect()
    }

    fn one_fault(process: &Process, allocation: &Allocation, subject: &str, words: &str) {
        let found = faults(process, allocation);
        assert!(
            matches!(found.as_slice(), [(about, told)] if about == subject && told.contains(words)),
            "{found:?}"
        );
    }

    #[test]
    fn what_can_run_has_no_fault() {
        for command in [&["sh", "-c", "true"][..], &["/bin/sh"]] {
            assert_eq!(faults(&process(command), &LITTLE), [], "{command:?}");
        }
    }

    #[test]
    fn a_program_that_cannot_run_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8], mode: u32| {
            use std::os::unix::fs::PermissionsExt as _;
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path.display().to_string()
        };
        let mut foreign = fs::read("/proc/self/exe").unwrap()[..64].to_vec();
        foreign[18..20].copy_from_slice(&[0x16, 0]); // IBM S/390, which this is not run on
        let foreign = write("foreign", &foreign, 0o755);
        let plain = write("plain", b"#!/bin/sh\n", 0o644);
        let lost = write("lost", b"#!/no/such/shell -x\n", 0o755);
        let text = write("text", b"hello", 0o755);
        for (command, subject, words) in [
            ("", "command", "empty"),
            ("no-such-program", "command", "no program"),
            ("/no/such/program", "command", "no program"),
            (&plain, "command", "not executable"),
            (&lost, "command", "/no/such/shell"),
            (&text, "architecture", "neither"),
            (&foreign, "architecture", "machine 22"),
        ] {
            one_fault(&process(&[command]), &LITTLE, subject, words);
        }
    }

    #[test]
    fn what_the_machine_does_not_have_is_a_fault() {
        let app = process(&["sh"]);
        one_fault(&app, &Allocation { cpu: Millicores(4_096_000), ..LITTLE }, "cpu", "cores");
        one_fault(&app, &Allocation { memory: ByteSize::mib(1 << 30), ..LITTLE }, "memory", "to be had");
        one_fault(&app, &Allocation { storage: ByteSize::mib(1 << 40), ..LITTLE }, "storage", "are free at");
    }

    #[test]
    fn what_cannot_be_set_up_is_a_fault() {
        let lost = Process { directory: Some("/no/such/place".into()), ..process(&["sh"]) };
        one_fault(&lost, &LITTLE, "directory", "/no/such/place");
        let odd = Process { environment: [("A=B".into(), "c".into())].into(), ..process(&["sh"]) };
        one_fault(&odd, &LITTLE, "environment", "A=B");
        let looped = Process { egress: Some(vec!["127.0.0.1".into()]), ..process(&["sh"]) };
        let words = if network::obstacle().is_some() { "cannot be restricted" } else { "HOST:PORT" };
        one_fault(&looped, &LITTLE, "egress", words);
    }

    #[test]
    fn what_is_weaker_than_asked_is_said() {
        let app = process(&["sh", "-c", "app --listen {prot}"]);
        let found = findings(&app, &LITTLE, Role::Shadow, Path::new("/"), &Site::default(), false);
        for (subject, words) in
            [("stand_in", "{prot}"), ("limits", "Delegate=yes"), ("egress", "shadow"), ("storage", "watched")]
        {
            let told = found.iter().find(|finding| finding.subject == subject).unwrap();
            assert!(told.gravity == Gravity::Warning && told.message.contains(words), "{told:?}");
        }
    }
}
