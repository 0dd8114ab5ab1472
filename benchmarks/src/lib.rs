//! Ours beside named peers, in one run.
