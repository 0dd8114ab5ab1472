//! A pretrained dense encoder as a network of ours: the same function, and a start that is not
//! noise.
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Adapters, Affinity, Architecture, BlockForm, FeedForward, Kernels, ModelError, Network,
    NormForm, Placement, Positions, Tokenizer, Weights, WideTable,
    network::{Random, Source, Start},
    weights::File,
};

const CONFIG: &str = "config.json";
const MODEL: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";

/// How a dense encoder becomes a mixture of experts (sparse upcycling, Komatsuzaki et al. 2022,
/// arXiv 2212.05055). Each expert starts as a copy of the layer's feed-forward, and a token's
/// weights sum to 1, so at the start the function is the encoder's, whatever the new router says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upcycling {
    /// Copies of each feed-forward; 1: the encoder stays dense.
    pub experts: usize,
    /// Copies that each token is sent to.
    pub top_k: usize,
    /// First layers that stay dense.
    pub dense_layers: usize,
}

impl Default for Upcycling {
    /// As dense as it was.
    fn default() -> Self {
        Self { experts: 1, top_k: 1, dense_layers: 0 }
    }
}

/// A BERT (Devlin et al. 2018, arXiv 1810.04805) as `transformers` writes it: `config.json`,
/// `model.safetensors` (f32) and the `tokenizer.json` of HF `tokenizers`.
#[derive(Debug, Clone)]
pub struct Pretrained {
    config: Config,
    model: Bytes,
    tokenizer: Tokenizer,
}

/// What of `config.json` decides which function the weights are.
#[derive(Debug, Clone, Deserialize)]
struct Config {
    model_type: String,
    hidden_act: String,
    #[serde(default = "absolute")]
    position_embedding_type: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
}

fn absolute() -> String {
    "absolute".to_owned()
}

impl Pretrained {
    /// The files that it is read from.
    pub const FILES: [&str; 3] = [CONFIG, MODEL, TOKENIZER];

    /// Reads an encoder's files.
    ///
    /// # Errors
    /// [`ModelError::Encoder`] names the file that is missing or wrong, and what in it.
    pub fn from_files(files: &BTreeMap<String, Bytes>) -> Result<Self, ModelError> {
        let file = |name| files.get(name).ok_or_else(|| wrong(name, "it is not there"));
        let config: Config =
            serde_json::from_slice(file(CONFIG)?).map_err(|error| wrong(CONFIG, error))?;
        for (field, found, known) in [
            ("model_type", &config.model_type, "bert"),
            ("hidden_act", &config.hidden_act, "gelu"),
            ("position_embedding_type", &config.position_embedding_type, "absolute"),
        ] {
            if found != known {
                let reason = format!("`{field}` is `{found}`: only `{known}` can be taken over");
                return Err(wrong(CONFIG, reason));
            }
        }
        let tokenizer = Tokenizer::from_bytes(file(TOKENIZER)?)
            .map_err(|error| wrong(TOKENIZER, error.to_string()))?;
        let (tokens, vocab) = (tokenizer.vocab(), config.vocab_size);
        if tokens > vocab {
            let reason = format!("it has {tokens} tokens: {CONFIG} has `vocab_size` {vocab}");
            return Err(wrong(TOKENIZER, reason));
        }
        Ok(Self { config, model: file(MODEL)?.clone(), tokenizer })
    }

    /// The encoder's own sizes and form, and of `wanted` what an encoder does not have: its wide
    /// path, its front-ends of other parts than text, and how much of a text is read.
    ///
    /// # Errors
    /// [`ModelError::Architecture`] names what does not fit.
    pub fn architecture(
        &self,
        wanted: &Architecture,
        upcycling: &Upcycling,
    ) -> Result<Architecture, ModelError> {
        let config = &self.config;
        if wanted.context > config.max_position_embeddings {
            let need = format!("the encoder reads at most {}", config.max_position_embeddings);
            let value = wanted.context.to_string();
            return Err(ModelError::Architecture { field: "context", value, need });
        }
        if !wanted.task.has_labels() {
            let value = wanted.task.as_str().to_owned();
            let need = "an encoder sees what follows a token: it can learn `classification` or `regression`";
            let need = need.to_owned();
            return Err(ModelError::Architecture { field: "task", value, need });
        }
        let Upcycling { experts, top_k, dense_layers } = *upcycling;
        let architecture = Architecture {
            d_model: config.hidden_size,
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            kv_heads: config.num_attention_heads,
            vocab: config.vocab_size,
            experts,
            top_k,
            // Its weights sum to 1.
            affinity: Affinity::Sigmoid,
            expert_groups: 1,
            top_groups: 1,
            shared_experts: 0,
            expert_width: config.intermediate_size,
            dense_layers,
            block: BlockForm {
                norm: NormForm::Layer,
                placement: Placement::Post,
                positions: Positions::Learned,
                feed_forward: FeedForward::Gelu,
                attention_bias: true,
            },
            norm_epsilon: config.layer_norm_eps,
            ..wanted.clone()
        };
        architecture.validate()?;
        Ok(architecture)
    }

    /// Its tokenizer, for texts of at most `context` tokens.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn tokenizer(&self, context: usize) -> Result<Tokenizer, ModelError> {
        self.tokenizer.bounded(context)
    }

    /// Its weights, with fresh routers by `seed`, a head of zeros and an empty wide path.
    /// `architecture` is one that [`Pretrained::architecture`] returned.
    ///
    /// # Errors
    /// [`ModelError::Encoder`] names the tensor that is missing or has another shape.
    pub fn weights<B: Kernels>(
        &self,
        architecture: &Architecture,
        classes: usize,
        seed: u64,
        device: &B::Device,
    ) -> Result<Weights<B>, ModelError> {
        let inside = |error: ModelError| wrong(MODEL, error.to_string());
        let file = File::open(&self.model, MODEL).map_err(inside)?;
        let types = self.config.type_vocab_size;
        let mut source = Upcycled { file, fresh: Random::new(seed), config: &self.config, types };
        let none = Adapters::default();
        let network = Network::build(architecture, &none, classes, &mut source, device);
        let wide = WideTable::of(architecture, classes);
        Ok(Weights { network: network.map_err(inside)?, wide })
    }
}

fn wrong(file: &'static str, reason: impl ToString) -> ModelError {
    ModelError::Encoder { file, reason: reason.to_string() }
}

/// The encoder's tensors under our names.
struct Upcycled<'a> {
    file: File<'a>,
    fresh: Random,
    config: &'a Config,
    types: usize,
}

impl Upcycled<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        // As the model alone writes its names, or as one with a head on top does.
        let within = format!("bert.{name}");
        let name = if self.file.has(&within) { within.as_str() } else { name };
        self.file.take(name, shape, Start::Zero)
    }

    /// A linear layer of PyTorch holds a row for each output, ours one for each input.
    fn matrix(
        &mut self,
        name: &str,
        [inputs, outputs]: [usize; 2],
    ) -> Result<Vec<f32>, ModelError> {
        let rows = self.tensor(name, &[outputs, inputs])?;
        let columns = (0..inputs).flat_map(|at| rows.iter().skip(at).step_by(inputs));
        Ok(columns.copied().collect())
    }

    /// Position vectors of one text alone: what the encoder adds to every token of a first segment
    /// is in them.
    fn positions(&mut self, context: usize) -> Result<Vec<f32>, ModelError> {
        let (d, most) = (self.config.hidden_size, self.config.max_position_embeddings);
        let mut rows = self.tensor("embeddings.position_embeddings.weight", &[most, d])?;
        rows.truncate(context * d);
        let types = [self.types, d];
        let of_types = self.tensor("embeddings.token_type_embeddings.weight", &types)?;
        for row in rows.chunks_exact_mut(d) {
            row.iter_mut().zip(&of_types).for_each(|(value, of_type)| *value += of_type);
        }
        Ok(rows)
    }
}

impl Source for Upcycled<'_> {
    fn take(&mut self, name: &str, shape: &[usize], start: Start) -> Result<Vec<f32>, ModelError> {
        match name {
            "embedding" => return self.tensor("embeddings.word_embeddings.weight", shape),
            "positions" => return self.positions(shape[0]),
            "embedding_norm.gain" => return self.tensor("embeddings.LayerNorm.weight", shape),
            "embedding_norm.bias" => return self.tensor("embeddings.LayerNorm.bias", shape),
            _ => {}
        }
        let block = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
        let place = block.and_then(|(layer, part)| Some((layer, place(part)?)));
        let Some((layer, place)) = place else { return self.fresh.take(name, shape, start) };
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        match (place, shape) {
            (Place::Row(part), _) => self.tensor(&name(part), shape),
            (Place::Matrix(part), &[inputs, outputs]) => {
                self.matrix(&name(part), [inputs, outputs])
            }
            (Place::Rows(part), &[experts, size]) => {
                Ok(self.tensor(&name(part), &[size])?.repeat(experts))
            }
            (Place::Matrices(part), &[experts, inputs, outputs]) => {
                Ok(self.matrix(&name(part), [inputs, outputs])?.repeat(experts))
            }
            (_, shape) => unreachable!("no parameter of a block has the shape {shape:?}"),
        }
    }
}

/// Where a parameter of a block is, and what is made of it.
enum Place {
    Row(&'static str),
    Matrix(&'static str),
    /// One for each expert.
    Rows(&'static str),
    Matrices(&'static str),
}

/// Of the router there is nothing.
fn place(part: &str) -> Option<Place> {
    Some(match part {
        "attention.query" => Place::Matrix("attention.self.query.weight"),
        "attention.key" => Place::Matrix("attention.self.key.weight"),
        "attention.value" => Place::Matrix("attention.self.value.weight"),
        "attention.out" => Place::Matrix("attention.output.dense.weight"),
        "attention.query_bias" => Place::Row("attention.self.query.bias"),
        "attention.key_bias" => Place::Row("attention.self.key.bias"),
        "attention.value_bias" => Place::Row("attention.self.value.bias"),
        "attention.out_bias" => Place::Row("attention.output.dense.bias"),
        "attention_norm.gain" => Place::Row("attention.output.LayerNorm.weight"),
        "attention_norm.bias" => Place::Row("attention.output.LayerNorm.bias"),
        "mixture.up" => Place::Matrices("intermediate.dense.weight"),
        "mixture.up_bias" => Place::Rows("intermediate.dense.bias"),
        "mixture.down" => Place::Matrices("output.dense.weight"),
        "mixture.down_bias" => Place::Rows("output.dense.bias"),
        "mixture_norm.gain" => Place::Row("output.LayerNorm.weight"),
        "mixture_norm.bias" => Place::Row("output.LayerNorm.bias"),
        _ => return None,
    })
}
