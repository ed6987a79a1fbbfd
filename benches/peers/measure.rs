//! One measurement: a contender under a load, looked at twice.
//!
//! Cost is what the kernel charged to the proxy between the two looks, over what the origin was asked between
//! them. Both are exact, and neither depends on the load generator, which counts only what it has seen end.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::figures::{Figure, Figures};
use crate::load::connections::Resting;
use crate::load::h2load::H2load;
use crate::load::handshakes::Handshakes;
use crate::load::open::Open;
use crate::load::wrk::Wrk;
use crate::machine::{self, Machine, Placing};
use crate::process::Process;
use crate::scenario::{Case, Downstream, Load};
use crate::stage::{Certificate, Stage};

/// The looks are taken at these shares of a load's time, after its connections have been opened.
const FIRST_LOOK: f64 = 0.25;
const SECOND_LOOK: f64 = 0.95;
/// For a closed loop to open one connection, and to send its first request; generous.
const OPENING: Duration = Duration::from_micros(500);
const BYTES_PER_MIB: f64 = (1024 * 1024) as f64;

/// What measurements of one run share.
pub struct Settings {
    pub machine: Machine,
    pub certificate: Certificate,
    /// Of each load; whole seconds.
    pub duration: Duration,
    /// After which a connection counts as resting.
    pub settle: Duration,
}

pub fn measure(settings: &Settings, case: &Case, saturation: f64) -> Outcome<Figures> {
    let placing = settings.machine.placing(case.workers, matches!(case.load, Load::Open { .. }));
    machine::pin(&placing.load)?;
    let stage = Stage::set(case, &settings.certificate, &placing)?;
    let mut figures = match case.load {
        Load::Resting { from, to } => rest(settings, case.downstream, &stage, from, to)?,
        load => {
            let opening = opening(load).saturating_sub(settings.duration.mul_f64(FIRST_LOOK));
            let duration = opening + settings.duration;
            let generator = Generator::start(settings, case, duration, &stage, saturation, &placing)?;
            sleep(opening);
            let mut figures = look_twice(settings, &stage, &placing.load)?;
            figures.extend(generator.finish()?);
            figures
        }
    };
    if let Some(proxy) = &stage.proxy {
        figures.insert(Figure::PeakMib, proxy.peak_memory() as f64 / BYTES_PER_MIB);
    }
    Ok(figures)
}

/// Thousands of connections take seconds, and what they cost is not the cost of a request. A few are open before the
/// first look anyway.
fn opening(load: Load) -> Duration {
    match load {
        Load::Wrk { connections, .. } => OPENING * u32::try_from(connections).unwrap_or(u32::MAX),
        _ => Duration::ZERO,
    }
}

struct Look {
    at: Instant,
    cpu: Duration,
    answered: u64,
    mirrored: u64,
    ticks: (u64, u64),
}

fn look(stage: &Stage, load_cores: &[usize]) -> Outcome<Look> {
    let answered = stage.answered()?;
    let (cpu, at) = (stage.proxy.as_ref().map_or(Duration::ZERO, Process::cpu), Instant::now());
    Ok(Look { at, cpu, answered, mirrored: stage.mirrored(), ticks: machine::core_ticks(load_cores) })
}

fn look_twice(settings: &Settings, stage: &Stage, load_cores: &[usize]) -> Outcome<Figures> {
    let start = Instant::now();
    sleep(settings.duration.mul_f64(FIRST_LOOK));
    let first = look(stage, load_cores)?;
    sleep(settings.duration.mul_f64(SECOND_LOOK).saturating_sub(start.elapsed()));
    let second = look(stage, load_cores)?;

    let seconds = (second.at - first.at).as_secs_f64();
    let cpu = second.cpu.saturating_sub(first.cpu).as_secs_f64();
    let requests = (second.answered - first.answered) as f64;
    let copies = second.mirrored.saturating_sub(first.mirrored) as f64;
    let (busy, passed) = (second.ticks.0 - first.ticks.0, second.ticks.1 - first.ticks.1);
    let mut figures = Figures::from([
        (Figure::Busy, cpu / seconds),
        (Figure::LoadBusy, busy as f64 / (passed as f64).max(1.0)),
        (Figure::RequestsPerSecond, requests / seconds),
    ]);
    // A hung shadow stops some proxies altogether. That is a figure too.
    if requests > 0.0 {
        figures.insert(Figure::CpuPerRequest, cpu * 1e6 / requests);
        figures.insert(Figure::MirroredPercent, copies * 100.0 / requests);
    }
    Ok(figures)
}

/// Memory by difference: what a proxy takes at its start, and for its first connections, is not theirs.
fn rest(
    settings: &Settings,
    downstream: Downstream,
    stage: &Stage,
    from: usize,
    to: usize,
) -> Outcome<Figures> {
    // The load generator holds as many descriptors as the proxy.
    if to as u64 + 100 > settings.machine.descriptors {
        return Err(format!("the limit of open files is {}", settings.machine.descriptors).into());
    }
    let mut resting = Resting::new(stage.port, downstream, &settings.certificate.chain())?;
    resting.grow(from)?;
    sleep(settings.settle);
    let memory = || stage.proxy.as_ref().map_or(0.0, |proxy| proxy.anonymous_memory() as f64);
    let before = memory();
    resting.grow(to)?;
    sleep(settings.settle);
    let after = memory();
    Ok(Figures::from([
        (Figure::KibPerConnection, (after - before) / 1024.0 / (to - from) as f64),
        (Figure::Errors, resting.closed() as f64),
    ]))
}

enum Generator {
    Wrk(Wrk),
    H2load(H2load),
    Open(Open),
    Handshakes(Handshakes),
}

impl Generator {
    fn start(
        settings: &Settings,
        case: &Case,
        duration: Duration,
        stage: &Stage,
        saturation: f64,
        placing: &Placing,
    ) -> Outcome<Self> {
        let (folder, port) = (stage.folder.path(), stage.port);
        let scheme = if case.downstream == Downstream::Tls { "https" } else { "http" };
        let base = format!("{scheme}://127.0.0.1:{port}");
        Ok(match case.load {
            Load::Wrk { connections, ask } => {
                Self::Wrk(Wrk::start(folder, &base, connections, ask, duration)?)
            }
            Load::H2load { streams } => Self::H2load(H2load::start(folder, &base, streams, duration)?),
            Load::Open { share } => Self::Open(Open::start(port, saturation * share, duration, placing)?),
            Load::Handshakes { at_once } => {
                let chain = settings.certificate.chain();
                Self::Handshakes(Handshakes::start(&chain, port, at_once, duration)?)
            }
            Load::Resting { .. } => return Err("connections that rest are no load".into()),
        })
    }

    fn finish(self) -> Outcome<Figures> {
        match self {
            Self::Wrk(wrk) => wrk.finish(),
            Self::H2load(h2load) => h2load.finish(),
            Self::Open(open) => open.finish(),
            Self::Handshakes(handshakes) => handshakes.finish(),
        }
    }
}
