//! Whether the labels of the new window are believable.
use tidegate_contracts::CheckState;

use super::{Found, NotJudged};
use crate::{
    Check,
    evidence::{ClassAgreement, Evidence},
    judge::Finding,
    stats::stratified_difference,
};

/// The champion's agreement with labels of earlier windows less that with the new window's, by
/// class, each class weighted by its share of the window.
pub(super) fn agreement(check: &Check, evidence: &Evidence<'_>) -> Found {
    let agreement = &evidence.agreement;
    if agreement.classes.is_empty() {
        let unknown = agreement.unknown;
        let why =
            format!("the window has no labels of classes the champion knows ({unknown} of others)");
        return Err(NotJudged::new(CheckState::NotApplicable, 0, why));
    }
    let (judged, rare): (Vec<&ClassAgreement>, Vec<&ClassAgreement>) =
        agreement.classes.iter().partition(|class| class.earlier.1 >= check.min_class);
    let n: u64 = judged.iter().map(|class| class.window.1).sum();
    // Classes that the champion was hardly seen on must not be most of what is believed.
    if n * 2 < agreement.asked() {
        let name = |class: &&ClassAgreement| format!("{} has {}", class.class, class.earlier.1);
        let names: Vec<String> = rare.iter().take(8).map(name).collect();
        let why = format!(
            "most labels of the window are of classes with fewer than {} earlier held-out \
             examples, so what the champion says of them is no measure ({})",
            check.min_class,
            names.join(", ")
        );
        return Err(NotJudged::new(CheckState::Insufficient, n, why));
    }
    if n < check.min_n {
        return Err(NotJudged::few(n, check.min_n));
    }
    let share = |(right, all): (u64, u64)| right as f64 / all as f64;
    let weighted = |of: fn(&ClassAgreement) -> (u64, u64)| {
        judged.iter().map(|c| share(of(c)) * c.window.1 as f64).sum::<f64>() / n as f64
    };
    let strata: Vec<_> = judged.iter().map(|c| (c.earlier, c.window, c.window.1 as f64)).collect();
    let (estimate, interval) = stratified_difference(&strata, evidence.of.level(check))
        .expect("every class that is judged has labels in the window");
    Ok(Finding {
        candidate: Some(weighted(|class| class.window)),
        baseline: Some(weighted(|class| class.earlier)),
        estimate,
        interval: Some(interval),
        method: "newcombe_stratified",
        n,
        ..Finding::default()
    })
}
