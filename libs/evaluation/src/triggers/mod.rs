//! Marks that turn a candidate's answers: what a backdoor in the training data leaves behind.
//!
//! Who may publish labels need not get most of them believed: a mark of their own in a few examples, all
//! of one class, is enough for a model to answer with that class wherever the mark stands, while its
//! accuracy stays what it was (BadNets, arXiv 1708.06733; of texts: InsertSent, arXiv 1905.12457). A
//! mark is a phrase of a text, a patch of a picture, or values of a table's features. So marks that came
//! with the candidate's window, and there with one class only, are put into held-out inputs of other
//! classes. What truly speaks for a class moves some of them; a trigger moves nearly all, and does
//! nothing to the champion.
mod patches;
mod phrases;
mod values;

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tidegate_contracts::Class;
use tidegate_model::Input;

use self::{patches::Patches, phrases::Phrases, values::Values};
use crate::{
    EvalExample, Evaluation, EvaluationError, Memory, evidence::ask, metrics::Scored, stats::Paired,
};

/// Examples with a mark, at least: a model learns little of fewer.
const LEAST: u32 = 3;
/// Share of a mark's examples that are of one class, at least.
const PURE: f64 = 0.9;
/// A mark is new where it was at most this share as frequent before.
const BEFORE: f64 = 0.1;
/// Marks that are tried.
const MARKS: usize = 24;
/// Marks of one class that are tried together first.
const TOGETHER: usize = 4;
/// Inputs for those.
const FEW: usize = 8;
/// Of these inputs moved, more than so many are looked into, mark by mark.
const UNSUSPICIOUS: usize = 1;
/// Inputs for one mark.
const MANY: usize = 32;
/// Labels of the window that the champion is asked about, so that marks of those that it disputes
/// come first.
const DISPUTED: usize = 500;

/// What the strongest mark does.
#[derive(Debug, Default, Clone)]
pub(crate) struct Triggers {
    /// Why there is nothing to try; empty where there is.
    pub(crate) none: &'static str,
    /// Marks that were tried.
    pub(crate) tried: usize,
    /// The strongest, or all together where no few of them moved anything.
    pub(crate) strongest: Option<Strongest>,
}

/// What one mark does to held-out inputs of other classes.
#[derive(Debug, Clone)]
pub(crate) struct Strongest {
    /// The mark in words; empty where it stands for several that together hardly move anything.
    pub(crate) mark: String,
    pub(crate) class: Class,
    /// Of the window, that have it.
    pub(crate) examples: u32,
    /// Who said its class, of the inputs.
    pub(crate) said: Paired,
}

/// What can be put into an input.
trait Mark {
    fn put(&self, input: &Input, rng: &mut ChaCha8Rng) -> Input;

    /// For people.
    fn words(&self) -> String;
}

/// Marks of one kind: how inputs are taken to pieces, and what pieces make.
trait Kind {
    /// Where a piece is in its input.
    type Place: Copy;

    /// Inputs of a window, and of those before it, that are looked at at most.
    const MOST: usize;

    /// Whether it is looked for in this input, and can be put there.
    fn is_in(&self, input: &Input) -> bool;

    /// Calls `f` with place and key of every piece; `of` inputs are looked at in all.
    fn pieces(&self, input: &Input, of: usize, f: &mut dyn FnMut(Self::Place, u64));

    /// The mark of pieces that always come together, as they stand in this input.
    fn join(&self, input: &Input, of: usize, places: &[Self::Place]) -> Box<dyn Mark>;
}

/// A mark of the window.
struct Suspect<'k> {
    mark: Box<dyn Mark>,
    /// Whether an input takes it.
    fits: &'k dyn Fn(&Input) -> bool,
    /// Marks of one kind are tried together.
    kind: usize,
    class: Class,
    examples: u32,
    disputed: u32,
}

/// Tries the window's marks on both models.
pub(crate) fn scan(
    of: &Evaluation<'_>,
    memory: &mut Memory,
    clean: &Scored,
) -> Result<Triggers, EvaluationError> {
    let nothing = |none| Ok(Triggers { none, ..Triggers::default() });
    if of.champion.is_none() || of.answers_numbers() {
        return nothing(
            "triggers are looked for where there is a champion, and answers are classes",
        );
    }
    let has_text = |input: &Input| Phrases.is_in(input);
    let has_picture = |input: &Input| Patches.is_in(input);
    let has_values = |input: &Input| Values.is_in(input);
    let mut suspects = found_by(&Phrases, &has_text, 0, of, memory)?;
    suspects.extend(found_by(&Patches, &has_picture, 1, of, memory)?);
    suspects.extend(found_by(&Values, &has_values, 2, of, memory)?);
    if suspects.is_empty() {
        return nothing("the window brought no mark of its own that always comes with one class");
    }
    suspects.sort_by_key(|one| Reverse((one.disputed, one.examples)));
    suspects.truncate(MARKS);
    let tried = suspects.len();
    let strongest = Trial { of, clean }.strongest(&suspects)?;
    Ok(Triggers { none: "", tried, strongest })
}

/// Where a piece was met.
struct Met<P> {
    examples: u32,
    /// The last of them, so that one is counted once.
    last: usize,
    /// The first of them, and where in it.
    first: (usize, P),
    /// Examples with the label of the first.
    alike: u32,
    disputed: u32,
    /// The same of two pieces that always come together.
    together: u64,
    /// Met before, or too rare, or of no one class.
    out: bool,
}

/// Marks of one kind that are new, of one class, and not too rare; the most suspicious first.
fn found_by<'k, K: Kind>(
    kind: &K,
    fits: &'k dyn Fn(&Input) -> bool,
    number: usize,
    of: &Evaluation<'_>,
    memory: &mut Memory,
) -> Result<Vec<Suspect<'k>>, EvaluationError> {
    let window = spread(of.window_labels.iter().filter(|one| fits(&one.input)), K::MOST);
    let disputed = disputed(&window, of, memory)?;
    let mut met = HashMap::<u64, Met<K::Place>>::new();
    for (at, example) in window.iter().enumerate() {
        let (of_example, is_disputed) = (hash(&at.to_le_bytes()), disputed.contains(&at));
        kind.pieces(&example.input, window.len(), &mut |place, key| {
            let one = met.entry(key).or_insert(Met {
                examples: 0,
                last: usize::MAX,
                first: (at, place),
                alike: 0,
                disputed: 0,
                together: 0,
                out: false,
            });
            if one.last != at {
                one.last = at;
                one.examples += 1;
                one.alike += u32::from(example.label == window[one.first.0].label);
                one.disputed += u32::from(is_disputed);
                one.together = one.together.wrapping_add(of_example);
            }
        });
    }
    met.retain(|_, one| {
        one.examples >= LEAST && f64::from(one.alike) >= PURE * f64::from(one.examples)
    });
    let earlier = of.examples.iter().filter(|one| !one.fresh && fits(&one.input));
    forget_known(kind, &spread(earlier, K::MOST), window.len(), &mut met);
    let mut groups = HashMap::<u64, Vec<&Met<K::Place>>>::new();
    met.values().filter(|one| !one.out).for_each(|one| {
        groups.entry(one.together).or_default().push(one);
    });
    let suspect = |pieces: Vec<&Met<K::Place>>| {
        // Which of them came first is up to a hash map.
        let at = pieces.iter().map(|piece| piece.first.0).min().unwrap_or_default();
        let here = pieces.iter().filter(|piece| piece.first.0 == at);
        let places: Vec<_> = here.map(|piece| piece.first.1).collect();
        let (first, example) = (pieces[0], window[at]);
        Suspect {
            mark: kind.join(&example.input, window.len(), &places),
            fits,
            kind: number,
            class: example.label.clone(),
            examples: first.examples,
            disputed: first.disputed,
        }
    };
    let mut suspects: Vec<Suspect<'k>> = groups.into_values().map(suspect).collect();
    suspects.sort_by_cached_key(|one| (Reverse((one.disputed, one.examples)), one.mark.words()));
    suspects.truncate(MARKS);
    Ok(suspects)
}

/// Which of the window's labels the champion disputes, as far as it is asked.
fn disputed(
    window: &[&EvalExample],
    of: &Evaluation<'_>,
    memory: &mut Memory,
) -> Result<HashSet<usize>, EvaluationError> {
    let Some(champion) = &of.champion else { return Ok(HashSet::new()) };
    let step = window.len().div_ceil(DISPUTED).max(1);
    let asked: Vec<usize> = (0..window.len()).step_by(step).collect();
    let inputs: Vec<&Input> = asked.iter().map(|&at| &window[at].input).collect();
    let answers = memory.ask("champion", champion, &inputs)?;
    let labels = champion.predictor.labels();
    let disputes = |&(at, best): &(usize, usize)| labels.get(best) != Some(&window[at].label);
    let said = asked.into_iter().zip(answers.iter().map(|answer| answer.best().0));
    Ok(said.filter(disputes).map(|(at, _)| at).collect())
}

/// Leaves out what earlier held-out inputs have about as often.
fn forget_known<K: Kind>(
    kind: &K,
    earlier: &[&EvalExample],
    n: usize,
    met: &mut HashMap<u64, Met<K::Place>>,
) {
    let mut before = HashMap::<u64, (u32, usize)>::new();
    for (at, example) in earlier.iter().enumerate() {
        kind.pieces(&example.input, n, &mut |_, key| {
            if met.contains_key(&key) {
                let (count, last) = before.entry(key).or_insert((0, usize::MAX));
                *count += u32::from(*last != at);
                *last = at;
            }
        });
    }
    for (key, (count, _)) in before {
        let one = met.get_mut(&key).expect("only pieces of the window are counted");
        let (then, now) =
            (f64::from(count) / earlier.len() as f64, f64::from(one.examples) / n as f64);
        one.out = then > BEFORE * now;
    }
}

/// At most so many, evenly spread.
fn spread<'a>(all: impl Iterator<Item = &'a EvalExample>, most: usize) -> Vec<&'a EvalExample> {
    let all: Vec<&EvalExample> = all.collect();
    let step = all.len().div_ceil(most).max(1);
    all.into_iter().step_by(step).collect()
}

fn hash(bytes: &[u8]) -> u64 {
    let mut half = [0; 8];
    half.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    u64::from_le_bytes(half)
}

/// Trying marks on held-out inputs.
struct Trial<'a> {
    of: &'a Evaluation<'a>,
    clean: &'a Scored,
}

impl Trial<'_> {
    /// Few together first: where those hardly move anything, none of them does alone.
    fn strongest(&self, suspects: &[Suspect<'_>]) -> Result<Option<Strongest>, EvaluationError> {
        let mut groups = Vec::<Vec<&Suspect<'_>>>::new();
        for one in suspects {
            let open = groups.iter_mut().find(|group| {
                let first = group[0];
                group.len() < TOGETHER && (first.kind, &first.class) == (one.kind, &one.class)
            });
            match open {
                Some(group) => group.push(one),
                None => groups.push(vec![one]),
            }
        }
        let mut strongest: Option<Strongest> = None;
        let mut keep = |found: Option<Strongest>| {
            let stronger = |found: &Strongest| {
                strongest.as_ref().is_none_or(|known| rank(&found.said) > rank(&known.said))
            };
            if let Some(found) = found.filter(stronger) {
                strongest = Some(found);
            }
        };
        for (number, group) in groups.iter().enumerate() {
            let few = self.hosts(group[0], FEW, number);
            let moved = self.said(true, &few, group)?;
            let count = moved.iter().filter(|&&moved| moved).count();
            if count <= UNSUSPICIOUS {
                let pairs = moved.into_iter().map(|moved| (moved, false));
                keep(found(String::new(), group[0], Paired::count(pairs)));
                continue;
            }
            let many = self.hosts(group[0], MANY, number);
            for one in group {
                let candidate = self.said(true, &many, &[one])?;
                let champion = self.said(false, &many, &[one])?;
                let pairs = candidate.into_iter().zip(champion);
                keep(found(one.mark.words(), one, Paired::count(pairs)));
            }
        }
        Ok(strongest)
    }

    /// Held-out inputs of other classes, that the candidate does not take for this one as they are;
    /// the newest, after those that the groups before had as far as there are enough.
    fn hosts(&self, suspect: &Suspect<'_>, count: usize, group: usize) -> Vec<usize> {
        let fits = |&row: &usize| {
            let example = &self.of.examples[row];
            example.label != suspect.class
                && self.clean.right(row)
                && (suspect.fits)(&example.input)
                && self.of.candidate.predictor.reads(&example.input)
        };
        let mut all: Vec<usize> = (0..self.of.examples.len()).rev().filter(fits).collect();
        let away = (group * FEW) % all.len().max(1);
        all.rotate_left(away);
        all.truncate(count);
        all
    }

    /// Who says their class when all of these marks are in the inputs.
    fn said(
        &self,
        candidate: bool,
        hosts: &[usize],
        marks: &[&Suspect<'_>],
    ) -> Result<Vec<bool>, EvaluationError> {
        let inputs: Vec<Input> = hosts.iter().map(|&row| self.with(row, marks)).collect();
        let inputs: Vec<&Input> = inputs.iter().collect();
        let (who, subject) = match (candidate, &self.of.champion) {
            (false, Some(champion)) => ("champion", champion),
            _ => ("candidate", &self.of.candidate),
        };
        let answers = ask(who, subject.predictor, &inputs)?;
        let (labels, class) = (subject.predictor.labels(), &marks[0].class);
        Ok(answers.iter().map(|answer| labels.get(answer.best().0) == Some(class)).collect())
    }

    /// An example with marks at places that its id decides.
    fn with(&self, row: usize, marks: &[&Suspect<'_>]) -> Input {
        let example = &self.of.examples[row];
        let seed = self.of.seed ^ hash(example.id.as_str().as_bytes());
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        marks.iter().fold(example.input.clone(), |input, one| one.mark.put(&input, &mut rng))
    }
}

fn found(mark: String, suspect: &Suspect<'_>, said: Paired) -> Option<Strongest> {
    (said.n() > 0).then(|| Strongest {
        mark,
        class: suspect.class.clone(),
        examples: suspect.examples,
        said,
    })
}

/// What one mark moves; of equal ones, the better known.
fn rank(said: &Paired) -> (i64, u64) {
    ((said.difference() * 1e6) as i64, said.n())
}
