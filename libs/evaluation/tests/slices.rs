//! What a verdict shows beside its checks: slice by slice, and example by example.
#[allow(dead_code)]
mod toy;

use std::collections::HashSet;

use tidegate_contracts::{SliceKind, SliceResult, Verdict};
use tidegate_evaluation::{
    Copies, EvalExample, Evaluation, Line, Memory, Subject, evaluate, stats::Paired,
};
use toy::{Day, Toy, examples, generation, manifest, quick, without_text};

const EMAIL: &str = include_str!("../../../eval-suites/email/suite.yaml");
const DAY: Day = Day { earlier: 300, fresh: 60, labels: 110, flipped: 0.0 };

fn verdict(candidate: &Toy, champion: Option<&Toy>, examples: &[EvalExample]) -> Verdict {
    let (suite, new, old) = (quick(EMAIL), manifest(1), manifest(0));
    let champion =
        champion.map(|toy| Subject { id: generation(0), predictor: toy, manifest: &old });
    let of = Evaluation {
        suite: &suite,
        candidate: Subject { id: generation(1), predictor: candidate, manifest: &new },
        champion,
        anchor: None,
        examples,
        frozen: &[],
        window_labels: &[],
        trained: &HashSet::new(),
        copies: &Copies::default(),
        window: &new.window,
        line: Line::default(),
        region: "WORLD",
        pue: 1.0,
        seed: 5,
    };
    evaluate(&of, &mut Memory::default())
}

fn pair() -> (Toy, Toy) {
    (Toy::new(5, 0.10, 0.0, 0.0), Toy::new(5, 0.10, 0.12, 0.05))
}

fn slice<'a>(verdict: &'a Verdict, name: &str) -> &'a SliceResult {
    verdict.slices.iter().find(|one| one.slice == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn both_models_are_shown_on_the_whole_its_ages_classes_domains_groups_and_pairs_of_groups() {
    let ((champion, candidate), (data, _)) = (pair(), examples(&DAY, 1));
    let shown = verdict(&candidate, Some(&champion), &data);
    let sizes = |kind: SliceKind| -> u64 {
        shown.slices.iter().filter(|one| one.kind == kind).map(|one| one.n).sum()
    };
    assert_eq!([sizes(SliceKind::All), sizes(SliceKind::Age)], [360, 360]);
    assert_eq!([sizes(SliceKind::Class), sizes(SliceKind::Domain)], [360, 360]);
    assert_eq!(sizes(SliceKind::Group), 3 * 360, "three attributes, each of all examples");
    let heads: Vec<&str> = shown.slices[..4].iter().map(|one| &*one.slice).collect();
    assert_eq!(heads, ["overall", "earlier", "fresh", "domain=mail"]);
    assert!(shown.slices[3..].is_sorted_by(|a, b| a.n >= b.n), "{:?}", shown.slices);
    let both = |one: &&SliceResult| one.kind == SliceKind::Groups;
    assert!(shown.slices.iter().filter(both).count() > 3);
    assert!(shown.slices.iter().filter(both).all(|one| one.n >= 30));

    let overall = slice(&shown, "overall");
    let check = shown.checks.iter().find(|check| check.id == "accuracy").unwrap();
    assert_eq!(Some(overall.candidate), check.candidate);
    assert_eq!((overall.champion, overall.interval), (check.baseline, check.interval));
    let ham = data.iter().filter(|one| one.label.as_str() == "ham").count();
    assert_eq!(slice(&shown, "class=ham").n, ham as u64);
    let worst = Paired { both: 0, only_baseline: 1, only_candidate: 0, neither: 0 };
    assert!(worst.newcombe(overall.level).low < overall.interval.unwrap().0);
    let again = verdict(&candidate, Some(&champion), &data);
    assert_eq!((again.slices, again.changed), (shown.slices, shown.changed), "the same draws");
}

#[test]
fn examples_that_got_worse_and_better_are_shown_with_what_each_said() {
    let ((champion, candidate), (mut data, _)) = (pair(), examples(&DAY, 2));
    without_text(&mut data[..180]);
    let shown = verdict(&candidate, Some(&champion), &data).changed;
    let (worse, better): (Vec<_>, Vec<_>) = shown.iter().partition(|one| one.worse);
    assert_eq!((worse.len(), better.len()), (12, 6));
    assert!(worse.iter().all(|one| one.candidate.answer != one.label));
    assert!(worse.iter().all(|one| one.champion.answer == one.label));
    assert!(better.iter().all(|one| one.champion.answer != one.label));
    assert!(better.iter().all(|one| one.candidate.answer == one.label));
    for one in &shown {
        let sure = one.candidate.sure.unwrap();
        assert!((sure - 0.93).abs() < 1e-6, "{one:?}");
        assert!(one.excerpt == "[table of 1]" || one.excerpt.ends_with("rest of the letter"));
        let at = data.iter().position(|example| example.id == one.id).unwrap();
        assert_eq!((data[at].fresh, &data[at].domain), (one.fresh, &one.domain));
    }
}

#[test]
fn a_first_model_is_shown_alone() {
    let (data, _) = examples(&DAY, 3);
    let shown = verdict(&Toy::new(1, 0.1, 0.0, 0.0), None, &data);
    let overall = slice(&shown, "overall");
    assert_eq!((overall.champion, &*overall.method), (None, "wilson"));
    let (low, high) = overall.interval.unwrap();
    assert!(low < overall.candidate && overall.candidate < high);
    assert!(shown.changed.is_empty());
}

#[test]
fn of_many_slices_the_largest_are_shown_and_the_bound_is_said() {
    let ((champion, candidate), (mut data, _)) = (pair(), examples(&DAY, 4));
    for (number, example) in data.iter_mut().enumerate() {
        example.groups.insert("sender".to_owned(), format!("s{}", number % 90));
    }
    let shown = verdict(&candidate, Some(&champion), &data);
    assert_eq!(shown.slices.len(), 40);
    assert!(shown.slices.iter().any(|one| one.slice == "fresh"));
    let said = &shown.environment["sample.slices"];
    assert!(said.starts_with("40 of ") && said.ends_with(": the largest"), "{said}");
}
