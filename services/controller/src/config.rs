//! How the controller is set up.
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_contracts::JobKind;

use crate::{ControllerError, StageConfig, WebhookConfig, schedule::Schedule, stages};

/// Configuration of the controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControllerConfig {
    /// Jobs by the clock.
    pub schedule: ScheduleConfig,
    /// Hot updates by what waits.
    pub lag_trigger: LagTriggerConfig,
    /// The first generation.
    pub bootstrap: BootstrapConfig,
    /// What a verdict leads to.
    pub policy: PolicyConfig,
    /// How often the ledger is vouched for as a whole.
    pub checkpoints: CheckpointConfig,
    /// Who is told of decisions, over HTTP.
    pub webhooks: Vec<WebhookConfig>,
    /// Names, besides those of this machine, under which a browser may reach a service without
    /// tokens (behind a proxy). Any other `Host` is refused: it may be a rebound name.
    pub allowed_hosts: Vec<String>,
    /// Seconds after which a controller that went silent loses its lease.
    pub lease_s: u64,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            schedule: ScheduleConfig::default(),
            lag_trigger: LagTriggerConfig::default(),
            bootstrap: BootstrapConfig::default(),
            policy: PolicyConfig::default(),
            checkpoints: CheckpointConfig::default(),
            webhooks: vec![],
            allowed_hosts: vec![],
            lease_s: 10,
        }
    }
}

/// Cron expressions (minute, hour, day, month, weekday), in UTC. An empty one is off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// Daily unless told.
    pub hot_update: Option<String>,
    /// Quarterly unless told.
    pub cold_start: Option<String>,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            hot_update: Some("0 3 * * *".to_owned()),
            cold_start: Some("0 4 1 1,4,7,10 *".to_owned()),
        }
    }
}

/// A hot update is asked for when enough labelled training records wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LagTriggerConfig {
    /// So many waiting are enough.
    pub records: u64,
    /// So many are enough when the oldest has waited `max_wait_s`.
    pub min_records: u64,
    /// Seconds; without it only `records` counts.
    pub max_wait_s: Option<u64>,
    /// Seconds between two looks.
    pub poll_s: u64,
    /// Seconds that a candidate that waits for an approval holds back further automatic jobs, so
    /// that it is not superseded while it is read. One with an approval in force always does.
    pub hold_s: u64,
}

impl Default for LagTriggerConfig {
    fn default() -> Self {
        Self { records: 200, min_records: 20, max_wait_s: None, poll_s: 1, hold_s: 300 }
    }
}

/// When the first cold start is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootstrapConfig {
    /// Labelled training records curated.
    pub min_labelled: u64,
}

impl Default for BootstrapConfig {
    fn default() -> Self {
        Self { min_labelled: 500 }
    }
}

/// A signed root over all entries so far is written when either has passed since the one before, and
/// goes to the decisions topic as every entry does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// So many entries.
    pub entries: u64,
    /// So much time, if there was any entry.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { entries: 500, every: Duration::from_secs(6 * 3600) }
    }
}

/// What a verdict leads to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// Whether a favourable verdict is enough, by kind of job.
    pub auto_promote: AutoPromote,
    /// Distinct approvers needed when it is not, or when the verdict asks for approval.
    pub approvals: Approvals,
    /// What a candidate goes through, on live requests, before policy promotes it. None when empty.
    pub stages: Vec<StageConfig>,
    /// How long an approval counts.
    #[serde(with = "humantime_serde")]
    pub approval_ttl: Duration,
    /// Whether a champion in which the evaluator finds harm, once it serves, is rolled back at once;
    /// else operators decide.
    pub rollback_on_harm: bool,
    /// Whether approvals count only when they are signed with the approver's own key. Without, the
    /// controller signs on behalf of whom it has authenticated.
    pub own_keys: bool,
    /// Whether a candidate that was judged by another suite than the champion waits for approval, also
    /// when it passed: who changes the suite could let through what they like.
    pub approve_suite_changes: bool,
    /// What follows where the error budget of the line of candidates asks for more evidence than there
    /// is.
    pub error_budget: ErrorBudget,
    /// What becomes of a producer whom a failed check of a verdict names.
    pub quarantine_producers: QuarantineProducers,
    /// Jobs of a kind that may fail one after the other before automatic requests wait for half
    /// as many records again.
    pub max_attempts: u32,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            auto_promote: AutoPromote::default(),
            approvals: Approvals::default(),
            stages: vec![],
            approval_ttl: Duration::from_secs(24 * 3600),
            rollback_on_harm: true,
            own_keys: false,
            approve_suite_changes: true,
            error_budget: ErrorBudget::default(),
            quarantine_producers: QuarantineProducers::default(),
            max_attempts: 3,
        }
    }
}

/// Of all candidates since the anchor, how many wrong promotions policy may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorBudget {
    /// Each candidate is tested at the suite's level; the verdict says what that adds up to.
    #[default]
    Report,
    /// Policy alone promotes what is no worse than the champion at the level that e-LOND gives its
    /// place in the line, so that the share of wrong promotions stays bounded however long the line is.
    /// All else waits for an approval.
    Strict,
}

/// Who sets a producer aside that a verdict names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuarantineProducers {
    /// Operators, by name; pages do not propose it.
    Off,
    /// Operators; pages propose it. A name is only what a record says, so who can write records could
    /// have another one set aside by itself.
    #[default]
    Review,
    /// The controller, at once.
    Auto,
}

/// Whether a favourable verdict is enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AutoPromote {
    /// For hot updates.
    pub hot_update: bool,
    /// For cold starts.
    pub cold_start: bool,
    /// For transfers.
    pub transfer: bool,
}

impl Default for AutoPromote {
    fn default() -> Self {
        Self { hot_update: true, cold_start: true, transfer: false }
    }
}

/// Distinct approvers needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Approvals {
    /// For hot updates.
    pub hot_update: u32,
    /// For cold starts.
    pub cold_start: u32,
    /// For transfers.
    pub transfer: u32,
    /// For what is blocked: at least 2.
    pub r#override: u32,
}

impl Default for Approvals {
    fn default() -> Self {
        Self { hot_update: 1, cold_start: 1, transfer: 2, r#override: 2 }
    }
}

impl AutoPromote {
    pub(crate) fn of(&self, kind: JobKind) -> bool {
        match kind {
            JobKind::HotUpdate => self.hot_update,
            JobKind::ColdStart => self.cold_start,
            JobKind::Transfer => self.transfer,
        }
    }
}

impl Approvals {
    pub(crate) fn of(&self, kind: JobKind) -> usize {
        let needed = match kind {
            JobKind::HotUpdate => self.hot_update,
            JobKind::ColdStart => self.cold_start,
            JobKind::Transfer => self.transfer,
        };
        needed as usize
    }
}

impl ControllerConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// [`ControllerError::Config`] names the field and what would be right.
    pub fn validate(&self) -> Result<(), ControllerError> {
        Schedule::parse(&self.schedule)?;
        let Self { lag_trigger: lag, bootstrap, policy, .. } = self;
        let at_least_one = [
            ("lag_trigger.records", lag.records),
            ("lag_trigger.min_records", lag.min_records),
            ("lag_trigger.poll_s", lag.poll_s),
            ("bootstrap.min_labelled", bootstrap.min_labelled),
            ("policy.approvals.hot_update", u64::from(policy.approvals.hot_update)),
            ("policy.approvals.cold_start", u64::from(policy.approvals.cold_start)),
            ("policy.approvals.transfer", u64::from(policy.approvals.transfer)),
            ("policy.max_attempts", u64::from(policy.max_attempts)),
            ("lease_s", self.lease_s),
            ("checkpoints.entries", self.checkpoints.entries),
            ("checkpoints.every", self.checkpoints.every.as_secs()),
        ];
        for (field, value) in at_least_one {
            if value == 0 {
                return Err(ControllerError::config(field, "is 0: at least 1 is needed"));
            }
        }
        if (policy.approvals.r#override as usize) < tidegate_ledger::OVERRIDERS {
            let reason = "is below 2: what is blocked is never one person's to promote";
            return Err(ControllerError::config("policy.approvals.override", reason));
        }
        stages::validate(&policy.stages)?;
        self.webhooks.iter().try_for_each(WebhookConfig::validate)?;
        for host in &self.allowed_hosts {
            if host.is_empty() || host.contains(['/', ':', ' ']) {
                let reason = format!(
                    "has `{host}`: give the name alone, without scheme and port, e.g. \
                     `tidegate.example.org`"
                );
                return Err(ControllerError::config("allowed_hosts", reason));
            }
        }
        if policy.approval_ttl.is_zero() {
            let reason = "is 0: no approval would ever count (the default is 24h)";
            return Err(ControllerError::config("policy.approval_ttl", reason));
        }
        if chrono::Duration::from_std(policy.approval_ttl)
            .ok()
            .and_then(|ttl| chrono::Utc::now().checked_add_signed(ttl))
            .is_none()
        {
            let reason = "is beyond any date: a few days are usual";
            return Err(ControllerError::config("policy.approval_ttl", reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_reads_back() {
        let config = ControllerConfig::default();
        config.validate().unwrap();
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(json["policy"]["approval_ttl"], "1day");
        assert_eq!(serde_json::from_value::<ControllerConfig>(json).unwrap(), config);
    }

    #[test]
    fn a_wrong_field_is_named() {
        let wrong = [
            (r#"{"schedule":{"hot_update":"often"}}"#, "controller.schedule.hot_update"),
            (r#"{"schedule":{"cold_start":"0 25 * * *"}}"#, "controller.schedule.cold_start"),
            (r#"{"lag_trigger":{"records":0}}"#, "controller.lag_trigger.records"),
            (r#"{"policy":{"approvals":{"transfer":0}}}"#, "controller.policy.approvals.transfer"),
            (r#"{"policy":{"approvals":{"override":1}}}"#, "controller.policy.approvals.override"),
            (r#"{"webhooks":[{"url":"ftp://a.example/"}]}"#, "controller.webhooks"),
            (r#"{"webhooks":[{"url":"not a url"}]}"#, "controller.webhooks"),
            (r#"{"policy":{"approval_ttl":"0s"}}"#, "controller.policy.approval_ttl"),
            (r#"{"policy":{"approval_ttl":"500000years"}}"#, "controller.policy.approval_ttl"),
            (r#"{"allowed_hosts":["https://a.example/"]}"#, "controller.allowed_hosts"),
        ];
        for (json, field) in wrong {
            let config: ControllerConfig = serde_json::from_str(json).unwrap();
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(field), "{json}: {error}");
        }
        let error = serde_json::from_str::<ControllerConfig>(r#"{"polcy":{}}"#).unwrap_err();
        assert!(error.to_string().contains("polcy"), "{error}");
    }
}
