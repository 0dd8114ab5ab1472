//! Networks of every form, by the operators of a CPU and of a GPU, in f32 and in halves.
use std::collections::BTreeMap;

use burn::{
    backend::{Autodiff, Flex},
    module::{Module as _, ModuleVisitor, Param},
    tensor::{Tensor, TensorData},
};
use tidegate_model::{
    Architecture, Batch, Compute, Features, Learns, PortableBackend, RouterTraining, Task, Weights,
};

use crate::samples::{architecture, encoder_form, featurizer, inputs, random};

/// Every token is sent to all experts, so that no rounding changes who is asked.
fn forms() -> [Architecture; 3] {
    let ours = Architecture { top_k: 5, ..architecture() };
    let dense = Architecture { dense_layers: 1, ..ours.clone() };
    [Architecture { block: encoder_form(), ..dense.clone() }, dense, ours]
}

/// Gradients by name.
struct Found<'a, B: Learns> {
    path: Vec<String>,
    gradients: &'a B::Gradients,
    of: BTreeMap<String, Vec<f32>>,
}

impl<B: Learns> ModuleVisitor<B> for Found<'_, B> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(gradient) = param.val().grad(self.gradients) {
            let values = gradient.into_data().convert::<f32>().into_vec().unwrap();
            self.of.insert(self.path.join("."), values);
        }
    }
}

/// Logits, and gradients of their weighted sum.
fn pass<B: Learns>(a: &Architecture, compute: Compute) -> BTreeMap<String, Vec<f32>> {
    let device = Default::default();
    let weights = Weights::<B>::from_safetensors(a, 3, &random(a, 3, 5), &device).unwrap();
    let network = weights.network.computing_in(compute);
    let features = featurizer(a).features_all(&inputs()).unwrap();
    let features: Vec<&Features> = features.iter().collect();
    let training = RouterTraining { z_loss: 0.01, ..RouterTraining::default() };
    let output = network.forward_learning(&Batch::new(&features, &device), training);
    let shape = output.logits.dims();
    let pattern: Vec<f32> = (0..shape[0] * shape[1]).map(|at| (at as f32 * 0.9).sin()).collect();
    let pattern = Tensor::from_data(TensorData::new(pattern, shape), &device);
    let mut loss = (output.logits.clone() * pattern).sum();
    if let Some(of_routers) = output.router_loss {
        loss = loss + of_routers;
    }
    let gradients = loss.backward();
    let mut found = Found::<B> { path: Vec::new(), gradients: &gradients, of: BTreeMap::new() };
    network.visit(&mut found);
    let logits = output.logits.into_data().convert::<f32>().into_vec().unwrap();
    found.of.insert("logits".to_owned(), logits);
    found.of
}

fn length(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

/// Length of the difference as a share of that of what is expected.
fn apart(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference = found.iter().zip(expected).map(|(a, b)| a - b);
    length(difference) / length(expected.iter().copied())
}

/// What has no gradient but rounding: the router of a single expert, whose weight is its share of
/// itself, and what is added to all keys alike.
fn is_nothing(name: &str, a: &Architecture) -> bool {
    let first = name.starts_with("blocks.0.") && a.dense_layers > 0;
    (first && name.ends_with("router")) || name.ends_with("key_bias")
}

#[test]
fn a_gpus_operators_find_what_the_cpus_find_and_so_do_halves() {
    for a in forms() {
        let expected = pass::<Autodiff<Flex>>(&a, Compute::F32);
        let all = [
            ("gpu, f32", pass::<PortableBackend>(&a, Compute::F32), 1e-4),
            ("cpu, bf16", pass::<Autodiff<Flex>>(&a, Compute::Bf16), 0.06),
            ("gpu, bf16", pass::<PortableBackend>(&a, Compute::Bf16), 0.06),
            ("cpu, f16", pass::<Autodiff<Flex>>(&a, Compute::F16), 0.008),
            ("gpu, f16", pass::<PortableBackend>(&a, Compute::F16), 0.008),
        ];
        for (what, found, bound) in all {
            assert!(found.keys().eq(expected.keys()));
            for (name, expected) in expected.iter().filter(|(name, _)| !is_nothing(name, &a)) {
                let apart = apart(&found[name], expected);
                assert!(apart < bound, "{:?} {what}, {name}: {apart}", a.block);
            }
        }
    }
}

#[test]
fn a_text_is_continued_as_if_it_had_been_read_at_once() {
    fn near<B: Learns>(a: &Architecture) {
        let device = Default::default();
        let bytes = random(a, a.vocab, 5);
        let network = Weights::<B>::from_safetensors(a, a.vocab, &bytes, &device).unwrap().network;
        let tokens: Vec<u32> = (0..11).map(|at| at * 37 % 290).collect();
        let all = network.forward(&Batch::of_tokens([&tokens[..]], &device)).logits;
        let mut cache = network.cache();
        let mut read = 0;
        for count in [5, 1, 3, 2] {
            let found = network.next(&tokens[read..read + count], &mut cache);
            read += count;
            let [found, expected] = [found, all.clone().narrow(0, read - 1, 1)]
                .map(|logits| logits.into_data().convert::<f32>().into_vec::<f32>().unwrap());
            let apart = apart(&found, &expected);
            assert!(apart < 1e-4, "{:?} {read}: {apart}", a.block);
        }
        assert_eq!(cache.len(), tokens.len());
    }
    for a in forms() {
        let a = Architecture { task: Task::NextToken, ..a };
        near::<Autodiff<Flex>>(&a);
        near::<PortableBackend>(&a);
    }
}
