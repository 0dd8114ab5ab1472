//! What is kept in files.
use burn::module::{Module as _, ModuleVisitor, Param, ParamId};
use burn::tensor::{Tensor, backend::Backend};
use tidegate_model::{Batch, Counts, CpuBackend, Features, ModelError, Weights};

use crate::samples::{self, architecture, load, random, read, write};

fn refused(bytes: &[u8]) -> ModelError {
    Weights::<CpuBackend>::from_safetensors(&architecture(), 3, bytes, &Default::default())
        .unwrap_err()
}

/// Bits of the logits of the samples.
fn logits(weights: &Weights<CpuBackend>) -> Vec<Vec<u32>> {
    let features = samples::featurizer(&architecture()).features_all(&samples::inputs()).unwrap();
    let texts: Vec<&Features> = features.iter().collect();
    let classes = weights.network.classes();
    let wide = weights.wide.logits(&texts);
    let batch = Batch::new(&texts, &Default::default()).with_wide(wide, classes);
    let logits: Vec<f32> = weights.network.forward(&batch).logits.into_data().into_vec().unwrap();
    logits.chunks_exact(classes).map(|row| row.iter().map(|v| v.to_bits()).collect()).collect()
}

#[derive(Default)]
struct Ids(Vec<ParamId>);

impl<B: Backend> ModuleVisitor<B> for Ids {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.0.push(param.id);
    }
}

fn ids(weights: &Weights<CpuBackend>) -> Vec<ParamId> {
    let mut ids = Ids::default();
    weights.network.visit(&mut ids);
    ids.0
}

#[test]
fn what_was_saved_reads_back_to_the_bit_under_the_same_ids() {
    let bytes = random(&architecture(), 3, 1);
    let weights = load(&architecture(), 3, &bytes);
    assert_eq!(weights.to_safetensors().unwrap(), bytes);
    let again = load(&architecture(), 3, &weights.to_safetensors().unwrap());
    assert_eq!(again.wide, weights.wide);
    assert_eq!(logits(&again), logits(&weights));
    let mut ids = (ids(&weights), ids(&again));
    assert_eq!(ids.0, ids.1);
    ids.0.sort_unstable_by_key(ParamId::val);
    ids.0.dedup();
    assert_eq!(ids.0.len(), read(&bytes).len() - 2, "every parameter has an id of its own");
}

#[test]
fn what_is_counted_is_added_under_one_heat_and_taken_out_again() {
    let weights = load(&architecture(), 3, &random(&architecture(), 3, 1));
    let features = samples::featurizer(&architecture()).features_all(&samples::inputs()).unwrap();
    let texts: Vec<&Features> = features.iter().collect();
    let mut counts = Counts::none(&architecture(), 3, 0.5, 1.5);
    counts.heat = 4.0;
    texts.iter().enumerate().for_each(|(at, text)| counts.add(text, at % 3, 1.0));
    let floats = |weights: &Weights<CpuBackend>| -> Vec<f32> {
        logits(weights).into_iter().flatten().map(f32::from_bits).collect()
    };
    let odds = counts.evidence().logits(&texts);
    let answers = weights.clone().with(&counts);
    assert!(odds.iter().any(|odds| odds.abs() > 0.1), "{odds:?}");
    for ((plain, odds), found) in floats(&weights).iter().zip(odds).zip(floats(&answers)) {
        assert!(((plain + 1.5 * odds) / 4.0 - found).abs() < 1e-4, "{plain} {odds} {found}");
    }
    let back = read(&answers.without(&counts).to_safetensors().unwrap());
    for (name, (shape, values)) in read(&weights.to_safetensors().unwrap()) {
        let apart = values.iter().zip(&back[&name].1).map(|(a, b)| (a - b).abs());
        let apart = apart.fold(0.0, f32::max);
        let bound = if name == "wide.rows" { 1e-5 } else { 0.0 };
        assert!(shape == back[&name].0 && apart <= bound, "{name}: {apart}");
    }
}

#[test]
fn a_seed_names_its_weights() {
    let fresh = |seed| {
        let weights = Weights::<CpuBackend>::init(&architecture(), 3, seed, &Default::default());
        weights.to_safetensors().unwrap()
    };
    assert_eq!(fresh(1), fresh(1));
    assert_ne!(fresh(1), fresh(2));
}

#[test]
fn new_labels_leave_the_old_logits_as_they_were() {
    let old = load(&architecture(), 3, &random(&architecture(), 3, 2));
    let new = old.clone().grow_labels(5);
    assert_eq!((new.network.classes(), new.wide.classes()), (5, 5));
    for (before, after) in logits(&old).iter().zip(logits(&new)) {
        assert_eq!(before[..], after[..3]);
        assert_eq!(after[3..], [0, 0], "a new class starts without evidence");
    }
    let head = read(&new.to_safetensors().unwrap()).remove("head.weight").unwrap();
    assert_eq!(head.0, [16, 5]);
    // The optimiser must not find state of the old shape.
    assert_eq!(ids(&old).iter().filter(|id| !ids(&new).contains(id)).count(), 2);
    assert_eq!(ids(&old.clone().grow_labels(3)), ids(&old));
}

#[test]
fn a_file_with_anything_wrong_is_refused_by_the_name_of_the_tensor() {
    let tensors = read(&random(&architecture(), 3, 3));

    let mut missing = tensors.clone();
    missing.remove("blocks.1.attention.key");
    let error = refused(&write(&missing)).to_string();
    assert!(error.contains("`blocks.1.attention.key` is missing"), "{error}");

    let mut unknown = tensors.clone();
    unknown.insert("blocks.2.extra".to_owned(), (vec![1], vec![0.0]));
    let error = refused(&write(&unknown)).to_string();
    assert!(error.contains("`blocks.2.extra` in the weights is unknown"), "{error}");

    let mut shape = tensors.clone();
    shape.insert("head.weight".to_owned(), (vec![16, 2], vec![0.0; 32]));
    let error = refused(&write(&shape)).to_string();
    assert!(error.contains("`head.weight` has shape [16, 2]"), "{error}");
    assert!(error.contains("needs [16, 3]"), "{error}");

    let mut nan = tensors;
    nan.get_mut("wide.rows").unwrap().1[7] = f32::NAN;
    let error = refused(&write(&nan)).to_string();
    assert!(error.contains("`wide.rows` holds a value that is not finite at index 7"), "{error}");
}

#[test]
fn a_truncated_or_altered_file_never_loads_as_if_nothing_was() {
    let bytes = random(&architecture(), 3, 4);
    for length in [0, 1, 7, 8, 9, 100, bytes.len() / 2, bytes.len() - 1] {
        let error = refused(&bytes[..length]);
        assert!(matches!(error, ModelError::BadFile { .. }), "{length}: {error}");
        assert!(error.to_string().contains("weights.safetensors"), "{error}");
    }
    let mut huge_header = bytes.clone();
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(refused(&huge_header), ModelError::BadFile { .. }));
    // Every byte of the header, changed: an error, or a file that says the same.
    let header = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    for at in 8..header {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        let read = Weights::<CpuBackend>::from_safetensors(
            &architecture(),
            3,
            &altered,
            &Default::default(),
        );
        assert!(read.is_err(), "byte {at} of the header was changed and nobody saw it");
    }
}
