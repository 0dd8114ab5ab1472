//! The evaluator with the real broker, the real ledger and models that were really trained.
mod house;

use house::{House, Labels};
use tidegate_contracts::{CheckState, JobKind, Outcome};
use tidegate_evaluation::pin;
use tidegate_ledger::StageOutcome;
use tidegate_model::{Device, Input, Model};

#[tokio::test(flavor = "multi_thread")]
async fn a_lineage_is_judged_promoted_and_protected_from_a_poisoned_day() {
    let house = House::build().await;
    let evaluator = house.start();

    // From nothing: absolute bounds only.
    house.publish(0..400, Labels::True).await;
    let first = house.train(JobKind::ColdStart, 0..400, None).await;
    let verdict = house.verdict(&first).await;
    assert_eq!(verdict.outcome, Outcome::AutoPromote, "{:#?}", verdict.reasons);
    assert_eq!((verdict.champion, verdict.data.earlier, verdict.data.fresh), (None, 0, 80));
    house.promote(&first).await;

    // The gateway's check: the recorded inputs give the recorded answers.
    let generation = house.artifacts.generation(&first).await.unwrap();
    let model = Model::from_files(generation.files(), &Device::Cpu).unwrap();
    assert_eq!(verdict.golden.len(), 16);
    for golden in &verdict.golden {
        let answer = model.predict(&[Input::from_golden(golden)]).unwrap();
        for (found, recorded) in answer[0].probabilities.iter().zip(&golden.probabilities) {
            assert!((found - recorded).abs() < 1e-5);
        }
    }

    // A day whose labels are turned round is stopped, with the reason.
    house.publish(400..500, Labels::Flipped).await;
    let poisoned = house.train(JobKind::HotUpdate, 400..500, Some(&first)).await;
    let verdict = house.verdict(&poisoned).await;
    assert_eq!(verdict.outcome, Outcome::Blocked, "{:#?}", verdict.reasons);
    let said = verdict.reasons.join("\n");
    assert!(said.contains("agreement with the new window's labels"), "{said}");
    assert_eq!((verdict.data.earlier, verdict.data.fresh), (80, 20));
    house.set_aside(&poisoned).await;

    // The next clean day is judged on clean examples only, and passes.
    house.publish(500..600, Labels::True).await;
    let clean = house.train(JobKind::HotUpdate, 500..600, Some(&first)).await;
    let verdict = house.verdict(&clean).await;
    assert_eq!(verdict.outcome, Outcome::AutoPromote, "{:#?}", verdict.reasons);
    assert_eq!((verdict.data.earlier, verdict.data.fresh), (80, 20));
    assert_eq!(verdict.champion, Some(first));
    assert_eq!(verdict.data.leaked, 0);
    let state = |id: &str| verdict.checks.iter().find(|check| check.id == id).unwrap().state;
    assert_eq!(state("retention"), CheckState::Pass);
    assert_eq!(state("label-agreement"), CheckState::Pass);
    evaluator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_that_was_altered_on_disk_is_blocked_and_the_evaluator_goes_on() {
    let house = House::build().await;
    house.publish(0..400, Labels::True).await;
    let altered = house.train(JobKind::ColdStart, 0..400, None).await;
    house.alter_weights(&altered).await;
    let evaluator = house.start();
    let verdict = house.verdict(&altered).await;
    assert_eq!(verdict.outcome, Outcome::Blocked);
    assert!(verdict.reasons[0].contains("corrupt"), "{:?}", verdict.reasons);

    let sound = house.train(JobKind::ColdStart, 0..399, None).await;
    let verdict = house.verdict(&sound).await;
    assert_eq!(verdict.outcome, Outcome::AutoPromote, "{:#?}", verdict.reasons);
    evaluator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluator_that_is_stopped_leaves_the_candidate_to_the_next() {
    let house = House::build().await;
    house.publish(0..400, Labels::True).await;
    let evaluator = house.start();
    let candidate = house.train(JobKind::ColdStart, 0..400, None).await;
    evaluator.stop().await;
    let next = house.start();
    let verdict = house.verdict(&candidate).await;
    assert_eq!(verdict.outcome, Outcome::AutoPromote, "{:#?}", verdict.reasons);
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_champion_that_does_harm_on_labels_that_come_later_is_found_out() {
    // Such a suite lets anything through: what follows is up to the watch.
    let house = House::build().await;
    let evaluator = house.start_with(house::BLIND);
    house.publish(0..400, Labels::True).await;
    let sound = house.train(JobKind::ColdStart, 0..400, None).await;
    house.verdict(&sound).await;
    house.promote(&sound).await;
    house.publish(400..800, Labels::Flipped).await;
    let bad = house.train(JobKind::HotUpdate, 400..800, Some(&sound)).await;
    house.verdict(&bad).await;
    house.promote(&bad).await;
    assert_eq!(house.harm(&bad).await, None, "no label has come since");

    // Killed in between, it goes on from what it had.
    house.publish(800..850, Labels::True).await;
    evaluator.stop().await;
    let evaluator = house.start_with(house::BLIND);
    house.publish(850..1_000, Labels::True).await;
    let harm = house.until_harm(&bad).await;
    assert!(harm.contains(&sound.short()) && harm.contains("worse by more than"), "{harm}");
    evaluator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_champion_that_is_as_good_is_left_alone() {
    let house = House::build().await;
    let evaluator = house.start_with(house::BLIND);
    house.publish(0..400, Labels::True).await;
    let first = house.train(JobKind::ColdStart, 0..400, None).await;
    house.verdict(&first).await;
    house.promote(&first).await;
    house.publish(400..500, Labels::True).await;
    let second = house.train(JobKind::HotUpdate, 400..500, Some(&first)).await;
    house.verdict(&second).await;
    house.promote(&second).await;
    house.publish(500..900, Labels::True).await;
    // The next verdict comes after the watch has looked.
    house.until_watched(400).await;
    assert_eq!(house.harm(&second).await, None);
    evaluator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_ends_by_itself_in_harm_and_in_a_pass() {
    let house = House::build().await;
    let evaluator = house.start_with(house::BLIND);
    house.publish(0..400, Labels::True).await;
    let sound = house.train(JobKind::ColdStart, 0..400, None).await;
    house.verdict(&sound).await;
    house.promote(&sound).await;
    house.publish(400..800, Labels::Flipped).await;
    let bad = house.train(JobKind::HotUpdate, 400..800, Some(&sound)).await;
    house.verdict(&bad).await;
    // No request is needed to see what it does to labels.
    house.shadow(&bad, 1_000, 0).await;
    house.publish(800..1_000, Labels::True).await;
    let end = house.until_ended(&bad).await;
    assert_eq!(end.outcome, StageOutcome::Harmful, "{}", end.reason);
    assert!(end.reason.contains("labels") && end.evidence.log_harm > 2.9, "{end:?}");
    house.set_aside(&bad).await;

    let good = house.train(JobKind::HotUpdate, 800..1_000, Some(&sound)).await;
    house.verdict(&good).await;
    house.shadow(&good, 60, 100).await;
    house.pairs(&good, 30).await;
    // Killed in between, it goes on from what it had.
    evaluator.stop().await;
    let evaluator = house.start_with(house::BLIND);
    house.pairs(&good, 30).await;
    house.publish(1_000..1_300, Labels::True).await;
    let end = house.until_ended(&good).await;
    assert_eq!(end.outcome, StageOutcome::Passed, "{}", end.reason);
    assert_eq!((end.evidence.requests, end.evidence.agreed, end.evidence.errors), (60, 60, 0));
    assert!(end.evidence.labels >= 100, "{end:?}");
    evaluator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_data_is_asked_within_its_budget_and_verified_before_each_use() {
    let house = House::build().await;
    let old = house::frozen(0..400);
    let (sha256, rows) = pin("old.jsonl", &old).unwrap();
    house.beside_suite("old.jsonl", &old);
    let suite = |budget: u32| {
        format!(
            "{{format: 1, name: past, version: '{budget}', data: [{{id: old, tier: open, role: past, path: \
             old.jsonl, sha256: '{sha256}', rows: {rows}, query_budget: {budget}}}], checks: [{{id: old, \
             layer: retention, metric: accuracy, data: old, floor: 0.8, severity: block}}, {{id: forgetting, \
             layer: retention, metric: forgetting_max, data: old, ceil: 0.3, severity: block}}]}}"
        )
    };
    let evaluator = house.start_with(&suite(2));
    house.publish(0..400, Labels::True).await;
    let first = house.train(JobKind::ColdStart, 0..400, None).await;
    let verdict = house.verdict(&first).await;
    assert_eq!(verdict.outcome, Outcome::AutoPromote, "{:#?}", verdict.reasons);
    assert_eq!((verdict.frozen[0].queries, house.queries(&sha256).await), (1, 1));
    house.promote(&first).await;

    // What the first knew is remembered from its verdict; the second query is the last.
    house.publish(400..500, Labels::True).await;
    let second = house.train(JobKind::HotUpdate, 400..500, Some(&first)).await;
    let verdict = house.verdict(&second).await;
    assert_eq!(verdict.outcome, Outcome::AutoPromote, "{:#?}", verdict.reasons);
    let state = |id: &str| verdict.checks.iter().find(|check| check.id == id).unwrap().state;
    assert_eq!(state("forgetting"), CheckState::Pass);
    let scores: Vec<_> = verdict.frozen[0].scores.iter().map(|score| score.generation).collect();
    assert_eq!(scores, [first, second]);
    house.promote(&second).await;
    let third = house.train(JobKind::HotUpdate, 400..499, Some(&second)).await;
    let verdict = house.verdict(&third).await;
    assert_eq!(verdict.outcome, Outcome::NeedsApproval, "{:#?}", verdict.reasons);
    assert!(verdict.reasons[0].contains("rotate the data"), "{:?}", verdict.reasons);
    assert_eq!((verdict.frozen[0].left(), house.queries(&sha256).await), (0, 2));

    // Another suite does not make it new; a file that changes under the evaluator blocks.
    evaluator.stop().await;
    let evaluator = house.start_with(&suite(9));
    let fourth = house.train(JobKind::HotUpdate, 400..498, Some(&second)).await;
    assert_eq!(house.verdict(&fourth).await.frozen[0].queries, 3);
    house.beside_suite("old.jsonl", &house::frozen(0..300));
    let fifth = house.train(JobKind::HotUpdate, 400..497, Some(&second)).await;
    let verdict = house.verdict(&fifth).await;
    assert_eq!(verdict.outcome, Outcome::Blocked, "{:#?}", verdict.reasons);
    assert!(verdict.reasons[0].contains("sha256"), "{:?}", verdict.reasons);
    evaluator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluator_does_not_start_with_frozen_data_that_is_not_what_the_suite_says() {
    let house = House::build().await;
    let suite = "{format: 1, name: past, version: '1', data: [{id: old, tier: open, path: old.jsonl, \
                 sha256: '0000000000000000000000000000000000000000000000000000000000000000', rows: 1}], \
                 checks: [{id: old, layer: quality, metric: accuracy, data: old, floor: 0.8, severity: \
                 block}]}";
    for (bytes, needle) in [(None, "cannot be read"), (Some(b"{}\n"), "sha256")] {
        if let Some(bytes) = bytes {
            house.beside_suite("old.jsonl", bytes);
        }
        let error = house.start_with(suite).ended().await.unwrap_err();
        let said = format!("{error:#}");
        assert!(said.contains("data `old` (old.jsonl)") && said.contains(needle), "{said}");
    }
}
