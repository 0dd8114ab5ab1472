//! The model by its public surface.
mod adapters;
mod continuation;
mod encoder;
mod forms;
mod formulas;
mod fp8;
mod parts;
mod png;
mod precision;
mod predict;
mod routing;
mod samples;
mod training;
mod weights;
