//! `tidegate`: every service as a subcommand, all of them in one process (`up`), and the
//! operator's commands. Services only meet on the stream and in the ledger, so that one process
//! and a cluster run the same code.

mod cli;
mod config;
mod demo;
mod generate;
mod infer;
mod listen;
mod offline;
mod operate;
mod output;
mod outside;
mod produce;
mod run;
mod selftest;
mod suite;
mod train;

use std::process::ExitCode;

use clap::Parser as _;

/// Gives memory back late: training takes and frees the same large tensors in every step, and the
/// system's allocator asks the kernel for each of them anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("the operating system gives threads");
    let result = runtime.block_on(cli::dispatch(cli));
    // Blocking work that ignores its cancellation must not keep a finished process alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tidegate: {error:#}");
            output::exit_code(&error)
        }
    }
}
