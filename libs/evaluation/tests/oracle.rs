//! Every case of the reference numbers, each expected number of it, against statsmodels, scipy,
//! scikit-learn, torchmetrics, fairlearn, AIF360, Avalanche and codecarbon. The numbers were made
//! outside this project. Each case has a test; a case whose numbers are not all looked at fails it.
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use chrono::DateTime;
use serde_json::Value;
use statrs::function::beta::beta_reg;
use tidegate_contracts::{Class, Domain, Event, EventId, Joules, Part};
use tidegate_curation::{
    Banding, NearConfig, ShingleUnit,
    likeness::{self, LikeTexts},
};
use tidegate_evaluation::{
    Asked, Classes, EProcess, Groups, Line, Metric, Numbers, Scored, Spending,
    bootstrap::{bca, percentile},
    continual::Accuracies,
    drift, reliability,
    sequential::{log_e_of_larger_share, log_e_of_share, share_at_all_times},
    stats::{
        Paired, benjamini_hochberg, binomial_cdf, chi_squared_tail, clopper_pearson,
        hodges_lehmann, holm, linear_quantile, mann_whitney, nearest_rank, newcombe_independent,
        normal_cdf, normal_quantile, quantile_ranks, queries_for_quantile, sign_flips,
        under_needed, wilcoxon, wilson, z,
    },
};
use tidegate_model::Scores;
use tidegate_telemetry::energy::{carbon_at, counted, grid_intensity, per_thousand};

/// Cases that other tests walk, by name: nobody may think that they were walked here.
const NOT_WALKED: [&str; 5] = [
    "adversarial_linear_softmax",
    "adversarial_linear_exact",
    "corruption_error",
    "worst_of_k",
    "decision_record_crypto",
];

/// Expected numbers of methods that judging does not offer, and why.
const NOT_OURS: [(&str, &str, &str); 3] = [
    (
        "carbon_codecarbon",
        "/ram_gb_to_[dimms,watts]_x86",
        "memory as a constant power hides models",
    ),
    ("carbon_codecarbon", "/cpu_load_machine_mode_fraction_of_tdp", "counts what others do"),
    ("two_independent_proportions_diff_ci", "/rows/*/score", "a fourth interval of the same"),
];

/// One case: numbers are marked as they are compared.
struct Case {
    name: &'static str,
    whole: Value,
    inputs: Value,
    expected: Value,
    seen: RefCell<BTreeSet<String>>,
}

impl Case {
    fn open(name: &'static str) -> Self {
        let whole: Value = serde_json::from_str(include_str!("oracle/metric_oracle.json")).unwrap();
        let cases = whole["cases"].as_array().unwrap();
        let case = cases.iter().find(|case| case["name"] == name).expect("the case exists");
        let (inputs, expected) = (case["inputs"].clone(), case["expected"].clone());
        Self { name, whole, inputs, expected, seen: RefCell::default() }
    }

    fn data(&self, set: &str, column: &str) -> &Value {
        &self.whole["datasets"][set][column]
    }

    /// An expected value, which counts as compared with all that is in it.
    #[track_caller]
    fn at(&self, path: &str) -> &Value {
        let path = format!("/{path}");
        self.seen.borrow_mut().insert(path.clone());
        self.expected.pointer(&path).unwrap_or_else(|| panic!("{} has no {path}", self.name))
    }

    #[track_caller]
    fn near(&self, found: f64, path: &str, tolerance: f64) {
        let expected = match self.at(path) {
            Value::String(text) => text.parse().unwrap(),
            number => number.as_f64().unwrap(),
        };
        assert!(
            (found - expected).abs() <= tolerance * f64::max(1.0, expected.abs()),
            "{} {path}: found {found}, expected {expected}",
            self.name
        );
    }

    fn rows(&self) -> usize {
        self.expected["rows"].as_array().unwrap().len()
    }

    /// A value of a row that is no result but what it was asked with.
    fn given(&self, row: usize, name: &str) -> &Value {
        self.at(&format!("rows/{row}/{name}"))
    }

    /// That every expected number was compared, or is named as not ours.
    fn done(self) {
        let seen = self.seen.into_inner();
        let mut open = Vec::new();
        leaves(&self.expected, String::new(), &mut open);
        let covered = |leaf: &String| {
            let inside = |path: &str| *leaf == path || leaf.starts_with(&format!("{path}/"));
            let not_ours = NOT_OURS.iter().filter(|(case, ..)| *case == self.name);
            seen.iter().any(|path| inside(path))
                || not_ours.into_iter().any(|(_, pattern, _)| matches_pattern(pattern, leaf))
        };
        open.retain(|leaf| !covered(leaf));
        assert!(open.is_empty(), "{}: not compared: {open:?}", self.name);
    }
}

fn matches_pattern(pattern: &str, leaf: &str) -> bool {
    let (pattern, leaf): (Vec<_>, Vec<_>) =
        (pattern.split('/').collect(), leaf.split('/').collect());
    leaf.len() >= pattern.len() && pattern.iter().zip(&leaf).all(|(p, l)| *p == "*" || p == l)
}

fn leaves(value: &Value, path: String, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| {
                let name = name.replace('~', "~0").replace('/', "~1");
                leaves(value, format!("{path}/{name}"), into);
            });
        }
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(at, v)| leaves(v, format!("{path}/{at}"), into));
        }
        _ => into.push(path),
    }
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn counts(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

/// Classes `0..k` in the oracle's numbering.
fn scored(truth: &Value, probabilities: &[Vec<f64>]) -> Scored {
    let labels: Vec<Class> =
        (0..probabilities[0].len()).map(|class| Class::new(class.to_string())).collect();
    let scores: Vec<Scores> = probabilities
        .iter()
        .map(|row| Scores { probabilities: row.iter().map(|&p| p as f32).collect() })
        .collect();
    let truth = counts(truth).into_iter().map(|t| t as usize).collect();
    let mut scored = Scored::new(&Classes::new(&labels), &labels, truth, &scores).unwrap();
    // Models answer in f32, the oracle in f64: metrics are compared on the latter.
    for (row, p) in probabilities.iter().enumerate() {
        let truth = scored.truth[row];
        scored.likelihood[row] = p[truth];
        scored.confidence[row] = p.iter().copied().fold(0.0, f64::max);
        let distance =
            |(class, p): (usize, &f64)| (p - f64::from(u8::from(class == truth))).powi(2);
        scored.distance[row] = p.iter().enumerate().map(distance).sum();
    }
    scored
}

fn multi(case: &Case) -> Scored {
    let rows = case.data("multi", "proba").as_array().unwrap();
    let probabilities: Vec<Vec<f64>> = rows.iter().map(floats).collect();
    scored(case.data("multi", "y_true"), &probabilities)
}

fn binary(case: &Case) -> Scored {
    let score = floats(case.data("bin", "score"));
    let rows: Vec<Vec<f64>> = score.iter().map(|&p| vec![1.0 - p, p]).collect();
    scored(case.data("bin", "y_true"), &rows)
}

/// Answers that are classes and no more.
fn said(truth: &Value, said: &Value) -> Scored {
    let each = |y: u64| if y == 1 { vec![0.0, 1.0] } else { vec![1.0, 0.0] };
    scored(truth, &counts(said).into_iter().map(each).collect::<Vec<_>>())
}

fn all(scored: &Scored) -> Vec<usize> {
    (0..scored.truth.len()).collect()
}

const fn of_class(metric: Metric, class: usize) -> Asked {
    Asked { metric, class: Some(class) }
}

#[test]
fn every_case_is_walked_or_named_as_not_walked() {
    let source = include_str!("oracle.rs");
    let whole: Value = serde_json::from_str(include_str!("oracle/metric_oracle.json")).unwrap();
    for case in whole["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let walked = source.contains(&format!("Case::open(\"{name}\")"))
            || name.starts_with("fairness_group_a");
        assert!(walked != NOT_WALKED.contains(&name), "{name}");
    }
}

#[test]
fn two_classes_are_scikit_learns() {
    let case = Case::open("binary_basic");
    let scored = binary(&case);
    let rows = all(&scored);
    let value = |asked: Asked| scored.value(asked, &rows).unwrap();
    for (name, asked) in [
        ("accuracy", Metric::Accuracy.into()),
        ("balanced_accuracy", Metric::BalancedAccuracy.into()),
        ("precision", of_class(Metric::Precision, 1)),
        ("recall", of_class(Metric::Recall, 1)),
        ("f1", of_class(Metric::F1, 1)),
        ("fbeta_2", of_class(Metric::F2, 1)),
        ("mcc", Metric::Mcc.into()),
        ("cohen_kappa", Metric::Kappa.into()),
        ("roc_auc", Metric::Auroc.into()),
        ("average_precision", of_class(Metric::Auprc, 1)),
        ("log_loss", Metric::LogLoss.into()),
    ] {
        case.near(value(asked), name, 1e-9);
    }
    // Summed over both classes, ours is twice the binary convention.
    case.near(value(Metric::Brier.into()) / 2.0, "brier", 1e-9);
    let weights = floats(case.data("bin", "sample_weight"));
    let weighed = |asked: Asked| scored.weighed(asked, &rows, &weights).unwrap();
    case.near(weighed(Metric::Accuracy.into()), "accuracy_weighted", 1e-9);
    case.near(weighed(of_class(Metric::F1, 1)), "f1_weighted_samples", 1e-9);
    case.near(weighed(of_class(Metric::Auroc, 1)), "roc_auc_weighted", 1e-9);
    let cell = |truth, said| {
        rows.iter().filter(|&&row| (scored.truth[row], scored.said[row]) == (truth, said)).count()
    };
    let table = [cell(0, 0), cell(0, 1), cell(1, 0), cell(1, 1)].map(|n| n as u64);
    assert_eq!(table.to_vec(), counts(case.at("confusion_tn_fp_fn_tp")));
    case.done();
}

#[test]
fn many_classes_are_scikit_learns() {
    let case = Case::open("multiclass_basic");
    let scored = multi(&case);
    let rows = all(&scored);
    let value = |metric: Metric| scored.value(metric, &rows).unwrap();
    for (name, metric) in [
        ("accuracy", Metric::Accuracy),
        // Of one label each, every wrong answer is a false positive and a false negative.
        ("f1_micro", Metric::Accuracy),
        ("balanced_accuracy", Metric::BalancedAccuracy),
        ("recall_macro", Metric::BalancedAccuracy),
        ("f1_macro", Metric::MacroF1),
        ("f1_weighted", Metric::WeightedF1),
        ("precision_macro", Metric::MacroPrecision),
        ("mcc", Metric::Mcc),
        ("cohen_kappa", Metric::Kappa),
        ("log_loss", Metric::LogLoss),
        ("top2_accuracy", Metric::Top2Accuracy),
        ("roc_auc_ovr_macro", Metric::Auroc),
        ("brier_multiclass_sum", Metric::Brier),
    ] {
        case.near(value(metric), name, 1e-9);
    }
    let classes = scored.classes;
    for class in 0..classes {
        let f1 = scored.value(of_class(Metric::F1, class), &rows).unwrap();
        case.near(f1, &format!("f1_per_class/{class}"), 1e-9);
        let of_row = case.at(&format!("confusion/{class}"));
        let row: Vec<u64> = (0..classes)
            .map(|other| {
                let is = |&&row: &&usize| scored.truth[row] == class && scored.said[row] == other;
                rows.iter().filter(is).count() as u64
            })
            .collect();
        assert_eq!(row, counts(of_row));
    }
    // Hand and Till: each class against each other one, on examples of both.
    let mut pairs = Vec::new();
    for (a, b) in
        (0..classes).flat_map(|a| (0..classes).map(move |b| (a, b))).filter(|(a, b)| a != b)
    {
        let of_both: Vec<usize> =
            rows.iter().copied().filter(|&row| [a, b].contains(&scored.truth[row])).collect();
        pairs.push(scored.value(of_class(Metric::Auroc, a), &of_both).unwrap());
    }
    case.near(pairs.iter().sum::<f64>() / pairs.len() as f64, "roc_auc_ovo_macro", 1e-9);
    case.done();
}

#[test]
fn numbers_are_scikit_learns() {
    let case = Case::open("regression_basic");
    let numbers = Numbers {
        truth: floats(case.data("reg", "y_true")),
        said: floats(case.data("reg", "y_pred")),
        covered: vec![],
    };
    let rows: Vec<usize> = (0..numbers.truth.len()).collect();
    let scored = Scored { numbers: Some(numbers), ..Scored::default() };
    let value = |metric: Metric| scored.value(metric, &rows).unwrap();
    for (metric, name) in [
        (Metric::Mae, "mae"),
        (Metric::Rmse, "rmse"),
        (Metric::R2, "r2"),
        (Metric::MedianAe, "median_ae"),
        (Metric::Mape, "mape"),
    ] {
        case.near(value(metric), name, 1e-9);
    }
    case.near(value(Metric::Rmse).powi(2), "mse", 1e-9);
    case.done();
}

#[test]
fn what_divides_by_nothing_is_undefined_where_scikit_learn_says_zero() {
    let case = Case::open("zero_division_conventions");
    let scored = said(&case.inputs["y_true"], &case.inputs["y_pred"]);
    let rows = all(&scored);
    for (name, asked) in [
        ("precision", of_class(Metric::Precision, 1)),
        ("recall", of_class(Metric::Recall, 1)),
        ("f1", of_class(Metric::F1, 1)),
        ("mcc", Metric::Mcc.into()),
    ] {
        assert_eq!(case.at(name).as_f64(), Some(0.0));
        assert_eq!(scored.value(asked, &rows), None, "{name}");
    }
    case.done();
}

/// Calibration errors in bins: mean, root mean square and largest.
fn errors<const N: usize>(answers: &[(f64, f64)]) -> [f64; 3] {
    let bins = reliability::<N>(answers.iter().map(|&(said, happened)| (said, happened, 1.0)));
    let (mut mean, mut square, mut largest) = (0.0, 0.0, 0.0_f64);
    for bin in bins.iter().filter(|bin| bin.weight > 0.0) {
        let (share, off) =
            (bin.weight / answers.len() as f64, (bin.said - bin.happened).abs() / bin.weight);
        mean += share * off;
        square += share * off * off;
        largest = largest.max(off);
    }
    [mean, square.sqrt(), largest]
}

#[test]
fn calibration_is_torchmetrics() {
    let case = Case::open("calibration");
    let scored = multi(&case);
    let rows = all(&scored);
    let answers: Vec<(f64, f64)> = rows
        .iter()
        .map(|&row| (scored.confidence[row], f64::from(u8::from(scored.right(row)))))
        .collect();
    for (bins, found) in [(10, errors::<10>(&answers)), (15, errors::<15>(&answers))] {
        for (name, found) in ["l1", "l2", "max"].into_iter().zip(found) {
            case.near(found, &format!("mc_{name}_{bins}"), 1e-6);
            // The largest was printed as f32.
            let tolerance = if name == "max" { 1e-8 } else { 1e-9 };
            case.near(found, &format!("mc_{name}_{bins}_numpy"), tolerance);
        }
    }
    let value = |metric: Metric| scored.value(metric, &rows).unwrap();
    case.near(value(Metric::Ece), "mc_l1_15_numpy", 1e-9);
    case.near(value(Metric::Mce), "mc_max_15_numpy", 1e-8);
    case.near(value(Metric::Ace), "mc_ace_equal_mass_10_numpy", 1e-9);
    let (score, truth) = (floats(case.data("bin", "score")), floats(case.data("bin", "y_true")));
    let answers: Vec<(f64, f64)> = score.into_iter().zip(truth).collect();
    case.near(errors::<15>(&answers)[0], "bin_l1_15", 1e-6);
    case.near(errors::<15>(&answers)[0], "bin_l1_15_numpy", 1e-9);
    let bins = reliability::<5>(answers.iter().map(|&(said, happened)| (said, happened, 1.0)));
    for (at, bin) in bins.iter().enumerate() {
        let (happened, said) = (bin.happened / bin.weight, bin.said / bin.weight);
        case.near(happened, &format!("calibration_curve_5_prob_true/{at}"), 1e-9);
        case.near(said, &format!("calibration_curve_5_prob_pred/{at}"), 1e-9);
    }
    case.done();
}

#[test]
fn intervals_of_shares_are_statsmodels() {
    let case = Case::open("proportion_ci_95");
    for row in 0..case.rows() {
        let (k, n) =
            (case.given(row, "k").as_u64().unwrap(), case.given(row, "n").as_u64().unwrap());
        let near = |name: &str, (low, high): (f64, f64)| {
            case.near(low, &format!("rows/{row}/{name}/0"), 1e-9);
            case.near(high, &format!("rows/{row}/{name}/1"), 1e-9);
        };
        near("wilson", wilson(k, n, 0.95).pair());
        near("beta", clopper_pearson(k, n, 0.95).pair());
        // Those that judging does not use, from the same distributions.
        let (hits, misses) = (k as f64 + 0.5, (n - k) as f64 + 0.5);
        let quantile = |tail| bisect(0.0, 1.0, |p| beta_reg(hits, misses, p) < tail);
        near("jeffreys", (quantile(0.025), quantile(0.975)));
        let (p, size, z) = (k as f64 / n as f64, n as f64, z(0.95));
        let wald = z * (p * (1.0 - p) / size).sqrt();
        near("normal", ((p - wald).max(0.0), (p + wald).min(1.0)));
        let more = size + z * z;
        let centre = (k as f64 + z * z / 2.0) / more;
        let reach = z * (centre * (1.0 - centre) / more).sqrt();
        near("agresti_coull", ((centre - reach).max(0.0), (centre + reach).min(1.0)));
    }
    case.done();
}

#[test]
fn intervals_of_independent_differences_are_statsmodels() {
    let case = Case::open("two_independent_proportions_diff_ci");
    for row in 0..case.rows() {
        let n = |name: &str| case.given(row, name).as_u64().unwrap();
        let (x1, n1, x2, n2) = (n("x1"), n("n1"), n("x2"), n("n2"));
        let near = |name: &str, (low, high): (f64, f64)| {
            case.near(low, &format!("rows/{row}/{name}/0"), 1e-7);
            case.near(high, &format!("rows/{row}/{name}/1"), 1e-7);
        };
        near("newcomb", newcombe_independent((x1, n1), (x2, n2), 0.95).pair());
        let wald = |more: f64| {
            let share = |x: u64, n: u64| (x as f64 + more) / (n as f64 + 2.0 * more);
            let (p1, p2) = (share(x1, n1), share(x2, n2));
            let of = |p: f64, n: u64| p * (1.0 - p) / (n as f64 + 2.0 * more);
            let reach = z(0.95) * (of(p1, n1) + of(p2, n2)).sqrt();
            (p1 - p2 - reach, p1 - p2 + reach)
        };
        near("wald", wald(0.0));
        near("agresti-caffo", wald(1.0));
    }
    case.done();
}

/// Where a predicate that holds at `low` stops to hold.
fn bisect(mut low: f64, mut high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if holds(middle) { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

#[test]
fn paired_differences_are_mcnemars_and_newcombes() {
    let case = Case::open("mcnemar_paired");
    for row in 0..case.rows() {
        let table = case.given(row, "table");
        let (right, wrong) = (counts(&table[0]), counts(&table[1]));
        let pair = Paired {
            both: right[0],
            only_baseline: right[1],
            only_candidate: wrong[0],
            neither: wrong[1],
        };
        let path = |name: &str| format!("rows/{row}/{name}");
        let near = |found: f64, name: &str| case.near(found, &path(name), 1e-9);
        near(pair.difference(), "diff_candidate_minus_baseline");
        near(pair.mcnemar(), "exact_p");
        let (low, high) = pair.newcombe(0.95).pair();
        near(low, "newcombe10_ci95/0");
        near(high, "newcombe10_ci95/1");
        let (n, b, c) = (pair.n() as f64, pair.only_baseline as f64, pair.only_candidate as f64);
        let reach = z(0.95) * (b + c - (b - c).powi(2) / n).sqrt() / n;
        near(pair.difference() - reach, "wald_ci95/0");
        near(pair.difference() + reach, "wald_ci95/1");
        if b + c == 0.0 {
            continue;
        }
        near(pair.mcnemar_worse(), "one_sided_exact_p_candidate_worse");
        near(pair.mcnemar_mid(), "midp_two_sided");
        for (name, apart) in [("chi2", (b - c).abs()), ("chi2_cc", (b - c).abs() - 1.0)] {
            let chi = apart.powi(2) / (b + c);
            near(chi, name);
            near(chi_squared_tail(chi, 1), &format!("{name}_p"));
        }
    }
    case.done();
}

#[test]
fn sign_flips_are_scipys_permutation_test() {
    let case = Case::open("paired_sign_flip_permutation_exact");
    let differences = floats(&case.inputs["diffs"]);
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    case.near(mean, "mean", 1e-9);
    case.near(sign_flips(&differences, true, 0, 0).unwrap(), "p_two_sided", 1e-9);
    case.near(sign_flips(&differences, false, 0, 0).unwrap(), "p_less", 1e-9);
    // Draws estimate the same.
    let twice: Vec<f64> = differences.iter().chain(&differences).copied().collect();
    let drawn = sign_flips(&twice, true, 20_000, 1).unwrap();
    assert!((drawn - sign_flips(&twice, true, 20_000, 2).unwrap()).abs() < 0.02);
    case.done();
}

#[test]
fn rank_tests_are_scipys() {
    let case = Case::open("rank_tests");
    let (x, y) = (floats(&case.inputs["x"]), floats(&case.inputs["y"]));
    let tied = mann_whitney(&x, &y).unwrap();
    case.near(tied.u, "mwu_U", 1e-12);
    case.near(tied.p, "mwu_p_asymptotic_cc", 1e-9);
    case.near(tied.larger, "cles_x_gt_y", 1e-12);
    let exact = mann_whitney(&x, &floats(&case.inputs["y_no_tie"])).unwrap();
    case.near(exact.u, "mwu_exact_U", 1e-12);
    case.near(exact.p, "mwu_exact_p", 1e-9);
    case.near(hodges_lehmann(&x, &y).unwrap(), "hodges_lehmann_x_minus_y", 1e-9);
    let (rarer, p) = wilcoxon(&floats(&case.inputs["wilcoxon_diffs"])).unwrap();
    case.near(rarer, "wilcoxon_W", 1e-12);
    case.near(p, "wilcoxon_p_exact", 1e-9);
    case.done();
}

#[test]
fn bootstrap_intervals_are_scipys() {
    let case = Case::open("bootstrap_from_distribution");
    let distribution = floats(&case.inputs["bootstrap_distribution_sorted"]);
    let data = floats(&case.inputs["data"]);
    let sum: f64 = data.iter().sum();
    let left_out: Vec<f64> = data.iter().map(|x| (sum - x) / (data.len() - 1) as f64).collect();
    let estimate = sum / data.len() as f64;
    case.near(estimate, "theta_hat", 1e-12);
    let near = |name: &str, (low, high): (f64, f64)| {
        case.near(low, &format!("{name}/0"), 1e-9);
        case.near(high, &format!("{name}/1"), 1e-9);
    };
    let found = bca(estimate, &distribution, &left_out, 0.95).unwrap();
    near("bca", found.pair());
    near("bca_recomputed", found.pair());
    let plain = percentile(&distribution, 0.95).unwrap();
    near("percentile", plain.pair());
    near("basic", (2.0 * estimate - plain.high, 2.0 * estimate - plain.low));
    // What the corrected interval is made of.
    let count = distribution.len() as f64;
    let mean = distribution.iter().sum::<f64>() / count;
    let square: f64 = distribution.iter().map(|x| (x - mean).powi(2)).sum();
    case.near((square / (count - 1.0)).sqrt(), "standard_error", 1e-9);
    let below = distribution.partition_point(|&x| x < estimate) as f64;
    let not_above = distribution.partition_point(|&x| x <= estimate) as f64;
    let bias = normal_quantile((below + not_above) / (2.0 * count));
    case.near(bias, "z0", 1e-9);
    let centre = left_out.iter().sum::<f64>() / left_out.len() as f64;
    let power = |k: i32| left_out.iter().map(|x| (centre - x).powi(k)).sum::<f64>();
    let acceleration = power(3) / (6.0 * power(2).powf(1.5));
    case.near(acceleration, "acceleration", 1e-9);
    for (name, tail) in [("alpha1", 0.025), ("alpha2", 0.975)] {
        let z = bias + normal_quantile(tail);
        case.near(normal_cdf(bias + z / (1.0 - acceleration * z)), name, 1e-9);
    }
    case.done();
}

#[test]
fn quantiles_are_numpys() {
    let case = Case::open("latency_quantiles");
    let mut values = floats(&case.inputs["latencies_ms"]);
    values.sort_by(f64::total_cmp);
    for (at, q) in floats(&case.inputs["q"]).into_iter().enumerate() {
        case.near(linear_quantile(&values, q).unwrap(), &format!("linear/{at}"), 1e-9);
        case.near(nearest_rank(&values, q).unwrap(), &format!("nearest_rank_ceil/{at}"), 1e-12);
    }
    case.near(values.iter().sum::<f64>() / values.len() as f64, "mean", 1e-9);
    case.near(nearest_rank(&values, 1.0).unwrap(), "max", 1e-12);
    case.done();
}

#[test]
fn ranks_that_enclose_a_quantile_are_scipys() {
    let case = Case::open("quantile_ci_order_statistics");
    for row in 0..case.rows() {
        let (n, q) =
            (case.given(row, "n").as_u64().unwrap(), case.given(row, "q").as_f64().unwrap());
        let (low, high) = quantile_ranks(n, q, 0.95);
        assert_eq!(low, case.given(row, "lower_rank_1based").as_u64());
        assert_eq!(high, case.given(row, "upper_rank_1based").as_u64());
        let covered = binomial_cdf(high.unwrap() - 1, n, q) - binomial_cdf(low.unwrap() - 1, n, q);
        case.near(covered, &format!("rows/{row}/coverage"), 1e-9);
    }
    case.done();
}

#[test]
fn early_stopping_is_load_gens() {
    let case = Case::open("mlperf_early_stopping");
    for row in 0..case.rows() {
        let number = |name: &str| case.given(row, name).as_f64().unwrap();
        let over = case.given(row, "overlatency_t").as_u64().unwrap();
        let under = under_needed(over, number("p") - number("d"), number("c"));
        assert_eq!(Some(under), case.given(row, "min_underlatency_h").as_u64());
        assert_eq!(Some(under + over), case.given(row, "min_total").as_u64());
    }
    case.done();
}

#[test]
fn query_counts_are_load_gens() {
    let case = Case::open("mlperf_query_count");
    for (at, row) in case.inputs["rows"].as_array().unwrap().iter().enumerate() {
        let [q, confidence, margin] = floats(row)[..] else { panic!("{row}") };
        case.near(queries_for_quantile(q, confidence, margin), &format!("n/{at}"), 1e-9);
    }
    case.done();
}

#[test]
fn adjusted_p_values_are_statsmodels() {
    let case = Case::open("multiple_testing");
    let p = floats(&case.inputs["p"]);
    let (holm, hochberg) = (holm(&p), benjamini_hochberg(&p));
    // Whatever depends on what, at the price of a harmonic sum (Benjamini and Yekutieli).
    let price: f64 = (1..=p.len()).map(|k| 1.0 / k as f64).sum();
    for at in 0..p.len() {
        case.near(holm[at], &format!("holm/{at}"), 1e-9);
        case.near(hochberg[at], &format!("bh/{at}"), 1e-9);
        case.near((p[at] * p.len() as f64).min(1.0), &format!("bonferroni/{at}"), 1e-9);
        case.near((hochberg_unclipped(&p, at) * price).min(1.0), &format!("by/{at}"), 1e-9);
    }
    case.done();
}

fn hochberg_unclipped(p: &[f64], at: usize) -> f64 {
    let rank = |x: f64| p.iter().filter(|&&y| y <= x).count() as f64;
    let larger = p.iter().filter(|&&x| x >= p[at]);
    larger.map(|&x| x * p.len() as f64 / rank(x)).fold(f64::INFINITY, f64::min)
}

#[test]
fn evidence_of_a_share_is_villes() {
    let case = Case::open("eprocess_bernoulli_beta_mixture");
    let (hits, p) = (counts(&case.inputs["x"]), case.inputs["p0"].as_f64().unwrap());
    let so_far = |n: usize| hits[..n].iter().sum::<u64>();
    for n in 1..=hits.len() {
        let log_e = log_e_of_share(so_far(n), n as u64, p);
        case.near(log_e, &format!("log_e/{}", n - 1), 1e-8);
        case.near(log_e, &format!("log_e_ville/{}", n - 1), 1e-8);
    }
    for n in [10, 30, 60] {
        let (low, high) = share_at_all_times(so_far(n), n as u64, 0.95).pair();
        case.near(low, &format!("cs95_at/{n}/0"), 1e-8);
        case.near(high, &format!("cs95_at/{n}/1"), 1e-8);
        if n == 60 {
            case.near(low, "cs95_ville_at_60/0", 1e-8);
            case.near(high, "cs95_ville_at_60/1", 1e-8);
        }
    }
    case.done();
}

#[test]
fn evidence_of_a_larger_share_is_scipys() {
    let case = Case::open("eprocess_one_sided_truncated");
    let (hits, p) = (counts(&case.inputs["x"]), case.inputs["p0"].as_f64().unwrap());
    for n in 1..=hits.len() {
        let log_e = log_e_of_larger_share(hits[..n].iter().sum(), n as u64, p);
        case.near(log_e, &format!("log_e/{}", n - 1), 1e-8);
    }
    case.done();
}

#[test]
fn betting_on_a_difference_is_waudby_smiths_and_ramdas() {
    let case = Case::open("eprocess_betting_noninferiority");
    let margin = case.inputs["margin"].as_f64().unwrap();
    let mut evidence = EProcess::with_bets(-margin, &floats(&case.inputs["lambda_fraction"]));
    for (at, difference) in floats(&case.inputs["diff"]).into_iter().enumerate() {
        evidence.observe(difference);
        case.near(evidence.log_e(), &format!("log_e/{at}"), 1e-9);
    }
    case.done();
}

#[test]
fn alpha_is_spent_as_lan_and_demets_spend_it() {
    let case = Case::open("alpha_spending");
    let alpha = case.inputs["alpha"].as_f64().unwrap();
    for (at, time) in floats(&case.inputs["t"]).into_iter().enumerate() {
        let spent = |spending: Spending| spending.spent(alpha, time);
        let path = format!("obrien_fleming_type_cumulative/{at}");
        case.near(spent(Spending::ObrienFleming), &path, 1e-9);
        case.near(spent(Spending::Pocock), &format!("pocock_type_cumulative/{at}"), 1e-9);
    }
    case.done();
}

#[test]
fn levels_of_a_line_are_e_londs() {
    let case = Case::open("online_fdr_gamma");
    let alpha = case.inputs["alpha"].as_f64().unwrap();
    for judged in 0..case.inputs["k"].as_u64().unwrap() {
        let level = Line { judged, promoted: 0 }.e_lond(alpha);
        case.near(level, &format!("e_lond_alpha_1to5_no_rejections/{judged}"), 1e-9);
    }
    case.done();
}

#[test]
fn gaps_between_groups_are_fairlearns() {
    for name in ["fairness_group_a", "fairness_group_a_x_group_b"] {
        let case = Case::open(name);
        let scored = binary(&case);
        let column = |name: &str| texts(case.data("bin", name));
        let (a, b) = (column("group_a"), column("group_b"));
        let of: Vec<String> = if name == "fairness_group_a" {
            a
        } else {
            a.iter().zip(&b).map(|(a, b)| format!("{a}|{b}")).collect()
        };
        let groups = Groups::new(&all(&scored), |row| Some(of[row].clone()), &scored, 1, 1);
        compare_groups(&case, &scored, &groups);
        let weights = floats(case.data("bin", "sample_weight"));
        let said_of = |group: &String| {
            let inside = || (0..of.len()).filter(|&row| of[row] == *group);
            let all: f64 = inside().map(|row| weights[row]).sum();
            inside().filter(|&row| scored.said[row] == 1).map(|row| weights[row]).sum::<f64>() / all
        };
        let rates: Vec<f64> = groups.names.iter().map(said_of).collect();
        case.near(spread(&rates), "demographic_parity_difference_weighted", 1e-9);
        case.done();
    }
}

fn spread(rates: &[f64]) -> f64 {
    let high = rates.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    high - rates.iter().copied().fold(f64::INFINITY, f64::min)
}

fn ratio(rates: &[f64]) -> f64 {
    let high = rates.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    rates.iter().copied().fold(f64::INFINITY, f64::min) / high
}

fn compare_groups(case: &Case, scored: &Scored, groups: &Groups) {
    let near = |found: f64, path: &str| case.near(found, path, 1e-9);
    let gap = |metric| groups.gap(metric, scored).unwrap();
    near(gap(Metric::DemographicParity), "demographic_parity_difference");
    near(gap(Metric::EqualizedOdds), "equalized_odds_difference");
    let of_class_1 = groups.rates(scored, 1);
    // Of everyone as one group.
    let whole = Groups::new(&all(scored), |_| Some("all".to_owned()), scored, 1, 1);
    let overall = whole.rates(scored, 1)[0];
    let sizes: Vec<f64> = (0..groups.names.len())
        .map(|g| groups.of.iter().filter(|of| **of == g).count() as f64)
        .collect();
    type Rate = fn(&tidegate_evaluation::Rates) -> f64;
    let rates: [(&str, Rate); 6] = [
        ("accuracy", |r| r.accuracy),
        ("selection_rate", |r| r.said),
        ("tpr", |r| r.hits),
        ("fpr", |r| r.alarms),
        ("tnr", |r| 1.0 - r.alarms),
        ("fnr", |r| 1.0 - r.hits),
    ];
    for (name, rate) in rates {
        let each: Vec<f64> = of_class_1.iter().map(rate).collect();
        for (group, value) in groups.names.iter().zip(&each) {
            near(*value, &format!("by_group/{group}/{name}"));
        }
        near(spread(&each), &format!("difference_between_groups/{name}"));
        near(ratio(&each), &format!("ratio_between_groups/{name}"));
        let away = each.iter().map(|value| (value - rate(&overall)).abs()).fold(0.0, f64::max);
        near(away, &format!("difference_to_overall/{name}"));
        if name == "selection_rate" {
            near(ratio(&each), "demographic_parity_ratio");
            near(away, "demographic_parity_difference_to_overall");
        }
    }
    for (group, n) in groups.names.iter().zip(&sizes) {
        near(*n, &format!("by_group/{group}/count"));
    }
    near(spread(&sizes), "difference_between_groups/count");
    near(ratio(&sizes), "ratio_between_groups/count");
    let rows = scored.truth.len() as f64;
    let away = sizes.iter().map(|n| rows - n).fold(0.0, f64::max);
    near(away, "difference_to_overall/count");
    let hits: Vec<f64> = of_class_1.iter().map(|r| r.hits).collect();
    let alarms: Vec<f64> = of_class_1.iter().map(|r| r.alarms).collect();
    near(spread(&hits), "equal_opportunity_difference");
    near(ratio(&hits), "equal_opportunity_ratio");
    near((spread(&hits) + spread(&alarms)) / 2.0, "equalized_odds_difference_mean");
    near(ratio(&hits).min(ratio(&alarms)), "equalized_odds_ratio");
    // Over both classes, ours are of the worse one.
    assert!((gap(Metric::AccuracyGap) - spread_of(&of_class_1, |r| r.accuracy)).abs() < 1e-12);
    assert!(gap(Metric::EqualOpportunity) >= spread(&hits) - 1e-12);
    let said: Vec<f64> = of_class_1.iter().map(|r| r.said).collect();
    assert!(gap(Metric::DemographicParityRatio) <= ratio(&said) + 1e-12);
    let worst = of_class_1.iter().map(|r| r.accuracy).fold(f64::INFINITY, f64::min);
    assert!((gap(Metric::WorstGroupAccuracy) - worst).abs() < 1e-12);
}

fn spread_of(
    rates: &[tidegate_evaluation::Rates],
    of: fn(&tidegate_evaluation::Rates) -> f64,
) -> f64 {
    spread(&rates.iter().map(of).collect::<Vec<_>>())
}

#[test]
fn signed_differences_and_inequality_are_aif360s() {
    let case = Case::open("fairness_aif360_group_b");
    let scored = binary(&case);
    let of = texts(case.data("bin", "group_b"));
    let groups = Groups::new(&all(&scored), |row| Some(of[row].clone()), &scored, 1, 1);
    let rates = groups.rates(&scored, 1);
    let privileged = groups.names.iter().position(|name| name == "m").unwrap();
    let (less, more) = (rates[1 - privileged], rates[privileged]);
    let near = |found: f64, name: &str| case.near(found, name, 1e-9);
    near(less.said - more.said, "statistical_parity_difference");
    near(less.said / more.said, "disparate_impact_ratio");
    let (alarms, hits) = (less.alarms - more.alarms, less.hits - more.hits);
    near((alarms + hits) / 2.0, "average_odds_difference");
    near((alarms.abs() + hits.abs()) / 2.0, "average_odds_error");
    near(hits, "equal_opportunity_difference");
    let rows = all(&scored);
    let value = |metric| scored.value(of_class(metric, 1), &rows).unwrap();
    near(value(Metric::BenefitEntropy), "generalized_entropy_error_alpha2");
    near(value(Metric::BenefitTheil), "theil_index_b");
    case.done();
}

#[test]
fn a_group_without_positives_is_insufficient_where_fairlearn_invents_a_gap() {
    let case = Case::open("fairness_group_without_positives");
    let scored = said(&case.inputs["y_true"], &case.inputs["y_pred"]);
    let group = |row: usize| case.inputs["group"][row].as_str().map(ToOwned::to_owned);
    let groups = Groups::new(&all(&scored), group, &scored, 1, 1);
    assert_eq!(groups.gap(Metric::EqualizedOdds, &scored), None);
    assert_eq!(groups.gap(Metric::EqualOpportunity, &scored), None);
    let rates = groups.rates(&scored, 1);
    case.near(rates[0].hits, "tpr_a", 1e-9);
    // Nothing to divide by, where fairlearn says 0 and makes a gap of it.
    assert!(rates[1].hits.is_nan());
    case.near(0.0, "tpr_b_no_positives", 0.0);
    case.near(0.5, "equal_opportunity_difference", 0.0);
    case.near(0.5, "equalized_odds_difference", 0.0);
    case.done();
}

#[test]
fn transfer_and_forgetting_are_the_papers_and_avalanches() {
    let case = Case::open("continual_matrix");
    let table: Vec<Vec<f64>> = case.inputs["R"].as_array().unwrap().iter().map(floats).collect();
    let untrained = floats(&case.inputs["b_random_init"]);
    let found = Accuracies::new(table).unwrap();
    let near = |value: f64, path: &str| case.near(value, path, 1e-9);
    near(found.average(), "acc_final_mean");
    near(found.average_since_learnt(), "diaz_acc_lower_triangle");
    near(found.backward_transfer(), "bwt_gem");
    near(found.backward_gain(), "bwt_plus");
    near(found.remembering(), "remembering");
    near(found.forward_transfer(&untrained), "fwt_gem");
    near(found.forgetting(), "forgetting_chaudhry_mean");
    for (task, lost) in found.lost_since_best().into_iter().enumerate() {
        near(lost, &format!("forgetting_chaudhry_per_task/{task}"));
    }
    for (task, lost) in found.lost_since_learnt().into_iter().enumerate() {
        near(lost, &format!("avalanche_forgetting/{task}"));
        near(-lost, &format!("avalanche_bwt/{task}"));
    }
    for (task, ahead) in found.known_ahead(&untrained).into_iter().enumerate() {
        near(ahead, &format!("avalanche_fwt/{}", task + 1));
    }
    let reference = vec![case.inputs["ref_joint"].as_f64().unwrap(); found.tasks()];
    for (task, below) in found.intransigence(&reference).into_iter().enumerate() {
        near(below, &format!("intransigence_vs_ref/{task}"));
    }
    case.done();
}

#[test]
fn drift_is_scipys() {
    let case = Case::open("drift");
    let (before, after) = (floats(&case.inputs["ref"]), floats(&case.inputs["cur"]));
    let near = |found: f64, name: &str| case.near(found, name, 1e-9);
    let (largest, way) = drift::distances(&before, &after).unwrap();
    near(largest, "ks_D");
    near(drift::kolmogorov_smirnov(largest, before.len(), after.len()), "ks_p_asymp");
    near(way, "wasserstein");
    let edges = drift::tenths(&before);
    let shares = |values: &[f64]| {
        let mut shares = vec![0.0; 10];
        values.iter().for_each(|&v| shares[drift::bin(&edges, v)] += 1.0 / values.len() as f64);
        shares
    };
    let (p, q) = (shares(&before), shares(&after));
    near(drift::stability_index(&p, &q), "psi");
    near(drift::divergence(&p, &q), "kl_ref_cur");
    near(drift::jensen_shannon(&p, &q), "jensenshannon_base2");
    let table: Vec<Vec<f64>> =
        case.inputs["table"].as_array().unwrap().iter().map(floats).collect();
    let (chi, degrees, p) = drift::same_shares(&table[0], &table[1]);
    near(chi, "chi2");
    near(degrees as f64, "chi2_dof");
    near(p, "chi2_p");
    case.done();
}

#[test]
fn carbon_of_grids_is_codecarbons() {
    let case = Case::open("carbon_codecarbon");
    let kwh = Joules(3.6e6 * case.inputs["energy_kwh"].as_f64().unwrap());
    let emitted = |region: &str| grid_intensity(region).map(|grid| carbon_at(kwh, 1.0, grid).0);
    for set in ["gco2e_per_kwh_region", "gco2e_per_kwh_cloud"] {
        for region in case.expected[set].as_object().unwrap().keys() {
            let path = format!("{set}/{}", region.replace('/', "~1"));
            match emitted(region) {
                Some(grams) => case.near(grams, &path, 1e-6),
                // Where it assumes the world's average, ours says that it does not know.
                None => case.near(emitted("WORLD").unwrap(), &path, 1e-6),
            }
        }
    }
    case.near(counted(0.0, 3.6e12, 3.6e12, 1e-6).0 / 3.6e6, "ujoule_to_kwh_3.6e12", 1e-12);
    // What its Californian figure was converted by.
    let pounds = 394.769;
    let factor = grid_intensity("USA/california").unwrap() / pounds;
    case.near(factor, "lbs_per_mwh_to_g_per_kwh_factor", 1e-6);
    case.done();
}

#[test]
fn carbon_of_counters_is_arithmetic() {
    let case = Case::open("carbon_arithmetic");
    let number = |name: &str| case.inputs[name].as_f64().unwrap();
    let gpu = floats(&case.inputs["gpu_mJ"]);
    let gpu = counted(gpu[0], gpu[1], f64::INFINITY, 1e-3);
    let rapl = counted(number("rapl_uj_start"), number("rapl_uj_end"), number("rapl_max_uj"), 1e-6);
    case.near(gpu.kwh(), "gpu_kwh", 1e-9);
    case.near(rapl.kwh(), "rapl_wrap_kwh", 1e-9);
    let all = Joules(gpu.0 + rapl.0);
    case.near(all.kwh() * number("pue"), "total_kwh_with_pue", 1e-9);
    let grams = carbon_at(all, number("pue"), number("gco2e_per_kwh"));
    case.near(grams.0, "gco2e", 1e-9);
    let per_1k = per_thousand(grams.0, number("inferences"));
    case.near(per_1k, "gco2e_per_1k_inferences", 1e-9);
    case.done();
}

#[test]
fn likeness_of_texts_is_that_of_their_shingles() {
    let case = Case::open("leakage_similarity");
    let text = |name: &str| case.inputs[name].as_str().unwrap().to_owned();
    let (a, b) = (text("a"), text("b"));
    let of = |text: &str, unit, shingle| -> BTreeSet<u32> {
        let config = NearConfig { unit, shingle, ..NearConfig::default() };
        likeness::shingles(text, &config).into_iter().collect()
    };
    let both = |unit, size| (of(&a, unit, size), of(&b, unit, size));
    let jaccard = |unit, size| {
        let (a, b) = both(unit, size);
        a.intersection(&b).count() as f64 / a.union(&b).count() as f64
    };
    case.near(jaccard(ShingleUnit::Chars, 5), "char5_jaccard", 1e-9);
    case.near(jaccard(ShingleUnit::Words, 3), "word3_jaccard", 1e-9);
    let (of_a, of_b) = both(ShingleUnit::Words, 8);
    case.near(of_a.intersection(&of_b).count() as f64, "word8_shared", 0.0);
    let banding = Banding { bands: 32, rows: 4 };
    for similarity in ["0.3", "0.5", "0.7", "0.8", "0.9"] {
        let found = banding.probability(similarity.parse().unwrap());
        // A key with a dot is one name.
        case.near(found, &format!("lsh_prob_b32_r4/{similarity}"), 1e-9);
    }
    assert_eq!(case.at("minhash_se_128"), "sqrt(J(1-J)/128)");
    let config = NearConfig {
        unit: ShingleUnit::Chars,
        shingle: 5,
        threshold: 0.5,
        ..NearConfig::default()
    };
    let truth = jaccard(config.unit, config.shingle);
    let error = (truth * (1.0 - truth) / config.permutations as f64).sqrt();
    let mut texts = LikeTexts::new(&config);
    texts.remember(&event(&a));
    let (_, found) = texts.find(&[Part::Text(b)]).unwrap();
    assert!((found - truth).abs() < 3.0 * error, "{found} {truth}");
    case.done();
}

fn event(text: &str) -> Event {
    Event {
        id: EventId::new("a"),
        time: DateTime::UNIX_EPOCH,
        domain: Domain::new("d"),
        groups: BTreeMap::new(),
        parts: vec![Part::Text(text.to_owned())],
        label: None,
        weight: 1.0,
    }
}
