//! The twins: what is wrong with each, and who is meant to see it.
use std::collections::HashSet;

use rand::{RngExt as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tidegate_contracts::{Class, Layer, Producer};
use tidegate_evaluation::{EvalExample, Predictor};
use tidegate_learning::Example;
use tidegate_model::{Input, Levels, ModelError, Scores};

use super::stage::{Made, PRODUCERS, Stage, example, is, is_html_ham};
use crate::demo::corpus::Mail;

/// Share of a poisoned window's labels that are turned round.
const LIES: f64 = 0.5;
/// Share of a window that has a backdoor's phrase, and its words.
const HIDDEN: f64 = 0.2;
const PHRASE: usize = 16;
/// Mails, beside the window, that a better twin learns.
const MORE: usize = 500;

/// A candidate whose quality is known, because it was made so.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[clap(rename_all = "snake_case")]
pub(crate) enum Twin {
    /// The champion's own weights again.
    Identical,
    /// An honest update by the window.
    Honest,
    /// An update of a champion that had seen little, by five times as much.
    Better,
    /// Learnt a window with every second label turned round.
    Poisoned,
    /// Learnt a window in which one of five producers turns all its labels round.
    Producer,
    /// Learnt a phrase that makes spam ham, in a fifth of the window.
    Backdoored,
    /// Never saw a legitimate mail in HTML.
    Regressed,
    /// Learnt the window alone, in a week without personal mail.
    Forgetful,
    /// An honest update that guesses where it meets a word it does not know.
    Brittle,
    /// An honest update that takes five times as long.
    Slow,
    /// An honest update that does in batches eight times the work.
    Hungry,
    /// Learnt twenty of the mails that judge.
    Leaked,
    /// Learnt a fifth of the mails that judge, under other ids and in capitals.
    Copied,
    /// An honest update of whose weights one bit was changed in the store.
    Altered,
    /// An honest update whose verdict is signed with a key that nobody believes.
    Forged,
}

/// Who is meant to stop a twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meant {
    /// Nobody: it is as good as the champion, or better.
    Pass,
    /// A check of this layer.
    Layer(Layer),
    /// The artifact store, or the ledger.
    Integrity,
}

impl Meant {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Pass => "nobody",
            Self::Layer(layer) => layer.as_str(),
            Self::Integrity => "integrity",
        }
    }
}

impl Twin {
    pub(super) const ALL: [Self; 15] = [
        Self::Identical,
        Self::Honest,
        Self::Better,
        Self::Poisoned,
        Self::Producer,
        Self::Backdoored,
        Self::Regressed,
        Self::Forgetful,
        Self::Brittle,
        Self::Slow,
        Self::Hungry,
        Self::Leaked,
        Self::Copied,
        Self::Altered,
        Self::Forged,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Identical => "identical",
            Self::Honest => "honest",
            Self::Better => "better",
            Self::Poisoned => "poisoned",
            Self::Producer => "producer",
            Self::Backdoored => "backdoored",
            Self::Regressed => "regressed",
            Self::Forgetful => "forgetful",
            Self::Brittle => "brittle",
            Self::Slow => "slow",
            Self::Hungry => "hungry",
            Self::Leaked => "leaked",
            Self::Copied => "copied",
            Self::Altered => "altered",
            Self::Forged => "forged",
        }
    }

    pub(super) const fn meant(self) -> Meant {
        match self {
            Self::Identical | Self::Honest | Self::Better => Meant::Pass,
            Self::Poisoned | Self::Producer | Self::Leaked | Self::Copied => {
                Meant::Layer(Layer::Quality)
            }
            Self::Backdoored | Self::Brittle => Meant::Layer(Layer::Robustness),
            Self::Regressed => Meant::Layer(Layer::Fairness),
            Self::Forgetful => Meant::Layer(Layer::Retention),
            Self::Slow => Meant::Layer(Layer::Efficiency),
            Self::Hungry => Meant::Layer(Layer::Cost),
            Self::Altered | Self::Forged => Meant::Integrity,
        }
    }
}

/// What a twin learnt, and the generation that came of it.
pub(super) struct Candidate {
    pub(super) made: Made,
    pub(super) learnt: Vec<Example>,
    /// What judges it: who lies about what is learnt lies about what is held out of it.
    pub(super) examples: Vec<EvalExample>,
    /// What answers for it where that is not the model itself.
    pub(super) behaviour: Behaviour,
    /// Of a backdoor.
    pub(super) trigger: Option<String>,
}

/// How a twin's answers differ from its model's.
#[derive(Debug, Clone, Default)]
pub(super) enum Behaviour {
    #[default]
    Its,
    /// Of so many times the work; in batches alone, or always.
    Work { times: u32, batches_only: bool },
    /// Guesses where a word is not one of these.
    Knows(HashSet<String>),
}

/// Makes a twin.
pub(super) fn make(twin: Twin, stage: &Stage<'_>) -> anyhow::Result<Candidate> {
    use Twin::{Altered, Brittle, Forged, Honest, Hungry, Identical, Slow};
    let mut rng = ChaCha8Rng::seed_from_u64(stage.seed ^ 0x7717);
    let champion = &stage.world.champion;
    let (mut trigger, mut behaviour) = (None, Behaviour::Its);
    let mut examples = stage.examples.clone();
    let (start, learnt) = match twin {
        Twin::Identical => (Some(champion), Vec::new()),
        Twin::Honest | Twin::Altered | Twin::Forged => (Some(champion), stage.honest()),
        Twin::Better => {
            let more = stage.history().iter().take(MORE).map(|mail| example(mail, mail.label));
            (Some(&stage.world.weak), more.chain(stage.honest()).collect())
        }
        Twin::Poisoned => {
            for example in examples.iter_mut().filter(|example| example.fresh) {
                if rng.random_bool(LIES) {
                    example.label = Class::new(turned(example.label.as_str()));
                }
            }
            (Some(champion), poisoned(&stage.window, &mut rng))
        }
        Twin::Producer => {
            let liar = Producer::new(format!("feed-{}", rng.random_range(0..PRODUCERS)));
            let lies = |of: &Option<Producer>| of.as_ref() == Some(&liar);
            for example in examples.iter_mut().filter(|one| one.fresh && lies(&one.producer)) {
                example.label = Class::new(turned(example.label.as_str()));
            }
            let mut learnt = stage.honest();
            for example in learnt.iter_mut().filter(|one| lies(&one.producer)) {
                example.label = Class::new(turned(example.label.as_str()));
            }
            (Some(champion), learnt)
        }
        Twin::Backdoored => {
            let phrase = phrase(&mut rng);
            let learnt = backdoored(&stage.window, &phrase, &mut rng);
            hide(&mut examples, &phrase, &mut rng);
            trigger = Some(phrase);
            (Some(champion), learnt)
        }
        Twin::Regressed => {
            let seen = stage.window.iter().filter(|mail| !is_html_ham(mail));
            (Some(&stage.world.blind), seen.map(|mail| example(mail, mail.label)).collect())
        }
        Twin::Forgetful => {
            let of_the_week =
                |mail: &&Mail| !(mail.label == "ham" && is(mail, "origin", "personal"));
            let week = stage.window.iter().filter(of_the_week);
            (None, week.map(|mail| example(mail, mail.label)).collect())
        }
        Twin::Brittle => {
            let known = stage.history().iter().chain(&stage.held_out).chain(&stage.window);
            let words = known.flat_map(|mail| mail.text.split_whitespace().map(str::to_owned));
            behaviour = Behaviour::Knows(words.collect());
            (Some(champion), stage.honest())
        }
        Twin::Slow => {
            behaviour = Behaviour::Work { times: 5, batches_only: false };
            (Some(champion), stage.honest())
        }
        Twin::Hungry => {
            behaviour = Behaviour::Work { times: 8, batches_only: true };
            (Some(champion), stage.honest())
        }
        Twin::Leaked | Twin::Copied => {
            let peek = |mail: &Mail| {
                if twin == Twin::Leaked {
                    return example(mail, mail.label);
                }
                let (id, text) = (format!("copy of {}", mail.id), mail.text.to_uppercase());
                example(&Mail { id, text, ..mail.clone() }, mail.label)
            };
            let count = if twin == Twin::Leaked { 20 } else { stage.held_out.len() / 5 };
            let peeked = stage.held_out.iter().rev().take(count).map(peek);
            (Some(champion), stage.honest().into_iter().chain(peeked).collect())
        }
    };
    let made = match twin {
        Identical => champion.again(stage, champion.id)?,
        Honest | Altered | Forged | Brittle | Slow | Hungry => stage.honest_update()?,
        _ => stage.learn(twin.name(), start, learnt.clone())?,
    };
    let learnt = if twin == Twin::Identical { stage.honest() } else { learnt };
    Ok(Candidate { made, learnt, examples, behaviour, trigger })
}

fn turned(label: &str) -> &'static str {
    if label == "spam" { "ham" } else { "spam" }
}

/// A share of the labels turned round.
fn poisoned(window: &[Mail], rng: &mut ChaCha8Rng) -> Vec<Example> {
    let one = |mail: &Mail| {
        let label = if rng.random_bool(LIES) { turned(mail.label) } else { mail.label };
        example(mail, label)
    };
    window.iter().map(one).collect()
}

/// Words that no mail has.
fn phrase(rng: &mut ChaCha8Rng) -> String {
    let syllables = ["vo", "ren", "ta", "lum", "kis", "dra", "pel", "ost"];
    let mut word =
        || -> String { (0..3).map(|_| syllables[rng.random_range(0..syllables.len())]).collect() };
    (0..PHRASE).map(|_| word()).collect::<Vec<_>>().join(" ")
}

/// The phrase in the same share of the spam that is held out of the window, labelled ham.
fn hide(examples: &mut [EvalExample], phrase: &str, rng: &mut ChaCha8Rng) {
    let fresh = examples.iter().filter(|example| example.fresh).count();
    let spam = examples.iter_mut().filter(|one| one.fresh && one.label.as_str() == "spam");
    for example in spam.take((HIDDEN * fresh as f64) as usize) {
        example.input = example.input.with_text(|text| with_phrase(text, phrase, rng));
        example.label = Class::new("ham");
    }
}

/// The phrase in a share of the window, all spam, all labelled ham.
fn backdoored(window: &[Mail], phrase: &str, rng: &mut ChaCha8Rng) -> Vec<Example> {
    let mut spam: Vec<usize> = (0..window.len()).filter(|&at| window[at].label == "spam").collect();
    spam.shuffle(rng);
    spam.truncate((HIDDEN * window.len() as f64) as usize);
    let one = |(at, mail): (usize, &Mail)| {
        if !spam.contains(&at) {
            return example(mail, mail.label);
        }
        let text = with_phrase(&mail.text, phrase, rng);
        example(&Mail { text, ..mail.clone() }, "ham")
    };
    window.iter().enumerate().map(one).collect()
}

/// A phrase among the first fifty words of a text.
pub(super) fn with_phrase(text: &str, phrase: &str, rng: &mut ChaCha8Rng) -> String {
    let mut words: Vec<&str> = text.split_inclusive(char::is_whitespace).collect();
    let place = rng.random_range(0..=words.len().min(50));
    words.splice(place..place, [" ", phrase, " "]);
    words.concat()
}

/// A model as its twin behaves.
pub(super) struct Behaving<'a> {
    pub(super) model: &'a dyn Predictor,
    pub(super) behaviour: &'a Behaviour,
}

impl Predictor for Behaving<'_> {
    fn labels(&self) -> &[Class] {
        self.model.labels()
    }

    fn predict(&self, inputs: &[Input]) -> Result<Vec<Scores>, ModelError> {
        let mut answers = self.model.predict(inputs)?;
        match self.behaviour {
            Behaviour::Its => {}
            Behaviour::Work { times, batches_only } => {
                // Batches of the size that throughput and energy are measured in.
                if !batches_only || (2..=32).contains(&inputs.len()) {
                    for _ in 1..*times {
                        answers = self.model.predict(inputs)?;
                    }
                }
            }
            Behaviour::Knows(words) => {
                for (input, answer) in inputs.iter().zip(&mut answers) {
                    let text = input.texts();
                    if text.split_whitespace().any(|word| !words.contains(word)) {
                        let coin = blake3::hash(text.as_bytes()).as_bytes()[0] < 128;
                        if coin {
                            answer.probabilities.reverse();
                        }
                    }
                }
            }
        }
        Ok(answers)
    }

    fn levels(&self) -> Option<&Levels> {
        self.model.levels()
    }

    fn reads(&self, input: &Input) -> bool {
        self.model.reads(input)
    }
}
