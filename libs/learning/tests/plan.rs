//! What a plan says beforehand, beside what the job then does.
mod common;

use common::{cold_start, examples, hot_update, published, trained};
use tidegate_learning::{Example, Finding, Job, LearningError, Train, plan};
use tidegate_model::{Adapters, Device, Input, Model};

const BOTH: &[&str] = &["spam", "ham"];

/// What was planned of `job` beside what was found, by name.
fn beside(job: &Job, window: &[Example]) -> impl Fn(&str) -> Finding {
    let planned = plan(job, window).unwrap();
    let found = planned.beside(&trained(job, window).unwrap().metrics, None);
    move |what| found.iter().find(|finding| finding.what == what).unwrap().clone()
}

#[test]
fn what_can_be_counted_is_planned_exactly() {
    let (job, window) = (cold_start("cold"), examples(BOTH, 0, 60));
    let found = beside(&job, &window);
    for what in ["steps", "tokens", "trained_share"] {
        let Finding { planned, found, off, .. } = found(what);
        assert!(off.abs() < 1e-9, "{what}: {planned} {found}");
    }
    for what in ["seconds", "tokens_per_s", "energy_joules"] {
        let Finding { planned, found, .. } = found(what);
        // Energy counts in steps of 10 ms, which so short a job may not fill.
        let least = if what == "energy_joules" { 0.0 } else { f64::MIN_POSITIVE };
        assert!(planned > 0.0 && found >= least, "{what}: {planned} {found}");
    }
}

#[test]
fn a_plan_is_of_the_champions_network_and_of_what_learns_of_it() {
    let first = cold_start("first");
    let champion = published(&first, &trained(&first, &examples(BOTH, 0, 60)).unwrap());
    let lora = Adapters { attention_rank: 2, alpha: 4.0, head: true, ..Adapters::default() };
    for train in [Train::Full, Train::FrozenRouter, Train::HeadOnly, Train::Adapters] {
        let mut job = hot_update("second", champion.clone());
        (job.recipe.method.train, job.recipe.method.adapters) = (train, lora);
        // No longer what a cold start would make.
        job.recipe.architecture.layers = 7;
        let window = examples(&["spam", "ham", "news"], 60, 40);
        let plan = plan(&job, &window).unwrap();
        let made = trained(&job, &window).unwrap();
        assert!((plan.parameters.trained_share - made.metrics["trained_share"]).abs() < 1e-12);
        let (total, active) = Model::from_files(&made.files, &Device::Cpu).unwrap().parameters();
        // The model has its adapters folded in: 2 * (16 + 16) twice, 2 * (16 + 8) twice.
        let folded = if train == Train::Adapters { 224 } else { 0 };
        assert_eq!(
            (plan.parameters.total, plan.parameters.active),
            (total + folded, active + folded)
        );
        assert_eq!((plan.work.classes, plan.work.steps), (3, made.metrics["steps"] as u64));
        assert!(plan.work.replayed > 0 && plan.memory.total > plan.memory.weights);
        let off = plan.work.tokens as f64 / made.metrics["tokens"] - 1.0;
        assert!(off.abs() < 0.05, "replayed texts are drawn anew each epoch: {off}");
        assert_eq!(plan.memory.gradients == 4 * 16 * 3 + 12, train == Train::HeadOnly);
    }
}

#[test]
fn steps_without_the_deep_path_are_planned_as_what_they_are() {
    let first = cold_start("first");
    let champion = published(&first, &trained(&first, &examples(BOTH, 0, 60)).unwrap());
    let mut job = hot_update("second", champion);
    job.recipe.rehearsal.share = 0.0;
    let window = examples(BOTH, 60, 40);
    let all = plan(&job, &window).unwrap();
    (job.recipe.hot_update.deep_every, job.recipe.hot_update.epochs) = (5, 20);
    let some = plan(&job, &window).unwrap();
    let made = trained(&job, &window).unwrap();
    assert_eq!((all.work.steps, some.work.steps), (10, 100));
    assert_eq!((made.metrics["steps"], made.metrics["deep_steps"]), (100.0, 20.0));
    // Twenty steps are as many tokens as ten twice, whichever they are.
    let off = some.work.tokens as f64 / (2.0 * all.work.tokens as f64) - 1.0;
    assert!(off.abs() < 1e-3, "{off}");
    let off = some.work.tokens as f64 / made.metrics["tokens"] - 1.0;
    assert!(off.abs() < 0.1, "{off}");
}

#[test]
fn a_budget_that_will_end_the_job_is_named_and_counted_with() {
    let window = examples(BOTH, 0, 60);
    let mut job = cold_start("cold");
    assert_eq!(plan(&job, &window).unwrap().ended_by, None);
    job.recipe.cold_start.max_steps = 3;
    let short = plan(&job, &window).unwrap();
    assert_eq!((short.ended_by.as_deref(), short.work.steps), (Some("max_steps"), 3));
    job.recipe.cold_start.max_steps = 0;
    job.recipe.cold_start.max_seconds = 0.001;
    let late = plan(&job, &window).unwrap();
    assert_eq!((late.ended_by.as_deref(), late.work.steps), (Some("max_seconds"), 1));
    job.recipe.cold_start.max_seconds = 1e6;
    job.recipe.cold_start.epochs = 10_000;
    job.recipe.cold_start.max_joules = 1.0;
    let warm = plan(&job, &window).unwrap();
    assert_eq!(warm.ended_by.as_deref(), Some("max_joules"));
    assert!(warm.work.steps < 80_000);
}

#[test]
fn a_job_that_cannot_begin_has_no_plan() {
    let error = |job: &Job, window: &[Example]| plan(job, window).unwrap_err();
    let job = cold_start("cold");
    assert!(matches!(error(&job, &[]), LearningError::EmptyWindow));
    let one = error(&job, &examples(&["spam"], 0, 9));
    assert!(matches!(&one, LearningError::OneClass { examples: 9, .. }), "{one}");
    let mut wrong = job.clone();
    wrong.recipe.cold_start.batch = 0;
    assert!(error(&wrong, &examples(BOTH, 0, 9)).to_string().contains("`cold_start.batch`"));
    let hot = Job { kind: tidegate_contracts::JobKind::HotUpdate, ..job };
    assert!(matches!(error(&hot, &examples(BOTH, 0, 9)), LearningError::NoChampion(_)));
}

#[test]
fn labels_that_contradict_each_other_are_answered_by_their_shares() {
    // The same three texts, two thirds of the time of one class.
    let mut window = examples(BOTH, 0, 90);
    for (at, example) in window.iter_mut().enumerate() {
        example.input = Input::text(["alpha one", "beta two", "gamma three"][at % 3]);
        example.label = if at / 3 % 3 < 2 { "spam" } else { "ham" }.into();
    }
    let mut job = cold_start("torn");
    job.recipe.cold_start.epochs = 20;
    job.recipe.cold_start.balance = 0.0;
    let made = trained(&job, &window).unwrap();
    let model = Model::from_files(&made.files, &Device::Cpu).unwrap();
    let spam = model.labels().iter().position(|label| label.as_str() == "spam").unwrap();
    let inputs: Vec<_> = window[..3].iter().map(|example| example.input.clone()).collect();
    for scores in model.predict(&inputs).unwrap() {
        let found = scores.probabilities[spam];
        assert!((0.5..0.85).contains(&found), "{found}");
    }
}
