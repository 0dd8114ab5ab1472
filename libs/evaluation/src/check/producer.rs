//! The producer of the window that is least to be believed.
use tidegate_contracts::CheckState;

use super::{Found, NotJudged, resampling};
use crate::{
    Check, Metric,
    evidence::Evidence,
    judge::Finding,
    producers::{Disputes, Influence, disputes, influences},
};

/// Its disputed labels beyond the others', or what the champion's head would gain without it.
pub(super) fn producer(check: &Check, evidence: &Evidence<'_>) -> Found {
    let producers = &evidence.producers;
    if !producers.none.is_empty() {
        return Err(NotJudged::new(CheckState::NotApplicable, 0, producers.none));
    }
    if check.metric == Metric::ProducerInfluence {
        let found = influences(producers, check.min_n, resampling(check, evidence));
        return match found {
            Ok(found) => Ok(of_influence(found)),
            Err(why) => Err(NotJudged::new(CheckState::Insufficient, 0, why)),
        };
    }
    let permutations = evidence.of.suite.limits().permutations;
    let (level, seed) = (evidence.of.level(check), evidence.of.seed);
    match disputes(producers, check.min_n, level, permutations, seed) {
        Ok(found) => Ok(of_disputes(found)),
        Err(most) => Err(NotJudged::few(most, check.min_n)),
    }
}

fn of_disputes(found: Disputes) -> Finding {
    let note = format!(
        "; of {}, of which the champion disputes {:.0} of 100 labels and {:.0} of the others' of these \
         classes; {} producers compared, which the interval is corrected for",
        found.words,
        100.0 * found.own,
        100.0 * found.others,
        found.compared
    );
    Finding {
        candidate: Some(found.own),
        baseline: Some(found.others),
        estimate: found.estimate,
        interval: Some(found.interval),
        method: "newcombe_stratified_holm",
        n: found.labels,
        note,
        producer: found.name,
        chance: found.chance,
    }
}

fn of_influence(found: Influence) -> Finding {
    let note = format!(
        "; of {}: a head that learns the window with its {} records has a log loss of {:.3} on what others \
         hold out, without them {:.3}; {} producers compared, which the interval is corrected for",
        found.words, found.records, found.with, found.without, found.compared
    );
    Finding {
        candidate: Some(found.with),
        baseline: Some(found.without),
        estimate: found.with - found.without,
        interval: Some(found.interval),
        method: "leave_one_producer_out_bootstrap_holm",
        n: found.n,
        note,
        producer: found.name,
        chance: None,
    }
}
