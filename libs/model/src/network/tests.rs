//! One block beside PyTorch: `tests/model/block.py` made the numbers.
use std::collections::BTreeMap;

use burn::{
    backend::{Autodiff, Flex},
    module::{ModuleVisitor, Param},
    tensor::{TensorData, backend::AutodiffBackend},
};
use safetensors::SafeTensors;

use super::*;

type Train = Autodiff<Flex>;

const TENSORS: &[u8] = include_bytes!("../../tests/model/block.safetensors");
const ABOUT: &str = include_str!("../../tests/model/block.json");

#[derive(serde::Deserialize)]
struct About {
    architecture: serde_json::Value,
    lengths: Vec<usize>,
}

struct Fixture {
    tensors: BTreeMap<String, Vec<f32>>,
    /// Whether the selection bias is left at zero.
    even: bool,
}

impl Fixture {
    fn read(even: bool) -> Self {
        let word = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
        let file = SafeTensors::deserialize(TENSORS).unwrap();
        let values = |data: &[u8]| data.chunks_exact(4).map(word).collect();
        let tensors =
            file.tensors().into_iter().map(|(name, view)| (name, values(view.data()))).collect();
        Self { tensors, even }
    }

    /// What a pass with or without the bias is to find.
    fn expected(&self, name: &str) -> Option<&Vec<f32>> {
        let name = if self.even { format!("even.{name}") } else { name.to_owned() };
        self.tensors.get(&name)
    }
}

impl Source for Fixture {
    fn take(&mut self, name: &str, shape: &[usize], _: Start) -> Result<Vec<f32>, ModelError> {
        let zeros = vec![0.0; shape.iter().product()];
        Ok(match name.strip_prefix("blocks.0.") {
            Some("mixture.bias") if self.even => zeros,
            Some(name) => self.tensors[name].clone(),
            None => zeros,
        })
    }
}

struct Compare<'a> {
    path: Vec<String>,
    fixture: &'a Fixture,
    gradients: &'a <Train as AutodiffBackend>::Gradients,
    compared: usize,
}

impl ModuleVisitor<Train> for Compare<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Train, D>>) {
        let name = self.path.join(".");
        let expected = self.fixture.expected(&format!("gradient.{name}"));
        let found = param.val().grad(self.gradients);
        assert_eq!(expected.is_some(), found.is_some(), "{name}");
        if let (Some(expected), Some(found)) = (expected, found) {
            near(&name, &found.into_data().into_vec().unwrap(), expected);
            self.compared += 1;
        }
    }
}

fn near(name: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let size = expected.iter().fold(0.1_f32, |size, value| size.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 2e-5 * size, "{name}: {found}, PyTorch says {expected}");
    }
}

#[test]
fn a_block_and_its_gradients_are_those_of_pytorch() {
    let about: About = serde_json::from_str(ABOUT).unwrap();
    let mut architecture = serde_json::to_value(Architecture::default()).unwrap();
    let given = about.architecture.as_object().unwrap().clone();
    architecture.as_object_mut().unwrap().extend(given);
    let architecture: Architecture = serde_json::from_value(architecture).unwrap();
    let segments = Segments::new(about.lengths);
    let device = Default::default();
    for even in [false, true] {
        let mut fixture = Fixture::read(even);
        let adapters = Adapters::default();
        let network =
            Network::<Train>::build(&architecture, &adapters, 2, &mut fixture, &device).unwrap();
        let shape = [segments.rows(), architecture.d_model];
        let given = |name: &str| {
            let data = TensorData::new(fixture.tensors[name].clone(), shape);
            Tensor::<Train, 2>::from_data(data, &device)
        };
        let x = given("input").require_grad();
        let router = Router {
            affinity: architecture.affinity,
            rule: Rule::of(&architecture),
            training: RouterTraining::default(),
            compute: Compute::F32,
        };
        let block = &network.blocks[0];
        let (y, routed, _) = block.forward(x.clone(), &network.form, &router, &segments, None);
        let output: Vec<f32> = y.clone().into_data().into_vec().unwrap();
        near("output", &output, fixture.expected("output").unwrap());
        near("load", &routed.load.0, fixture.expected("load").unwrap());
        let gradients = (y * given("cotangent")).sum().backward();
        let of_input = x.grad(&gradients).unwrap().into_data().into_vec().unwrap();
        near("input", &of_input, fixture.expected("gradient.input").unwrap());
        let mut compare =
            Compare { path: Vec::new(), fixture: &fixture, gradients: &gradients, compared: 0 };
        block.visit(&mut compare);
        assert_eq!(compare.compared, 13);
    }
}
