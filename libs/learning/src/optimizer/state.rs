//! The optimiser's file: moments and step counts under the parameters' names.
use std::collections::BTreeMap;

use burn::{
    module::{Module as _, ModuleVisitor, Param},
    tensor::{Tensor, TensorData, backend::Backend},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tidegate_model::{Network, first_not_finite, from_le_bytes, to_le_bytes};

use super::{adamw::Moments, values};
use crate::{LearningError, OPTIMIZER, Trains};

fn bad(error: impl std::fmt::Display) -> LearningError {
    LearningError::BadFile { file: OPTIMIZER.to_owned(), reason: error.to_string() }
}

/// `name.m1`, `name.m2` in the parameter's shape and `name.time` of each; equal states give equal
/// bytes.
pub(super) fn write<B: Trains>(
    network: &Network<B>,
    moments: &BTreeMap<String, Moments<B::InnerBackend>>,
) -> Result<Vec<u8>, LearningError> {
    let mut writer = Writer { path: Vec::new(), moments, tensors: Vec::new() };
    network.visit(&mut writer);
    let views = writer
        .tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes).map_err(bad)?;
            Ok((name.as_str(), view))
        })
        .collect::<Result<Vec<_>, LearningError>>()?;
    safetensors::serialize(views, None).map_err(bad)
}

/// The state of every parameter that is still there in the same shape.
pub(super) fn read<B: Trains>(
    network: &Network<B>,
    bytes: &[u8],
) -> Result<BTreeMap<String, Moments<B::InnerBackend>>, LearningError> {
    let tensors = SafeTensors::deserialize(bytes).map_err(bad)?;
    let mut reader = Reader::<'_, B> { path: Vec::new(), tensors, moments: BTreeMap::new() };
    network.visit(&mut reader);
    Ok(reader.moments)
}

struct Writer<'a, I: Backend> {
    path: Vec<String>,
    moments: &'a BTreeMap<String, Moments<I>>,
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl<B: Trains> ModuleVisitor<B> for Writer<'_, B::InnerBackend> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let name = self.path.join(".");
        let Some(moments) = self.moments.get(&name) else { return };
        for (part, moment) in [("m1", &moments.first), ("m2", &moments.second)] {
            let bytes = to_le_bytes(&values(moment.clone()));
            let shape = param.dims().to_vec();
            self.tensors.push((format!("{name}.{part}"), Dtype::F32, shape, bytes));
        }
        let time = moments.time.to_le_bytes().to_vec();
        self.tensors.push((format!("{name}.time"), Dtype::U64, vec![1], time));
    }
}

struct Reader<'a, B: Trains> {
    path: Vec<String>,
    tensors: SafeTensors<'a>,
    moments: BTreeMap<String, Moments<B::InnerBackend>>,
}

impl<B: Trains> Reader<'_, B> {
    fn moment<const D: usize>(
        &self,
        name: &str,
        param: &Param<Tensor<B, D>>,
    ) -> Option<Tensor<B::InnerBackend, 1>> {
        let view = self.tensors.tensor(name).ok()?;
        if view.dtype() != Dtype::F32 || view.shape() != param.dims() {
            return None;
        }
        let values = from_le_bytes(view.data());
        let size = values.len();
        first_not_finite(&values)
            .is_none()
            .then(|| Tensor::from_data(TensorData::new(values, [size]), &param.device()))
    }

    fn state<const D: usize>(
        &self,
        name: &str,
        param: &Param<Tensor<B, D>>,
    ) -> Option<Moments<B::InnerBackend>> {
        let time = self.tensors.tensor(&format!("{name}.time")).ok()?;
        let time = u64::from_le_bytes(time.data().try_into().ok()?);
        let first = self.moment(&format!("{name}.m1"), param)?;
        let second = self.moment(&format!("{name}.m2"), param)?;
        Some(Moments { first, second, time })
    }
}

impl<B: Trains> ModuleVisitor<B> for Reader<'_, B> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let name = self.path.join(".");
        if let Some(moments) = self.state(&name, param) {
            self.moments.insert(name, moments);
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::{Autodiff, Flex};
    use tidegate_model::Architecture;

    use super::*;

    /// What every version so far has written: names, types and shapes of three tensors.
    fn file(classes: usize, time: u64) -> Vec<u8> {
        let moment: Vec<u8> = (0..classes).flat_map(|at| (at as f32 + 0.5).to_le_bytes()).collect();
        let time = time.to_le_bytes();
        let tensors = [
            ("head.bias.m1", Dtype::F32, vec![classes], moment.as_slice()),
            ("head.bias.m2", Dtype::F32, vec![classes], moment.as_slice()),
            ("head.bias.time", Dtype::U64, vec![1], time.as_slice()),
        ];
        let views = tensors.map(|(name, dtype, shape, bytes)| {
            (name, TensorView::new(dtype, shape, bytes).unwrap())
        });
        safetensors::serialize(views, None).unwrap()
    }

    #[test]
    fn state_of_an_older_generation_is_taken_up_where_the_shape_is_the_same() {
        let architecture = Architecture {
            d_model: 8,
            heads: 2,
            kv_heads: 1,
            vocab: 256,
            expert_width: 8,
            ..Architecture::default()
        };
        let network = Network::<Autodiff<Flex>>::init(&architecture, 3, 1, &Default::default());
        let bytes = file(3, 41);
        let moments = read(&network, &bytes).unwrap();
        assert_eq!(moments["head.bias"].time, 41);
        assert_eq!(values(moments["head.bias"].second.clone()), [0.5, 1.5, 2.5]);
        assert_eq!(write(&network, &moments).unwrap(), bytes);
        assert!(read(&network, &file(2, 41)).unwrap().is_empty(), "a class was appended");
        assert!(read::<Autodiff<Flex>>(&network, &bytes[..40]).is_err());
    }
}
