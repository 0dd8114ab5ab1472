//! A part of a window that is not learnt from, to measure by.
use std::collections::BTreeMap;

use tidegate_contracts::Class;
use tidegate_model::Task;

use crate::Example;

/// Divides into what is learnt from and what measures, each in the order it had. Of each class, or
/// of all where labels are no classes, the `share` is held back, rounded down, and never all: which ones, is a hash of seed and id, so that
/// a resumed job divides alike.
pub(crate) fn hold_back(
    examples: &[Example],
    share: f64,
    seed: u64,
    task: Task,
) -> (Vec<Example>, Vec<Example>) {
    let mut of_class: BTreeMap<Option<&Class>, Vec<(u64, usize)>> = BTreeMap::new();
    for (at, example) in examples.iter().enumerate() {
        let class = (task == Task::Classification).then_some(&example.label);
        of_class.entry(class).or_default().push((lot(example, seed), at));
    }
    let mut is_held = vec![false; examples.len()];
    for lots in of_class.values_mut() {
        lots.sort_unstable();
        let count = ((lots.len() as f64 * share) as usize).min(lots.len() - 1);
        lots[..count].iter().for_each(|&(_, at)| is_held[at] = true);
    }
    let part = |held: bool| {
        let chosen = examples.iter().zip(&is_held).filter(|(_, is_held)| **is_held == held);
        chosen.map(|(example, _)| example.clone()).collect()
    };
    (part(false), part(true))
}

fn lot(example: &Example, seed: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(example.id.as_str().as_bytes());
    let hash = hasher.finalize();
    let (bytes, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    u64::from_le_bytes(*bytes)
}

#[cfg(test)]
mod tests {
    use tidegate_contracts::{Domain, EventId};
    use tidegate_model::Input;

    use super::*;

    fn example(at: usize, class: &str) -> Example {
        Example {
            id: EventId::new(format!("e{at}")),
            input: Input::text(format!("text {at}")),
            label: Class::new(class),
            weight: 1.0,
            domain: Domain::new("mail"),
            groups: BTreeMap::new(),
            producer: None,
        }
    }

    #[test]
    fn a_share_of_each_class_is_held_back_and_never_all_of_one() {
        let mut examples: Vec<Example> = (0..40).map(|at| example(at, "ham")).collect();
        examples.extend((40..50).map(|at| example(at, "spam")));
        examples.push(example(50, "rare"));
        let (learnt, held) = hold_back(&examples, 0.25, 3, Task::Classification);
        let of = |part: &[Example], class: &str| {
            part.iter().filter(|example| example.label.as_str() == class).count()
        };
        assert_eq!(["ham", "spam", "rare"].map(|class| of(&held, class)), [10, 2, 0]);
        assert_eq!(learnt.len() + held.len(), examples.len());
        assert_eq!(hold_back(&examples, 0.25, 3, Task::Classification), (learnt.clone(), held));
        assert_ne!(hold_back(&examples, 0.25, 4, Task::Classification).0, learnt);
        assert_eq!(hold_back(&examples, 0.0, 3, Task::Classification).0, examples);
    }
}
