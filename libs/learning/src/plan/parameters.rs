//! Parameters of a network, counted without building it.
use serde::{Deserialize, Serialize};
use tidegate_model::{
    Adapters, Architecture, FeedForward, Modality, NormForm, Placement, Positions,
};

use crate::{Method, Train};

/// Sizes that a recipe without adapters of a kind is shown.
const EXAMPLE_RANK: usize = 8;
const EXAMPLE_PREFIX: usize = 64;

/// Parameters of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// Of both paths, adapters included.
    pub total: usize,
    /// That one token uses: of the routed experts its `top_k`, of the embedding and of the wide
    /// table a row.
    pub active: usize,
    /// That learn in this job.
    pub trained: usize,
    /// Those as a share of all.
    pub trained_share: f64,
}

/// What one method would train of this network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainedShare {
    /// In words.
    pub method: String,
    /// Parameters that learn.
    pub trained: usize,
    /// Those as a share of all, its own adapters included.
    pub share: f64,
}

impl Parameters {
    /// Of a network of `classes` with these adapters, of which `method` trains a part.
    pub(crate) fn of(
        a: &Architecture,
        classes: usize,
        adapters: &Adapters,
        method: &Method,
    ) -> Self {
        let parts = parts(a, classes, adapters);
        let total = parts.iter().map(|(_, size)| size).sum::<usize>();
        let routed = a.layers - a.dense_layers;
        let new = [routed * method.new_experts(a), experts(a)];
        let trained = parts.iter().map(|(name, size)| method.trained(name, *size, new)).sum();
        let matrices = a.expert_matrices() * a.d_model * a.expert_width + a.expert_biases();
        let changes = a.expert_matrices() * adapters.expert_rank * (a.d_model + a.expert_width);
        let idle_experts = routed * (a.experts - a.top_k) * (matrices + changes);
        let [wide_rows, wide_columns] = a.wide_shape(classes);
        let idle_rows = (a.vocab - 1 + a.idle_feature_rows()) * a.d_model
            + wide_rows.saturating_sub(1) * wide_columns;
        let active = total - idle_experts - idle_rows;
        Self { total, active, trained, trained_share: trained as f64 / total as f64 }
    }
}

/// What each method would train, for a choice: sets of parameters, and adapters by kind, of the
/// recipe's sizes where it has any.
pub(crate) fn shares(a: &Architecture, classes: usize, recipe: &Adapters) -> Vec<TrainedShare> {
    let or = |size: usize, example: usize| if size > 0 { size } else { example };
    let none = Adapters { alpha: recipe.alpha, ..Adapters::default() };
    let rank = or(recipe.attention_rank, EXAMPLE_RANK);
    let mut methods: Vec<Method> =
        [Train::Full, Train::FrozenRouter, Train::RouterOnly, Train::HeadOnly]
            .map(|train| Method { train, adapters: none, ..Method::default() })
            .into();
    methods.extend(
        [
            Adapters { attention_rank: rank, ..none },
            Adapters { expert_rank: or(recipe.expert_rank, EXAMPLE_RANK), ..none },
            Adapters { prefix: or(recipe.prefix, EXAMPLE_PREFIX), ..none },
        ]
        .into_iter()
        .filter(|adapters| adapters.validate(a).is_ok())
        .map(|adapters| Method { train: Train::Adapters, adapters, ..Method::default() }),
    );
    let share = |method: Method| {
        let adapters = if method.train == Train::Adapters { method.adapters } else { none };
        let found = Parameters::of(a, classes, &adapters, &method);
        let (trained, share) = (found.trained, found.trained_share);
        TrainedShare { method: method.to_string(), trained, share }
    };
    methods.into_iter().map(share).collect()
}

/// Routed experts of all layers.
fn experts(a: &Architecture) -> usize {
    (0..a.layers).map(|layer| a.experts_of(layer).0).sum()
}

/// Every parameter of both paths by name and size; those of all layers under the first one's.
fn parts(a: &Architecture, classes: usize, adapters: &Adapters) -> Vec<(String, usize)> {
    let (d, kv, w) = (a.d_model, a.kv_heads * a.head_width(), a.expert_width);
    let shared = a.shared_experts * w;
    let (has_bias, gated) =
        (a.block.norm == NormForm::Layer, a.block.feed_forward == FeedForward::SwiGlu);
    let norm = if a.block.placement == Placement::Pre { "norm" } else { "embedding_norm" };
    let [wide_rows, wide_columns] = a.wide_shape(classes);
    let learned = a.block.positions == Positions::Learned;
    let mut parts = vec![
        ("embedding".to_owned(), a.vocab * d),
        ("positions".to_owned(), if learned { a.context * d } else { 0 }),
        (format!("{norm}.gain"), d),
        (format!("{norm}.bias"), if has_bias { d } else { 0 }),
        ("head.weight".to_owned(), d * classes),
        ("head.bias".to_owned(), classes),
        ("wide.rows".to_owned(), wide_rows * wide_columns),
    ];
    for modality in &a.modalities {
        let mut add = |part: &str, size: usize| {
            parts.push((format!("front_ends.{}.{part}", modality.as_str()), size));
        };
        let (width, places) = match modality {
            Modality::Image => (a.image.width(), a.image.patches()),
            Modality::Audio => (a.audio.width(), a.audio.patches()),
            Modality::Features => {
                add("table", a.features.rows * d);
                add("marker", d);
                continue;
            }
        };
        add("projection", width * d);
        add("position", places * d);
        add("marker", d);
    }
    let mut add_all = |name: &str, size: usize| parts.push((format!("blocks.0.{name}"), size));
    let experts = experts(a);
    let mut add = |name: &str, size: usize| add_all(name, a.layers * size);
    for norm in ["attention_norm", "mixture_norm"] {
        add(&format!("{norm}.gain"), d);
        add(&format!("{norm}.bias"), if has_bias { d } else { 0 });
    }
    for (name, [inputs, outputs]) in
        [("query", [d, d]), ("key", [d, kv]), ("value", [d, kv]), ("out", [d, d])]
    {
        add(&format!("attention.{name}"), inputs * outputs);
        add(&format!("attention.{name}_bias"), if a.block.attention_bias { outputs } else { 0 });
        add(&format!("attention.{name}_lora.into"), inputs * adapters.attention_rank);
        add(&format!("attention.{name}_lora.out"), adapters.attention_rank * outputs);
    }
    add("attention.prefix.key", adapters.prefix * kv);
    add("attention.prefix.value", adapters.prefix * kv);
    add_all("mixture.router", d * experts);
    add_all("mixture.bias", experts);
    for (count, width, place) in [(experts, w, "mixture"), (a.layers, shared, "mixture.shared")] {
        // One that has no width has no bias either.
        let count = if width == 0 { 0 } else { count };
        for (name, [inputs, outputs]) in
            [("gate", [d, width]), ("up", [d, width]), ("down", [width, d])]
        {
            if name == "gate" && !gated {
                continue;
            }
            let rank = count * adapters.expert_rank;
            add_all(&format!("{place}.{name}"), count * inputs * outputs);
            add_all(&format!("{place}.{name}_lora.into"), inputs * rank);
            add_all(&format!("{place}.{name}_lora.out"), rank * outputs);
            let biases = if gated { 0 } else { count * outputs };
            add_all(&format!("{place}.{name}_bias"), biases);
        }
    }
    parts.retain(|(_, size)| *size > 0);
    parts
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidegate_model::{BlockForm, CpuBackend, Weights};

    use super::*;
    use crate::diagnosis::flops::reference;

    #[test]
    fn the_count_is_that_of_the_network_itself() {
        let small = Architecture {
            d_model: 16,
            layers: 3,
            heads: 4,
            kv_heads: 2,
            vocab: 300,
            experts: 5,
            expert_width: 12,
            wide_buckets: 8,
            ..Architecture::default()
        };
        let without = Architecture { shared_experts: 0, ..small.clone() };
        let two = Architecture { shared_experts: 2, ..small.clone() };
        let encoder = BlockForm {
            norm: NormForm::Layer,
            placement: Placement::Post,
            positions: Positions::Learned,
            feed_forward: FeedForward::Gelu,
            attention_bias: true,
        };
        let encoder = Architecture { dense_layers: 1, block: encoder, ..small.clone() };
        let all = Adapters { attention_rank: 3, expert_rank: 2, alpha: 1.0, prefix: 4, head: true };
        let every = Architecture { modalities: Modality::ALL.into(), ..small.clone() };
        let both = Architecture { modalities: Modality::ALL.into(), ..encoder.clone() };
        for a in [&small, &without, &two, &every, &encoder, &both] {
            for adapters in [Adapters::default(), all] {
                let device = Default::default();
                let base = Weights::<CpuBackend>::init(a, 3, 1, &device).to_safetensors().unwrap();
                let files = (&base[..], None);
                let weights =
                    Weights::<CpuBackend>::with_adapters(a, &adapters, 3, files, 1, &device);
                let mut found: BTreeMap<String, usize> = BTreeMap::new();
                for (name, tensor) in crate::named::parameters(&weights.unwrap().network) {
                    let name = ["blocks.1.", "blocks.2."]
                        .iter()
                        .fold(name, |name, block| name.replace(block, "blocks.0."));
                    *found.entry(name).or_default() += tensor.dims()[0];
                }
                found.insert("wide.rows".to_owned(), 8 * 3);
                let counted: BTreeMap<String, usize> = parts(a, 3, &adapters).into_iter().collect();
                assert_eq!(counted, found);
            }
        }
    }

    #[test]
    fn adapters_are_a_small_share_of_the_reference_network() {
        let shares = shares(&reference(), 512, &Method::default().adapters);
        let of = |start: &str| {
            let found = shares.iter().find(|share| share.method.starts_with(start));
            found.unwrap_or_else(|| panic!("{start} is not among {shares:?}")).share
        };
        assert!((of("full") - 1.0).abs() < f64::EPSILON);
        let lora = of("LoRA of rank 8 on attention");
        assert!((0.005..=0.02).contains(&lora), "{lora}");
        let prefix = of("a prefix of 64");
        assert!((0.01..=0.03).contains(&prefix), "{prefix}");
        assert!(of("router only") < 0.01 && of("head only") < 0.02);
        let total = Parameters::of(&reference(), 512, &Adapters::default(), &Method::default());
        assert!((8_000_000..9_000_000).contains(&total.total), "{total:?}");
        assert!((3_000_000..4_500_000).contains(&total.active), "{total:?}");
    }

    #[test]
    fn a_kind_that_does_not_fit_the_network_is_not_offered() {
        let narrow = Architecture { d_model: 8, heads: 2, kv_heads: 1, ..Architecture::default() };
        let shares = shares(&narrow, 2, &Method::default().adapters);
        assert!(shares.iter().all(|share| !share.method.contains("attention")), "{shares:?}");
        assert_eq!(shares.len(), 6);
    }
}
