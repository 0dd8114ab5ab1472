//! Ours beside named peers, in one run.
//!
//! Each benchmark (`src/bin`) makes its input, measures ours and the peer in turns on the same
//! machine, and hands a [`Report`] to the reader: a table on the screen, and a JSON file with the
//! machine, the date and every version. It promises that ours and the peer did the same work,
//! because it checks what both answered; and that beside each figure stands a limit which was
//! measured in the same run. It decides nothing and is linked into nothing.

pub mod client;
pub mod corpus;
pub mod learner;
mod machine;
pub mod reference;
mod report;
pub mod streams;
pub mod training;
pub mod turns;

pub use machine::{Build, Machine, crate_version, thread_cpu_seconds};
pub use report::{Report, median, table};

/// What the service has, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
