//! When jobs are requested, and what policy lets through.
use std::{str::FromStr as _, time::Duration};

use croner::Cron;
use serde::{Deserialize, Serialize};
use tidegate_contracts::JobKind;

/// What the controller does by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControllerConfig {
    /// Jobs by the clock (UTC).
    pub schedule: Schedule,
    /// Hot updates by the number of records that wait.
    pub lag_trigger: LagTrigger,
    /// The first cold start.
    pub bootstrap: Bootstrap,
    /// What is promoted, and by whom.
    pub policy: Policy,
}

/// Cron expressions (five fields, UTC); none: never by the clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Daily at 03:00 unless told otherwise.
    pub hot_update: Option<String>,
    /// Quarterly.
    pub cold_start: Option<String>,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { hot_update: Some("0 3 * * *".into()), cold_start: Some("0 4 1 1,4,7,10 *".into()) }
    }
}

/// A hot update is requested when enough labelled records wait, or fewer for long enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LagTrigger {
    /// At once with this many.
    pub records: u64,
    /// With at least this many, once the newest has waited `max_wait_s`.
    pub min_records: u64,
    /// Seconds.
    pub max_wait_s: u64,
}

impl Default for LagTrigger {
    fn default() -> Self {
        Self { records: 200, min_records: 50, max_wait_s: 60 }
    }
}

/// When there is no champion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bootstrap {
    /// Labelled training records that must be curated before the first cold start.
    pub min_labelled: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { min_labelled: 500 }
    }
}

/// One value for each kind of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerKind<T> {
    /// From nothing.
    pub cold_start: T,
    /// From the champion.
    pub hot_update: T,
    /// From another domain's champion.
    pub transfer: T,
}

impl<T: Copy> PerKind<T> {
    /// The value of one kind.
    pub const fn of(&self, kind: JobKind) -> T {
        match kind {
            JobKind::ColdStart => self.cold_start,
            JobKind::HotUpdate => self.hot_update,
            JobKind::Transfer => self.transfer,
        }
    }
}

/// What turns a verdict into a promotion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Whether a candidate that passed every blocking check is promoted without being asked for.
    pub auto_promote: PerKind<bool>,
    /// How many different approvers are needed otherwise; at least 1.
    pub approvals: PerKind<u32>,
    /// How long an approval counts, in seconds.
    pub approval_ttl_s: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            auto_promote: PerKind { cold_start: true, hot_update: true, transfer: false },
            approvals: PerKind { cold_start: 1, hot_update: 1, transfer: 2 },
            approval_ttl_s: 86_400,
        }
    }
}

/// A configuration that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ControllerConfigError {
    /// No cron expression.
    #[error("controller.schedule.{field}: `{given}` is no cron expression: {reason}")]
    Cron {
        /// The field.
        field: &'static str,
        /// What was given.
        given: String,
        /// What the parser said.
        reason: String,
    },
    /// A number out of its range.
    #[error("controller.{field}: {reason}")]
    Number {
        /// The field.
        field: &'static str,
        /// What would be right.
        reason: &'static str,
    },
}

impl ControllerConfig {
    /// The schedules, parsed.
    pub(crate) fn crons(&self) -> Result<Vec<(JobKind, Cron)>, ControllerConfigError> {
        let given = [
            ("hot_update", JobKind::HotUpdate, &self.schedule.hot_update),
            ("cold_start", JobKind::ColdStart, &self.schedule.cold_start),
        ];
        given
            .into_iter()
            .filter_map(|(field, kind, text)| Some((field, kind, text.as_ref()?)))
            .map(|(field, kind, text)| match Cron::from_str(text) {
                Ok(cron) => Ok((kind, cron)),
                Err(error) => Err(ControllerConfigError::Cron {
                    field,
                    given: text.clone(),
                    reason: error.to_string(),
                }),
            })
            .collect()
    }

    /// Refuses what cannot work, naming the field.
    ///
    /// # Errors
    /// [`ControllerConfigError`].
    pub fn validate(&self) -> Result<(), ControllerConfigError> {
        self.crons()?;
        let number = |field, reason| Err(ControllerConfigError::Number { field, reason });
        let approvals = self.policy.approvals;
        if [approvals.cold_start, approvals.hot_update, approvals.transfer].contains(&0) {
            return number("policy.approvals", "is 0: at least 1 (use auto_promote to need none)");
        }
        if self.policy.approval_ttl_s == 0 {
            return number("policy.approval_ttl_s", "is 0: approvals would never count");
        }
        if self.bootstrap.min_labelled == 0 {
            return number("bootstrap.min_labelled", "is 0: nothing can be learnt from nothing");
        }
        if self.lag_trigger.records == 0 || self.lag_trigger.min_records == 0 {
            return number("lag_trigger", "has a 0: at least 1 record must wait");
        }
        Ok(())
    }

    pub(crate) fn max_wait(&self) -> Duration {
        Duration::from_secs(self.lag_trigger.max_wait_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        ControllerConfig::default().validate().unwrap();
    }

    #[test]
    fn a_wrong_schedule_is_named() {
        let mut config = ControllerConfig::default();
        config.schedule.hot_update = Some("every day".into());
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("hot_update") && error.contains("every day"), "{error}");
    }
}
