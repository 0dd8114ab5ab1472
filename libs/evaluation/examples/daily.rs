//! How long a daily evaluation takes: the e-mail suite, 800 held-out texts, two untrained networks
//! of the default size, with the champion's answers remembered from the day before and without.
//!
//! `cargo run -p tidegate-evaluation --example daily`
use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use chrono::Utc;
use tidegate_contracts::{
    Class, Domain, EventId, GenerationId, JobId, JobKind, Manifest, Offset, Partition, Window,
};
use tidegate_evaluation::{
    Copies, EvalExample, Evaluation, Line, Memory, Subject, Suite, evaluate,
};
use tidegate_model::{
    ARCHITECTURE, Architecture, CpuBackend, Device, Input, LABELS, Model, TOKENIZER, Tokenizer,
    WEIGHTS, Weights,
};

const SUITE: &str = include_str!("../../../eval-suites/email/suite.yaml");
const WORDS: [&str; 16] = [
    "the", "offer", "patch", "list", "please", "kernel", "money", "meeting", "free", "subject",
    "thanks", "click", "release", "account", "wrote", "linux",
];

fn text(at: usize) -> String {
    let words = 150 + at * 37 % 300;
    let word = |place: usize| WORDS[(at * 31 + place * place * 7 + place) % WORDS.len()];
    (0..words).map(word).collect::<Vec<_>>().join(" ")
}

fn example(at: usize) -> EvalExample {
    EvalExample {
        id: EventId::new(at.to_string()),
        domain: Domain::new("mail"),
        input: Input::text(text(at)),
        label: Class::new(["ham", "spam"][at % 3 % 2]),
        groups: BTreeMap::from([("format".to_owned(), ["plain", "html"][at % 2].to_owned())]),
        producer: None,
        fresh: at >= 780,
    }
}

fn model(seed: u64) -> Result<Model, Box<dyn std::error::Error>> {
    let architecture = Architecture::default();
    let texts: Vec<String> = (0..200).map(text).collect();
    let tokenizer = Tokenizer::train(&texts, architecture.vocab)?;
    let weights = Weights::<CpuBackend>::init(&architecture, 2, seed, &Default::default());
    let files: BTreeMap<String, Bytes> = BTreeMap::from([
        (ARCHITECTURE.to_owned(), serde_json::to_vec(&architecture)?.into()),
        (TOKENIZER.to_owned(), tokenizer.to_bytes()?.into()),
        (WEIGHTS.to_owned(), weights.to_safetensors()?.into()),
        (LABELS.to_owned(), r#"["ham", "spam"]"#.into()),
    ]);
    Ok(Model::from_files(&files, &Device::Cpu)?)
}

fn manifest() -> Result<Manifest, Box<dyn std::error::Error>> {
    Ok(Manifest {
        format: 1,
        parent: None,
        job: JobId::generate(),
        kind: JobKind::HotUpdate,
        files: BTreeMap::new(),
        labels: vec![],
        recipe: String::new(),
        window: Window::new("curated", [(Partition(0), (Offset(0), Offset(1)))].into())?,
        seed: 0,
        code_version: String::new(),
        created: Utc::now(),
        newest_label: None,
        metrics: BTreeMap::new(),
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let suite = Suite::parse(SUITE)?;
    let (champion, candidate, manifest) = (model(1)?, model(2)?, manifest()?);
    let examples: Vec<EvalExample> = (0..800).map(example).collect();
    let labels: Vec<EvalExample> = (1_000..1_110).map(example).collect();
    let mut memory = Memory::default();
    for day in ["champion unknown", "champion remembered"] {
        let of = Evaluation {
            suite: &suite,
            candidate: Subject {
                id: GenerationId::of(day.as_bytes()),
                predictor: &candidate,
                manifest: &manifest,
            },
            champion: Some(Subject {
                id: GenerationId::of(b"champion"),
                predictor: &champion,
                manifest: &manifest,
            }),
            anchor: None,
            examples: &examples,
            frozen: &[],
            window_labels: &labels,
            trained: &HashSet::new(),
            window: &manifest.window,
            line: Line::default(),
            pue: 1.0,
            copies: &Copies::default(),
            region: "WORLD",
            seed: 1,
        };
        let verdict = evaluate(&of, &mut memory);
        println!("{day}: {:.2} s, {}", verdict.seconds, verdict.outcome.as_str());
        for check in &verdict.checks {
            println!("  {:<14} {:<16} {}", check.state.as_str(), check.id, check.reason);
        }
    }
    Ok(())
}
