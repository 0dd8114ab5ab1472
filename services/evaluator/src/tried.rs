//! What a stage has seen, and what follows from it.
//!
//! Every question is answered by an e-process, so that it may be looked at after each request and each label
//! (Ville's inequality): of labels the betting of [`Harm`] and [`EProcess`], of failures and of slow answers
//! a mixture over shares (Robbins 1970).
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tidegate_contracts::proto::v1;
use tidegate_evaluation::{
    EProcess, Harm, drift,
    sequential::{log_e_of_larger_share, share_at_all_times},
};
use tidegate_ledger::{StageEvidence, StageOutcome, StageTerms};

/// Different answers that are counted apart.
const ANSWERS: usize = 1_000;
/// Numbers that differ by no more than this share of the larger one are the same answer.
const SAME: f64 = 0.01;

/// Counts; the evidence does not depend on the order in which they came.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Tried {
    /// Requests that both answered.
    both: u64,
    /// Requests that the candidate failed.
    errors: u64,
    agreed: u64,
    slow: u64,
    better: u64,
    worse: u64,
    alike: u64,
    /// By answer: how often the candidate and the champion gave it.
    said: BTreeMap<String, (u64, u64)>,
}

impl Tried {
    /// One request that both were asked.
    pub(crate) fn pair(
        &mut self,
        answered: &v1::Prediction,
        other: &v1::Staged,
        terms: &StageTerms,
    ) {
        let is_candidates = other.other != other.candidate;
        if !other.error.is_empty() {
            // That the champion failed says nothing of the candidate.
            self.errors += u64::from(!is_candidates);
            return;
        }
        self.both += 1;
        let first = (&answered.label, answered.value, other.answered_ms);
        let second = (&other.label, other.value, other.other_ms);
        let (candidate, champion) = if is_candidates { (first, second) } else { (second, first) };
        let same = match (candidate.1, champion.1) {
            (Some(a), Some(b)) => (a - b).abs() <= SAME * a.abs().max(b.abs()),
            _ => candidate.0 == champion.0,
        };
        self.agreed += u64::from(same);
        self.slow += u64::from(candidate.2 > terms.latency * champion.2);
        // Numbers have no shares.
        if candidate.1.is_none() {
            self.say(candidate.0).0 += 1;
            self.say(champion.0).1 += 1;
        }
    }

    fn say(&mut self, label: &str) -> &mut (u64, u64) {
        let full = self.said.len() >= ANSWERS && !self.said.contains_key(label);
        self.said.entry(if full { String::new() } else { label.to_owned() }).or_default()
    }

    /// Differences on labels: above 0 where the candidate is better.
    pub(crate) fn labels(&mut self, differences: &[f64]) {
        for difference in differences {
            match difference {
                d if *d > 0.0 => self.better += 1,
                d if *d < 0.0 => self.worse += 1,
                _ => self.alike += 1,
            }
        }
    }

    fn requests(&self) -> u64 {
        self.both + self.errors
    }

    fn n(&self) -> u64 {
        self.better + self.worse + self.alike
    }

    fn differences(&self) -> impl Iterator<Item = f64> {
        let all = [(self.better, 1.0), (self.worse, -1.0), (self.alike, 0.0)];
        all.into_iter().flat_map(|(count, difference)| (0..count).map(move |_| difference))
    }

    fn harm(&self, margin: f64) -> Harm {
        let mut harm = Harm::beyond(margin);
        self.differences().for_each(|difference| harm.observe(difference));
        harm
    }

    /// That it loses no more than the margin (gate, 4.6).
    fn no_loss(&self, margin: f64) -> EProcess {
        let mut process = EProcess::new(-margin);
        self.differences().for_each(|difference| process.observe(difference));
        process
    }

    fn drift(&self) -> f64 {
        let share = |count: u64| count as f64 / self.both.max(1) as f64;
        let (candidate, champion): (Vec<f64>, Vec<f64>) =
            self.said.values().map(|said| (share(said.0), share(said.1))).unzip();
        drift::jensen_shannon(&champion, &candidate)
    }

    /// For the ledger, with as many digits as are worth reading.
    pub(crate) fn evidence(&self, terms: &StageTerms) -> StageEvidence {
        let rounded = |value: f64| (value * 1e3).round() / 1e3;
        StageEvidence {
            requests: self.requests(),
            errors: self.errors,
            agreed: self.agreed,
            slow: self.slow,
            labels: self.n(),
            better: self.better,
            worse: self.worse,
            log_harm: rounded(self.harm(terms.margin).log_e()),
            log_pass: rounded(self.no_loss(terms.margin).log_e()),
            drift: rounded(self.drift()),
        }
    }

    /// The end that is due at `now`, if any.
    pub(crate) fn end(
        &self,
        terms: &StageTerms,
        now: DateTime<Utc>,
    ) -> Option<(StageOutcome, String)> {
        if let Some(harm) = self.harmful(terms) {
            return Some((StageOutcome::Harmful, harm));
        }
        let waits = self.waits(terms, now);
        if waits.is_empty() {
            return Some((StageOutcome::Passed, self.words(terms)));
        }
        (now >= terms.until).then(|| {
            let why = format!("its time is over, and not shown is {}", waits.join("; "));
            (StageOutcome::Undecided, why)
        })
    }

    fn harmful(&self, terms: &StageTerms) -> Option<String> {
        let StageTerms { margin, alpha, errors, latency, .. } = *terms;
        let at = |log_e: f64| log_e >= -alpha.ln();
        let (requests, both) = (self.requests(), self.both);
        let what = if self.harm(margin).holds_at(alpha) {
            format!(
                "on {} labels it alone is right {} times and the champion alone {} times: worse by \
                 more than {:.1} points",
                self.n(),
                self.better,
                self.worse,
                100.0 * margin
            )
        } else if at(log_e_of_larger_share(self.errors, requests, errors)) {
            format!(
                "of {requests} requests it failed {}: more than {:.1} %",
                self.errors,
                100.0 * errors
            )
        } else if at(log_e_of_larger_share(self.slow, both, 0.5)) {
            format!(
                "{} of {both} answers took it longer than {latency} times the champion's time",
                self.slow
            )
        } else {
            return None;
        };
        Some(format!("{what}, with a probability of error of at most {alpha}"))
    }

    /// What is not shown yet.
    pub(crate) fn waits(&self, terms: &StageTerms, now: DateTime<Utc>) -> Vec<String> {
        let StageTerms { margin, alpha, errors, latency, .. } = *terms;
        let (requests, both, enough) = (self.requests(), self.both, -alpha.ln());
        let mut waits = vec![];
        if now < terms.earliest {
            waits.push(format!("{}", terms.earliest.format("%Y-%m-%d %H:%M UTC")));
        }
        if requests < terms.requests {
            waits.push(format!("{requests} of {} requests", terms.requests));
        }
        if self.n() < terms.labels {
            waits.push(format!("{} of {} labels", self.n(), terms.labels));
        }
        let no_loss = self.no_loss(margin);
        if terms.labels > 0 && !no_loss.holds_at(alpha) {
            waits.push(format!(
                "that it loses no more than {:.1} points (log evidence {:.2} of {enough:.2})",
                100.0 * margin,
                no_loss.log_e()
            ));
        }
        let most = share_at_all_times(self.errors, requests, 1.0 - alpha).high;
        if most > errors {
            waits.push(format!(
                "that it fails at most {:.1} % of requests (at most {:.1} % so far)",
                100.0 * errors,
                100.0 * most
            ));
        }
        let fast = log_e_of_larger_share(both - self.slow, both, 0.5);
        if fast < enough {
            waits.push(format!(
                "that an answer takes at most {latency} times the champion's time in the median \
                 (log evidence {fast:.2} of {enough:.2})"
            ));
        }
        waits
    }

    fn words(&self, terms: &StageTerms) -> String {
        let labels = match self.n() {
            0 => "no labels came".to_owned(),
            n => format!(
                "on {n} labels it alone is right {} times and the champion alone {} times",
                self.better, self.worse
            ),
        };
        format!(
            "of {} requests it failed {}, and gave the champion's answer to {:.1} % of the others, in \
             the median within {} times its time; {labels}",
            self.requests(),
            self.errors,
            100.0 * self.agreed as f64 / self.both.max(1) as f64,
            terms.latency
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> StageTerms {
        let now = Utc::now();
        StageTerms {
            share: 1.0,
            earliest: now,
            until: now + chrono::Duration::hours(1),
            requests: 300,
            labels: 0,
            margin: 0.05,
            alpha: 0.01,
            errors: 0.05,
            latency: 2.0,
        }
    }

    /// Of a shadow: the champion answered in 1 ms, the candidate as `said`.
    fn tried(count: usize, said: impl Fn(usize) -> Result<f64, ()>) -> Tried {
        let mut tried = Tried::default();
        for number in 0..count {
            let label = "spam".to_owned();
            let answered = v1::Prediction { label: label.clone(), ..v1::Prediction::default() };
            let other = v1::Staged {
                candidate: "new".into(),
                other: "new".into(),
                answered_ms: 1.0,
                ..v1::Staged::default()
            };
            let other = match said(number) {
                Ok(other_ms) => v1::Staged { label, other_ms, ..other },
                Err(()) => v1::Staged { error: "panicked".into(), ..other },
            };
            tried.pair(&answered, &other, &terms());
        }
        tried
    }

    fn end(tried: &Tried) -> Option<(StageOutcome, String)> {
        tried.end(&terms(), Utc::now())
    }

    #[test]
    fn one_that_answers_as_the_champion_does_passes_once_it_has_been_asked_enough() {
        assert_eq!(end(&tried(299, |_| Ok(1.0))), None);
        let all = tried(300, |_| Ok(1.0));
        let (outcome, why) = end(&all).unwrap();
        assert_eq!(outcome, StageOutcome::Passed, "{why}");
        assert_eq!((all.evidence(&terms()).agreed, all.drift()), (300, 0.0));
    }

    #[test]
    fn one_that_fails_or_is_slow_or_is_wrong_is_found_out_before_that() {
        let failing = tried(60, |number| if number % 4 == 0 { Err(()) } else { Ok(1.0) });
        let slow = tried(60, |_| Ok(3.0));
        let mut wrong = Tried::default();
        wrong.labels(&[-1.0; 20]);
        for (one, word) in [(failing, "failed 15"), (slow, "took it longer"), (wrong, "labels")] {
            let (outcome, why) = end(&one).unwrap();
            assert!(outcome == StageOutcome::Harmful && why.contains(word), "{why}");
        }
    }

    #[test]
    fn labels_that_are_asked_for_must_show_that_nothing_is_lost() {
        let terms = StageTerms { labels: 50, ..terms() };
        let mut one = tried(300, |_| Ok(1.0));
        one.labels(&[0.0; 50]);
        let waits = one.waits(&terms, Utc::now());
        assert!(waits.len() == 1 && waits[0].contains("loses no more"), "{waits:?}");
        one.labels(&[0.0; 200]);
        assert!(one.waits(&terms, Utc::now()).is_empty());
    }

    #[test]
    fn a_time_that_is_over_says_what_is_missing() {
        let terms = StageTerms { until: Utc::now(), ..terms() };
        let (outcome, why) = tried(10, |_| Ok(1.0)).end(&terms, Utc::now()).unwrap();
        assert_eq!(outcome, StageOutcome::Undecided);
        assert!(why.contains("10 of 300 requests"), "{why}");
    }
}
