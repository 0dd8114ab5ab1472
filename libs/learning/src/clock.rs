//! Time and energy of a job, over all its attempts, and the budgets made of them.
use std::time::{Duration, Instant};

use tidegate_telemetry::energy::{EnergyMeter, Measurement};

use crate::{Course, Job, checkpoint::Stats};

/// The CPU-time model counts in steps of 10 ms, and GPU counters cost a call to the driver.
const BETWEEN_READINGS: Duration = Duration::from_millis(100);

/// Share of the time that training may stand still for checkpoints which are due by time: what they
/// cost is all but the copy that is handed to the writer.
const PAUSED: f64 = 0.01;

/// Time and energy of this attempt, added to that of those before.
pub(crate) struct Clock<'a> {
    pub(crate) meter: &'a EnergyMeter,
    stretch: Option<Measurement<'a>>,
    began: Instant,
    read: Instant,
    before: Stats,
    last_checkpoint: Instant,
    /// How long training stood still for the last one.
    pause: Duration,
}

impl<'a> Clock<'a> {
    pub(crate) fn start(meter: &'a EnergyMeter) -> Self {
        let (began, stretch) = (Instant::now(), Some(meter.start()));
        let before = Stats::default();
        Self {
            meter,
            stretch,
            began,
            read: began,
            before,
            last_checkpoint: began,
            pause: Duration::ZERO,
        }
    }

    pub(crate) fn go_on_from(&mut self, before: &Stats) {
        self.before = before.clone();
    }

    /// Adds what was used since the last call.
    pub(crate) fn note(&mut self, stats: &mut Stats) {
        stats.seconds = self.seconds();
        self.read = Instant::now();
        let stretch = self.stretch.replace(self.meter.start());
        let energy = stretch.expect("a stretch is always running").stop();
        stats.joules += energy.joules.map_or(0.0, |joules| joules.0);
    }

    /// The same after a step: energy only where the last reading is old enough.
    pub(crate) fn tick(&mut self, stats: &mut Stats) {
        stats.seconds = self.seconds();
        if self.read.elapsed() >= BETWEEN_READINGS {
            self.note(stats);
        }
    }

    /// Of all attempts.
    fn seconds(&self) -> f64 {
        self.before.seconds + self.began.elapsed().as_secs_f64()
    }

    /// A count of `stats` a second, since this attempt began.
    pub(crate) fn rate(&self, now: u64, before: impl Fn(&Stats) -> u64) -> f64 {
        (now - before(&self.before)) as f64 / self.began.elapsed().as_secs_f64().max(1e-9)
    }

    pub(crate) fn is_due(&mut self, step: u64, job: &Job) -> bool {
        let every = &job.recipe.checkpoints;
        let by_steps = every.steps > 0 && step.is_multiple_of(every.steps);
        // On a machine where a pause takes that long, what is lost by a kill weighs more.
        let rare = (self.pause.as_secs_f64() / PAUSED).min(every.seconds * 10.0);
        let between = every.seconds.max(rare);
        let by_time =
            every.seconds > 0.0 && self.last_checkpoint.elapsed().as_secs_f64() >= between;
        let due = by_steps || by_time;
        if due {
            self.last_checkpoint = Instant::now();
        }
        due
    }

    /// Training stood still for a checkpoint.
    pub(crate) fn paused(&mut self, pause: Duration, stats: &mut Stats) {
        self.pause = pause;
        stats.paused += pause.as_secs_f64();
    }
}

/// The budget that is used up, by its field's name.
pub(crate) fn exhausted(stats: &Stats, course: &Course) -> Option<&'static str> {
    if stats.seconds > course.max_seconds {
        Some("max_seconds")
    } else if course.max_joules > 0.0 && stats.joules > course.max_joules {
        Some("max_joules")
    } else {
        None
    }
}
