//! Of whose labels the champion disputes more than of the others'.
use super::{Grouped, Producers};
use crate::{
    bootstrap::permutation_test,
    stats::{Interval, stratified_difference},
};

/// What the champion disputes of the most suspicious producer's labels.
#[derive(Debug)]
pub(crate) struct Disputes {
    /// Who it is, in words, and by name where it is one.
    pub(crate) words: String,
    pub(crate) name: Option<String>,
    pub(crate) labels: u64,
    /// Producers that were compared.
    pub(crate) compared: usize,
    /// Disputed shares: its own, and that of the others at its mix of classes.
    pub(crate) own: f64,
    pub(crate) others: f64,
    /// Their difference, class by class, at a level that is corrected for the number of producers.
    pub(crate) estimate: f64,
    pub(crate) interval: Interval,
    /// How probable so suspicious a producer would be if it made no difference who says a label.
    pub(crate) chance: Option<f64>,
}

/// Disputed and all, of one producer and one class.
type Cell = (u64, u64);

/// Looks for the producer whose labels the champion disputes most. `Err` says how many labels the
/// largest of them has when none has `min_n` beside as many of the others.
///
/// A class that is hard is so for everybody, so shares are compared class by class, as
/// Cochran, Mantel and Haenszel do: the producer whose statistic is largest is the one, and its
/// permutation null is of the largest among as many producers of these sizes.
pub(crate) fn disputes(
    of: &Producers,
    min_n: u64,
    level: f64,
    permutations: usize,
    seed: u64,
) -> Result<Disputes, u64> {
    let grouped = of.grouped(of.rows.iter().map(|row| row.producer), min_n);
    let groups: Vec<usize> = of.rows.iter().map(|row| grouped.of[row.producer]).collect();
    let classes: Vec<usize> = of.rows.iter().map(|row| row.class).collect();
    let table = Table::new(of, &groups, grouped.names.len());
    let total = of.rows.len() as u64;
    let is_judged = |group: &usize| {
        let n = table.size(*group);
        n >= min_n && total - n >= min_n
    };
    let judged: Vec<usize> = (0..grouped.names.len()).filter(is_judged).collect();
    let Some((worst, _)) = table.worst(&judged) else {
        return Err((0..grouped.names.len()).map(|group| table.size(group)).max().unwrap_or(0));
    };
    let chance = permutation_test(&groups, &classes, permutations, seed, |groups| {
        Table::new(of, groups, grouped.names.len()).worst(&judged).map(|(_, z)| z)
    });
    // The first step of Holm's procedure, which is Bonferroni's: only the worst is named.
    let level = 1.0 - (1.0 - level) / judged.len() as f64;
    Ok(table.found(worst, &grouped, level, judged.len(), chance))
}

/// Disputed labels by group and class.
struct Table {
    cells: Vec<Vec<Cell>>,
}

impl Table {
    fn new(of: &Producers, groups: &[usize], count: usize) -> Self {
        let classes = of.rows.iter().map(|row| row.class + 1).max().unwrap_or(0);
        let mut cells = vec![vec![(0, 0); classes]; count];
        for (row, &group) in of.rows.iter().zip(groups) {
            let (disputed, all) = &mut cells[group][row.class];
            *disputed += u64::from(row.disputed);
            *all += 1;
        }
        Self { cells }
    }

    fn size(&self, group: usize) -> u64 {
        self.cells[group].iter().map(|(_, all)| all).sum()
    }

    /// Of one class: the group's, and that of all others.
    fn pairs(&self, group: usize) -> impl Iterator<Item = (Cell, Cell)> + '_ {
        (0..self.cells[group].len()).map(move |class| {
            let all = self.cells.iter().map(|of| of[class]);
            let all = all.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            let own = self.cells[group][class];
            (own, (all.0 - own.0, all.1 - own.1))
        })
    }

    /// The signed Cochran-Mantel-Haenszel statistic of one group beside all others: disputes beyond
    /// what is expected of its classes, in standard deviations (Mantel and Haenszel 1959).
    fn statistic(&self, group: usize) -> f64 {
        let (mut beyond, mut variance) = (0.0, 0.0);
        for ((disputed, n), (other, others)) in self.pairs(group) {
            let (n, others, total) = (n as f64, others as f64, (n + others) as f64);
            if total < 2.0 {
                continue;
            }
            let sum = disputed as f64 + other as f64;
            beyond += disputed as f64 - n * sum / total;
            variance += n * others * sum * (total - sum) / (total * total * (total - 1.0));
        }
        if variance > 0.0 { beyond / variance.sqrt() } else { 0.0 }
    }

    fn worst(&self, judged: &[usize]) -> Option<(usize, f64)> {
        let statistics = judged.iter().map(|&group| (group, self.statistic(group)));
        statistics.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn found(
        &self,
        worst: usize,
        grouped: &Grouped,
        level: f64,
        compared: usize,
        chance: Option<f64>,
    ) -> Disputes {
        // Classes that only one side has say nothing.
        let both: Vec<(Cell, Cell)> =
            self.pairs(worst).filter(|((_, n), (_, others))| *n > 0 && *others > 0).collect();
        let strata: Vec<_> =
            both.iter().map(|&(own, others)| (own, others, own.1 as f64)).collect();
        let (estimate, interval) =
            stratified_difference(&strata, level).unwrap_or((0.0, Interval::new(-1.0, 1.0)));
        let labels: u64 = both.iter().map(|((_, n), _)| n).sum();
        let own = both.iter().map(|((disputed, _), _)| disputed).sum::<u64>();
        let own = own as f64 / labels.max(1) as f64;
        let (words, name) = (grouped.words(worst), grouped.names[worst].clone());
        let others = own - estimate;
        Disputes { words, name, labels, compared, own, others, estimate, interval, chance }
    }
}
