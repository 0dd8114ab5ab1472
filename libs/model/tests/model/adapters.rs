//! Low-rank changes and prefixes beside frozen weights.
use bytes::Bytes;
use tidegate_model::{
    ADAPTER_WEIGHTS, ADAPTERS, Adapters, Architecture, Batch, CpuBackend, Device, Features, Model,
    Task, Weights,
};

use crate::samples::{self, architecture, files, inputs, random, read, write};

const ADAPTED: Adapters =
    Adapters { attention_rank: 3, expert_rank: 2, alpha: 4.0, prefix: 2, head: false };

fn adapted(adapters: &Adapters, adapter_bytes: Option<&[u8]>) -> Weights<CpuBackend> {
    let base = random(&architecture(), 3, 5);
    let device = Default::default();
    Weights::with_adapters(&architecture(), adapters, 3, (&base, adapter_bytes), 11, &device)
        .unwrap()
}

/// Adapters with no value left at its start.
fn trained(adapters: &Adapters) -> Vec<u8> {
    let mut tensors = read(&adapted(adapters, None).adapters_to_safetensors(adapters).unwrap());
    for (at, value) in tensors.values_mut().flat_map(|(_, values)| values).enumerate() {
        *value += ((at * 37 % 101) as f32 - 50.0) / 200.0;
    }
    write(&tensors)
}

fn logits(weights: &Weights<CpuBackend>) -> Vec<f32> {
    let featurizer = samples::featurizer(&architecture());
    let features: Vec<Features> =
        inputs().iter().map(|input| featurizer.features(input).unwrap()).collect();
    let texts: Vec<&Features> = features.iter().collect();
    let output = weights.network.forward(&Batch::new(&texts, &Default::default()));
    output.logits.into_data().into_vec().unwrap()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn fresh_low_rank_changes_change_no_answer() {
    let base = samples::load(&architecture(), 3, &random(&architecture(), 3, 5));
    let fresh = adapted(&Adapters { prefix: 0, ..ADAPTED }, None);
    assert_eq!(logits(&base), logits(&fresh));
}

#[test]
fn folded_changes_answer_as_they_did_beside_the_matrices() {
    let bytes = trained(&ADAPTED);
    let beside = adapted(&ADAPTED, Some(&bytes));
    let mut folded = beside.clone();
    folded.network = folded.network.folded();
    let (a, b) = (logits(&beside), logits(&folded));
    let base = samples::load(&architecture(), 3, &random(&architecture(), 3, 5));
    assert!(apart(&a, &b) < 2e-5, "{}", apart(&a, &b));
    assert!(apart(&a, &logits(&base)) > 0.05, "the adapters do something");
    let left = read(&folded.adapters_to_safetensors(&ADAPTED).unwrap());
    assert!(left.keys().all(|name| name.contains(".prefix.")), "{:?}", left.keys());
}

#[test]
fn adapters_are_kept_and_swapped_apart_from_the_weights_they_change() {
    let bytes = trained(&ADAPTED);
    let weights = adapted(&ADAPTED, Some(&bytes));
    assert_eq!(weights.to_safetensors().unwrap(), random(&architecture(), 3, 5));
    assert_eq!(weights.adapters_to_safetensors(&ADAPTED).unwrap(), bytes);

    let mut generation = files(&architecture());
    let plain = Model::from_files(&generation, &Device::Cpu).unwrap();
    let json = serde_json::to_vec(&ADAPTED).unwrap();
    generation.insert(ADAPTERS.into(), json.into());
    let missing = Model::from_files(&generation, &Device::Cpu).unwrap_err().to_string();
    assert!(missing.contains(ADAPTER_WEIGHTS), "{missing}");
    generation.insert(ADAPTER_WEIGHTS.into(), bytes.into());
    let other = Model::from_files(&generation, &Device::Cpu).unwrap();
    assert_ne!(plain.predict(&inputs()).unwrap(), other.predict(&inputs()).unwrap());
    generation.insert(ADAPTER_WEIGHTS.into(), Bytes::from_static(b"no"));
    let bad = Model::from_files(&generation, &Device::Cpu).unwrap_err().to_string();
    assert!(bad.contains(ADAPTER_WEIGHTS), "{bad}");
}

#[test]
fn an_adapter_of_another_size_and_an_impossible_one_are_refused_by_name() {
    let bytes = trained(&ADAPTED);
    let base = random(&architecture(), 3, 5);
    let refused = |adapters: Adapters| {
        let files = (&base[..], Some(&bytes[..]));
        let device = Default::default();
        Weights::<CpuBackend>::with_adapters(&architecture(), &adapters, 3, files, 0, &device)
            .unwrap_err()
            .to_string()
    };
    let wider = refused(Adapters { attention_rank: 4, ..ADAPTED });
    assert!(wider.contains("query_lora"), "{wider}");
    let fewer = refused(Adapters { prefix: 0, ..ADAPTED });
    assert!(fewer.contains(".prefix."), "{fewer}");
    assert!(refused(Adapters { alpha: 0.0, ..ADAPTED }).contains("`alpha`"));
    assert!(refused(Adapters { expert_rank: 7, ..ADAPTED }).contains("`expert_rank`"));
}

#[test]
fn a_head_among_the_adapters_appends_classes_to_a_base_that_stays_as_it_is() {
    let adapters = Adapters { attention_rank: 2, alpha: 4.0, head: true, ..Adapters::default() };
    let (base, device) = (random(&architecture(), 3, 5), Default::default());
    let of = |bytes: Option<&[u8]>, classes: usize| {
        let files = (&base[..], bytes);
        Weights::<CpuBackend>::with_adapters(&architecture(), &adapters, classes, files, 1, &device)
    };
    let plain = samples::load(&architecture(), 3, &base);
    assert_eq!(logits(&of(None, 3).unwrap()), logits(&plain), "it starts as the base's");
    assert_eq!(logits(&of(None, 4).unwrap()), logits(&plain.grow_labels(4)));
    let mut own = read(&of(None, 4).unwrap().adapters_to_safetensors(&adapters).unwrap());
    assert_eq!(own["head.bias"].0, [4]);
    own.get_mut("head.bias").unwrap().1[3] = 2.5;
    let learnt = of(Some(&write(&own)), 4).unwrap();
    let found = logits(&learnt);
    assert!(found.chunks(4).all(|row| (row[3] - 2.5).abs() < 1e-6), "{found:?}");
    let bias = own["head.bias"].clone();
    own.remove("head.bias");
    let error = of(Some(&write(&own)), 4).unwrap_err().to_string();
    assert!(error.contains("head.bias"), "{error}");
    own.insert("head.bias".to_owned(), bias);
    let error = of(Some(&write(&own)), 2).unwrap_err().to_string();
    assert!(error.contains("head.weight"), "classes are never taken away: {error}");
}

/// Trained shares on the reference model of the benchmarks: LoRA 0.5 to 2 %, prefixes 1 to 3 %.
#[test]
fn adapters_are_a_small_share_of_the_reference_model() {
    let reference = Architecture {
        task: Task::NextToken,
        d_model: 256,
        layers: 4,
        heads: 8,
        kv_heads: 8,
        vocab: 512,
        experts: 8,
        expert_width: 256,
        wide_buckets: 1,
        ..Architecture::default()
    };
    let device = Default::default();
    let base = Weights::<CpuBackend>::init(&reference, 512, 1, &device).to_safetensors().unwrap();
    let share = |adapters: Adapters| {
        let files = (&base[..], None);
        let weights =
            Weights::<CpuBackend>::with_adapters(&reference, &adapters, 512, files, 1, &device);
        let weights = weights.unwrap();
        let own = read(&weights.adapters_to_safetensors(&adapters).unwrap());
        let count = |tensors: &samples::Tensors| {
            tensors.values().map(|(_, values)| values.len()).sum::<usize>() as f64
        };
        count(&own) / count(&read(&base))
    };
    let lora = share(Adapters { attention_rank: 8, alpha: 16.0, ..Adapters::default() });
    assert!((0.005..0.02).contains(&lora), "{lora}");
    let prefix = share(Adapters { prefix: 64, ..Adapters::default() });
    assert!((0.01..0.03).contains(&prefix), "{prefix}");
}
