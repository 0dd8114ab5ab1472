//! AdamW of the deep path, with a global bound on the gradient and state that is kept by name.
use burn::{
    module::{Module as _, ModuleVisitor, Param},
    optim::{
        AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, GradientsParams, Optimizer as _,
        adaptor::OptimizerAdaptor, record::AdaptorRecord,
    },
    tensor::{Tensor, TensorData, backend::Backend},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tidegate_model::{Learns, Network};

use crate::{Course, LearningError, OPTIMIZER};

type Adaptor<B> = OptimizerAdaptor<AdamW, Network<B>, B>;
type Records<B> = <Adaptor<B> as burn::optim::Optimizer<Network<B>, B>>::Record;

/// Moves the deep path.
pub(crate) struct DeepOptimizer<B: Learns> {
    adamw: Adaptor<B>,
    clip_norm: f64,
}

impl<B: Learns> DeepOptimizer<B> {
    pub(crate) fn new(course: &Course) -> Self {
        let config =
            AdamWConfig::new().with_weight_decay(course.weight_decay as f32).with_epsilon(1e-8);
        Self { adamw: config.init(), clip_norm: course.clip_norm }
    }

    /// One step down the gradient, which is scaled down when its norm over all parameters is more
    /// than `clip_norm` (Pascanu et al. 2013, arXiv 1211.5063).
    pub(crate) fn step(
        &mut self,
        network: Network<B>,
        gradients: B::Gradients,
        rate: f64,
    ) -> Network<B> {
        let mut gradients = GradientsParams::from_grads(gradients, &network);
        let mut squares = Squares { gradients: &gradients, sum: 0.0 };
        network.visit(&mut squares);
        let norm = squares.sum.sqrt();
        if norm > self.clip_norm {
            let mut scale = Scale { gradients: &mut gradients, by: self.clip_norm / norm };
            network.visit(&mut scale);
        }
        self.adamw.step(rate, network, gradients)
    }

    /// Moments and step counts under the parameters' names; equal states give equal bytes.
    pub(crate) fn to_bytes(&self, network: &Network<B>) -> Result<Vec<u8>, LearningError> {
        let mut writer =
            Writer::<B> { path: Vec::new(), records: self.adamw.to_record(), tensors: Vec::new() };
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

    /// Takes up the state of every parameter that is still there in the same shape.
    pub(crate) fn load(self, network: &Network<B>, bytes: &[u8]) -> Result<Self, LearningError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(bad)?;
        let mut reader =
            Reader::<'_, B> { path: Vec::new(), tensors, records: Records::<B>::default() };
        network.visit(&mut reader);
        Ok(Self { adamw: self.adamw.load_record(reader.records), ..self })
    }
}

fn bad(error: impl std::fmt::Display) -> LearningError {
    LearningError::BadFile { file: OPTIMIZER.to_owned(), reason: error.to_string() }
}

fn values<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.into_vec().expect("converted to f32 in the line above")
}

struct Squares<'a> {
    gradients: &'a GradientsParams,
    sum: f64,
}

impl<B: Learns> ModuleVisitor<B> for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(gradient) = self.gradients.get::<B::InnerBackend, D>(param.id) {
            let square = gradient.clone() * gradient;
            self.sum += f64::from(values(square.sum())[0]);
        }
    }
}

struct Scale<'a> {
    gradients: &'a mut GradientsParams,
    by: f64,
}

impl<B: Learns> ModuleVisitor<B> for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(gradient) = self.gradients.remove::<B::InnerBackend, D>(param.id) {
            let scaled = gradient.mul_scalar(self.by);
            self.gradients.register::<B::InnerBackend, D>(param.id, scaled);
        }
    }
}

struct Writer<B: Learns> {
    path: Vec<String>,
    records: Records<B>,
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl<B: Learns> ModuleVisitor<B> for Writer<B> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some(record) = self.records.remove(&param.id) else { return };
        let AdamWState { momentum } = record.into_state::<D>();
        let name = self.path.join(".");
        for (part, moment) in [("m1", momentum.moment_1), ("m2", momentum.moment_2)] {
            let bytes = values(moment).iter().flat_map(|v| v.to_le_bytes()).collect();
            let shape = param.dims().to_vec();
            self.tensors.push((format!("{name}.{part}"), Dtype::F32, shape, bytes));
        }
        let time = (momentum.time as u64).to_le_bytes().to_vec();
        self.tensors.push((format!("{name}.time"), Dtype::U64, vec![1], time));
    }
}

struct Reader<'a, B: Learns> {
    path: Vec<String>,
    tensors: SafeTensors<'a>,
    records: Records<B>,
}

impl<B: Learns> Reader<'_, B> {
    fn moment<const D: usize>(
        &self,
        name: &str,
        param: &Param<Tensor<B, D>>,
    ) -> Option<Tensor<B::InnerBackend, D>> {
        let view = self.tensors.tensor(name).ok()?;
        if view.dtype() != Dtype::F32 || view.shape() != param.dims() {
            return None;
        }
        let word = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of 4"));
        let values: Vec<f32> = view.data().chunks_exact(4).map(word).collect();
        let finite = values.iter().all(|value| value.is_finite());
        let data = TensorData::new(values, param.dims());
        finite.then(|| Tensor::from_data(data, &param.device()))
    }

    fn state<const D: usize>(
        &self,
        param: &Param<Tensor<B, D>>,
    ) -> Option<AdamWState<B::InnerBackend, D>> {
        let name = self.path.join(".");
        let time = self.tensors.tensor(&format!("{name}.time")).ok()?;
        let time = u64::from_le_bytes(time.data().try_into().ok()?);
        let moment_1 = self.moment(&format!("{name}.m1"), param)?;
        let moment_2 = self.moment(&format!("{name}.m2"), param)?;
        let time = usize::try_from(time).ok()?;
        Some(AdamWState::new(AdaptiveMomentumState {
            time,
            moment_1,
            moment_2,
            max_moment_2: None,
        }))
    }
}

impl<B: Learns> ModuleVisitor<B> for Reader<'_, B> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(state) = self.state(param) {
            self.records.insert(param.id, AdaptorRecord::from_state::<D>(state));
        }
    }
}
