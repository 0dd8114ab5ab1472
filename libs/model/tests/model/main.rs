//! The model by its public surface.
mod formulas;
mod fp8;
mod precision;
mod predict;
mod samples;
mod training;
mod weights;
