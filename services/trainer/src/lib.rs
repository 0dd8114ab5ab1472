//! The trainer: takes one job at a time from request to registered candidate.
//!
//! Many may run; the lease `trainer` lets one work, and its fencing token keeps a trainer that
//! was away from writing when it comes back. A job's window and parent are written down when it
//! starts and never change: a trainer that is killed, stopped or loses its lease leaves the job
//! running in the ledger, and whoever holds the lease next goes on from its last checkpoint with
//! exactly that window. The trainer judges nothing and promotes nothing.
//!
//! | what happens | what follows |
//! |---|---|
//! | ledger, stream or store away | a log line, a wait, the same again |
//! | shutdown, lease lost | training stops at the next step, with a checkpoint; the job goes on later |
//! | the window is empty, the recipe or the data is wrong | `JobFailed`, for good |
//! | the disk, or anything that may heal | `JobFailed` with `retry`, at most `max_attempts` times |
mod config;
mod data;
mod job;
mod observer;
mod trainer;

pub use config::TrainerConfig;
pub use trainer::run;
