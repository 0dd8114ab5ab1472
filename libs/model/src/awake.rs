//! Threads that wait for the next part of a request without falling asleep.
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Whether some request keeps the pool awake: a second one would only be in its way.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Set when it goes, whatever the way.
struct Done(Arc<AtomicBool>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        TAKEN.store(false, Ordering::Release);
    }
}

/// Runs `work`, whose parallel parts are many and short, on the pool of the current thread, or the
/// usual one. The pool's other threads look for parts until it is done instead of sleeping between
/// two of them: waking one takes longer than a part. Of several such works at once the first has
/// this privilege. Blocks until it is done.
pub fn in_haste<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| {
        if TAKEN.swap(true, Ordering::Acquire) {
            return work();
        }
        let done = Arc::new(AtomicBool::new(false));
        let _done = Done(Arc::clone(&done));
        let own = rayon::current_thread_index();
        // Not of the scope: a thread that is busy elsewhere is not waited for.
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

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

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
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(pool.install(|| in_haste(|| rayon::current_num_threads())), 1);
    }
}
