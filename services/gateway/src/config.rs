//! What can be configured, with the defaults that clients may rely on.
use serde::{Deserialize, Serialize};

use crate::GatewayError;

/// The gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Who it is in the ledger's `Swapped` facts; give each replica its own.
    pub name: String,
    /// The one model it serves, by the name that clients ask for.
    pub model_name: String,
    /// Generations kept in memory, the champion included: `model_version` may name any of them,
    /// and a rollback to one of them is immediate.
    pub held: usize,
    /// The largest request or response, in bytes.
    pub max_message_bytes: usize,
    /// How long queued requests may take to finish at shutdown, in seconds.
    pub drain_s: u64,
    /// Queue, batches and model threads.
    pub batch: BatchConfig,
    /// What is told of each answer on the predictions topic.
    pub predictions: PredictionsConfig,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            name: "gateway".into(),
            model_name: "default".into(),
            held: 2,
            max_message_bytes: 32 << 20,
            drain_s: 20,
            batch: BatchConfig::default(),
            predictions: PredictionsConfig::default(),
        }
    }
}

/// Queue, batches and model threads of each generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// Texts in one forward.
    pub max_batch: usize,
    /// How long a text may wait for others, in microseconds. A text that finds an idle worker
    /// waits for nobody.
    pub batch_wait_us: u64,
    /// Texts that may wait; one more and the request is refused. Also the most texts of a request.
    pub queue: usize,
    /// Bytes of text that may wait.
    pub queue_bytes: usize,
    /// Threads that run forwards. One core is left to the network by default.
    pub workers: usize,
}

impl Default for BatchConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            max_batch: 32,
            batch_wait_us: 500,
            queue: 1024,
            queue_bytes: 256 << 20,
            workers: cores.saturating_sub(1).max(1),
        }
    }
}

/// What is told of each answer on the predictions topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PredictionsConfig {
    /// The share of answers that is published, 0 to 1.
    pub share: f64,
    /// Answers that may wait for Kafka; more are dropped and counted, serving never waits.
    pub queue: usize,
}

impl Default for PredictionsConfig {
    fn default() -> Self {
        Self { share: 1.0, queue: 8192 }
    }
}

impl GatewayConfig {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// [`GatewayError::Config`] names the field.
    pub fn validate(&self) -> Result<(), GatewayError> {
        let at_least_one = [
            ("held", self.held),
            ("batch.max_batch", self.batch.max_batch),
            ("batch.queue", self.batch.queue),
            ("batch.queue_bytes", self.batch.queue_bytes),
            ("batch.workers", self.batch.workers),
            ("predictions.queue", self.predictions.queue),
            ("max_message_bytes", self.max_message_bytes),
        ];
        let wrong = |field: &'static str, reason: String| GatewayError::Config { field, reason };
        for (field, value) in at_least_one {
            if value == 0 {
                return Err(wrong(field, "is 0: at least 1 is needed".into()));
            }
        }
        for (field, value) in [("name", &self.name), ("model_name", &self.model_name)] {
            if value.is_empty() {
                return Err(wrong(field, "is empty".into()));
            }
        }
        if self.model_name.contains('/') {
            let reason = format!("`{}` has a `/`, which its URL cannot have", self.model_name);
            return Err(wrong("model_name", reason));
        }
        let share = self.predictions.share;
        if !(0.0..=1.0).contains(&share) {
            return Err(wrong("predictions.share", format!("is {share}: 0 to 1 is needed")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_wrong_field_is_named() {
        GatewayConfig::default().validate().unwrap();
        let mut config = GatewayConfig::default();
        config.predictions.share = f64::NAN;
        assert!(config.validate().unwrap_err().to_string().contains("predictions.share"));
        let config = GatewayConfig { held: 0, ..GatewayConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("held"));
    }
}
