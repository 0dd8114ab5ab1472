//! Curation as its callers see it.
mod properties;
mod stages;
mod state;
mod stream;
