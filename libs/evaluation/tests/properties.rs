//! What must hold of every metric, and how often intervals and evidence are right.
use proptest::prelude::*;
use rand::{SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use tidegate_contracts::Class;
use tidegate_evaluation::{
    Asked, Classes, EProcess, Groups, Metric, Numbers, Scored,
    bootstrap::{Cells, Resampling, bootstrap},
    stats::{
        Interval, Paired, clopper_pearson, nearest_rank, newcombe_independent, quantile_ranks,
        wilson,
    },
};
use tidegate_model::Scores;

const LEVEL: f64 = 0.95;

/// Metrics of answers that are classes, and those of one class.
fn of_classes() -> Vec<Asked> {
    let whole = [
        Metric::Accuracy,
        Metric::BalancedAccuracy,
        Metric::AccuracyOverMajority,
        Metric::Top2Accuracy,
        Metric::Top3Accuracy,
        Metric::Top5Accuracy,
        Metric::MacroF1,
        Metric::MacroPrecision,
        Metric::WeightedF1,
        Metric::Kappa,
        Metric::Mcc,
        Metric::Auroc,
        Metric::Auprc,
        Metric::LogLoss,
        Metric::Brier,
        Metric::Ece,
        Metric::Mce,
        Metric::Ace,
    ];
    let of_one = [
        Metric::Precision,
        Metric::Recall,
        Metric::F1,
        Metric::F2,
        Metric::Auroc,
        Metric::Auprc,
        Metric::BenefitEntropy,
        Metric::BenefitTheil,
    ];
    let one = |metric| Asked { metric, class: Some(0) };
    whole.into_iter().map(Asked::from).chain(of_one.into_iter().map(one)).collect()
}

const OF_NUMBERS: [Metric; 6] =
    [Metric::Mae, Metric::Rmse, Metric::MedianAe, Metric::R2, Metric::Mape, Metric::IntervalError];

const GAPS: [Metric; 6] = [
    Metric::AccuracyGap,
    Metric::DemographicParity,
    Metric::DemographicParityRatio,
    Metric::EqualOpportunity,
    Metric::EqualizedOdds,
    Metric::WorstGroupAccuracy,
];

/// Labels, and probabilities in steps of a twelfth or so, so that many are equal.
fn answers() -> impl Strategy<Value = (Vec<usize>, Vec<Vec<f32>>)> {
    (2_usize..5).prop_flat_map(|classes| {
        let row = (0..classes, prop::collection::vec(1_u8..12, classes));
        prop::collection::vec(row, 1..80).prop_map(|rows| {
            let shares = |parts: Vec<u8>| {
                let sum: u32 = parts.iter().copied().map(u32::from).sum();
                parts.into_iter().map(|part| f32::from(part) / sum as f32).collect()
            };
            rows.into_iter().map(|(truth, parts)| (truth, shares(parts))).unzip()
        })
    })
}

fn scored(truth: &[usize], probabilities: &[Vec<f32>]) -> Scored {
    let labels: Vec<Class> =
        (0..probabilities[0].len()).map(|class| Class::new(class.to_string())).collect();
    let scores: Vec<Scores> =
        probabilities.iter().map(|row| Scores { probabilities: row.clone() }).collect();
    Scored::new(&Classes::new(&labels), &labels, truth.to_vec(), &scores).unwrap()
}

fn numbers(truth: Vec<f64>, said: Vec<f64>) -> Scored {
    let covered = truth.iter().zip(&said).map(|(t, s)| (t - s).abs() < 2.0).collect();
    Scored { numbers: Some(Numbers { truth, said, covered }), ..Scored::default() }
}

#[track_caller]
fn alike(one: Option<f64>, other: Option<f64>, what: &dyn std::fmt::Debug) {
    match (one, other) {
        (None, None) => {}
        (Some(a), Some(b)) => {
            assert!((a - b).abs() <= 1e-9 * a.abs().max(1.0), "{what:?}: {a} {b}");
        }
        _ => panic!("{what:?}: {one:?} {other:?}"),
    }
}

fn shuffled(n: usize, seed: u64) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..n).collect();
    rows.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    rows
}

proptest! {
    #[test]
    fn the_order_of_examples_means_nothing((truth, probabilities) in answers(), seed: u64) {
        let scored = scored(&truth, &probabilities);
        let (rows, other): (Vec<usize>, _) = ((0..truth.len()).collect(), shuffled(truth.len(), seed));
        for asked in of_classes() {
            alike(scored.value(asked, &rows), scored.value(asked, &other), &asked);
        }
        let groups = |rows: &[usize]| {
            Groups::new(rows, |row| Some((row % 3).to_string()), &scored, 1, 1)
        };
        for metric in GAPS {
            let gap = |rows| groups(rows).gap(metric, &scored);
            alike(gap(&rows), gap(&other), &metric);
        }
    }

    #[test]
    fn the_order_of_numbers_means_nothing(
        pairs in prop::collection::vec((-9.0..9.0_f64, -9.0..9.0_f64), 1..80),
        seed: u64,
    ) {
        let (truth, said): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        let other = shuffled(truth.len(), seed);
        let rows: Vec<usize> = (0..truth.len()).collect();
        let scored = numbers(truth, said);
        for metric in OF_NUMBERS {
            alike(scored.value(metric, &rows), scored.value(metric, &other), &metric);
        }
    }

    /// What the bootstrap rests on: to be drawn twice is to be there twice.
    #[test]
    fn a_weight_is_a_number_of_copies(
        (truth, probabilities) in answers(),
        weights in prop::collection::vec(0_u8..4, 80),
    ) {
        let scored = scored(&truth, &probabilities);
        let weights = &weights[..truth.len()];
        let copies: Vec<usize> = weights
            .iter()
            .enumerate()
            .flat_map(|(row, &times)| std::iter::repeat_n(row, times.into()))
            .collect();
        let rows: Vec<usize> = (0..truth.len()).collect();
        let weights: Vec<f64> = weights.iter().copied().map(f64::from).collect();
        for asked in of_classes() {
            let weighed = scored.weighed(asked, &rows, &weights);
            alike(weighed, scored.value(asked, &copies), &asked);
        }
        let said = probabilities.iter().map(|row| f64::from(row[0])).collect();
        let scored = numbers(truth.iter().map(|&t| t as f64 - 0.5).collect(), said);
        for metric in OF_NUMBERS {
            alike(scored.weighed(metric, &rows, &weights), scored.value(metric, &copies), &metric);
        }
    }
}

/// The share of `runs` whose interval holds the truth.
fn covered(runs: u32, mut one: impl FnMut(&mut ChaCha8Rng) -> (Interval, f64)) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(20_261_128);
    let mut inside = 0;
    for _ in 0..runs {
        let (interval, truth) = one(&mut rng);
        inside += u32::from(interval.low <= truth && truth <= interval.high);
    }
    f64::from(inside) / f64::from(runs)
}

#[track_caller]
fn as_often_as_it_says(what: &str, share: f64) {
    assert!((0.93..=0.97).contains(&share), "{what}: {share}");
}

fn binomial(rng: &mut ChaCha8Rng, n: u64, p: f64) -> u64 {
    (0..n).filter(|_| rng.random_bool(p)).count() as u64
}

#[test]
fn intervals_of_shares_cover() {
    let share = covered(4_000, |rng| {
        let (n, p) = (rng.random_range(50..500), rng.random_range(0.05..0.95));
        (wilson(binomial(rng, n, p), n, LEVEL), p)
    });
    as_often_as_it_says("wilson", share);
    let share = covered(2_000, |rng| {
        let p = rng.random_range(0.2..0.8);
        (clopper_pearson(binomial(rng, 1_000, p), 1_000, LEVEL), p)
    });
    as_often_as_it_says("clopper_pearson", share);
    assert!(share >= LEVEL - 0.01, "exact: {share}");
    let share = covered(4_000, |rng| {
        let (n, m) = (rng.random_range(80..300), rng.random_range(80..300));
        let (p, q) = (rng.random_range(0.1..0.9), rng.random_range(0.1..0.9));
        let (one, other) = ((binomial(rng, n, p), n), (binomial(rng, m, q), m));
        (newcombe_independent(one, other, LEVEL), p - q)
    });
    as_often_as_it_says("newcombe_independent", share);
}

#[test]
fn intervals_of_paired_differences_cover() {
    let share = covered(4_000, |rng| {
        // Two models that agree on most: 4 to 15 % won, as much lost.
        let (won, lost) = (rng.random_range(0.04..0.15), rng.random_range(0.04..0.15));
        let both = rng.random_range(0.4..0.6);
        let pairs = (0..400).map(|_| {
            let x: f64 = rng.random();
            if x < won {
                (true, false)
            } else if x < won + lost {
                (false, true)
            } else {
                let right = x < won + lost + both;
                (right, right)
            }
        });
        (Paired::count(pairs.collect::<Vec<_>>()).newcombe(LEVEL), won - lost)
    });
    as_often_as_it_says("newcombe_paired", share);
}

/// Of three classes, right 4 times in 5 and else one of the others.
fn table(rng: &mut ChaCha8Rng, n: usize) -> (Vec<usize>, Vec<Vec<f32>>) {
    let one = |_| {
        let x: f64 = rng.random();
        let truth = if x < 0.5 { 0 } else { 1 + usize::from(x < 0.8) };
        let said = if rng.random_bool(0.8) { truth } else { (truth + rng.random_range(1..3)) % 3 };
        (truth, (0..3).map(|class| if class == said { 0.8 } else { 0.1 }).collect())
    };
    (0..n).map(one).unzip()
}

fn macro_f1(truth: &[usize], probabilities: &[Vec<f32>], cells: &Cells, seed: u64) -> Interval {
    let scored = scored(truth, probabilities);
    let how = Resampling { strata: &[], count: 400, level: LEVEL, seed };
    let found =
        bootstrap(cells, how, |weights| scored.weighed(Metric::MacroF1, &cells.rows, weights));
    found.unwrap().interval
}

#[test]
fn bootstrap_intervals_of_f1_cover() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (truth, probabilities) = table(&mut rng, 1_000_000);
    let rows: Vec<usize> = (0..truth.len()).collect();
    let value = scored(&truth, &probabilities).value(Metric::MacroF1, &rows).unwrap();
    let share = covered(1_500, |rng| {
        let (truth, probabilities) = table(rng, 300);
        let said = |row: usize| probabilities[row].iter().position(|&p| p > 0.5);
        let cells = Cells::by(truth.len(), |row| (truth[row], said(row)));
        (macro_f1(&truth, &probabilities, &cells, rng.random()), value)
    });
    as_often_as_it_says("bootstrap_bca of macro F1", share);
}

#[test]
fn drawing_cells_is_drawing_rows() {
    let (truth, probabilities) = table(&mut ChaCha8Rng::seed_from_u64(3), 500);
    let scored = scored(&truth, &probabilities);
    let cells = Cells::by(truth.len(), |row| (truth[row], scored.said[row]));
    assert!(cells.rows.len() <= 9);
    let ends = |cells: &Cells, seed| {
        let how = Resampling { strata: &[], count: 8_000, level: 0.9, seed };
        let of = |weights: &[f64]| scored.weighed(Metric::Kappa, &cells.rows, weights);
        bootstrap(cells, how, of).unwrap().interval
    };
    let (one, other) = (ends(&cells, 1), ends(&Cells::each(truth.len()), 2));
    assert!((one.low - other.low).abs() < 0.004, "{one:?} {other:?}");
    assert!((one.high - other.high).abs() < 0.004, "{one:?} {other:?}");
    // The same seed draws the same.
    assert_eq!(ends(&cells, 1), one);
}

#[test]
fn order_statistics_cover_quantiles() {
    for q in [0.5_f64, 0.9, 0.99] {
        let truth = -(1.0 - q).ln();
        let share = covered(3_000, |rng| {
            let mut times: Vec<f64> =
                (0..2_000).map(|_| -(1.0 - rng.random::<f64>()).ln()).collect();
            times.sort_by(f64::total_cmp);
            let (low, high) = quantile_ranks(times.len() as u64, q, LEVEL);
            let at = |rank: Option<u64>| times[rank.unwrap() as usize - 1];
            assert!(at(low) <= nearest_rank(&times, q).unwrap());
            (Interval::new(at(low), at(high)), truth)
        });
        as_often_as_it_says(&format!("order statistics at {q}"), share);
    }
}

#[test]
fn evidence_that_is_looked_at_all_the_time_errs_as_rarely_as_it_says() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (runs, alpha, margin) = (600, 0.05, 0.05);
    let crosses = |rng: &mut ChaCha8Rng, mean: f64| {
        let mut evidence = EProcess::new(-margin);
        // Half of the examples tell the models apart.
        (0..2_000).any(|_| {
            let x: f64 = rng.random();
            let worse = (0.5 - mean) / 2.0;
            evidence.observe(if x < worse {
                -1.0
            } else if x < 0.5 {
                1.0
            } else {
                0.0
            });
            evidence.holds_at(alpha)
        })
    };
    let wrong = (0..runs).filter(|_| crosses(&mut rng, -margin)).count();
    let right = (0..runs).filter(|_| crosses(&mut rng, 0.1)).count();
    assert!(wrong as f64 <= 1.3 * alpha * f64::from(runs), "{wrong}");
    assert!(right > 550, "{right}");
}
