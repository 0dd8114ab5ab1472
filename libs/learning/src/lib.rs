//! Training: recipe, loop, continual-learning methods, checkpoints.
