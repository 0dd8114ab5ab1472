//! What is made of accuracies over time.
use serde::Serialize;
use tidegate_evaluation::continual;

/// Accuracy on each task's test part after each task was learnt: `[learnt][judged]`; and that of
/// guessing.
pub(crate) struct Accuracies {
    pub(crate) guessing: f64,
    pub(crate) after: Vec<Vec<f64>>,
}

/// In points, of 100.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Measures {
    /// Average accuracy over all tasks in the end.
    pub(crate) acc: f64,
    /// Backward transfer: what became of a task's accuracy since it was learnt.
    pub(crate) bwt: f64,
    /// Forward transfer: accuracy on a task before it is learnt, above guessing.
    pub(crate) fwt: f64,
    /// Forgetting: the best accuracy that a task ever had less that in the end.
    pub(crate) forgetting: f64,
}

impl Accuracies {
    /// As papers have them ([`continual`]); forgetting over all tasks but the last.
    pub(crate) fn measures(&self) -> Measures {
        let found = continual::Accuracies::new(self.after.clone())
            .expect("every task is judged after every task");
        let untrained = vec![self.guessing; found.tasks()];
        Measures {
            acc: 100.0 * found.average(),
            bwt: 100.0 * found.backward_transfer(),
            fwt: 100.0 * found.forward_transfer(&untrained),
            forgetting: 100.0 * found.forgetting(),
        }
    }
}

/// Mean of each measure over several runs, and how far from it the furthest ACC is.
pub(crate) fn averaged(runs: &[Measures]) -> (Measures, f64) {
    let over = |of: fn(&Measures) -> f64| mean(runs.iter().map(of));
    let average = Measures {
        acc: over(|m| m.acc),
        bwt: over(|m| m.bwt),
        fwt: over(|m| m.fwt),
        forgetting: over(|m| m.forgetting),
    };
    let furthest = runs.iter().map(|m| (m.acc - average.acc).abs()).fold(0.0, f64::max);
    (average, furthest)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) =
        values.fold((0.0, 0.0_f64), |(sum, count), value| (sum + value, count + 1.0));
    sum / count.max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measures_are_those_of_the_papers_on_a_table_by_hand() {
        let after = vec![vec![0.9, 0.82, 0.5], vec![0.95, 0.8, 0.6], vec![0.7, 0.9, 0.85]];
        let found = Accuracies { guessing: 0.5, after }.measures();
        let close = |one: f64, other: f64| assert!((one - other).abs() < 1e-9, "{one} {other}");
        close(found.acc, 100.0 * (0.7 + 0.9 + 0.85) / 3.0);
        close(found.bwt, 100.0 * ((0.7 - 0.9) + (0.9 - 0.8)) / 2.0);
        close(found.fwt, 100.0 * ((0.82 - 0.5) + (0.6 - 0.5)) / 2.0);
        // The best of the first task came after the second, that of the second before it was learnt;
        // a gain is forgetting below 0.
        close(found.forgetting, 100.0 * ((0.95 - 0.7) + (0.82 - 0.9)) / 2.0);
    }
}
