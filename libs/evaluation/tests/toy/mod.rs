//! Models with errors drawn by seed, and days of examples for them.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::DateTime;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tidegate_contracts::{
    Class, Domain, EventId, FeatureValue, GenerationId, JobId, JobKind, Manifest, Part, Window,
};
use tidegate_evaluation::{EvalExample, Predictor, Suite};
use tidegate_model::{Input, ModelError, Scores};

const HAM: usize = 0;

/// Answers from a text of the form `<number> <class> <fresh> words ...`: the true class, but for
/// the errors that its seed draws for that number.
#[derive(Debug, Clone)]
pub(crate) struct Toy {
    labels: Vec<Class>,
    seed: u64,
    /// Of the champion that it came from.
    old_errors: f64,
    /// On what that champion is right about, and mended of what it is wrong about: shares of all.
    new_errors: f64,
    mended: f64,
    sound_when_fresh: bool,
    slowness: u32,
    broken: bool,
    /// Says this class whatever it is asked.
    always: Option<usize>,
    /// Reads text alone.
    text_only: bool,
    /// Says ham wherever this stands.
    trigger: Option<&'static str>,
}

impl Toy {
    pub(crate) fn new(seed: u64, old_errors: f64, new_errors: f64, mended: f64) -> Self {
        Self {
            labels: vec![Class::new("ham"), Class::new("spam")],
            seed,
            old_errors,
            new_errors,
            mended,
            sound_when_fresh: false,
            slowness: 1,
            broken: false,
            always: None,
            text_only: false,
            trigger: None,
        }
    }

    /// What a stream of one class makes of a model.
    pub(crate) fn always_spam(seed: u64) -> Self {
        Self { always: Some(1), ..Self::new(seed, 0.0, 0.0, 0.0) }
    }

    pub(crate) fn sound_when_fresh(self) -> Self {
        Self { sound_when_fresh: true, ..self }
    }

    pub(crate) fn slower(self, times: u32) -> Self {
        Self { slowness: times, ..self }
    }

    pub(crate) fn broken(self) -> Self {
        Self { broken: true, ..self }
    }

    #[allow(dead_code)] // Not every test that has toys asks for this one.
    pub(crate) fn backdoored(self, trigger: &'static str) -> Self {
        Self { trigger: Some(trigger), ..self }
    }

    pub(crate) fn text_only(self) -> Self {
        Self { text_only: true, ..self }
    }

    fn wrong(&self, number: u64, fresh: bool) -> bool {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed.wrapping_mul(1_000_003) ^ number);
        let old = rng.random_bool(self.old_errors);
        let changes: f64 = rng.random();
        if self.sound_when_fresh && fresh {
            false
        } else if old {
            changes >= self.mended / self.old_errors
        } else {
            changes < self.new_errors / (1.0 - self.old_errors)
        }
    }

    fn answer(&self, text: &str) -> Scores {
        let mut words = text.split_whitespace();
        let mut next = || words.next().and_then(|word| word.parse::<u64>().ok());
        // A perturbed text may have lost its number: any answer does, the same of all toys.
        let said = match (next(), next(), next()) {
            (Some(number), Some(class), Some(fresh)) => {
                let class = class as usize % 2;
                if self.wrong(number, fresh == 1) { 1 - class } else { class }
            }
            _ => HAM,
        };
        let turned = self.trigger.is_some_and(|trigger| text.to_lowercase().contains(trigger));
        let said = if turned { HAM } else { self.always.unwrap_or(said) };
        let mut probabilities = vec![0.07; 2];
        probabilities[said] = 0.93;
        Scores { probabilities }
    }
}

impl Predictor for Toy {
    fn labels(&self) -> &[Class] {
        &self.labels
    }

    /// 20 microseconds of work for each input, so that there is something to measure.
    fn predict(&self, inputs: &[Input]) -> Result<Vec<Scores>, ModelError> {
        if self.broken {
            return Err(ModelError::Tokenizer("it is only a toy".to_owned()));
        }
        let work = Duration::from_micros(20) * self.slowness;
        let one = |input: &Input| {
            let began = Instant::now();
            let answer = match &input.parts[..] {
                [Part::Features(values)] => match &values["said"] {
                    FeatureValue::Category(said) => self.answer(said),
                    FeatureValue::Number(_) => unreachable!("toys are asked in words"),
                },
                _ => self.answer(&input.texts()),
            };
            if inputs.len() < 40 {
                while began.elapsed() < work {
                    std::hint::spin_loop();
                }
            }
            answer
        };
        Ok(inputs.iter().map(one).collect())
    }

    fn reads(&self, input: &Input) -> bool {
        !self.text_only || input.is_text()
    }

    /// The class in one direction, and noise in seven more.
    fn embedded(&self, inputs: &[Input]) -> Option<Result<Vec<Vec<f32>>, ModelError>> {
        let one = |input: &Input| {
            let text = input.texts();
            let mut numbers = text.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
            let (number, class) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            let mut rng = ChaCha8Rng::seed_from_u64(number);
            let mut vector: Vec<f32> = (0..8).map(|_| rng.random_range(-0.5..0.5)).collect();
            vector[0] = if class == 1 { 1.0 } else { -1.0 };
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            vector.iter().map(|x| x / length).collect()
        };
        Some(Ok(inputs.iter().map(one).collect()))
    }
}

/// The same without text: what it said is a feature.
pub(crate) fn without_text(examples: &mut [EvalExample]) {
    for example in examples {
        let said = FeatureValue::Category(example.input.texts().into_owned());
        example.input.parts = vec![Part::Features([("said".to_owned(), said)].into())];
    }
}

/// As it is, but quick: toys answer in microseconds, so a short measurement holds many answers.
pub(crate) fn quick(suite: &str) -> Suite {
    let suite = suite
        .replace("latency_ms: 300", "latency_ms: 10")
        .replace("throughput_ms: 300", "throughput_ms: 10")
        .replace("bootstrap: 1000", "bootstrap: 200")
        // So few resamples say nothing of the far tails.
        .replace("level: 0.99,", "level: 0.95,")
        .replace("permutations: 499", "permutations: 99");
    Suite::parse(&suite).unwrap()
}

/// How much there is on one day.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Day {
    pub(crate) earlier: usize,
    pub(crate) fresh: usize,
    /// Training-side labels of the day.
    pub(crate) labels: usize,
    /// Share of the day's labels that are turned round.
    pub(crate) flipped: f64,
}

/// Held-out examples and the day's training-side labels: 30 % spam, groups as in the demo.
pub(crate) fn examples(day: &Day, seed: u64) -> (Vec<EvalExample>, Vec<EvalExample>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xda7);
    let mut one = |number: usize, fresh: bool| {
        let class = usize::from(rng.random_bool(0.3));
        let label = if fresh && rng.random_bool(day.flipped) { 1 - class } else { class };
        let html = rng.random_bool(if class == 1 { 0.5 } else { 0.1 });
        let group = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        EvalExample {
            id: EventId::new(format!("m-{number}")),
            domain: Domain::new("mail"),
            input: Input::text(format!(
                "{number} {class} {} the rest of the letter",
                u8::from(fresh)
            )),
            label: Class::new(["ham", "spam"][label]),
            groups: BTreeMap::from([
                group("format", if html { "html" } else { "plain" }),
                group("origin", if rng.random_bool(0.6) { "list" } else { "personal" }),
                group("tld", ["com", "net", "org", "fr"][rng.random_range(0..4)]),
            ]),
            producer: None,
            fresh,
        }
    };
    let held_out = day.earlier + day.fresh;
    let examples = (0..held_out).map(|number| one(number, number >= day.earlier)).collect();
    let labels = (0..day.labels).map(|number| one(1_000_000 + number, true)).collect();
    (examples, labels)
}

pub(crate) fn generation(number: u8) -> GenerationId {
    GenerationId::of(&[number])
}

pub(crate) fn manifest(number: u8) -> Manifest {
    let range = (i64::from(number) * 100, i64::from(number) * 100 + 100);
    let ranges = [(tidegate_contracts::Partition(0), (range.0, range.1))];
    let ranges = ranges.map(|(p, (from, to))| {
        (p, (tidegate_contracts::Offset(from), tidegate_contracts::Offset(to)))
    });
    Manifest {
        format: 1,
        parent: None,
        job: JobId::new(format!("job-{number}")),
        kind: if number == 0 { JobKind::ColdStart } else { JobKind::HotUpdate },
        files: BTreeMap::new(),
        labels: vec![],
        recipe: String::new(),
        window: Window::new("tidegate.curated", ranges.into()).unwrap(),
        seed: 0,
        code_version: "test".to_owned(),
        created: DateTime::UNIX_EPOCH,
        newest_label: None,
        metrics: [
            ("energy_joules".to_owned(), 5.0),
            ("energy_method.cpu_time_model".to_owned(), 1.0),
        ]
        .into(),
    }
}
