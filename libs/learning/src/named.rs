//! Parameters and numbers beside them, flat and under the parameters' names.
use std::collections::BTreeMap;

use burn::{
    module::{Module as _, ModuleVisitor, Param},
    tensor::{Tensor, TensorData, backend::Backend},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tidegate_model::{Network, first_not_finite, from_le_bytes, to_le_bytes, widened};

use crate::{LearningError, optimizer::values};

/// A tensor of each parameter, `[parameters]`.
pub(crate) type Named<I> = BTreeMap<String, Tensor<I, 1>>;

/// The parameters of `network`.
pub(crate) fn parameters<I: Backend>(network: &Network<I>) -> Named<I> {
    let mut found = Found { path: Vec::new(), tensors: BTreeMap::new() };
    network.visit(&mut found);
    found.tensors.into_iter().map(|(name, (_, tensor))| (name, tensor)).collect()
}

/// `tensors` as safetensors, each in the shape of its parameter; equal ones give equal bytes.
pub(crate) fn to_bytes<I: Backend>(
    file: &'static str,
    network: &Network<I>,
    tensors: &Named<I>,
) -> Result<Vec<u8>, LearningError> {
    let mut found = Found { path: Vec::new(), tensors: BTreeMap::new() };
    network.visit(&mut found);
    let mut kept = Vec::new();
    for (name, tensor) in tensors {
        let (shape, _) = &found.tensors[name];
        let bytes = to_le_bytes(&values(tensor.clone()));
        kept.push((name.clone(), shape.clone(), bytes));
    }
    let views = kept
        .iter()
        .map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            Ok((name.as_str(), view.map_err(|e| bad(file, e))?))
        })
        .collect::<Result<Vec<_>, LearningError>>()?;
    safetensors::serialize(views, None).map_err(|e| bad(file, e))
}

/// Reads what [`to_bytes`] wrote, for the parameters of `network`. Where one has more columns than
/// then (classes were appended), the new ones are 0; one of another shape is left out.
pub(crate) fn from_bytes<I: Backend>(
    file: &'static str,
    network: &Network<I>,
    bytes: &[u8],
) -> Result<Named<I>, LearningError> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| bad(file, e))?;
    let mut found = Found { path: Vec::new(), tensors: BTreeMap::new() };
    network.visit(&mut found);
    let mut named = BTreeMap::new();
    for (name, (shape, parameter)) in found.tensors {
        let Ok(view) = tensors.tensor(&name) else { continue };
        if view.dtype() != Dtype::F32 {
            return Err(bad(file, format!("`{name}` is not F32")));
        }
        let old = from_le_bytes(view.data());
        if first_not_finite(&old).is_some() {
            return Err(bad(file, format!("`{name}` has a value that is not finite")));
        }
        if let Some(values) = widened(&old, view.shape(), &shape) {
            let data = TensorData::new(values, parameter.dims());
            named.insert(name, Tensor::from_data(data, &parameter.device()));
        }
    }
    Ok(named)
}

fn bad(file: &str, error: impl ToString) -> LearningError {
    LearningError::BadFile { file: file.to_owned(), reason: error.to_string() }
}

/// Shape and values of each parameter.
struct Found<I: Backend> {
    path: Vec<String>,
    tensors: BTreeMap<String, (Vec<usize>, Tensor<I, 1>)>,
}

impl<I: Backend> ModuleVisitor<I> for Found<I> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<I, D>>) {
        let shape = param.dims().to_vec();
        let size = shape.iter().product::<usize>();
        self.tensors.insert(self.path.join("."), (shape, param.val().reshape([size])));
    }
}
