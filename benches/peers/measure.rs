//! One measurement: a contender under a load, looked at many times.
//!
//! Cost is what the kernel charged to the proxy between two looks, over what the origin was asked between
//! them. Both are exact, and neither depends on the load generator, which counts only what it has seen end. Between some
//! looks the machine crept, or stood still, and that time is left out of cost and throughput where a load is measured alone.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::figures::{Figure, Figures};
use crate::load::connections::Resting;
use crate::load::h2load::H2load;
use crate::load::handshakes::Handshakes;
use crate::load::open::Open;
use crate::load::stalls::{Stalls, Watch};
use crate::load::wrk::Wrk;
use crate::machine::{self, Machine, Placing};
use crate::process::Process;
use crate::scenario::{Case, Downstream, Load};
use crate::stage::{Certificate, Stage};

/// The looks are taken between these shares of a load's time, after its connections have been opened.
const FIRST_LOOK: f64 = 0.25;
const LAST_LOOK: f64 = 0.95;
/// From one to the next.
const WINDOW: Duration = Duration::from_millis(100);
/// What lies between two looks counts if the machine stalled for no more than this share of it.
const STALLED: f64 = 0.02;
/// For a closed loop to open one connection, and to send its first request; generous.
const OPENING: Duration = Duration::from_micros(500);
/// Of the open loop's arrivals.
const SEED: u64 = 1;
const BYTES_PER_MIB: f64 = (1024 * 1024) as f64;

/// What measurements of one run share.
pub struct Settings {
    pub machine: Machine,
    pub certificate: Certificate,
    /// Of each load; whole seconds.
    pub duration: Duration,
    /// After which a connection counts as resting. Longer than Segue keeps some of them ready.
    pub settle: Duration,
}

pub fn measure(settings: &Settings, case: &Case, saturation: f64) -> Outcome<Figures> {
    let placing = settings.machine.placing(case.workers, case.load.is_open());
    machine::pin(&placing.load)?;
    let stage = Stage::set(case, &settings.certificate, &placing)?;
    let mut figures = match case.load {
        Load::Resting { from, to } => rest(settings, case.downstream, &stage, from, to)?,
        load => {
            let opening = opening(load).saturating_sub(settings.duration.mul_f64(FIRST_LOOK));
            let duration = opening + settings.duration;
            let watch = settings.machine.real_time.then(|| Watch::start(placing.cores()));
            let generator = Generator::start(settings, case, duration, &stage, saturation, &placing)?;
            sleep(opening);
            // An open loop's latencies are not to meet the looks.
            let window = if load.is_open() { settings.duration } else { WINDOW };
            let looks = look_often(settings.duration, window, &stage, &placing.load)?;
            let (latency, stalls) = generator.finish(watch)?;
            let mut figures = sum_up(looks.array_windows().map(|[from, to]| (from, to)), stalls.as_ref())?;
            figures.extend(latency);
            figures
        }
    };
    figures.extend(peak_memory(&stage));
    Ok(figures)
}

pub fn peak_memory(stage: &Stage) -> Option<(Figure, f64)> {
    let proxy = stage.proxy.as_ref()?;
    Some((Figure::PeakMib, proxy.peak_memory() as f64 / BYTES_PER_MIB))
}

/// Thousands of connections take seconds, and what they cost is not the cost of a request. A few are open before the
/// first look anyway.
fn opening(load: Load) -> Duration {
    match load {
        Load::Wrk { connections, .. } => OPENING * u32::try_from(connections).unwrap_or(u32::MAX),
        _ => Duration::ZERO,
    }
}

pub struct Look {
    at: Instant,
    cpu: Duration,
    answered: u64,
    mirrored: u64,
    ticks: (u64, u64),
}

pub fn look(stage: &Stage, load_cores: &[usize]) -> Outcome<Look> {
    let (mirrored, ticks) = (stage.mirrored()?, machine::core_ticks(load_cores));
    // The origin answers when its turn comes; it counts somewhere between.
    let cpu = || (stage.proxy.as_ref().map_or(Duration::ZERO, Process::cpu), Instant::now());
    let (before, asked) = cpu();
    let answered = stage.answered()?;
    let (after, told) = cpu();
    Ok(Look { at: asked + (told - asked) / 2, cpu: (before + after) / 2, answered, mirrored, ticks })
}

fn look_often(
    duration: Duration,
    window: Duration,
    stage: &Stage,
    load_cores: &[usize],
) -> Outcome<Vec<Look>> {
    let start = Instant::now();
    let (mut due, last) = (duration.mul_f64(FIRST_LOOK), duration.mul_f64(LAST_LOOK));
    let mut looks = Vec::new();
    loop {
        sleep(due.saturating_sub(start.elapsed()));
        looks.push(look(stage, load_cores)?);
        if due >= last {
            return Ok(looks);
        }
        // Where a look took longer than that, the next one is later.
        due = (due + window).max(start.elapsed()).min(last);
    }
}

/// Of spans from one look to another.
pub fn sum_up<'a>(
    spans: impl Iterator<Item = (&'a Look, &'a Look)>,
    stalls: Option<&Stalls>,
) -> Outcome<Figures> {
    let all: Vec<_> = spans.collect();
    let is_undisturbed = |(from, to): &&(&Look, &Look)| {
        stalls.is_none_or(|stalls| stalls.share_of(&(from.at..to.at)) <= STALLED)
    };
    let undisturbed: Vec<_> = all.iter().filter(is_undisturbed).copied().collect();
    let length = |from: &Look, to: &Look| (to.at - from.at).as_secs_f64();
    let (passed, undisturbed_for) = (sum(&all, length), sum(&undisturbed, length));
    // Where there are no others, those are better than nothing.
    let counted = if undisturbed.is_empty() { &all } else { &undisturbed };
    let seconds = sum(counted, length);
    if seconds <= 0.0 {
        return Err("nobody looked".into());
    }
    let cpu = sum(counted, |from, to| to.cpu.saturating_sub(from.cpu).as_secs_f64());
    let requests = sum(counted, |from, to| to.answered.saturating_sub(from.answered) as f64);

    let copies = sum(&all, |from, to| to.mirrored.saturating_sub(from.mirrored) as f64);
    let answered = sum(&all, |from, to| to.answered.saturating_sub(from.answered) as f64);
    // The kernel may take back some of what it said of idle time.
    let busy = sum(&all, |from, to| to.ticks.0.saturating_sub(from.ticks.0) as f64);
    let ticks = sum(&all, |from, to| to.ticks.1.saturating_sub(from.ticks.1) as f64);
    let mut figures = Figures::from([
        (Figure::Busy, cpu / seconds),
        (Figure::LoadBusy, busy / ticks.max(1.0)),
        (Figure::RequestsPerSecond, requests / seconds),
    ]);
    if stalls.is_some() {
        figures.insert(Figure::StalledPercent, (1.0 - undisturbed_for / passed) * 100.0);
    }
    // A hung shadow stops some proxies altogether. That is a figure too.
    if requests > 0.0 {
        figures.insert(Figure::CpuPerRequest, cpu * 1e6 / requests);
        figures.insert(Figure::MirroredPercent, copies * 100.0 / answered);
    }
    Ok(figures)
}

fn sum(spans: &[(&Look, &Look)], of: impl Fn(&Look, &Look) -> f64) -> f64 {
    spans.iter().map(|(from, to)| of(from, to)).sum()
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
            Load::Open { share } => {
                Self::Open(Open::start(port, saturation * share, duration, placing, SEED)?)
            }
            Load::Handshakes { at_once } => {
                let chain = settings.certificate.chain();
                Self::Handshakes(Handshakes::start(&chain, port, at_once, duration)?)
            }
            Load::Resting { .. } => return Err("connections that rest are no load".into()),
            Load::Alternating(_) => return Err("who takes turns is not measured alone".into()),
        })
    }

    /// Latencies, and when the machine stalled meanwhile.
    fn finish(self, watch: Option<Watch>) -> Outcome<(Figures, Option<Stalls>)> {
        let over = || watch.map(Watch::finish).transpose();
        Ok(match self {
            Self::Wrk(wrk) => (wrk.finish()?, over()?),
            Self::H2load(h2load) => (h2load.finish()?, over()?),
            Self::Handshakes(handshakes) => (handshakes.finish()?, over()?),
            Self::Open(open) => {
                let ended = open.finish()?;
                let stalls = over()?;
                (ended.figures(stalls.as_ref())?, stalls)
            }
        })
    }
}
