//! Both paths' weights, and the file they are kept in.
use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Tensor, backend::Backend},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    Architecture, ModelError, Network, WEIGHTS, WideTable,
    network::{Source, Start},
    ops::Kernels,
};

const WIDE_ROWS: &str = "wide.rows";
const WIDE_SQUARES: &str = "wide.squares";

/// All that training changes: the deep path and the wide path.
#[derive(Debug, Clone)]
pub struct Weights<B: Backend> {
    /// Trained by gradient.
    pub network: Network<B>,
    /// Trained by its own sparse steps.
    pub wide: WideTable,
}

impl<B: Kernels> Weights<B> {
    /// Fresh weights; the same seed gives the same bits on every device.
    #[must_use]
    pub fn init(
        architecture: &Architecture,
        classes: usize,
        seed: u64,
        device: &B::Device,
    ) -> Self {
        Self {
            network: Network::init(architecture, classes, seed, device),
            wide: WideTable::new(architecture.wide_buckets, classes),
        }
    }

    /// Appends classes to both paths.
    #[must_use]
    pub fn grow_labels(self, classes: usize) -> Self {
        Self { network: self.network.grow_labels(classes), wide: self.wide.grow_labels(classes) }
    }

    /// The content of `weights.safetensors`: every parameter under its path in the network, the
    /// routing biases among them, and the wide table with its accumulators; all f32. Equal weights
    /// give equal bytes.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] when the format cannot hold them.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, ModelError> {
        let mut found = Found { path: Vec::new(), tensors: Vec::new() };
        self.network.visit(&mut found);
        let shape = [self.wide.buckets(), self.wide.classes()];
        found.tensors.push((WIDE_ROWS.to_owned(), shape.to_vec(), bytes_of(&self.wide.rows)));
        found.tensors.push((WIDE_SQUARES.to_owned(), shape.to_vec(), bytes_of(&self.wide.squares)));
        let views = found
            .tensors
            .iter()
            .map(|(name, shape, bytes)| {
                let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(bad)?;
                Ok((name.as_str(), view))
            })
            .collect::<Result<Vec<_>, ModelError>>()?;
        safetensors::serialize(views, None).map_err(bad)
    }

    /// Reads what [`Weights::to_safetensors`] wrote. Every name, type, shape and value is checked.
    ///
    /// # Errors
    /// [`ModelError`] names the tensor that is missing, unknown, of another shape or not finite.
    pub fn from_safetensors(
        architecture: &Architecture,
        classes: usize,
        bytes: &[u8],
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let mut file = File { tensors: SafeTensors::deserialize(bytes).map_err(bad)?, taken: 0 };
        let network = Network::build(architecture, classes, &mut file, device)?;
        let shape = [architecture.wide_buckets, classes];
        let rows = file.take(WIDE_ROWS, &shape, Start::Zero)?;
        let squares = file.take(WIDE_SQUARES, &shape, Start::Zero)?;
        let weights = Self { network, wide: WideTable::from_parts(classes, rows, squares) };
        if file.taken != file.tensors.len() {
            return Err(weights.unknown_in(&file.tensors));
        }
        Ok(weights)
    }

    /// Names the first tensor of the file that these weights do not have.
    fn unknown_in(&self, file: &SafeTensors<'_>) -> ModelError {
        let mut found = Found { path: Vec::new(), tensors: Vec::new() };
        self.network.visit(&mut found);
        let mut names = file.names();
        names.sort_unstable();
        let known = |name: &str| {
            [WIDE_ROWS, WIDE_SQUARES].contains(&name)
                || found.tensors.iter().any(|(known, _, _)| known == name)
        };
        let name = names.into_iter().find(|name| !known(name)).unwrap_or_default().to_owned();
        ModelError::UnknownTensor { name }
    }
}

fn bad(error: safetensors::SafeTensorError) -> ModelError {
    ModelError::BadFile { file: WEIGHTS, reason: error.to_string() }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Collects every parameter under its path.
struct Found {
    path: Vec<String>,
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
}

impl<B: Backend> ModuleVisitor<B> for Found {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let data = param.val().detach().into_data().convert::<f32>();
        let values: Vec<f32> = data.into_vec().expect("converted to f32 in the line above");
        self.tensors.push((self.path.join("."), param.dims().to_vec(), bytes_of(&values)));
    }
}

/// The tensors of a file, each taken once.
struct File<'a> {
    tensors: SafeTensors<'a>,
    taken: usize,
}

impl Source for File<'_> {
    fn take(&mut self, name: &str, shape: &[usize], _: Start) -> Result<Vec<f32>, ModelError> {
        let missing = |_| ModelError::MissingTensor { name: name.to_owned() };
        let view = self.tensors.tensor(name).map_err(missing)?;
        if view.dtype() != Dtype::F32 {
            let found = format!("{:?}", view.dtype());
            return Err(ModelError::Type { name: name.to_owned(), expected: "F32", found });
        }
        if view.shape() != shape {
            return Err(ModelError::Shape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: view.shape().to_vec(),
            });
        }
        let word = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of 4"));
        let values: Vec<f32> = view.data().chunks_exact(4).map(word).collect();
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(ModelError::NotFinite { name: name.to_owned(), index });
        }
        self.taken += 1;
        Ok(values)
    }
}
