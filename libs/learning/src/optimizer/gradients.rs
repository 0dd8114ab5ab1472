//! Gradients under their parameters' names.
use std::collections::BTreeMap;

use burn::{
    module::{Module as _, ModuleVisitor, Param},
    tensor::{Tensor, backend::Backend},
};
use tidegate_model::Network;

use crate::{Trains, optimizer::read};

/// dL/dparameter of each parameter that has one, flat: `[parameters]`.
#[derive(Debug, Clone)]
pub(crate) struct Gradients<I: Backend>(pub(crate) BTreeMap<String, Tensor<I, 1>>);

impl<I: Backend> Gradients<I> {
    /// Takes those of `network` out of what a backward pass left.
    pub(crate) fn take<B: Trains<InnerBackend = I>>(
        network: &Network<B>,
        mut gradients: B::Gradients,
    ) -> Self {
        let mut taker =
            Taker::<B> { path: Vec::new(), gradients: &mut gradients, taken: BTreeMap::new() };
        network.visit(&mut taker);
        Self(taker.taken)
    }

    /// Adds those of another micro-batch.
    pub(crate) fn add(&mut self, other: Self) {
        for (name, gradient) in other.0 {
            let sum = match self.0.remove(&name) {
                Some(own) => own + gradient,
                None => gradient,
            };
            self.0.insert(name, sum);
        }
    }

    pub(crate) fn scale(&mut self, by: f64) {
        for gradient in self.0.values_mut() {
            *gradient = gradient.clone().mul_scalar(by);
        }
    }

    /// Norm of each; one transfer from the device for all.
    pub(crate) fn norms(&self) -> BTreeMap<&str, f64> {
        let squares = self.0.values().map(|g| (g.clone() * g.clone()).sum()).collect();
        let squares = read(squares);
        let names = self.0.keys().map(String::as_str);
        names.zip(squares.into_iter().map(|square| f64::from(square).sqrt())).collect()
    }
}

struct Taker<'a, B: Trains> {
    path: Vec<String>,
    gradients: &'a mut B::Gradients,
    taken: BTreeMap<String, Tensor<B::InnerBackend, 1>>,
}

impl<B: Trains> ModuleVisitor<B> for Taker<'_, B> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let size = param.shape().num_elements();
        if let Some(gradient) = param.val().grad_remove(self.gradients) {
            self.taken.insert(self.path.join("."), gradient.reshape([size]));
        }
    }
}
