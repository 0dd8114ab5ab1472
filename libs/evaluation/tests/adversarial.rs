//! The reference numbers of attacks, corruptions and worst draws, against torch, closed forms and
//! numpy. The numbers were made outside this project; `oracle.rs` walks the other cases.
use serde_json::Value;
use tidegate_contracts::Class;
use tidegate_evaluation::{Classes, Metric, Scored};
use tidegate_model::{Ball, Norm, Point, Scores, climb};

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

fn all(scored: &Scored) -> Vec<usize> {
    (0..scored.truth.len()).collect()
}

/// Slopes of the cross entropy of a linear softmax over its inputs, and whether each is right.
struct Linear {
    weights: Vec<Vec<f64>>,
    bias: Vec<f64>,
    truth: Vec<usize>,
}

impl Linear {
    fn logits(&self, x: &[f64]) -> Vec<f64> {
        let dot = |row: &Vec<f64>| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        self.weights.iter().zip(&self.bias).map(|(row, bias)| dot(row) + bias).collect()
    }

    fn slope(&self, x: &[f64], truth: usize) -> Vec<f64> {
        let exps: Vec<f64> = self.logits(x).iter().map(|logit| logit.exp()).collect();
        let sum: f64 = exps.iter().sum();
        let of_logit = |class: usize| exps[class] / sum - f64::from(u8::from(class == truth));
        let one = |at: usize| {
            (0..self.bias.len()).map(|class| of_logit(class) * self.weights[class][at]).sum()
        };
        (0..x.len()).map(one).collect()
    }

    fn slopes(&self, points: &[Point]) -> Result<Vec<Vec<f64>>, std::convert::Infallible> {
        let rows = points.iter().zip(&self.truth);
        Ok(rows.map(|(point, &truth)| self.slope(&point.at, truth)).collect())
    }

    fn right(&self, points: &[Point]) -> Vec<bool> {
        let right = |(point, &truth): (&Point, &usize)| {
            let logits = self.logits(&point.at);
            (0..logits.len()).all(|class| class == truth || logits[class] < logits[truth])
        };
        points.iter().zip(&self.truth).map(right).collect()
    }
}

#[test]
fn attacks_take_the_steps_of_torch() {
    let oracle = Oracle::open();
    let (inputs, expected) = oracle.case("adversarial_linear_softmax");
    let rows = |value: &Value| value.as_array().unwrap().iter().map(floats).collect::<Vec<_>>();
    let model = Linear {
        weights: rows(&inputs["W"]),
        bias: floats(&inputs["b"]),
        truth: counts(&inputs["y"]).into_iter().map(|y| y as usize).collect(),
    };
    let clean: Vec<Point> =
        rows(&inputs["X"]).into_iter().map(|x| Point::new(x, 0.0, 1.0)).collect();
    for (found, wanted) in model.slopes(&clean).unwrap().iter().zip(rows(&expected["grad"])) {
        found.iter().zip(wanted).for_each(|(a, b)| assert!((a - b).abs() < 1e-12));
    }
    let f = |value: &Value| value.as_f64().unwrap();
    let attack = |norm, eps: f64, steps, length: f64| {
        let mut points = clean.clone();
        let balls = vec![Ball { norm, radius: eps }; points.len()];
        climb(&balls, (steps, length / eps), &mut points, |points| model.slopes(points)).unwrap();
        points
    };
    let near_all = |points: &[Point], wanted: &Value| {
        for (point, wanted) in points.iter().zip(rows(wanted)) {
            for (at, wanted) in point.at.iter().zip(wanted) {
                assert!((at - wanted).abs() < 1e-9, "{at} {wanted}");
            }
        }
    };
    let eps = f(&inputs["fgsm_eps_linf"]);
    let fgsm = attack(Norm::Linf, eps, 1, eps);
    near_all(&fgsm, &expected["fgsm_x"]);
    let pgd = attack(Norm::Linf, f(&inputs["pgd"]["eps"]), 10, f(&inputs["pgd"]["alpha"]));
    near_all(&pgd, &expected["pgd_linf_x"]);
    let l2 = attack(Norm::L2, f(&inputs["pgd_l2"]["eps"]), 10, f(&inputs["pgd_l2"]["alpha"]));
    near_all(&l2, &expected["pgd_l2_x"]);
    for (points, name) in [
        (&clean, "clean_correct"),
        (&fgsm, "fgsm_correct"),
        (&pgd, "pgd_correct"),
        (&l2, "pgd_l2_correct"),
    ] {
        let wanted: Vec<bool> =
            expected[name].as_array().unwrap().iter().map(|v| v.as_bool().unwrap()).collect();
        assert_eq!(model.right(points), wanted, "{name}");
    }
    // What a check makes of these answers: robust accuracy, and the attack's success rate.
    let answers = |points: &[Point]| {
        let right = model.right(points);
        scored_right(&right)
    };
    let (before, after) = (answers(&clean), answers(&pgd));
    let mut worst = before.clone().worse(&after);
    worst.was_right = (0..8).map(|row| before.right(row)).collect();
    let value = |metric| worst.value(metric, &all(&worst)).unwrap();
    near(value(Metric::RobustAccuracy), &expected["robust_acc_pgd"], 1e-9);
    near(value(Metric::Asr), &expected["attack_success_rate_pgd"], 1e-7);
}

/// Answers that are right where it says so.
fn scored_right(right: &[bool]) -> Scored {
    let labels = [Class::new("wrong"), Class::new("right")];
    let answer = |&right: &bool| Scores {
        probabilities: if right { vec![0.1, 0.9] } else { vec![0.9, 0.1] },
    };
    let scores: Vec<Scores> = right.iter().map(answer).collect();
    Scored::new(&Classes::new(&labels), &labels, vec![1; right.len()], &scores).unwrap()
}

#[test]
fn attacks_on_a_linear_model_reach_what_is_known_in_closed_form() {
    let oracle = Oracle::open();
    let (inputs, expected) = oracle.case("adversarial_linear_exact");
    let (w, b) = (floats(&inputs["w"]), inputs["b"].as_f64().unwrap());
    let side: Vec<f64> = floats(&inputs["y_pm1"]);
    let centres: Vec<Vec<f64>> = inputs["X"].as_array().unwrap().iter().map(floats).collect();
    for (norm, name) in [(Norm::Linf, "robust_acc_linf"), (Norm::L2, "robust_acc_l2")] {
        for (at, eps) in floats(&inputs["eps"]).into_iter().enumerate() {
            let mut points: Vec<Point> = centres
                .iter()
                .map(|x| Point::new(x.clone(), f64::NEG_INFINITY, f64::INFINITY))
                .collect();
            let balls = vec![Ball { norm, radius: eps }; points.len()];
            let slopes = |_: &[Point]| -> Result<Vec<Vec<f64>>, std::convert::Infallible> {
                Ok(side.iter().map(|side| w.iter().map(|w| -side * w).collect()).collect())
            };
            climb(&balls, (10, 0.25), &mut points, slopes).unwrap();
            let margin = |(point, side): (&Point, &f64)| {
                side * (point.at.iter().zip(&w).map(|(x, w)| x * w).sum::<f64>() + b)
            };
            let right = points.iter().zip(&side).map(margin).filter(|&m| m > 0.0).count();
            near(right as f64 / side.len() as f64, &expected[name][at], 1e-9);
        }
    }
}

#[test]
fn corruption_errors_are_hendryckss() {
    let oracle = Oracle::open();
    let (inputs, expected) = oracle.case("corruption_error");
    // A hundred rows, of which at each severity as many are wrong as the case says.
    let errors = |rates: &Value| {
        let rates = floats(rates);
        let wrong =
            |row: usize| rates.iter().filter(|&&rate| (row as f64) < rate * 100.0 - 1e-9).count();
        let mut scored = scored_right(&[true; 100]);
        scored.errors = (0..100).map(|row| wrong(row) as f64 / rates.len() as f64).collect();
        scored.value(Metric::CorruptionError, &all(&scored)).unwrap()
    };
    let mut sum = 0.0;
    let mut right = 0.0;
    for kind in 0..2 {
        let (one, other) =
            (errors(&inputs["err_model"][kind]), errors(&inputs["err_baseline"][kind]));
        near(one / other, &expected["CE"][kind], 1e-9);
        sum += one / other;
        right += 1.0 - one;
    }
    near(sum / 2.0, &expected["mCE"], 1e-9);
    near(right / 2.0, &expected["mean_corruption_accuracy"], 1e-9);
}

#[test]
fn the_worst_of_many_draws_is_right_only_where_all_are() {
    let oracle = Oracle::open();
    let (inputs, expected) = oracle.case("worst_of_k");
    let rows: Vec<Vec<u64>> =
        inputs["correct_under_variant"].as_array().unwrap().iter().map(counts).collect();
    let draws: Vec<Scored> = (0..rows[0].len())
        .map(|draw| scored_right(&rows.iter().map(|row| row[draw] == 1).collect::<Vec<_>>()))
        .collect();
    let accuracy = |scored: &Scored| scored.value(Metric::Accuracy, &all(scored)).unwrap();
    let mean = draws.iter().map(accuracy).sum::<f64>() / draws.len() as f64;
    near(mean, &expected["average_acc"], 1e-9);
    let worst = draws.into_iter().reduce(|worst, draw| worst.worse(&draw)).unwrap();
    near(accuracy(&worst), &expected["worst_of_k_acc"], 1e-9);
}
