//! The gateway: Open Inference Protocol over an atomically swapped champion.
