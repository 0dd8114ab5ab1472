//! Quality metrics of weighted rows, prepared once and asked for every resample.
use crate::{Metric, Scored, metrics::Answer, numbers};

/// Probabilities below this count as this in the log loss, so that one certain error stays finite.
pub(crate) const CLIP: f64 = f64::EPSILON;

/// Bins of equal width that a calibration error is measured in.
const BINS: usize = 15;

/// Bins of as many answers each.
const EQUAL_BINS: usize = 10;

/// A metric, and the class that it is of where it is of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// What is measured.
    pub metric: Metric,
    /// Of which class, in the common numbering.
    pub class: Option<usize>,
}

impl From<Metric> for Asked {
    fn from(metric: Metric) -> Self {
        Self { metric, class: None }
    }
}

/// What one model said on some rows, ready to be weighed.
pub(crate) struct Kernel<'a> {
    scored: &'a Scored,
    asked: Asked,
    rows: &'a [usize],
    /// Of a metric that is a mean of losses: the loss of each row.
    losses: Vec<f64>,
    /// Places in `rows`, sorted as the metric needs them; one list for each class it is of.
    orders: Vec<(usize, Vec<u32>)>,
}

impl<'a> Kernel<'a> {
    pub(crate) fn new(scored: &'a Scored, asked: Asked, rows: &'a [usize]) -> Self {
        let loss = |&row: &usize| scored.loss(asked.metric, row);
        let losses = rows.iter().map(loss).collect::<Option<Vec<f64>>>().unwrap_or_default();
        let mut kernel = Self { scored, asked, rows, losses, orders: vec![] };
        let sorted = |by: &dyn Fn(usize) -> f64| highest_first(rows.iter().map(|&row| by(row)));
        match (asked.metric, &scored.numbers) {
            (Metric::MedianAe, Some(numbers)) => {
                kernel.orders.push((0, sorted(&|row| numbers.error(row))));
            }
            (Metric::Ace, None) => {
                kernel.orders.push((0, sorted(&|row| scored.confidence[row])));
            }
            (Metric::Auroc | Metric::Auprc, None) => {
                let classes = asked.class.map_or(0..scored.classes, |class| class..class + 1);
                let order =
                    |class: usize| (class, sorted(&|row| scored.probability(row, class).into()));
                kernel.orders.extend(classes.map(order));
            }
            _ => {}
        }
        kernel
    }

    /// The metric, each row counting `weights[place]` times; `None` where it is undefined.
    pub(crate) fn value(&self, weights: &[f64]) -> Option<f64> {
        let (scored, metric) = (self.scored, self.asked.metric);
        let total: f64 = weights.iter().sum();
        if total <= 0.0 {
            return None;
        }
        if !self.losses.is_empty() && metric != Metric::MedianAe {
            let sum: f64 =
                self.losses.iter().zip(weights).map(|(loss, weight)| loss * weight).sum();
            return Some(sum / total);
        }
        let order = self.orders.first().map_or(&[][..], |(_, order)| order);
        if let Some(numbers) = &scored.numbers {
            return numbers::weighed(numbers, metric, self.rows, order, weights);
        }
        let mean = |of: &dyn Fn(usize) -> f64| {
            let rows = self.rows.iter().zip(weights);
            rows.map(|(&row, weight)| weight * of(row)).sum::<f64>() / total
        };
        match metric {
            Metric::Accuracy | Metric::RobustAccuracy => {
                Some(mean(&|row| f64::from(scored.right(row))))
            }
            Metric::Asr => {
                let was = |row: usize| f64::from(scored.was_right[row]);
                let all = mean(&was);
                let broken = mean(&|row| was(row) * f64::from(!scored.right(row)));
                (all > 0.0).then(|| broken / all)
            }
            Metric::Top2Accuracy | Metric::Top3Accuracy | Metric::Top5Accuracy => {
                Some(mean(&|row| f64::from(scored.is_hit(metric, row))))
            }
            Metric::Ece | Metric::Mce => {
                let bins = self.reliability(weights);
                let gaps = bins.iter().map(|bin| (bin.said - bin.happened).abs());
                if metric == Metric::Ece {
                    return Some(gaps.sum::<f64>() / total);
                }
                let filled = bins.iter().zip(gaps).filter(|(bin, _)| bin.weight > 0.0);
                filled.map(|(bin, gap)| gap / bin.weight).reduce(f64::max)
            }
            Metric::Ace => Some(self.equal_bins(order, weights, total)),
            Metric::Auroc | Metric::Auprc => {
                let of = if metric == Metric::Auroc { Self::roc } else { Self::precision_recall };
                let areas =
                    self.orders.iter().filter_map(|(c, order)| of(self, *c, order, weights));
                let (sum, count) = areas.fold((0.0, 0.0), |(s, n), area| (s + area, n + 1.0));
                (count > 0.0).then(|| sum / count)
            }
            _ => self.confusion(weights, total).value(self.asked),
        }
    }

    fn confusion(&self, weights: &[f64], total: f64) -> Confusion {
        let mut table = Confusion { classes: vec![[0.0; 3]; self.scored.classes], total };
        for (&row, weight) in self.rows.iter().zip(weights) {
            let (truth, said) = (self.scored.truth[row], self.scored.said[row]);
            table.classes[truth][SEEN] += weight;
            table.classes[said][SAID] += weight;
            if truth == said {
                table.classes[truth][HIT] += weight;
            }
        }
        table
    }

    fn reliability(&self, weights: &[f64]) -> [Bin; BINS] {
        let scored = self.scored;
        let answers =
            self.rows.iter().zip(weights).map(|(&row, &weight)| {
                (scored.confidence[row], f64::from(scored.right(row)), weight)
            });
        reliability(answers)
    }

    /// Ten bins of as many answers each, the first ones the larger. What lies on an edge is cut;
    /// equally sure answers are one, so that their order does not matter.
    fn equal_bins(&self, order: &[u32], weights: &[f64], total: f64) -> f64 {
        let (size, more) = ((total / EQUAL_BINS as f64).floor(), total % EQUAL_BINS as f64);
        let room = |bin: usize| size + if (bin as f64) < more.floor() { 1.0 } else { 0.0 };
        let (mut bin, mut left, mut gap, mut sum) = (0, room(0), 0.0_f64, 0.0);
        // From the least sure, as papers count bins.
        let sure = |place: &u32| self.scored.confidence[self.rows[*place as usize]];
        for equal in order.chunk_by(|a, b| sure(a) == sure(b)).rev() {
            let (mut weight, mut right) = (0.0, 0.0);
            for &place in equal {
                weight += weights[place as usize];
                let is_right = self.scored.right(self.rows[place as usize]);
                right += weights[place as usize] * f64::from(is_right);
            }
            let off = if weight > 0.0 { sure(&equal[0]) - right / weight } else { 0.0 };
            while weight > left && bin + 1 < EQUAL_BINS {
                gap += left * off;
                weight -= left;
                sum += gap.abs();
                (bin, gap) = (bin + 1, 0.0);
                left = room(bin);
            }
            gap += weight * off;
            left -= weight;
        }
        (sum + gap.abs()) / total
    }

    /// Area under the curve of true beside false positives: how often an example of the class is
    /// given a higher probability of it than one that is not, equal ones counting half.
    fn roc(&self, class: usize, order: &[u32], weights: &[f64]) -> Option<f64> {
        let (mut hits, mut alarms, mut area) = (0.0, 0.0, 0.0);
        self.walk(class, order, weights, |hit, alarm| {
            area += alarm * (hits + hit / 2.0);
            hits += hit;
            alarms += alarm;
        });
        (hits > 0.0 && alarms > 0.0).then(|| area / (hits * alarms))
    }

    /// Average precision: each step of recall times the precision there.
    fn precision_recall(&self, class: usize, order: &[u32], weights: &[f64]) -> Option<f64> {
        let (mut hits, mut said, mut area) = (0.0, 0.0, 0.0);
        self.walk(class, order, weights, |hit, alarm| {
            hits += hit;
            said += hit + alarm;
            if hit > 0.0 {
                area += hit * hits / said;
            }
        });
        (hits > 0.0).then(|| area / hits)
    }

    /// Weights of examples of the class and of others at each probability, from the highest.
    fn walk(&self, class: usize, order: &[u32], weights: &[f64], mut step: impl FnMut(f64, f64)) {
        let (mut hit, mut alarm, mut last) = (0.0, 0.0, f32::NAN);
        for &place in order {
            let row = self.rows[place as usize];
            let probability = self.scored.probability(row, class);
            if probability != last {
                step(hit, alarm);
                (hit, alarm, last) = (0.0, 0.0, probability);
            }
            let weight = weights[place as usize];
            if self.scored.truth[row] == class { hit += weight } else { alarm += weight }
        }
        step(hit, alarm);
    }
}

/// Places of the values, the highest first; equal ones as they came. Keys are sorted and not looked up:
/// this is most of what an area under a curve costs.
fn highest_first(values: impl Iterator<Item = f64>) -> Vec<u32> {
    // The bits of a number, so turned that they are ordered as the numbers are.
    let key = |value: f64| {
        let bits = value.to_bits();
        if value.is_sign_negative() { !bits } else { bits | 1 << 63 }
    };
    let mut keyed: Vec<(u64, u32)> =
        values.enumerate().map(|(place, value)| (!key(value), place as u32)).collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, place)| place).collect()
}

/// What rows of a metric cannot be told apart by, so that they are one cell; `None` where each row
/// is its own.
pub(crate) fn cell(scored: &Scored, metric: Metric, row: usize) -> Option<Answer> {
    match (metric, &scored.numbers) {
        (Metric::IntervalError, Some(numbers)) => Some((0, usize::from(numbers.covered[row]))),
        (_, Some(_)) => None,
        (Metric::Top2Accuracy | Metric::Top3Accuracy | Metric::Top5Accuracy, _) => {
            Some((0, usize::from(scored.is_hit(metric, row))))
        }
        _ if metric.is_of_table() => Some((scored.truth[row], scored.said[row])),
        _ => None,
    }
}

/// Sums over the answers of one bin of confidence.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bin {
    /// Of probabilities.
    pub said: f64,
    /// Of what came true, 1 each.
    pub happened: f64,
    /// Of weights.
    pub weight: f64,
}

/// Answers, each `(probability, 1 if it came true, weight)`, in `N` bins of equal width: `[k/N,
/// (k+1)/N)`, the last one closed.
#[must_use]
pub fn reliability<const N: usize>(answers: impl Iterator<Item = (f64, f64, f64)>) -> [Bin; N] {
    let mut bins = [Bin::default(); N];
    for (said, happened, weight) in answers {
        let bin = &mut bins[((said * N as f64) as usize).min(N - 1)];
        bin.said += weight * said;
        bin.happened += weight * happened;
        bin.weight += weight;
    }
    bins
}

const SEEN: usize = 0;
const SAID: usize = 1;
const HIT: usize = 2;

/// Weights by class: seen, said, and both.
struct Confusion {
    classes: Vec<[f64; 3]>,
    total: f64,
}

impl Confusion {
    fn value(&self, asked: Asked) -> Option<f64> {
        match (asked.metric, asked.class) {
            (Metric::Precision, Some(class)) => self.of(class, SAID),
            (Metric::Recall, Some(class)) => self.of(class, SEEN),
            (Metric::F1, Some(class)) => self.f(class, 1.0),
            (Metric::F2, Some(class)) => self.f(class, 2.0),
            (Metric::BenefitEntropy, Some(class)) => self.benefit_entropy(class),
            (Metric::BenefitTheil, Some(class)) => self.benefit_theil(class),
            (Metric::BalancedAccuracy, _) => self.mean(|class| self.of(class, SEEN)),
            (Metric::AccuracyOverMajority, _) => {
                let commonest = self.classes.iter().map(|c| c[SEEN]).fold(0.0, f64::max);
                Some((self.sum(|c| c[HIT]) - commonest) / self.total)
            }
            (Metric::MacroF1, _) => self.mean(|class| self.f(class, 1.0)),
            (Metric::MacroPrecision, _) => self.mean(|class| {
                let [seen, said, _] = self.classes[class];
                (seen + said > 0.0).then(|| self.of(class, SAID).unwrap_or(0.0))
            }),
            (Metric::WeightedF1, _) => {
                let each = |class| self.f(class, 1.0).unwrap_or(0.0) * self.classes[class][SEEN];
                Some((0..self.classes.len()).map(each).sum::<f64>() / self.total)
            }
            (Metric::Kappa, _) => {
                let chance = self.sum(|c| c[SEEN] * c[SAID]) / self.total.powi(2);
                let agreed = self.sum(|c| c[HIT]) / self.total;
                (chance < 1.0).then(|| (agreed - chance) / (1.0 - chance))
            }
            (Metric::Mcc, _) => {
                let apart = |at: usize| self.total.powi(2) - self.sum(|c| c[at] * c[at]);
                let scale = (apart(SEEN) * apart(SAID)).sqrt();
                let both = self.sum(|c| c[HIT]) * self.total - self.sum(|c| c[SEEN] * c[SAID]);
                (scale > 0.0).then(|| both / scale)
            }
            _ => None,
        }
    }

    fn sum(&self, of: impl Fn(&[f64; 3]) -> f64) -> f64 {
        self.classes.iter().map(of).sum()
    }

    /// Of the classes that have a value.
    fn mean(&self, of: impl Fn(usize) -> Option<f64>) -> Option<f64> {
        let values = (0..self.classes.len()).filter_map(of);
        let (sum, count) =
            values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
        (count > 0.0).then(|| sum / count)
    }

    /// Hits among what was seen, or said, of a class.
    fn of(&self, class: usize, among: usize) -> Option<f64> {
        let counts = self.classes[class];
        (counts[among] > 0.0).then(|| counts[HIT] / counts[among])
    }

    /// Recall counts `beta` times as much as precision; 0 where a class is never hit, undefined
    /// where it is neither seen nor said.
    fn f(&self, class: usize, beta: f64) -> Option<f64> {
        let [seen, said, hit] = self.classes[class];
        let square = beta * beta;
        let all = square * seen + said;
        (seen + said > 0.0).then(|| (1.0 + square) * hit / all)
    }

    /// Weights of who gets 0, 1 and 2: denied, right, and given.
    fn benefits(&self, class: usize) -> [f64; 3] {
        let [seen, said, hit] = self.classes[class];
        [seen - hit, self.total - seen - said + 2.0 * hit, said - hit]
    }

    /// Generalised entropy index with exponent 2: half of the squared variation of benefits.
    fn benefit_entropy(&self, class: usize) -> Option<f64> {
        let [denied, right, given] = self.benefits(class).map(|weight| weight / self.total);
        let mean = right + 2.0 * given;
        (mean > 0.0).then(|| {
            let square = |benefit: f64| (benefit / mean).powi(2) - 1.0;
            0.5 * (denied * square(0.0) + right * square(1.0) + given * square(2.0))
        })
    }

    fn benefit_theil(&self, class: usize) -> Option<f64> {
        let [_, right, given] = self.benefits(class).map(|weight| weight / self.total);
        let mean = right + 2.0 * given;
        (mean > 0.0).then(|| {
            let part = |benefit: f64| benefit / mean * (benefit / mean).ln();
            right * part(1.0) + given * part(2.0)
        })
    }
}
