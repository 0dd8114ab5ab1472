//! Which parameters learn, and how many they are.
use burn::{
    module::{Module as _, ModuleMapper, ModuleVisitor, Param},
    tensor::{Tensor, backend::Backend},
};
use tidegate_model::{Architecture, Network, Weights};

use super::kept::layer;
use crate::{Method, Train, Trains};

/// Takes what does not learn out of the gradient graph, so that no time is spent on it.
pub(crate) fn freeze<B: Trains>(network: Network<B>, method: &Method) -> Network<B> {
    if method.train == Train::Full {
        return network;
    }
    network.map(&mut Freeze { path: Vec::new(), method })
}

/// Parameters that learn, as a share of all. The wide path's are those of its table; its
/// accumulators and the routing biases' steps are no parameters of the gradient.
pub(crate) fn share<B: Trains>(weights: &Weights<B>, method: &Method, a: &Architecture) -> f64 {
    let mut count = Count { path: Vec::new(), method, architecture: a, trained: 0, all: 0 };
    weights.network.visit(&mut count);
    count.add("wide.rows", weights.wide.buckets() * weights.wide.classes());
    count.trained as f64 / count.all as f64
}

struct Freeze<'a> {
    path: Vec<String>,
    method: &'a Method,
}

impl<B: Trains> ModuleMapper<B> for Freeze<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if self.method.includes(&self.path.join(".")) {
            return param;
        }
        param.set_require_grad(false)
    }
}

struct Count<'a> {
    path: Vec<String>,
    method: &'a Method,
    architecture: &'a Architecture,
    trained: usize,
    all: usize,
}

impl Count<'_> {
    fn add(&mut self, name: &str, size: usize) {
        self.all += size;
        let a = self.architecture;
        let new = match layer(name) {
            Some(layer) if layer < a.dense_layers => [0, 1],
            _ => [self.method.new_experts(a), a.experts],
        };
        self.trained += self.method.trained(name, size, new);
    }
}

impl<B: Backend> ModuleVisitor<B> for Count<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let size = param.shape().num_elements();
        let name = self.path.join(".");
        self.add(&name, size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Expansion;

    #[test]
    fn a_parameter_is_in_a_set_by_its_name() {
        let names = [
            "embedding",
            "blocks.0.mixture.router",
            "blocks.0.mixture.bias",
            "head.bias",
            "wide.rows",
            "blocks.0.attention.query_lora.into",
            "blocks.0.attention.prefix.key",
            "blocks.0.mixture.up",
            "blocks.0.mixture.shared.up",
        ];
        for (train, expected) in [
            (Train::Full, [true; 9]),
            (Train::RouterOnly, [false, true, true, false, false, false, false, false, false]),
            (Train::FrozenRouter, [true, false, false, true, true, true, true, true, true]),
            (Train::HeadOnly, [false, false, false, true, false, false, false, false, false]),
            (Train::FrozenExperts, [true, true, true, true, true, true, true, false, true]),
            (Train::NewExperts, [false, false, false, true, false, false, false, false, false]),
            (Train::Adapters, [false, false, false, true, false, true, true, false, false]),
        ] {
            let method = Method { train, ..Method::default() };
            assert_eq!(names.map(|name| method.includes(name)), expected, "{train:?}");
        }
        let expansion = Expansion { experts: 2, ..Expansion::default() };
        let method = Method { train: Train::NewExperts, expansion, ..Method::default() };
        let trained = names.map(|name| method.trained(name, 100, [2, 10]));
        assert_eq!(trained, [0, 20, 20, 100, 0, 0, 0, 20, 0]);
    }
}
