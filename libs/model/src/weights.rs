//! Both paths' weights, and the file they are kept in.
use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Tensor, backend::Backend},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    ADAPTER_WEIGHTS, Adapters, Architecture, Counts, ModelError, Network, WEIGHTS, WideTable,
    first_not_finite, from_le_bytes,
    network::{Pair, Random, Source, Start},
    ops::Kernels,
    to_le_bytes, widened,
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
            wide: WideTable::of(architecture, classes),
        }
    }

    /// Appends classes to both paths.
    #[must_use]
    pub fn grow_labels(self, classes: usize) -> Self {
        Self { network: self.network.grow_labels(classes), wide: self.wide.grow_labels(classes) }
    }

    /// With what was counted, `scale` times, and all logits divided by its heat: the weights that
    /// answer. [`Weights::without`] makes them those again that learn.
    ///
    /// # Panics
    /// When the counts are of another number of buckets or classes.
    #[must_use]
    pub fn with(mut self, counts: &Counts) -> Self {
        self.wide.add(&counts.evidence(), counts.scale);
        self.wide.multiply(1.0 / counts.heat);
        Self { network: self.network.multiply_logits(1.0 / counts.heat), wide: self.wide }
    }

    /// Without what was counted. The deep path gets its very bits back, the wide one up to rounding.
    ///
    /// # Panics
    /// As [`Weights::with`].
    #[must_use]
    pub fn without(mut self, counts: &Counts) -> Self {
        self.wide.multiply(counts.heat);
        self.wide.add(&counts.evidence(), -counts.scale);
        Self { network: self.network.multiply_logits(counts.heat), wide: self.wide }
    }

    /// Columns of another label set in both paths: of each class that of the class at its index in
    /// the present one, or zeros for a class that is new.
    ///
    /// # Panics
    /// When an index is of no present class.
    #[must_use]
    pub fn relabel(self, columns: &[Option<usize>]) -> Self {
        Self { network: self.network.relabel(columns), wide: self.wide.relabel(columns) }
    }

    /// The content of `weights.safetensors`: every parameter under its path in the network, the
    /// routing biases among them, and the wide table with its accumulators; all f32. Equal weights
    /// give equal bytes. Adapters are not among them.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] when the format cannot hold them.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, ModelError> {
        let mut found = self.found();
        found.retain(|(name, _, _)| !Adapters::own(name));
        let shape = [self.wide.buckets(), self.wide.classes()];
        found.push((WIDE_ROWS.to_owned(), shape.to_vec(), to_le_bytes(&self.wide.rows)));
        found.push((WIDE_SQUARES.to_owned(), shape.to_vec(), to_le_bytes(&self.wide.squares)));
        serialize(&found, WEIGHTS)
    }

    /// The content of `adapters.safetensors`: what is kept with `adapters`, and nothing else.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] when the format cannot hold them.
    pub fn adapters_to_safetensors(&self, adapters: &Adapters) -> Result<Vec<u8>, ModelError> {
        let mut found = self.found();
        found.retain(|(name, _, _)| adapters.keep(name));
        serialize(&found, ADAPTER_WEIGHTS)
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
        let none = (&Adapters::default(), &mut Random::new(0) as &mut dyn Source, true);
        Self::read(architecture, none, classes, bytes, device)
    }

    /// The same with adapters, as [`Weights::adapters_to_safetensors`] wrote them; fresh ones by
    /// `seed` where there is no file. Fresh ones change no answer, but for a prefix a little.
    ///
    /// The base may know fewer classes than there are when the head is among the adapters: its
    /// wide path then has no evidence for those that came later.
    ///
    /// # Errors
    /// As [`Weights::from_safetensors`], and for adapters that are impossible.
    pub fn with_adapters(
        architecture: &Architecture,
        adapters: &Adapters,
        classes: usize,
        (bytes, adapter_bytes): (&[u8], Option<&[u8]>),
        seed: u64,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        adapters.validate(architecture)?;
        let Some(adapter_bytes) = adapter_bytes else {
            let fresh = (adapters, &mut Random::new(seed) as &mut dyn Source, true);
            return Self::read(architecture, fresh, classes, bytes, device);
        };
        let mut file = File::open(adapter_bytes, ADAPTER_WEIGHTS)?;
        let own = (adapters, &mut file as &mut dyn Source, false);
        let weights = Self::read(architecture, own, classes, bytes, device)?;
        file.all_taken(&weights)?;
        Ok(weights)
    }

    fn read(
        architecture: &Architecture,
        (which, adapters, fresh): (&Adapters, &mut dyn Source, bool),
        classes: usize,
        bytes: &[u8],
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let mut file = File::open(bytes, WEIGHTS)?;
        file.widens = which.head;
        let mut both = Pair { base: &mut file, adapters, which, fresh };
        let network = Network::build(architecture, which, classes, &mut both, device)?;
        let shape = architecture.wide_shape(classes);
        let rows = file.take(WIDE_ROWS, &shape, Start::Zero)?;
        let squares = file.take(WIDE_SQUARES, &shape, Start::Zero)?;
        let weights = Self { network, wide: WideTable::from_parts(shape[1], rows, squares) };
        file.all_taken(&weights)?;
        Ok(weights)
    }

    /// Every parameter of the network under its path.
    fn found(&self) -> Vec<Named> {
        let mut found = Found { path: Vec::new(), tensors: Vec::new() };
        self.network.visit(&mut found);
        found.tensors
    }
}

/// Name, shape, and values in little-endian f32.
type Named = (String, Vec<usize>, Vec<u8>);

fn serialize(found: &[Named], file: &'static str) -> Result<Vec<u8>, ModelError> {
    let bad = |error| bad(file, &error);
    let views = found
        .iter()
        .map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(bad)?;
            Ok((name.as_str(), view))
        })
        .collect::<Result<Vec<_>, ModelError>>()?;
    safetensors::serialize(views, None).map_err(bad)
}

fn bad(file: &'static str, error: &safetensors::SafeTensorError) -> ModelError {
    ModelError::BadFile { file, reason: error.to_string() }
}

/// Collects every parameter under its path.
struct Found {
    path: Vec<String>,
    tensors: Vec<Named>,
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
        self.tensors.push((self.path.join("."), param.dims().to_vec(), to_le_bytes(&values)));
    }
}

/// The tensors of a file, each taken once.
pub(crate) struct File<'a> {
    tensors: SafeTensors<'a>,
    taken: usize,
    /// Whether tensors of a column a class may lack some at the end: they are 0.
    widens: bool,
}

impl<'a> File<'a> {
    pub(crate) fn open(bytes: &'a [u8], file: &'static str) -> Result<Self, ModelError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| bad(file, &error))?;
        Ok(Self { tensors, taken: 0, widens: false })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    /// Names the first tensor that `weights`, read from here, do not have.
    fn all_taken<B: Kernels>(&self, weights: &Weights<B>) -> Result<(), ModelError> {
        if self.taken == self.tensors.len() {
            return Ok(());
        }
        let found = weights.found();
        let mut names = self.tensors.names();
        names.sort_unstable();
        let known = |name: &str| {
            [WIDE_ROWS, WIDE_SQUARES].contains(&name)
                || found.iter().any(|(known, _, _)| known == name)
        };
        let name = names.into_iter().find(|name| !known(name)).unwrap_or_default().to_owned();
        Err(ModelError::UnknownTensor { name })
    }
}

impl Source for File<'_> {
    fn take(&mut self, name: &str, shape: &[usize], _: Start) -> Result<Vec<f32>, ModelError> {
        let missing = |_| ModelError::MissingTensor { name: name.to_owned() };
        let view = self.tensors.tensor(name).map_err(missing)?;
        if view.dtype() != Dtype::F32 {
            let found = format!("{:?}", view.dtype());
            return Err(ModelError::Type { name: name.to_owned(), expected: "F32", found });
        }
        let values = from_le_bytes(view.data());
        if let Some(index) = first_not_finite(&values) {
            return Err(ModelError::NotFinite { name: name.to_owned(), index });
        }
        let values = match view.shape() == shape {
            true => Some(values),
            false if self.widens && is_by_class(name) => widened(&values, view.shape(), shape),
            false => None,
        };
        let values = values.ok_or_else(|| ModelError::Shape {
            name: name.to_owned(),
            expected: shape.to_vec(),
            found: view.shape().to_vec(),
        })?;
        self.taken += 1;
        Ok(values)
    }
}

/// Whether the last dimension is the classes.
fn is_by_class(name: &str) -> bool {
    ["head.weight", "head.bias", WIDE_ROWS, WIDE_SQUARES].contains(&name)
}
