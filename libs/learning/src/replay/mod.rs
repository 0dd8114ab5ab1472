//! The replay buffer: a bounded, balanced sample of all that was ever learnt.
mod file;

use std::collections::{BTreeMap, BTreeSet};

use half::f16;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use tidegate_contracts::{Class, EventId, Producer};

use tidegate_contracts::Domain;
use tidegate_model::Input;

use crate::{BalanceBy, Example, Rehearsal};

/// File of a generation: the replay buffer.
pub const REPLAY: &str = "replay.bin";

/// One remembered example.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Remembered {
    pub(crate) id: EventId,
    pub(crate) class: Class,
    pub(crate) weight: f32,
    pub(crate) domain: Domain,
    pub(crate) groups: BTreeMap<String, String>,
    pub(crate) producer: Option<Producer>,
    /// Bounded by the recipe's `text_bytes` and `part_bytes`.
    pub(crate) input: Input,
    /// Of the classes that there were when it was learnt; empty when none were recorded.
    pub(crate) logits: Vec<f16>,
    /// Kept here because it is asked for at every offer.
    stratum: String,
}

/// Balancing reservoir (Chrysakis and Moens 2020, "Online continual learning from imbalanced
/// data", ICML), whose strata are classes, groups, domains or their combinations: while there is
/// room all is kept; then an example of a rare stratum takes the place of one of the largest, and
/// one of a stratum that once was the largest that of another of its own, so that each stratum is
/// a uniform sample of what was seen of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Replay {
    items: Vec<Remembered>,
    balance_by: Vec<BalanceBy>,
    /// By [`Remembered::stratum_by`].
    strata: BTreeMap<String, Stratum>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Stratum {
    /// Examples offered.
    seen: u64,
    /// Examples in the buffer.
    kept: usize,
    /// It once was the largest.
    full: bool,
}

impl Remembered {
    pub(crate) fn new(example: &Example, rehearsal: &Rehearsal) -> Self {
        Self {
            id: example.id.clone(),
            class: example.label.clone(),
            weight: example.weight,
            domain: example.domain.clone(),
            groups: example.groups.clone(),
            producer: example.producer.clone(),
            input: example.input.bounded(rehearsal.text_bytes, rehearsal.part_bytes),
            logits: Vec::new(),
            stratum: String::new(),
        }
    }

    /// Its class, groups and domain as far as they are balanced by.
    fn stratum_by(&self, balance_by: &[BalanceBy]) -> String {
        let part = |by: &BalanceBy| match by {
            BalanceBy::Class => self.class.as_str().to_owned(),
            BalanceBy::Domain => self.domain.as_str().to_owned(),
            BalanceBy::Group => {
                let pairs: Vec<String> =
                    self.groups.iter().map(|(name, value)| format!("{name}={value}")).collect();
                pairs.join("\u{1e}")
            }
        };
        // Separators that no sane name holds; one that does shares a stratum and breaks nothing.
        balance_by.iter().map(part).collect::<Vec<_>>().join("\u{1f}")
    }
}

impl Replay {
    /// Examples in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Examples of each class.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Class, usize> {
        let mut counts = BTreeMap::new();
        for item in &self.items {
            *counts.entry(item.class.clone()).or_default() += 1;
        }
        counts
    }

    /// Examples of each domain.
    #[must_use]
    pub fn domains(&self) -> BTreeMap<Domain, usize> {
        let mut counts = BTreeMap::new();
        for item in &self.items {
            *counts.entry(item.domain.clone()).or_default() += 1;
        }
        counts
    }

    pub(crate) fn items(&self) -> &[Remembered] {
        &self.items
    }

    pub(crate) fn items_mut(&mut self) -> &mut [Remembered] {
        &mut self.items
    }

    /// Forgets all examples of other classes, and the logits of the others: they were recorded
    /// beside classes that are gone.
    pub(crate) fn keep_classes(&mut self, classes: &[Class]) {
        self.keep(|item| classes.contains(&item.class));
        self.items.iter_mut().for_each(|item| item.logits.clear());
    }

    /// Forgets all examples of these producers.
    pub(crate) fn forget(&mut self, without: &BTreeSet<Producer>) {
        if !without.is_empty() {
            self.keep(|item| !Producer::is_among(item.producer.as_ref(), without));
        }
    }

    fn keep(&mut self, wanted: impl Fn(&Remembered) -> bool) {
        let (kept, gone): (Vec<Remembered>, Vec<Remembered>) =
            std::mem::take(&mut self.items).into_iter().partition(wanted);
        for item in gone {
            self.stratum_of(&item.stratum).kept -= 1;
        }
        self.items = kept;
        self.strata.retain(|_, stratum| stratum.kept > 0);
    }

    /// Makes it balanced by other properties than before. How many examples were seen of each new
    /// stratum is estimated: a kept one stands for as many as were seen for each kept of its old.
    pub(crate) fn balance_by(&mut self, balance_by: &[BalanceBy]) {
        if self.balance_by == balance_by {
            return;
        }
        let mut seen: BTreeMap<String, f64> = BTreeMap::new();
        let mut strata: BTreeMap<String, Stratum> = BTreeMap::new();
        for item in &mut self.items {
            let old = self.strata[&item.stratum];
            item.stratum = item.stratum_by(balance_by);
            *seen.entry(item.stratum.clone()).or_default() += old.seen as f64 / old.kept as f64;
            strata.entry(item.stratum.clone()).or_default().kept += 1;
        }
        for (stratum, seen) in seen {
            strata.entry(stratum).or_default().seen = seen.round() as u64;
        }
        self.strata = strata;
        self.balance_by = balance_by.to_vec();
    }

    /// Offers one example.
    pub(crate) fn offer(
        &mut self,
        mut item: Remembered,
        rehearsal: &Rehearsal,
        rng: &mut ChaCha8Rng,
    ) {
        let capacity = rehearsal.capacity;
        self.balance_by(&rehearsal.balance_by);
        item.stratum = item.stratum_by(&self.balance_by);
        self.strata.entry(item.stratum.clone()).or_default().seen += 1;
        while self.items.len() > capacity {
            // The recipe asks for less than the champion's did.
            let victim = self.pick_of_largest(rng);
            let gone = self.items.swap_remove(victim);
            self.stratum_of(&gone.stratum).kept -= 1;
        }
        if self.items.len() < capacity {
            self.stratum_of(&item.stratum).kept += 1;
            self.items.push(item);
            return;
        }
        if capacity == 0 {
            return;
        }
        let largest = self.strata.values().map(|stratum| stratum.kept).max().unwrap_or_default();
        for stratum in self.strata.values_mut() {
            stratum.full |= stratum.kept == largest;
        }
        let own = self.strata[&item.stratum];
        if !own.full {
            let victim = self.pick_of_largest(rng);
            self.replace(victim, item);
        } else if rng.random_range(0..own.seen) < own.kept as u64 {
            let victim = self.pick_of(&item.stratum, rng);
            self.replace(victim, item);
        }
    }

    fn replace(&mut self, victim: usize, item: Remembered) {
        self.stratum_of(&item.stratum).kept += 1;
        let gone = std::mem::replace(&mut self.items[victim], item);
        self.stratum_of(&gone.stratum).kept -= 1;
    }

    fn stratum_of(&mut self, name: &str) -> &mut Stratum {
        self.strata.get_mut(name).expect("every item's stratum was seen")
    }

    fn pick_of_largest(&self, rng: &mut ChaCha8Rng) -> usize {
        let (stratum, _) = self
            .strata
            .iter()
            .max_by(|a, b| a.1.kept.cmp(&b.1.kept).then(b.0.cmp(a.0)))
            .expect("a full buffer has a largest stratum");
        self.pick_of(stratum, rng)
    }

    fn pick_of(&self, stratum: &str, rng: &mut ChaCha8Rng) -> usize {
        let of_it: Vec<usize> =
            (0..self.items.len()).filter(|&at| self.items[at].stratum == stratum).collect();
        of_it[rng.random_range(0..of_it.len())]
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn rehearsal(capacity: usize, balance_by: &[BalanceBy]) -> Rehearsal {
        Rehearsal { capacity, balance_by: balance_by.to_vec(), ..Rehearsal::default() }
    }

    /// Of class, domain and region.
    fn item(at: usize, class: &str, domain: &str, region: &str) -> Remembered {
        let example = Example {
            id: EventId::new(format!("e{at}")),
            input: Input::text(format!("text {at} ü")),
            label: Class::new(class),
            weight: 1.0,
            domain: Domain::new(domain),
            groups: BTreeMap::from([("region".to_owned(), region.to_owned())]),
            producer: None,
        };
        Remembered::new(&example, &Rehearsal::default())
    }

    fn offer_all(classes: &[&str], capacity: usize) -> Replay {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut replay = Replay::default();
        for (at, class) in classes.iter().enumerate() {
            replay.offer(
                item(at, class, "mail", "eu"),
                &rehearsal(capacity, &[BalanceBy::Class]),
                &mut rng,
            );
        }
        replay
    }

    fn count(replay: &Replay, of: impl Fn(&Remembered) -> bool) -> usize {
        replay.items().iter().filter(|item| of(item)).count()
    }

    #[test]
    fn a_rare_class_keeps_its_place_beside_a_common_one() {
        let mut stream = vec!["ham"; 5_000];
        stream.extend(["spam"; 40]);
        stream.extend(["ham"; 5_000]);
        let counts = offer_all(&stream, 100).counts();
        assert_eq!(counts[&Class::new("spam")], 40);
        assert_eq!(counts[&Class::new("ham")], 60);
    }

    #[test]
    fn a_rare_group_or_domain_keeps_its_place_where_the_recipe_says_so() {
        let fill = |balance_by: &[BalanceBy]| {
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let mut replay = Replay::default();
            for at in 0..4_000 {
                let domain = if at % 100 == 0 { "shop" } else { "mail" };
                let region = if at % 50 == 1 { "us" } else { "eu" };
                let class = if at % 2 == 0 { "ham" } else { "spam" };
                let item = item(at, class, domain, region);
                replay.offer(item, &rehearsal(120, balance_by), &mut rng);
            }
            (
                count(&replay, |item| item.domain.as_str() == "shop"),
                count(&replay, |item| item.groups["region"] == "us"),
                count(&replay, |item| item.class.as_str() == "ham"),
            )
        };
        let (shop, us, ham) = fill(&[BalanceBy::Class]);
        assert!(shop < 10 && us < 15 && ham == 60, "{shop} {us} {ham}");
        assert_eq!(fill(&[BalanceBy::Domain]).0, 40, "all there were");
        assert_eq!(fill(&[BalanceBy::Group]).1, 60);
        let (shop, us, _) = fill(&[BalanceBy::Class, BalanceBy::Group, BalanceBy::Domain]);
        // Three combinations occur: ham of both domains in eu, and spam of mail in both regions.
        assert!(shop >= 28 && us >= 28, "{shop} {us}");
    }

    #[test]
    fn each_class_is_a_uniform_sample_of_what_was_seen() {
        let replay = offer_all(&vec!["a"; 4_000], 400);
        let early = count(&replay, |item| item.id.as_str()[1..].parse::<usize>().unwrap() < 2_000);
        // Binomial(400, 1/2) has standard deviation 10.
        assert!((150..250).contains(&early));
    }

    #[test]
    fn balanced_by_something_else_it_goes_on_as_a_fair_sample() {
        let mut replay = offer_all(&[["a"; 3].as_slice(), &["b"; 1]].concat().repeat(500), 200);
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for at in 2_000..4_000 {
            let item = item(at, "a", "mail", "eu");
            replay.offer(item, &rehearsal(200, &[BalanceBy::Domain]), &mut rng);
        }
        assert_eq!(replay.strata.len(), 1);
        assert_eq!(replay.strata["mail"].seen, 4_000);
        assert_eq!(replay.strata["mail"].kept, 200);
        let early = count(&replay, |item| item.id.as_str()[1..].parse::<usize>().unwrap() < 2_000);
        assert!((70..130).contains(&early), "{early}");
    }

    #[test]
    fn classes_that_are_gone_leave_nothing_behind() {
        let mut replay = offer_all(&["a", "b", "c", "a", "b", "c"], 6);
        replay.items[0].logits = vec![f16::ONE];
        replay.keep_classes(&[Class::new("c"), Class::new("a")]);
        assert_eq!(replay.counts().into_values().collect::<Vec<_>>(), [2, 2]);
        assert!(replay.items().iter().all(|item| item.logits.is_empty()));
        assert_eq!(replay.strata.keys().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(Replay::from_bytes(&replay.to_bytes()).unwrap(), replay);
    }

    #[test]
    fn a_smaller_capacity_shrinks_it() {
        let mut replay = offer_all(&["a", "b", "a", "b", "a", "b"], 6);
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let again = replay.items()[0].clone();
        replay.offer(again.clone(), &rehearsal(2, &[BalanceBy::Class]), &mut rng);
        assert_eq!(replay.len(), 2);
        replay.offer(again, &rehearsal(0, &[BalanceBy::Class]), &mut rng);
        assert!(replay.is_empty());
    }
}
