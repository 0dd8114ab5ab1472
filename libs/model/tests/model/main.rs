//! The model by its public surface.
mod adapters;
mod formulas;
mod fp8;
mod precision;
mod predict;
mod routing;
mod samples;
mod training;
mod weights;
