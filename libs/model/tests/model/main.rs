//! The model by its public surface.
mod formulas;
mod predict;
mod samples;
mod training;
mod weights;
