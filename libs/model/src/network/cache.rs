//! What a network keeps of a text that it continues.
use burn::tensor::{Tensor, backend::Backend};

use super::{Network, RouterTraining, attention::Seen};
use crate::{Batch, Task, ops::Kernels};

/// Keys and values of one text's tokens in each layer, so that a token more costs only itself.
#[derive(Debug, Clone)]
pub struct Cache<B: Backend> {
    layers: Vec<Seen<B>>,
    length: usize,
}

impl<B: Kernels> Cache<B> {
    /// Tokens seen.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn layer(&mut self, layer: usize) -> &mut Seen<B> {
        &mut self.layers[layer]
    }
}

impl<B: Kernels> Network<B> {
    /// Of a text without a token yet.
    #[must_use]
    pub fn cache(&self) -> Cache<B> {
        Cache { layers: vec![Seen::nothing(); self.blocks.len()], length: 0 }
    }

    /// Reads `tokens` behind those in `cache`, and returns the logits of the token that follows
    /// them, `[1, vocab]`: what [`Network::forward`] gives for the whole text's last row, but for
    /// rounding. Adapters are respected, prefixes among them.
    ///
    /// # Panics
    /// When there is no token, `cache` is another network's, or the network is none of
    /// [`Task::NextToken`].
    pub fn next(&self, tokens: &[u32], cache: &mut Cache<B>) -> Tensor<B, 2> {
        assert!(self.form.task == Task::NextToken, "a classifier continues nothing");
        assert!(!tokens.is_empty(), "something has to be read");
        assert_eq!(cache.layers.len(), self.blocks.len(), "the cache is this network's");
        let batch = Batch::of_tokens([tokens], &self.embedding.device());
        let (x, ..) = self.states(&batch, RouterTraining::default(), Some(cache));
        cache.length += tokens.len();
        let last = x.narrow(0, tokens.len() - 1, 1);
        self.answers(last)
    }
}
