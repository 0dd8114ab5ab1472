//! What a suite may say, and what is refused with a reason.
use tidegate_contracts::Severity;
use tidegate_evaluation::{Bound, MAX_SUITE_BYTES, Margin, Metric, Slice, Suite, SuiteError};

const DEFAULT: &str = include_str!("../../../eval-suites/default/suite.yaml");
const EMAIL: &str = include_str!("../../../eval-suites/email/suite.yaml");
const ROBUSTNESS: &str = include_str!("../../../eval-suites/robustness/suite.yaml");
const IMAGE: &str = include_str!("../../../eval-suites/image/suite.yaml");
const AUDIO: &str = include_str!("../../../eval-suites/audio/suite.yaml");
const TABULAR: &str = include_str!("../../../eval-suites/tabular/suite.yaml");

fn with(check: &str) -> Result<Suite, SuiteError> {
    Suite::parse(&format!("format: 1\nname: s\nversion: '1'\nchecks:\n  - {check}\n"))
}

#[track_caller]
fn refused(check: &str, needle: &str) {
    let error = with(check).unwrap_err().to_string();
    assert!(error.contains(needle), "{check}: {error}");
}

#[test]
fn a_check_is_read_with_all_it_says() {
    let suite = with(
        "{id: html, layer: retention, metric: accuracy, slice: format=html, versus: champion, \
         margin: {value: 0.03, from_n: 400, at_most: 0.06}, severity: review, min_n: 40}",
    )
    .unwrap();
    let check = &suite.checks()[0];
    assert_eq!(check.slice, Slice::Group("format".into(), "html".into()));
    assert_eq!(
        (check.metric, check.severity, check.min_n),
        (Metric::Accuracy, Severity::Review, 40)
    );
    let Bound::Margin(margin) = check.bound else { panic!("{:?}", check.bound) };
    assert_eq!((margin.at(400), margin.at(10_000)), (0.03, 0.03));
    assert!((margin.at(200) - 0.03 * 2_f64.sqrt()).abs() < 1e-12);
    assert_eq!(margin.at(20), 0.06);
}

#[test]
fn a_margin_never_narrows_with_fewer_examples() {
    let margin = Margin { value: 0.03, from_n: 1000, at_most: Some(0.12) };
    let widths: Vec<f64> = (1..2000).map(|n| margin.at(n)).collect();
    assert!(widths.windows(2).all(|pair| pair[0] >= pair[1]));
}

#[test]
fn what_means_nothing_is_refused_with_the_reason() {
    let base = "id: a, layer: quality, severity: block";
    refused(&format!("{{{base}, metric: accuracy}}"), "exactly one of floor");
    refused(&format!("{{{base}, metric: accuracy, floor: 0.5, ceil: 0.9}}"), "exactly one");
    refused(&format!("{{{base}, metric: accuracy, ceil: 0.5}}"), "higher is better");
    refused(&format!("{{{base}, metric: log_loss, floor: 0.5}}"), "lower is better");
    refused(&format!("{{{base}, metric: accuracy, margin: {{value: 0.1}}}}"), "versus: champion");
    refused(&format!("{{{base}, metric: accuracy, floor: 0.5, versus: champion}}"), "versus");
    refused(
        &format!("{{{base}, metric: accuracy, versus: champion, margin: {{value: -0.1}}}}"),
        "tolerated loss",
    );
    refused(&format!("{{{base}, metric: accuracy, above_chance: 0.1}}"), "says nothing");
    refused(&format!("{{{base}, metric: accuracy, floor: 0.5, slice: later}}"), "use overall");
    refused(&format!("{{{base}, metric: accuracy_gap, ceil: 0.1}}"), "over");
    refused(&format!("{{{base}, metric: accuracy, over: region, floor: 0.1}}"), "over");
    refused(&format!("{{{base}, metric: latency_p50_ms, ceil: 9, slice: fresh}}"), "no slices");
    refused(
        &format!("{{{base}, metric: accuracy, floor: 0.5, under: {{kind: typo, strength: 2}}}}"),
        "strength",
    );
    refused(&format!("{{{base}, metric: acuracy, floor: 0.5}}"), "acuracy");
    refused(&format!("{{{base}, metric: accuracy, flor: 0.5}}"), "flor");
    refused(
        "{id: no-leak, layer: quality, severity: warn, metric: accuracy, floor: 0.1}",
        "no-leak",
    );
}

#[test]
fn ids_are_unique_and_formats_known() {
    let check = "{id: a, layer: quality, severity: block, metric: accuracy, floor: 0.5}";
    refused(&format!("{check}\n  - {check}"), "twice");
    let text = format!("format: 2\nname: s\nversion: '1'\nchecks: [{check}]");
    assert!(Suite::parse(&text).unwrap_err().to_string().contains("this build reads 1"));
    let base = "id: a, layer: quality, severity: block";
    let wide = "metric: macro_f1, versus: champion, margin: {value: 0.1}, level: 0.999";
    refused(&format!("{{{base}, {wide}}}"), "limits.bootstrap >= 9500");
    let wide = wide.replace("macro_f1", "balanced_accuracy");
    refused(&format!("{{{base}, {wide}}}"), "limits.bootstrap >= 9500");
    refused(&format!("{{{base}, metric: accuracy, floor: 0.5, level: 1}}"), "use 0.5 to 0.9999");
    let text = format!("format: 1\nname: s\nversion: '1'\nlevel: 1.5\nchecks: [{check}]");
    assert!(Suite::parse(&text).unwrap_err().to_string().contains("`level`"));
    let text = "format: 1\nname: s\nversion: '1'\nchecks: []";
    assert!(Suite::parse(text).unwrap_err().to_string().contains("0 checks"));
}

#[test]
fn a_bomb_is_refused_quickly() {
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b]\n";
    assert!(matches!(Suite::parse(bomb), Err(SuiteError::Yaml(_))));
    let deep = "[".repeat(5_000);
    assert!(matches!(Suite::parse(&deep), Err(SuiteError::Yaml(_))));
    let huge = " ".repeat(MAX_SUITE_BYTES + 1);
    assert!(matches!(Suite::parse(&huge), Err(SuiteError::TooLarge(_))));
}

#[test]
fn lint_says_what_each_check_can_tell() {
    for text in [DEFAULT, EMAIL, ROBUSTNESS, IMAGE, AUDIO, TABULAR] {
        let suite = Suite::parse(text).unwrap();
        assert_eq!(suite.lint(200, &[]).len(), suite.checks().len());
        let few = suite.lint(20, &[]);
        let retention = few.iter().find(|line| line.id == "retention").unwrap();
        assert!(retention.resolution.starts_with("nothing"), "{}", retention.resolution);
        let many = suite.lint(1_000, &[]);
        let retention = many.iter().find(|line| line.id == "retention").unwrap();
        assert!(retention.resolution.contains("passes an equal candidate"));
        assert!(retention.rule.starts_with("L(candidate - champion) > -0.0"), "{}", retention.rule);
    }
}

#[test]
fn the_digest_changes_with_every_byte() {
    let suite = Suite::parse(DEFAULT).unwrap().reference();
    let other = Suite::parse(&format!("{DEFAULT}\n")).unwrap().reference();
    assert_ne!(suite.digest, other.digest);
    assert_eq!(suite.name, "default");
}

#[test]
fn what_inputs_go_through_is_read_and_what_means_nothing_is_refused_by_name() {
    let read = |under: &str| {
        let check = "id: a, layer: robustness, severity: warn, metric: robust_accuracy, floor: 0.5";
        with(&format!("{{{check}, under: {{{under}}}}}")).map(|suite| suite.checks()[0].under)
    };
    for (under, name) in [
        ("kind: homoglyph, strength: 0.1", "homoglyph 0.1"),
        ("kind: image.jpeg, severity: 3", "image.jpeg 3"),
        ("kind: audio.gain, severity: 1, worst_of: 5", "audio.gain 1, worst of 5"),
        ("kind: attack.fgsm, space: pixels, eps: 4", "attack.fgsm pixels 4"),
        (
            "kind: attack.pgd_l2, space: embedding, eps: 0.05",
            "attack.pgd_l2 embedding 0.05, 10 steps",
        ),
        ("kind: attack.hotflip, space: words, eps: 2", "attack.hotflip words 2"),
        ("kind: attack.random, space: words, eps: 1", "attack.random words 1, 200 steps"),
    ] {
        assert_eq!(read(under).unwrap().unwrap().name(), name);
    }
    for (under, needle) in [
        ("kind: image.jpg, severity: 3", "kind `image.jpg` is none"),
        ("kind: image.jpeg", "image.jpeg has a `severity`"),
        ("kind: image.jpeg, strength: 0.5", "has a `severity` (1 to 5), and no strength"),
        ("kind: image.jpeg, severity: 6", "severity 6: use 1 to 5"),
        ("kind: typo, severity: 3", "typo has a `strength`"),
        ("kind: typo, strength: 0.1, worst_of: 0", "worst_of 0: use 1 to 20"),
        ("kind: typo, strength: 0.1, eps: 1", "`eps` belongs to attacks"),
        ("kind: typo, strength: 0.1, sevrity: 1", "sevrity"),
        ("kind: attack.cw, space: pixels, eps: 1", "there are attack.fgsm"),
        ("kind: attack.fgsm, space: words, eps: 1", "use one of pixels, waveform"),
        ("kind: attack.hotflip, space: pixels, eps: 1", "use one of characters, words"),
        ("kind: attack.hotflip, space: words, eps: 3", "use 1 or 2 changes"),
        ("kind: attack.fgsm, space: pixels", "needs `eps`"),
        ("kind: attack.fgsm, space: pixels, eps: 1, steps: 3", "mean nothing"),
        ("kind: attack.pgd_linf, space: pixels, eps: -1", "use above 0"),
        ("kind: attack.pgd_linf, space: pixels, eps: 1, severity: 2", "belongs to perturbations"),
    ] {
        let error = read(under).unwrap_err().to_string();
        assert!(error.contains("check `a`") || error.contains("sevrity"), "{under}: {error}");
        assert!(error.contains(needle), "{under}: {error}");
    }
    let base = "id: a, layer: robustness, severity: warn, metric: corruption_error";
    refused(&format!("{{{base}, ceil: 0.5}}"), "needs `under");
    refused(&format!("{{{base}, ceil: 0.5, under: {{kind: typo, strength: 0.1}}}}"), "over all");
    refused(
        &format!("{{{base}, ceil: 0.5, under: {{kind: image.jpeg, severity: 1}}}}"),
        "over all",
    );
    refused(&format!("{{{base}, floor: 0.5, under: {{kind: image.jpeg}}}}"), "lower is better");
}
