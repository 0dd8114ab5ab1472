//! On which threads something is computed.
use std::{
    cell::Cell,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rayon::{ThreadPool, ThreadPoolBuilder};

/// How much background threads yield to others (`nice`): a thread that serves gets about ten times
/// the share of a core.
const NICENESS: i32 = 10;

/// A thread a core, made at the first use.
static BACKGROUND: LazyLock<Option<ThreadPool>> = LazyLock::new(|| {
    ThreadPoolBuilder::new()
        .thread_name(|index| format!("background-{index}"))
        .start_handler(|_| {
            // On Linux this is the thread's own; where it is refused, work is only less polite.
            let _ = rustix::process::setpriority_process(None, NICENESS);
        })
        .build()
        .ok()
});

/// The same for requests.
static REQUESTS: LazyLock<Option<ThreadPool>> = LazyLock::new(|| {
    ThreadPoolBuilder::new().thread_name(|index| format!("requests-{index}")).build().ok()
});

/// Whether a request keeps its pool awake: a second one would only be in its way.
static HASTE: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether this thread works alone.
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on threads that yield to those that serve: training and evaluation in the process of
/// a gateway. Everything in it that is parallel uses these threads, as many as there are cores, so
/// that results are the same to the bit as on the usual ones. Blocks until it is done.
pub fn in_background<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match &*BACKGROUND {
        Some(pool) => pool.install(work),
        None => work(),
    }
}

/// Runs `work` on all cores; on the pool that the caller is in, where it is in one. Blocks until it
/// is done.
pub(crate) fn on_all_cores<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match &*REQUESTS {
        Some(pool) if rayon::current_thread_index().is_none() => pool.install(work),
        _ => work(),
    }
}

/// Runs `work` on this thread only: what is over before another thread would be awake.
pub(crate) fn alone<T>(work: impl FnOnce() -> T) -> T {
    /// Puts back what was.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _before = Before(ALONE.replace(true));
    work()
}

/// Whether operators are not to divide their work.
pub(crate) fn is_alone() -> bool {
    ALONE.get()
}

/// Runs `work`, whose parallel parts are many and short, on all cores. The other threads look for
/// parts until it is done instead of sleeping between two of them: waking one takes longer than a
/// part. Of several such works at once the first has this privilege. Blocks until it is done.
pub fn in_haste<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    on_all_cores(|| {
        if HASTE.swap(true, Ordering::Acquire) {
            return work();
        }
        let done = Arc::new(AtomicBool::new(false));
        let _done = Done(Arc::clone(&done));
        let own = rayon::current_thread_index();
        // Not waited for: a thread that is busy elsewhere finds it done.
        rayon::spawn_broadcast(move |thread| {
            while own != Some(thread.index()) && !done.load(Ordering::Acquire) {
                if rayon::yield_now() == Some(rayon::Yield::Idle) {
                    std::hint::spin_loop();
                }
            }
        });
        work()
    })
}

/// Set when it goes, whatever the way.
struct Done(Arc<AtomicBool>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        HASTE.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn background_threads_yield_and_the_caller_does_not() {
        let of_thread = || rustix::process::getpriority_process(None).unwrap();
        let before = of_thread();
        assert_eq!(in_background(of_thread), before.max(NICENESS));
        assert_eq!(of_thread(), before);
    }

    #[test]
    fn a_pool_that_the_caller_is_in_is_kept_and_being_alone_ends() {
        let cores = std::thread::available_parallelism().unwrap().get();
        assert_eq!(on_all_cores(rayon::current_num_threads), cores);
        let one = ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one.install(|| on_all_cores(rayon::current_num_threads)), 1);
        assert!(alone(|| alone(is_alone) && is_alone()));
        let failed = std::panic::catch_unwind(|| alone(|| panic!("on purpose")));
        assert!(failed.is_err() && !is_alone());
    }

    #[test]
    fn many_works_at_once_are_all_done() {
        std::thread::scope(|scope| {
            for client in 0..8_u64 {
                scope.spawn(move || {
                    for round in 0..50 {
                        let sum: u64 =
                            in_haste(|| (0..1_000_u64).into_par_iter().map(|at| at * client).sum());
                        assert_eq!(sum, 499_500 * client, "{round}");
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_gives_the_privilege_back() {
        let failed = std::panic::catch_unwind(|| in_haste(|| panic!("on purpose")));
        assert!(failed.is_err());
        assert_eq!(in_haste(|| 3), 3);
        // Another test may have it for a moment.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while HASTE.load(Ordering::Acquire) {
            assert!(std::time::Instant::now() < deadline, "the privilege was not given back");
            std::thread::yield_now();
        }
    }
}
