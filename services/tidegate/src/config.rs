//! The tree of configs is the tree of the system.
use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tidegate_contracts::ListenConfig;
use tidegate_controller::ControllerConfig;
use tidegate_curation::LabelKind;
use tidegate_curator::CuratorConfig;
use tidegate_evaluator::EvaluatorConfig;
use tidegate_gateway::GatewayConfig;
use tidegate_ledger::LedgerConfig;
use tidegate_model::{Device, Task};
use tidegate_stream::StreamConfig;
use tidegate_telemetry::TelemetryConfig;
use tidegate_trainer::TrainerConfig;

/// Everything that can be configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Where everything durable lives: ledger, artifacts, broker log, checkpoints.
    pub(crate) data_dir: PathBuf,
    /// What trains and serves: `cpu`, `cuda:0`.
    pub(crate) device: Device,
    /// Where this process listens, and what it asks of callers.
    pub(crate) listen: ListenConfig,
    pub(crate) telemetry: TelemetryConfig,
    pub(crate) stream: StreamConfig,
    pub(crate) ledger: LedgerConfig,
    pub(crate) curator: CuratorConfig,
    pub(crate) trainer: TrainerConfig,
    pub(crate) evaluator: EvaluatorConfig,
    pub(crate) controller: ControllerConfig,
    pub(crate) gateway: GatewayConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "tidegate-data".into(),
            device: Device::default(),
            listen: ListenConfig {
                grpc: ([127, 0, 0, 1], 8001).into(),
                http: ([127, 0, 0, 1], 8080).into(),
                tls: None,
                tokens: vec![],
            },
            telemetry: TelemetryConfig::default(),
            stream: StreamConfig::default(),
            ledger: LedgerConfig::default(),
            curator: CuratorConfig::default(),
            trainer: TrainerConfig::default(),
            evaluator: EvaluatorConfig::default(),
            controller: ControllerConfig::default(),
            gateway: GatewayConfig::default(),
        }
    }
}

impl Config {
    /// Refuses what can be known to be wrong before anything is started.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        self.listen.validate().context("listen")?;
        anyhow::ensure!(!self.data_dir.as_os_str().is_empty(), "data_dir: is empty");
        if self.stream.brokers.is_none() && !self.stream.embedded.listen.ip().is_loopback() {
            anyhow::bail!(
                "stream.embedded.listen: the embedded broker knows neither TLS nor users, so it \
                 listens on loopback only; use a real Kafka (`stream.brokers`) beyond one machine"
            );
        }
        Ok(())
    }

    /// Refuses a process that would curate what it cannot learn.
    pub(crate) fn check_labels(&self) -> anyhow::Result<()> {
        let learns_numbers = self.trainer.recipe()?.architecture.task == Task::Regression;
        let labels = self.curator.curation.validate.labels;
        anyhow::ensure!(
            !learns_numbers || labels == LabelKind::Numbers,
            "trainer.recipe learns numbers (`architecture.task` is `regression`), and \
             `curator.curation.validate.labels` is `classes`: set it to `numbers`, so that a label \
             which is none is rejected and not lost"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_survive_a_round_trip_through_toml() {
        let config = Config::default();
        config.validate().unwrap();
        let text = toml::to_string(&config).unwrap();
        let back: Config = toml::from_str(&text).unwrap();
        assert_eq!(toml::to_string(&back).unwrap(), text);
    }

    #[test]
    fn numbers_are_curated_where_they_are_learnt() {
        let mut config = Config::default();
        config.check_labels().unwrap();
        config.trainer.recipe.architecture.task = Task::Regression;
        let error = config.check_labels().unwrap_err().to_string();
        assert!(error.contains("`numbers`"), "{error}");
        config.curator.curation.validate.labels = LabelKind::Numbers;
        config.check_labels().unwrap();
    }

    #[test]
    fn an_open_embedded_broker_is_refused() {
        let mut config = Config::default();
        config.stream.embedded.listen = ([0, 0, 0, 0], 9092).into();
        assert!(config.validate().unwrap_err().to_string().contains("loopback"));
    }
}
