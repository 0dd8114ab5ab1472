//! How the trainer is set up.
use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tidegate_learning::Recipe;

/// Configuration of the trainer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainerConfig {
    /// A recipe in a file of its own; takes the place of `recipe`.
    pub recipe_file: Option<PathBuf>,
    /// Seconds after which a trainer that went silent loses its lease.
    pub lease_s: u64,
    /// Attempts that may fail before a job is given up.
    pub max_attempts: u32,
    /// Starts of one job, those after a kill included, before it is given up: a job that takes
    /// its process with it must not do so for ever.
    pub max_starts: u32,
    /// Offsets of a window at most: the newest for a cold start, the oldest for a hot update,
    /// whose next update goes on behind them.
    pub max_window: u64,
    /// Seconds between two `CheckpointWritten` entries of a job at least.
    pub checkpoint_entry_s: u64,
    /// How to train.
    pub recipe: Recipe,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self {
            recipe_file: None,
            lease_s: 10,
            max_attempts: 3,
            max_starts: 50,
            max_window: 200_000,
            checkpoint_entry_s: 30,
            recipe: Recipe::default(),
        }
    }
}

impl TrainerConfig {
    /// The recipe in force.
    ///
    /// # Errors
    /// When the file cannot be read, or a field is out of its range; names both.
    pub fn recipe(&self) -> anyhow::Result<Recipe> {
        let Some(path) = &self.recipe_file else {
            self.recipe.validate().context("trainer.recipe")?;
            return Ok(self.recipe.clone());
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("trainer.recipe_file {}", path.display()))?;
        Recipe::from_toml(&text).with_context(|| format!("trainer.recipe_file {}", path.display()))
    }

    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.lease_s > 0, "trainer.lease_s is 0: at least 1 is needed");
        anyhow::ensure!(self.max_attempts > 0, "trainer.max_attempts is 0: at least 1 is needed");
        anyhow::ensure!(self.max_starts > 0, "trainer.max_starts is 0: at least 1 is needed");
        anyhow::ensure!(self.max_window > 0, "trainer.max_window is 0: at least 1 is needed");
        let task = self.recipe()?.architecture.task;
        anyhow::ensure!(
            task.has_labels(),
            "trainer.recipe: `architecture.task` is `{}`, which no suite can judge yet: train it by \
             `tidegate train --data`",
            task.as_str()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tidegate_model::Task;

    use super::*;

    #[test]
    fn the_default_reads_back_from_toml_style_values_and_a_wrong_field_is_named() {
        let config = TrainerConfig::default();
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(serde_json::from_value::<TrainerConfig>(json).unwrap(), config);
        config.validate().unwrap();
        let mut wrong = config;
        wrong.recipe.hot_update.batch = 0;
        let error = format!("{:#}", wrong.validate().unwrap_err());
        assert!(error.contains("trainer.recipe") && error.contains("hot_update.batch"), "{error}");
    }

    #[test]
    fn a_task_that_nobody_can_judge_is_refused() {
        let mut config = TrainerConfig::default();
        config.recipe.architecture.task = Task::NextToken;
        let error = format!("{:#}", config.validate().unwrap_err());
        assert!(error.contains("`next_token`") && error.contains("tidegate train"), "{error}");
    }

    #[test]
    fn a_recipe_file_takes_the_place_of_the_inline_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        std::fs::write(&path, "[hot_update]\nepochs = 7").unwrap();
        let config = TrainerConfig { recipe_file: Some(path), ..TrainerConfig::default() };
        assert_eq!(config.recipe().unwrap().hot_update.epochs, 7);
        let missing = TrainerConfig {
            recipe_file: Some(folder.path().join("none.toml")),
            ..TrainerConfig::default()
        };
        assert!(format!("{:#}", missing.validate().unwrap_err()).contains("none.toml"));
    }
}
