//! Jobs by the clock.
use std::str::FromStr as _;

use chrono::{DateTime, TimeDelta, Utc};
use croner::Cron;
use tidegate_contracts::JobKind;

use crate::{ControllerError, ScheduleConfig};

/// A time that was missed (no controller ran, another job was under way) is made up for so long.
const CATCH_UP: TimeDelta = TimeDelta::hours(1);

/// Parsed cron expressions, in UTC.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    hot_update: Option<Cron>,
    cold_start: Option<Cron>,
}

fn parse(field: &'static str, text: Option<&str>) -> Result<Option<Cron>, ControllerError> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    let cron = Cron::from_str(text).map_err(|error| {
        let reason = format!(
            "is `{text}`, which is no cron expression: {error} (minute hour day month weekday, e.g. \
             `0 3 * * *`; empty is off)"
        );
        ControllerError::config(field, reason)
    })?;
    Ok(Some(cron))
}

impl Schedule {
    pub(crate) fn parse(config: &ScheduleConfig) -> Result<Self, ControllerError> {
        Ok(Self {
            hot_update: parse("schedule.hot_update", config.hot_update.as_deref())?,
            cold_start: parse("schedule.cold_start", config.cold_start.as_deref())?,
        })
    }

    fn cron(&self, kind: JobKind) -> Option<&Cron> {
        match kind {
            JobKind::HotUpdate => self.hot_update.as_ref(),
            JobKind::ColdStart => self.cold_start.as_ref(),
            JobKind::Transfer => None,
        }
    }

    /// The scheduled time that is due at `now`, when nothing has happened since (`last`).
    pub(crate) fn due(
        &self,
        kind: JobKind,
        last: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let time = self.cron(kind)?.find_previous_occurrence(&now, true).ok()?;
        (time > last && now - time < CATCH_UP).then_some(time)
    }

    /// The next scheduled time after `now`.
    pub(crate) fn next(&self, kind: JobKind, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.cron(kind)?.find_next_occurrence(&now, false).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_scheduled_time_is_due_once_and_not_long_after() {
        let schedule = Schedule::parse(&ScheduleConfig::default()).unwrap();
        let due = |last, now| schedule.due(JobKind::HotUpdate, at(last), at(now));
        let three = at("2026-11-24T03:00:00Z");
        assert_eq!(due("2026-11-23T12:00:00Z", "2026-11-24T02:59:59Z"), None);
        assert_eq!(due("2026-11-23T12:00:00Z", "2026-11-24T03:00:00Z"), Some(three));
        assert_eq!(due("2026-11-23T12:00:00Z", "2026-11-24T03:40:00Z"), Some(three));
        assert_eq!(due("2026-11-24T03:00:01Z", "2026-11-24T03:40:00Z"), None);
        assert_eq!(due("2026-11-23T12:00:00Z", "2026-11-24T10:00:00Z"), None);
    }

    #[test]
    fn an_empty_expression_is_off() {
        let config = ScheduleConfig { hot_update: Some(" ".into()), cold_start: None };
        let schedule = Schedule::parse(&config).unwrap();
        for kind in [JobKind::HotUpdate, JobKind::ColdStart, JobKind::Transfer] {
            assert_eq!(schedule.next(kind, at("2026-11-24T03:00:00Z")), None);
        }
    }
}
