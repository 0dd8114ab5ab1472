//! Rows of parts beside text, brought to the width of a token and put in their places.
use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};

use super::{Source, Start, param};
use crate::{Architecture, Modality, ModelError, batch::Parts, front_ends::TERMS, ops::Kernels};

/// One for each kind of part that the network reads.
#[derive(Module, Debug)]
pub(super) struct FrontEnds<B: Backend> {
    image: Option<PatchEmbedding<B>>,
    audio: Option<PatchEmbedding<B>>,
    features: Option<FeatureTable<B>>,
}

impl<B: Kernels> FrontEnds<B> {
    pub(super) fn build(
        a: &Architecture,
        source: &mut dyn Source,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let mut patches = |modality, width, count| {
            if !a.modalities.contains(&modality) {
                return Ok(None);
            }
            PatchEmbedding::build(modality, [width, count, a.d_model], source, device).map(Some)
        };
        Ok(Self {
            image: patches(Modality::Image, a.image.width(), a.image.patches())?,
            audio: patches(Modality::Audio, a.audio.width(), a.audio.patches())?,
            features: match a.modalities.contains(&Modality::Features) {
                true => Some(FeatureTable::build([a.features.rows, a.d_model], source, device)?),
                false => None,
            },
        })
    }

    /// `tokens`: those of all texts, `[text rows, d_model]`. Returns the rows of the whole batch,
    /// `[rows, d_model]`, in the order of its sequences.
    pub(super) fn join(&self, tokens: Tensor<B, 2>, parts: &Parts<B>) -> Tensor<B, 2> {
        let mut all = vec![tokens];
        for (embedding, patches) in [(&self.image, &parts.image), (&self.audio, &parts.audio)] {
            if let Some((values, at)) = patches {
                let embedding =
                    embedding.as_ref().expect("only parts that are read are in a batch");
                all.push(embedding.forward(values.clone(), at.clone()));
            }
        }
        if let Some((rows, factors)) = &parts.features {
            let table = self.features.as_ref().expect("only parts that are read are in a batch");
            all.push(table.forward(rows.clone(), factors.clone()));
        }
        Tensor::cat(all, 0).select(0, parts.order.clone())
    }
}

/// Patches to tokens (ViT, arXiv 2010.11929, eq. 1): a linear map, a learned vector for the place in
/// the picture, and one that says what kind of picture it is.
#[derive(Module, Debug)]
struct PatchEmbedding<B: Backend> {
    /// `[width, d_model]`.
    projection: Param<Tensor<B, 2>>,
    /// `[places, d_model]`.
    position: Param<Tensor<B, 2>>,
    /// `[d_model]`.
    marker: Param<Tensor<B, 1>>,
}

impl<B: Kernels> PatchEmbedding<B> {
    fn build(
        modality: Modality,
        [width, places, d_model]: [usize; 3],
        source: &mut dyn Source,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let name = |part: &str| format!("front_ends.{}.{part}", modality.as_str());
        let into = Start::fan_in(width);
        let place = Start::Spread(0.1);
        Ok(Self {
            projection: param(source, &name("projection"), [width, d_model], into, device)?,
            position: param(source, &name("position"), [places, d_model], place, device)?,
            marker: param(source, &name("marker"), [d_model], place, device)?,
        })
    }

    /// `values`: `[patches, width]`; `at`: the place of each, `[patches]`.
    fn forward(&self, values: Tensor<B, 2>, at: Tensor<B, 1, burn::tensor::Int>) -> Tensor<B, 2> {
        B::project(values, self.projection.val())
            + B::embed(self.position.val(), at)
            + self.marker.val().unsqueeze()
    }
}

/// Features to tokens (FT-Transformer, arXiv 2106.11959, eq. 1, with names and categories hashed):
/// what stands for the name, and what stands for the value, times the number where it is one.
#[derive(Module, Debug)]
struct FeatureTable<B: Backend> {
    /// `[rows, d_model]`.
    table: Param<Tensor<B, 2>>,
    /// `[d_model]`.
    marker: Param<Tensor<B, 1>>,
}

impl<B: Kernels> FeatureTable<B> {
    fn build(
        shape: [usize; 2],
        source: &mut dyn Source,
        device: &B::Device,
    ) -> Result<Self, ModelError> {
        let [_, d_model] = shape;
        let start = Start::Spread(0.1);
        Ok(Self {
            table: param(source, "front_ends.features.table", shape, start, device)?,
            marker: param(source, "front_ends.features.marker", [d_model], start, device)?,
        })
    }

    /// `rows`: `[features * TERMS]`; `factors`: `[features * TERMS, 1]`.
    fn forward(
        &self,
        rows: Tensor<B, 1, burn::tensor::Int>,
        factors: Tensor<B, 2>,
    ) -> Tensor<B, 2> {
        let terms = self.table.val().select(0, rows) * factors;
        let [count, d_model] = terms.dims();
        let sums = terms.reshape([count / TERMS, TERMS, d_model]).sum_dim(1);
        sums.reshape([count / TERMS, d_model]) + self.marker.val().unsqueeze()
    }
}
