//! What is made of accuracies over time, task by task.
//!
//! Papers give one name to different formulas, so each function here names its own.

/// Accuracy on each task after each task was learnt: `[learnt][judged]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Accuracies {
    after: Vec<Vec<f64>>,
}

impl Accuracies {
    /// From a square table, `[learnt][judged]`. `None` where it is not square, or empty.
    #[must_use]
    pub fn new(after: Vec<Vec<f64>>) -> Option<Self> {
        let tasks = after.len();
        (tasks > 0 && after.iter().all(|row| row.len() == tasks)).then_some(Self { after })
    }

    /// How many tasks there are.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.after.len()
    }

    fn last(&self) -> &[f64] {
        &self.after[self.tasks() - 1]
    }

    /// Mean accuracy over all tasks in the end (Lopez-Paz and Ranzato 2017, arXiv 1706.08840,
    /// eq. 2).
    #[must_use]
    pub fn average(&self) -> f64 {
        mean(self.last().iter().copied())
    }

    /// Mean accuracy on each task from when it was learnt on (Díaz-Rodríguez et al. 2018, arXiv
    /// 1810.13166).
    #[must_use]
    pub fn average_since_learnt(&self) -> f64 {
        mean(self.after.iter().enumerate().flat_map(|(learnt, row)| row[..=learnt].iter().copied()))
    }

    /// Backward transfer: what became of a task's accuracy since it was learnt (Lopez-Paz and
    /// Ranzato, eq. 3). 0 of one task.
    #[must_use]
    pub fn backward_transfer(&self) -> f64 {
        -mean(self.lost_since_learnt().into_iter())
    }

    /// What of forgetting is kept: 1 less the loss in backward transfer (Díaz-Rodríguez et al.).
    #[must_use]
    pub fn remembering(&self) -> f64 {
        1.0 + self.backward_transfer().min(0.0)
    }

    /// What backward transfer gained; 0 where it lost (Díaz-Rodríguez et al.).
    #[must_use]
    pub fn backward_gain(&self) -> f64 {
        self.backward_transfer().max(0.0)
    }

    /// A task's accuracy before it is learnt above that of an `untrained` model, for all tasks but
    /// the first.
    #[must_use]
    pub fn known_ahead(&self, untrained: &[f64]) -> Vec<f64> {
        (1..self.tasks()).map(|task| self.after[task - 1][task] - untrained[task]).collect()
    }

    /// Forward transfer: the mean of [`Accuracies::known_ahead`] (Lopez-Paz and Ranzato, eq. 4). 0
    /// of one task.
    #[must_use]
    pub fn forward_transfer(&self, untrained: &[f64]) -> f64 {
        mean(self.known_ahead(untrained).into_iter())
    }

    /// The best accuracy that a task had before the last was learnt less that in the end, for all
    /// tasks but the last (Chaudhry et al. 2018, arXiv 1801.10112, eq. 3).
    #[must_use]
    pub fn lost_since_best(&self) -> Vec<f64> {
        let before = &self.after[..self.tasks() - 1];
        let best =
            |task: usize| before.iter().map(|row| row[task]).fold(f64::NEG_INFINITY, f64::max);
        (0..self.tasks() - 1).map(|task| best(task) - self.last()[task]).collect()
    }

    /// Forgetting: the mean of [`Accuracies::lost_since_best`]. 0 of one task.
    #[must_use]
    pub fn forgetting(&self) -> f64 {
        mean(self.lost_since_best().into_iter())
    }

    /// A task's accuracy when it was learnt less that in the end, for all tasks but the last:
    /// forgetting as Avalanche has it.
    #[must_use]
    pub fn lost_since_learnt(&self) -> Vec<f64> {
        (0..self.tasks() - 1).map(|task| self.after[task][task] - self.last()[task]).collect()
    }

    /// By how much what learns task after task stays below `reference`, which learns them at once,
    /// by task (Chaudhry et al., eq. 5).
    #[must_use]
    pub fn intransigence(&self, reference: &[f64]) -> Vec<f64> {
        (0..self.tasks()).map(|task| reference[task] - self.after[task][task]).collect()
    }
}

/// 0 of nothing.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0_f64), |(sum, count), x| (sum + x, count + 1.0));
    sum / count.max(1.0)
}
