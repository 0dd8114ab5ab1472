//! The mixture-of-experts network: tokens, wide path, backbone, heads, devices.
//!
//! A text takes two paths, whose evidence for each class is added. The **deep** path ([`Network`])
//! is a small transformer with a mixture of experts over byte-level BPE tokens; the **wide** path
//! ([`WideTable`]) is linear in hashed word n-grams, because a stream's first days are few and
//! linear evidence is strong there; it is learnt by its errors, and counted ([`Counts`]).
//! [`Weights`] are both; [`Model`] is both, trained, and answers.
//!
//! Promises: an answer does not depend on what else is in its batch (no token is ever dropped);
//! the same seed and inputs give the same bits on a CPU with the same number of threads; any text
//! is answered in bounded time; a file that does not fit is refused by the name of what is wrong.
//! Pure: bytes come in and go out, no file or stream is opened.
//!
//! ```
//! # use std::collections::BTreeMap;
//! # use tidegate_model::*;
//! let architecture = Architecture { vocab: 300, wide_buckets: 1 << 10, ..Default::default() };
//! let tokenizer = Tokenizer::train(&["free tickets", "minutes of the meeting"], 300)?;
//! let weights = Weights::<CpuBackend>::init(&architecture, 2, 7, &Default::default());
//! let files = BTreeMap::from([
//!     (ARCHITECTURE.to_owned(), serde_json::to_vec(&architecture).unwrap().into()),
//!     (TOKENIZER.to_owned(), tokenizer.to_bytes()?.into()),
//!     (WEIGHTS.to_owned(), weights.to_safetensors()?.into()),
//!     (LABELS.to_owned(), r#"["ham", "spam"]"#.into()),
//! ]);
//! let model = Model::from_files(&files, &Device::Cpu)?;
//! let scores = model.predict(&[Input::text("free tickets")])?;
//! assert_eq!(scores[0].probabilities, [0.5, 0.5], "nothing is learnt yet");
//! # Ok::<(), ModelError>(())
//! ```

mod architecture;
mod attack;
mod batch;
mod bytes;
mod continuation;
mod counts;
mod device;
mod error;
mod form;
mod front_ends;
mod inference;
mod input;
mod levels;
mod network;
mod ops;
mod precision;
mod pretrained;
mod text;
mod threads;
mod weights;
mod wide;

pub use architecture::{Affinity, Architecture, Task};
pub use attack::{
    Attack, Attacked, Ball, Means, Method, Norm, NumberSpread, Point, Space, Spread, climb,
};
pub use batch::Batch;
pub use bytes::{first_not_finite, from_le_bytes, to_le_bytes, widened};
pub use continuation::{Continuation, Ended, Piece, Sampling};
pub use counts::{COUNTS, Counts, Evidence};
#[cfg(feature = "cuda")]
pub use device::CudaBackend;
pub use device::{CpuBackend, Device};
pub use error::ModelError;
pub use form::{BlockForm, FeedForward, NormForm, Placement, Positions};
pub use front_ends::{
    AudioShape, FeatureShape, ImageShape, MOST_FEATURES, Modality, Patches, Picture, Rows, Scales,
    Sound, check_part,
};
pub use inference::{
    ADAPTER_WEIGHTS, ADAPTERS, ARCHITECTURE, FEATURE_SCALES, LABELS, Model, Scores, Surprise,
    TOKENIZER, WEIGHTS,
};
pub use input::Input;
pub use levels::{INTERVAL, Levels};
pub use network::{Adapters, Cache, ExpertLoad, Grown, Network, Output, Routed, RouterTraining};
pub use ops::{AdamW, Compared, Kernels, Learns, PortableBackend, operators_beside_cpu};
pub use precision::{Compute, E4M3, E5M2, Fp8Backend, Fp8Matrix, Tile, fp8_matmul, fp8_round};
pub use pretrained::{Pretrained, Upcycling};
pub use text::{Features, Featurizer, Tokenizer};
pub use threads::{in_background, in_haste};
pub use weights::Weights;
pub use wide::WideTable;
