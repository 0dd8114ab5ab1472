//! Every case of the reference numbers that we have code for, against statsmodels, scipy,
//! scikit-learn, torchmetrics and fairlearn. The numbers were made outside this project.
use serde_json::Value;
use tidegate_contracts::Class;
use tidegate_evaluation::{
    Classes, Groups, Metric, Numbers, Scored,
    bootstrap::{bca, percentile},
    stats::{
        Paired, binomial_cdf, linear_quantile, nearest_rank, newcombe_independent, quantile_ranks,
        wilson,
    },
};
use tidegate_model::Scores;

/// What we have no code for yet, by name: nobody may think that it was walked.
const NOT_WALKED: [&str; 21] = [
    "zero_division_conventions",
    "paired_sign_flip_permutation_exact",
    "rank_tests",
    "mlperf_early_stopping",
    "mlperf_query_count",
    "multiple_testing",
    "eprocess_bernoulli_beta_mixture",
    "eprocess_one_sided_truncated",
    "eprocess_betting_noninferiority",
    "alpha_spending",
    "online_fdr_gamma",
    "fairness_aif360_group_b",
    "continual_matrix",
    "drift",
    "adversarial_linear_softmax",
    "adversarial_linear_exact",
    "corruption_error",
    "worst_of_k",
    "carbon_codecarbon",
    "carbon_arithmetic",
    "leakage_similarity",
];

const WALKED: [&str; 14] = [
    // Its keys, padding and signature in `libs/ledger/src/seal/key.rs`, where the code is. Its chain and
    // tree are of SHA-256: ours is of BLAKE3, and there is no tree.
    "decision_record_crypto",
    "regression_basic",
    "binary_basic",
    "multiclass_basic",
    "calibration",
    "proportion_ci_95",
    "two_independent_proportions_diff_ci",
    "mcnemar_paired",
    "bootstrap_from_distribution",
    "latency_quantiles",
    "quantile_ci_order_statistics",
    "fairness_group_a",
    "fairness_group_a_x_group_b",
    "fairness_group_without_positives",
];

struct Oracle(Value);

impl Oracle {
    fn open() -> Self {
        let text = include_str!("oracle/metric_oracle.json");
        Self(serde_json::from_str(text).expect("the oracle is JSON"))
    }

    fn case(&self, name: &str) -> (&Value, &Value) {
        let cases = self.0["cases"].as_array().unwrap();
        let case = cases.iter().find(|case| case["name"] == name).expect("the case exists");
        (&case["inputs"], &case["expected"])
    }

    fn data(&self, set: &str, column: &str) -> &Value {
        &self.0["datasets"][set][column]
    }
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn counts(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect()
}

#[track_caller]
fn near(found: f64, expected: &Value, tolerance: f64) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= tolerance, "found {found}, expected {expected}");
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

fn multi(oracle: &Oracle) -> Scored {
    let rows = oracle.data("multi", "proba").as_array().unwrap();
    let probabilities: Vec<Vec<f64>> = rows.iter().map(floats).collect();
    scored(oracle.data("multi", "y_true"), &probabilities)
}

fn binary(oracle: &Oracle) -> Scored {
    let score = floats(oracle.data("bin", "score"));
    let rows: Vec<Vec<f64>> = score.iter().map(|&p| vec![1.0 - p, p]).collect();
    scored(oracle.data("bin", "y_true"), &rows)
}

fn all(scored: &Scored) -> Vec<usize> {
    (0..scored.truth.len()).collect()
}

#[test]
fn regression_basic() {
    let oracle = Oracle::open();
    let numbers = Numbers {
        truth: floats(oracle.data("reg", "y_true")),
        said: floats(oracle.data("reg", "y_pred")),
        covered: vec![],
    };
    let rows: Vec<usize> = (0..numbers.truth.len()).collect();
    let (_, expected) = oracle.case("regression_basic");
    for (metric, name) in [
        (Metric::Mae, "mae"),
        (Metric::Rmse, "rmse"),
        (Metric::R2, "r2"),
        (Metric::MedianAe, "median_ae"),
    ] {
        near(numbers.value(metric, &rows).unwrap(), &expected[name], 1e-9);
    }
}

#[test]
fn every_case_is_walked_or_named_as_not_walked() {
    let oracle = Oracle::open();
    let mut names: Vec<&str> = NOT_WALKED.into_iter().chain(WALKED).collect();
    names.sort_unstable();
    let cases = oracle.0["cases"].as_array().unwrap();
    let mut found: Vec<&str> = cases.iter().map(|case| case["name"].as_str().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(names, found);
}

#[test]
fn quality_metrics_are_scikit_learns() {
    let oracle = Oracle::open();
    for (name, scored) in [("multiclass_basic", multi(&oracle)), ("binary_basic", binary(&oracle))]
    {
        let (_, expected) = oracle.case(name);
        let rows = all(&scored);
        let value = |metric| scored.value(metric, &rows).unwrap();
        near(value(Metric::Accuracy), &expected["accuracy"], 1e-9);
        near(value(Metric::BalancedAccuracy), &expected["balanced_accuracy"], 1e-9);
        near(value(Metric::LogLoss), &expected["log_loss"], 1e-9);
        if name == "multiclass_basic" {
            near(value(Metric::MacroF1), &expected["f1_macro"], 1e-9);
            near(value(Metric::Brier), &expected["brier_multiclass_sum"], 1e-9);
        } else {
            // Summed over both classes, ours is twice the binary convention.
            near(value(Metric::Brier) / 2.0, &expected["brier"], 1e-9);
        }
    }
}

#[test]
fn calibration_error_is_torchmetrics() {
    let oracle = Oracle::open();
    let (_, expected) = oracle.case("calibration");
    let scored = multi(&oracle);
    let ece = scored.value(Metric::Ece, &all(&scored)).unwrap();
    near(ece, &expected["mc_l1_15_numpy"], 1e-9);
    near(ece, &expected["mc_l1_15"], 1e-6);
}

#[test]
fn wilson_is_statsmodels() {
    let oracle = Oracle::open();
    for row in oracle.case("proportion_ci_95").1["rows"].as_array().unwrap() {
        let found = wilson(row["k"].as_u64().unwrap(), row["n"].as_u64().unwrap(), 0.95);
        near(found.low, &row["wilson"][0], 1e-9);
        near(found.high, &row["wilson"][1], 1e-9);
    }
}

#[test]
fn newcombe_of_independent_proportions_is_statsmodels() {
    let oracle = Oracle::open();
    let (_, expected) = oracle.case("two_independent_proportions_diff_ci");
    for row in expected["rows"].as_array().unwrap() {
        let n = |name: &str| row[name].as_u64().unwrap();
        let found = newcombe_independent((n("x1"), n("n1")), (n("x2"), n("n2")), 0.95);
        near(found.low, &row["newcomb"][0], 1e-7);
        near(found.high, &row["newcomb"][1], 1e-7);
    }
}

#[test]
fn paired_differences_are_mcnemars_and_newcombes() {
    let oracle = Oracle::open();
    for row in oracle.case("mcnemar_paired").1["rows"].as_array().unwrap() {
        let (right, wrong) = (counts(&row["table"][0]), counts(&row["table"][1]));
        let pair = Paired {
            both: right[0],
            only_baseline: right[1],
            only_candidate: wrong[0],
            neither: wrong[1],
        };
        near(pair.difference(), &row["diff_candidate_minus_baseline"], 1e-12);
        near(pair.mcnemar(), &row["exact_p"], 1e-9);
        let found = pair.newcombe(0.95);
        near(found.low, &row["newcombe10_ci95"][0], 1e-9);
        near(found.high, &row["newcombe10_ci95"][1], 1e-9);
        if let Some(worse) = row.get("one_sided_exact_p_candidate_worse") {
            near(pair.mcnemar_worse(), worse, 1e-9);
        }
    }
}

#[test]
fn bootstrap_intervals_are_scipys() {
    let oracle = Oracle::open();
    let (inputs, expected) = oracle.case("bootstrap_from_distribution");
    let distribution = floats(&inputs["bootstrap_distribution_sorted"]);
    let data = floats(&inputs["data"]);
    let sum: f64 = data.iter().sum();
    let left_out: Vec<f64> = data.iter().map(|x| (sum - x) / (data.len() - 1) as f64).collect();
    let estimate = sum / data.len() as f64;
    near(estimate, &expected["theta_hat"], 1e-12);
    let found = bca(estimate, &distribution, &left_out, 0.95).unwrap();
    near(found.low, &expected["bca"][0], 1e-9);
    near(found.high, &expected["bca"][1], 1e-9);
    let found = percentile(&distribution, 0.95).unwrap();
    near(found.low, &expected["percentile"][0], 1e-9);
    near(found.high, &expected["percentile"][1], 1e-9);
}

#[test]
fn quantiles_are_numpys() {
    let oracle = Oracle::open();
    let (inputs, expected) = oracle.case("latency_quantiles");
    let mut values = floats(&inputs["latencies_ms"]);
    values.sort_by(f64::total_cmp);
    for (at, q) in floats(&inputs["q"]).into_iter().enumerate() {
        near(linear_quantile(&values, q).unwrap(), &expected["linear"][at], 1e-9);
        near(nearest_rank(&values, q).unwrap(), &expected["nearest_rank_ceil"][at], 1e-12);
    }
}

#[test]
fn ranks_that_enclose_a_quantile_are_scipys() {
    let oracle = Oracle::open();
    let (_, expected) = oracle.case("quantile_ci_order_statistics");
    for row in expected["rows"].as_array().unwrap() {
        let (n, q) = (row["n"].as_u64().unwrap(), row["q"].as_f64().unwrap());
        let (low, high) = quantile_ranks(n, q, 0.95);
        assert_eq!(low, row["lower_rank_1based"].as_u64());
        assert_eq!(high, row["upper_rank_1based"].as_u64());
        let covered = binomial_cdf(high.unwrap() - 1, n, q) - binomial_cdf(low.unwrap() - 1, n, q);
        near(covered, &row["coverage"], 1e-9);
    }
}

#[test]
fn gaps_between_groups_are_fairlearns() {
    let oracle = Oracle::open();
    let scored = binary(&oracle);
    let column = |name: &str| -> Vec<String> {
        let values = oracle.data("bin", name).as_array().unwrap();
        values.iter().map(|value| value.as_str().unwrap().to_owned()).collect()
    };
    let (a, b) = (column("group_a"), column("group_b"));
    let both: Vec<String> = a.iter().zip(&b).map(|(a, b)| format!("{a}|{b}")).collect();
    for (name, groups) in [("fairness_group_a", a), ("fairness_group_a_x_group_b", both)] {
        let (_, expected) = oracle.case(name);
        let groups = Groups::new(&all(&scored), |row| Some(groups[row].clone()), &scored, 1, 1);
        let gap = |metric| groups.gap(metric, &scored).unwrap();
        near(gap(Metric::AccuracyGap), &expected["difference_between_groups"]["accuracy"], 1e-9);
        let parity = &expected["demographic_parity_difference"];
        near(gap(Metric::DemographicParity), parity, 1e-9);
        near(gap(Metric::EqualizedOdds), &expected["equalized_odds_difference"], 1e-9);
    }
}

#[test]
fn a_group_without_positives_is_insufficient_where_fairlearn_invents_a_gap() {
    let oracle = Oracle::open();
    let (inputs, expected) = oracle.case("fairness_group_without_positives");
    let said = counts(&inputs["y_pred"]);
    let rows: Vec<Vec<f64>> =
        said.iter().map(|&y| if y == 1 { vec![0.0, 1.0] } else { vec![1.0, 0.0] }).collect();
    let scored = scored(&inputs["y_true"], &rows);
    let group = |row: usize| inputs["group"][row].as_str().map(ToOwned::to_owned);
    let groups = Groups::new(&all(&scored), group, &scored, 1, 1);
    assert_eq!(groups.gap(Metric::EqualizedOdds, &scored), None);
    near(0.5, &expected["equalized_odds_difference"], 0.0);
}
