//! Energy and carbon. A figure always carries the method that found it, and figures of different
//! methods are never compared.
//!
//! | method | what it reads | covers |
//! |---|---|---|
//! | `rapl` | `/sys/class/powercap/intel-rapl:N/energy_uj` | CPU packages of the machine |
//! | `nvml` | total energy counter of each NVIDIA GPU (Volta or newer) | GPUs of the machine |
//! | `cpu_time_model` | CPU seconds of this process x 4 W | this process; a model, not a measurement |
//! | `none` | nothing | nothing: energy is unknown |
//!
//! 4 W for each busy hardware thread is what CodeCarbon assumes when it does not know the CPU.
use std::{fs, path::PathBuf, time::Instant};

use tidegate_contracts::{GramsCo2e, Joules};

/// Watts of one busy hardware thread in the CPU-time model.
pub const WATTS_PER_THREAD: f64 = 4.0;

/// The region that is assumed when none is configured: the world's average.
pub const DEFAULT_REGION: &str = "WORLD";

const GRID: &str = include_str!("grid_intensity.csv");

/// How energy was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnergyMethod {
    /// CPU package counters.
    Rapl,
    /// GPU counters, and CPU package counters where they can be read.
    Nvml,
    /// CPU time of this process times a constant power.
    CpuTimeModel,
    /// Unknown.
    None,
}

impl EnergyMethod {
    /// `rapl`, `nvml`, `cpu_time_model` or `none`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rapl => "rapl",
            Self::Nvml => "nvml",
            Self::CpuTimeModel => "cpu_time_model",
            Self::None => "none",
        }
    }
}

/// What a stretch of work used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Energy {
    /// `None` when unknown.
    pub joules: Option<Joules>,
    /// How it was found.
    pub method: EnergyMethod,
    /// Wall time.
    pub seconds: f64,
}

/// The best meter this machine has.
#[derive(Debug)]
pub struct EnergyMeter {
    rapl: Vec<RaplZone>,
    nvml: Option<nvml_wrapper::Nvml>,
}

#[derive(Debug, Clone)]
struct RaplZone {
    counter: PathBuf,
    range: f64,
}

/// Counters at one moment, in joules.
#[derive(Debug, Clone)]
struct Reading {
    rapl: Option<Vec<f64>>,
    gpu: Option<f64>,
    cpu_seconds: Option<f64>,
}

/// A stretch that has begun.
#[derive(Debug)]
pub struct Measurement<'a> {
    meter: &'a EnergyMeter,
    began: Instant,
    first: Reading,
}

impl EnergyMeter {
    /// Looks for counters that can be read; falls back to the CPU-time model.
    #[must_use]
    pub fn detect() -> Self {
        let nvml = nvml_wrapper::Nvml::init().ok().filter(|nvml| gpu_joules(nvml).is_some());
        Self { rapl: rapl_zones("/sys/class/powercap"), nvml }
    }

    /// What [`Measurement::stop`] will say it used.
    #[must_use]
    pub fn method(&self) -> EnergyMethod {
        if self.nvml.is_some() {
            EnergyMethod::Nvml
        } else if !self.rapl.is_empty() {
            EnergyMethod::Rapl
        } else if process_cpu_seconds().is_some() {
            EnergyMethod::CpuTimeModel
        } else {
            EnergyMethod::None
        }
    }

    /// Begins a stretch.
    #[must_use]
    pub fn start(&self) -> Measurement<'_> {
        Measurement { meter: self, began: Instant::now(), first: self.read() }
    }

    fn read(&self) -> Reading {
        let rapl: Option<Vec<f64>> = self.rapl.iter().map(RaplZone::joules).collect();
        Reading {
            rapl: rapl.filter(|zones| !zones.is_empty()),
            gpu: self.nvml.as_ref().and_then(gpu_joules),
            cpu_seconds: process_cpu_seconds(),
        }
    }

    fn rapl_between(&self, first: &Reading, last: &Reading) -> Option<f64> {
        let (first, last) = (first.rapl.as_ref()?, last.rapl.as_ref()?);
        let zones = self.rapl.iter().zip(first.iter().zip(last));
        Some(zones.map(|(zone, (a, b))| counted(*a, *b, zone.range, 1.0).0).sum())
    }
}

impl Measurement<'_> {
    /// Ends the stretch.
    #[must_use]
    pub fn stop(self) -> Energy {
        let last = self.meter.read();
        let method = self.meter.method();
        let rapl = self.meter.rapl_between(&self.first, &last);
        let gpu = self.first.gpu.zip(last.gpu).map(|(a, b)| counted(a, b, f64::INFINITY, 1.0).0);
        let joules = match method {
            EnergyMethod::Nvml => gpu.map(|gpu| gpu + rapl.unwrap_or(0.0)),
            EnergyMethod::Rapl => rapl,
            EnergyMethod::CpuTimeModel => {
                let cpu = self.first.cpu_seconds.zip(last.cpu_seconds);
                cpu.map(|(a, b)| (b - a) * WATTS_PER_THREAD)
            }
            EnergyMethod::None => None,
        };
        let seconds = self.began.elapsed().as_secs_f64();
        Energy { joules: joules.map(Joules), method, seconds }
    }
}

impl RaplZone {
    fn joules(&self) -> Option<f64> {
        let text = fs::read_to_string(&self.counter).ok()?;
        Some(text.trim().parse::<f64>().ok()? * 1e-6)
    }
}

/// Package zones (`intel-rapl:0`, not their parts `intel-rapl:0:0`, which they include).
fn rapl_zones(root: &str) -> Vec<RaplZone> {
    let Ok(entries) = fs::read_dir(root) else { return vec![] };
    entries
        .filter_map(Result::ok)
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.strip_prefix("intel-rapl:").is_some_and(|rest| !rest.contains(':'))
        })
        .filter(|entry| {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            name.trim().starts_with("package")
        })
        .filter_map(|entry| {
            let range = fs::read_to_string(entry.path().join("max_energy_range_uj")).ok()?;
            let range = range.trim().parse::<f64>().ok()? * 1e-6;
            let zone = RaplZone { counter: entry.path().join("energy_uj"), range };
            zone.joules().map(|_| zone)
        })
        .collect()
}

fn gpu_joules(nvml: &nvml_wrapper::Nvml) -> Option<f64> {
    let count = nvml.device_count().ok().filter(|&count| count > 0)?;
    (0..count)
        .map(|i| nvml.device_by_index(i).ok()?.total_energy_consumption().ok())
        .map(|millijoules| millijoules.map(|mj| mj as f64 * 1e-3))
        .sum()
}

/// User and system CPU time of this process, in seconds (`/proc/self/stat`, fields 14 and 15, in
/// ticks of 1/100 s: `USER_HZ` is fixed at 100 on Linux).
#[must_use]
pub fn process_cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the command, may hold spaces: count from behind its bracket.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}

/// What a counter of energy counted from `first` to `last`, in units of `unit` joules. It wraps at
/// `range`, infinite where it never does; one wrap is all that a stretch may hold.
#[must_use]
pub fn counted(first: f64, last: f64, range: f64, unit: f64) -> Joules {
    let count = if last < first { last - first + range } else { last - first };
    Joules(count * unit)
}

/// Grid intensity of a region in gCO2e per kWh (yearly average of generation); `None` for a
/// region that is not in the table.
#[must_use]
pub fn grid_intensity(region: &str) -> Option<f64> {
    GRID.lines().find_map(|line| {
        let mut columns = line.split(',');
        (columns.next()? == region).then(|| columns.next()?.parse().ok())?
    })
}

/// What `joules` emit on the grid of `region` (ISO 3166 alpha-3, a part of it such as
/// `USA/california`, a cloud's region such as `gcp/us-central1`, or `WORLD`).
#[must_use]
pub fn carbon(joules: Joules, region: &str) -> Option<GramsCo2e> {
    Some(carbon_at(joules, 1.0, grid_intensity(region)?))
}

/// What `joules` of machines emit at `grid` gCO2e per kWh in a building that takes `pue` times what
/// its machines take (power usage effectiveness, 1 or more).
#[must_use]
pub fn carbon_at(joules: Joules, pue: f64, grid: f64) -> GramsCo2e {
    GramsCo2e(joules.kwh() * pue * grid)
}

/// What a thousand of `count` took of `total`.
#[must_use]
pub fn per_thousand(total: f64, count: f64) -> f64 {
    1e3 * total / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rapl_counts_packages_once_and_over_the_wrap() {
        let dir = tempfile::tempdir().unwrap();
        for (zone, name, energy) in [
            ("intel-rapl:0", "package-0", 90e6),
            ("intel-rapl:0:0", "core", 5e6),
            ("intel-rapl:1", "psys", 1e6),
        ] {
            let path = dir.path().join(zone);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("name"), name).unwrap();
            fs::write(path.join("max_energy_range_uj"), "100000000").unwrap();
            fs::write(path.join("energy_uj"), energy.to_string()).unwrap();
        }
        let zones = rapl_zones(dir.path().to_str().unwrap());
        assert_eq!(zones.len(), 1);
        let meter = EnergyMeter { rapl: zones, nvml: None };
        let stretch = meter.start();
        fs::write(dir.path().join("intel-rapl:0/energy_uj"), "10000000").unwrap();
        let energy = stretch.stop();
        assert_eq!(energy.method, EnergyMethod::Rapl);
        assert!((energy.joules.unwrap().0 - 20.0).abs() < 1e-9, "{energy:?}");
    }

    #[test]
    fn work_costs_cpu_time_where_there_is_no_meter() {
        let meter = EnergyMeter { rapl: vec![], nvml: None };
        let stretch = meter.start();
        let began = Instant::now();
        let mut sum = 0_u64;
        while began.elapsed().as_millis() < 80 {
            sum = sum.wrapping_mul(31).wrapping_add(7);
        }
        std::hint::black_box(sum);
        let energy = stretch.stop();
        assert_eq!(energy.method, EnergyMethod::CpuTimeModel);
        assert!(energy.joules.unwrap().0 > 0.0, "{energy:?}");
    }

    #[test]
    fn a_kilowatt_hour_emits_what_the_table_says_and_an_unknown_region_nothing() {
        let kwh = Joules(3.6e6);
        assert!((carbon(kwh, "FRA").unwrap().0 - 56.039).abs() < 1e-9);
        assert!(carbon(kwh, DEFAULT_REGION).is_some());
        assert_eq!(carbon(kwh, "ATLANTIS"), None);
    }
}
