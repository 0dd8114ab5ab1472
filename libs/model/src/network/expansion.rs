//! More routed experts beside those that are there.
use burn::{
    module::Param,
    tensor::{Tensor, TensorData},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{ExpertLoad, Network, experts::Mixture, experts::values, parameters::named};
use crate::{Architecture, ops::Kernels};

/// Affinities are at most 1, so an expert whose bias is this far below the lowest of the others is
/// above none of them, whatever the token.
const OUT_OF_REACH: f32 = 1.001;

/// A network with more experts, whose new ones are not chosen by any token yet.
#[derive(Debug)]
pub struct Grown<B: burn::tensor::backend::Backend> {
    /// Gives the answers of the smaller one.
    pub network: Network<B>,
    /// How far the routing biases of the new experts lie below those of the experts that they are
    /// copies of. [`Network::open_experts`] raises them.
    pub closed_by: f32,
}

/// Where an expert of a grown layer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Its index before; of a new one that of the expert it is a copy of.
    source: usize,
    new: bool,
}

impl<B: Kernels> Network<B> {
    /// Grows each layer that is not dense to the experts of `grown`, which is
    /// [`Architecture::with_experts`] of this network's. Each new expert stands at the end of a group and is a copy of one of the group's
    /// experts that `loads` (one a layer) says get the most, with its weights and its router column
    /// moved by `noise` times their root mean square (Net2Net: Chen et al. 2015, arXiv 1511.05641,
    /// section 2; copies of trained experts as in sparse upcycling, arXiv 2212.05055).
    ///
    /// What is new is closed: no token is sent there until [`Network::open_experts`], so that the
    /// answers are those of this network. That holds for sigmoid affinities, which an expert has by
    /// itself; softmax would share the others' among more.
    ///
    /// # Panics
    /// When `loads` are not of this network's layers, or experts have low-rank changes that are not
    /// folded in.
    #[must_use]
    pub fn grow_experts(
        mut self,
        grown: &Architecture,
        loads: &[ExpertLoad],
        noise: f64,
        seed: u64,
    ) -> Grown<B> {
        assert_eq!(loads.len(), self.blocks.len(), "one load a layer");
        let closed_by = self.blocks.iter().map(|block| spread(&block.mixture.biases()));
        let closed_by = OUT_OF_REACH + closed_by.fold(0.0, f32::max);
        for (layer, (block, load)) in self.blocks.iter_mut().zip(loads).enumerate() {
            if layer < grown.dense_layers {
                continue;
            }
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(layer as u64);
            let places = places(grown, &load.0);
            let mut copy = Copies { noise: noise as f32, rng };
            let name = format!("blocks.{layer}.mixture");
            block.mixture.grow(&name, &places, closed_by, &mut copy);
        }
        self.form.rule = super::Rule::of(grown);
        Grown { network: self, closed_by }
    }

    /// Raises the routing biases of `experts`, by index, in each layer that has more than one.
    #[must_use]
    pub fn open_experts(mut self, experts: &[usize], by: f32) -> Self {
        for block in self.blocks.iter_mut().filter(|block| !block.mixture.is_dense()) {
            block.mixture.raise(experts, by);
        }
        self
    }
}

fn spread(biases: &[f32]) -> f32 {
    let highest = biases.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let lowest = biases.iter().copied().fold(f32::INFINITY, f32::min);
    highest - lowest
}

/// The experts of a grown layer, by index.
fn places(grown: &Architecture, load: &[f32]) -> Vec<Place> {
    let groups = grown.expert_groups;
    let (before, after) = (load.len() / groups, grown.experts / groups);
    let mut places = Vec::with_capacity(grown.experts);
    for group in 0..groups {
        let old: Vec<usize> = (group * before..(group + 1) * before).collect();
        let mut busiest = old.clone();
        // Stable: of equals, the first.
        busiest.sort_by(|&a, &b| load[b].total_cmp(&load[a]));
        places.extend(old.into_iter().map(|source| Place { source, new: false }));
        let copies = busiest.into_iter().cycle().take(after - before);
        places.extend(copies.map(|source| Place { source, new: true }));
    }
    places
}

/// Makes copies that are not quite alike.
struct Copies {
    noise: f32,
    rng: ChaCha8Rng,
}

impl Copies {
    /// `values`, moved by uniform noise of a root mean square of `noise` times theirs.
    fn moved(&mut self, values: &[f32]) -> Vec<f32> {
        let square: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
        let bound = (square / values.len() as f64).sqrt() as f32 * self.noise * 3_f32.sqrt();
        if bound > 0.0 {
            values.iter().map(|value| value + self.rng.random_range(-bound..bound)).collect()
        } else {
            values.to_vec()
        }
    }

    /// A parameter with a part for each expert, `[experts, ..]`, of the experts at `places`.
    fn of<B: Kernels, const D: usize>(
        &mut self,
        name: &str,
        old: Param<Tensor<B, D>>,
        places: &[Place],
    ) -> Param<Tensor<B, D>> {
        let (mut shape, device) = (old.dims(), old.device());
        let old = values(old.val());
        let size = old.len() / shape[0];
        shape[0] = places.len();
        let mut new = Vec::with_capacity(places.len() * size);
        for place in places {
            let part = &old[place.source * size..(place.source + 1) * size];
            if place.new {
                new.extend(self.moved(part));
            } else {
                new.extend_from_slice(part);
            }
        }
        named(name, Tensor::from_data(TensorData::new(new, shape), &device))
    }
}

impl<B: Kernels> Mixture<B> {
    /// Whether its only expert sees every token.
    fn is_dense(&self) -> bool {
        let [experts] = self.bias.dims();
        experts == 1
    }

    fn biases(&self) -> Vec<f32> {
        values(self.bias.val())
    }

    fn grow(&mut self, name: &str, places: &[Place], closed_by: f32, copies: &mut Copies) {
        let changes = [&self.gate_lora, &self.up_lora, &self.down_lora];
        assert!(changes.iter().all(|change| change.is_none()), "changes are folded in first");
        let device = self.bias.device();
        let biases = self.biases();
        let bias: Vec<f32> = places
            .iter()
            .map(|place| biases[place.source] - if place.new { closed_by } else { 0.0 })
            .collect();
        let [d_model, experts] = self.router.dims();
        let router = values(self.router.val());
        let columns: Vec<Vec<f32>> = places
            .iter()
            .map(|place| {
                let column: Vec<f32> =
                    (0..d_model).map(|row| router[row * experts + place.source]).collect();
                if place.new { copies.moved(&column) } else { column }
            })
            .collect();
        let router: Vec<f32> =
            (0..d_model).flat_map(|row| columns.iter().map(move |column| column[row])).collect();
        let name_of = |part: &str| format!("{name}.{part}");
        self.gate = self.gate.take().map(|gate| copies.of(&name_of("gate"), gate, places));
        self.up = copies.of(&name_of("up"), self.up.clone(), places);
        self.down = copies.of(&name_of("down"), self.down.clone(), places);
        let biases = [("up_bias", &mut self.up_bias), ("down_bias", &mut self.down_bias)];
        for (part, bias) in biases {
            *bias = bias.take().map(|bias| copies.of(&name_of(part), bias, places));
        }
        let router = TensorData::new(router, [d_model, places.len()]);
        self.router = named(&format!("{name}.router"), Tensor::from_data(router, &device));
        let bias = TensorData::new(bias, [places.len()]);
        let bias = named(&format!("{name}.bias"), Tensor::from_data(bias, &device));
        self.bias = bias.set_require_grad(false);
    }

    fn raise(&mut self, experts: &[usize], by: f32) {
        let mut bias = self.biases();
        for &expert in experts {
            bias[expert] += by;
        }
        self.set_biases(bias);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, BlockForm, CpuBackend, Features, FeedForward};

    fn architecture(groups: usize) -> Architecture {
        Architecture {
            d_model: 16,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            vocab: 300,
            experts: 4,
            expert_groups: groups,
            top_groups: groups.div_ceil(2),
            expert_width: 8,
            ..Architecture::default()
        }
    }

    fn texts() -> Vec<Features> {
        let tokens = |text: u32| (0..12).map(move |at| (at * 37 + text * 11) % 300).collect();
        let features = |text| Features { tokens: tokens(text), ..Features::default() };
        (0..9).map(features).collect()
    }

    fn forward(network: &Network<CpuBackend>) -> (Vec<f32>, Vec<ExpertLoad>) {
        let texts = texts();
        let texts: Vec<&Features> = texts.iter().collect();
        let output = network.forward(&Batch::new(&texts, &Default::default()));
        (output.logits.into_data().into_vec().unwrap(), output.loads)
    }

    /// A network whose head is not 0, and whose biases are uneven.
    fn network(a: &Architecture) -> Network<CpuBackend> {
        let mut network = Network::init(a, 3, 7, &Default::default());
        let weight: Vec<f32> = (0..48).map(|at| (at as f32 * 1.7).sin()).collect();
        let weight = TensorData::new(weight, [16, 3]);
        network.head.weight = named("head.weight", Tensor::from_data(weight, &Default::default()));
        network.open_experts(&[1, 3], 0.3)
    }

    #[test]
    fn a_grown_network_gives_the_answers_of_the_smaller_one_until_it_is_opened() {
        let encoder = Architecture {
            dense_layers: 1,
            block: BlockForm { feed_forward: FeedForward::Gelu, ..BlockForm::default() },
            ..architecture(1)
        };
        for a in [architecture(1), architecture(2), encoder] {
            let small = network(&a);
            let (before, loads) = forward(&small);
            let grown = a.with_experts(2).unwrap();
            let Grown { network, closed_by } = small.grow_experts(&grown, &loads, 0.01, 5);
            let (after, new) = forward(&network);
            for (before, after) in before.iter().zip(&after) {
                assert!((before - after).abs() < 1e-5, "{before} {after}");
            }
            let fresh: Vec<usize> = grown.new_experts(2).collect();
            let share = |loads: &[ExpertLoad]| -> f32 {
                let routed = loads.iter().filter(|load| load.0.len() > 1);
                routed.flat_map(|load| fresh.iter().map(|&at| load.0[at])).sum()
            };
            assert_eq!(share(&new), 0.0, "nobody is sent there");
            let (opened, loads) = forward(&network.open_experts(&fresh, closed_by));
            assert!(share(&loads) > 0.1, "{loads:?}");
            // Copies of what was there answer alike, though a token may lose its second expert: of
            // another network the answers would be further apart than they are long.
            let length = |of: &mut dyn Iterator<Item = f32>| of.map(|v| v * v).sum::<f32>().sqrt();
            let apart = length(&mut before.iter().zip(&opened).map(|(a, b)| a - b));
            let share = apart / length(&mut before.iter().copied());
            assert!(share < 0.7, "{share}");
        }
    }

    #[test]
    fn new_experts_are_copies_of_the_busiest_at_the_end_of_each_group() {
        let grown = Architecture { experts: 8, expert_groups: 2, ..Architecture::default() };
        let found: Vec<(usize, bool)> = places(&grown, &[0.1, 0.4, 0.3, 0.2])
            .into_iter()
            .map(|place| (place.source, place.new))
            .collect();
        let expected =
            [0, 1, 1, 0, 2, 3, 2, 3].into_iter().zip([false, false, true, true].repeat(2));
        assert_eq!(found, expected.collect::<Vec<_>>());
        assert_eq!(grown.new_experts(4).collect::<Vec<_>>(), [2, 3, 6, 7]);
    }
}
