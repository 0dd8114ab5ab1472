//! Compute that must not slow down what is answered meanwhile.
use std::sync::LazyLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// How much background threads yield to others (`nice`): a thread that serves gets about ten times
/// the share of a core.
const NICENESS: i32 = 10;

/// A thread a core, made at the first use.
static POOL: LazyLock<Option<ThreadPool>> = LazyLock::new(|| {
    ThreadPoolBuilder::new()
        .thread_name(|index| format!("background-{index}"))
        .start_handler(|_| {
            // On Linux this is the thread's own; where it is refused, work is only less polite.
            let _ = rustix::process::setpriority_process(None, NICENESS);
        })
        .build()
        .ok()
});

/// Runs `work` on threads that yield to those that serve: training and evaluation in the process of
/// a gateway. Everything in it that is parallel uses these threads, as many as there are cores, so
/// that results are the same to the bit as on the usual ones. Blocks until it is done.
pub fn in_background<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match &*POOL {
        Some(pool) => pool.install(work),
        None => work(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn background_threads_yield_and_the_caller_does_not() {
        let of_thread = || rustix::process::getpriority_process(None).unwrap();
        let before = of_thread();
        assert_eq!(in_background(of_thread), before.max(NICENESS));
        assert_eq!(of_thread(), before);
    }
}
