//! Where and when a figure was measured.
use std::fs;

use anyhow::Context as _;
use serde::Serialize;
use tidegate_telemetry::energy::process_cpu_seconds;

/// The machine, as far as it says.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's own name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory.
    pub memory_gib: f64,
    /// Kernel and architecture.
    pub system: String,
    /// Processes that were ready to run when the benchmark began, as an average over a minute:
    /// above a fraction of 1 the machine was not quiet.
    pub load: f64,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            matches!(name.trim(), "model name" | "Model").then(|| value.trim().to_owned())
        };
        let memory = read("/proc/meminfo");
        let kib: f64 = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))
            .and_then(|kib| kib.trim().parse().ok())
            .unwrap_or_default();
        let kernel = read("/proc/sys/kernel/osrelease");
        let load = read("/proc/loadavg");
        Self {
            cpu: cpu.lines().find_map(field).unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: (kib / f64::from(1 << 20) * 10.0).round() / 10.0,
            system: format!("Linux {} {}", kernel.trim(), std::env::consts::ARCH),
            load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default(),
        }
    }
}

/// What was measured: our version, and how it was compiled.
#[derive(Debug, Clone, Serialize)]
pub struct Build {
    /// Of the workspace.
    pub version: &'static str,
    /// `dev` (optimised, with overflow checks) or `release`.
    pub profile: &'static str,
}

impl Build {
    /// This one.
    #[must_use]
    pub const fn this() -> Self {
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        Self { version: env!("CARGO_PKG_VERSION"), profile }
    }
}

/// The version of a crate that was linked, from the lock file.
#[must_use]
pub fn crate_version(name: &str) -> String {
    let entry = format!("name = \"{name}\"\nversion = \"");
    let lock = include_str!("../../Cargo.lock");
    let after = lock.split_once(&entry).map(|(_, after)| after);
    after.and_then(|after| after.split('"').next()).unwrap_or("unknown").to_owned()
}

/// Time on a core of the calling thread: what "per core" means where others use the machine too.
/// Where the kernel does not account for threads, that of the process.
///
/// # Errors
/// On a kernel that accounts for neither.
pub fn thread_cpu_seconds() -> anyhow::Result<f64> {
    // A thread that was just put to sleep is accounted for in full.
    std::thread::sleep(std::time::Duration::from_micros(50));
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos: Option<u64> = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    nanos
        .map(|nanos| nanos as f64 / 1e9)
        .or_else(process_cpu_seconds)
        .context("this kernel does not account for CPU time")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_from_the_lock_file() {
        assert!(crate_version("tonic").starts_with("0.14."));
        assert_eq!(crate_version("no-such-crate"), "unknown");
    }

    #[test]
    fn work_of_this_thread_is_counted_and_sleep_is_not() {
        let before = thread_cpu_seconds().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        let slept = thread_cpu_seconds().unwrap() - before;
        let began = std::time::Instant::now();
        while began.elapsed().as_millis() < 100 {
            std::hint::spin_loop();
        }
        let worked = thread_cpu_seconds().unwrap() - before - slept;
        assert!(slept < 0.05 && worked > slept, "{slept} {worked}");
    }
}
