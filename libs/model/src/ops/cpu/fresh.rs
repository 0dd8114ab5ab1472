//! Results that are written once and by many threads, without being filled with zeros first: that
//! filling would take a twelfth of a training step.
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::take;
use crate::threads::is_alone;

/// Numbers that nobody has written yet.
pub(super) type Blank = [MaybeUninit<f32>];

/// Room for a task's own intermediate result.
pub(super) fn blank(size: usize) -> Box<Blank> {
    Box::new_uninit_slice(size)
}

/// Writes every number of `blank`.
///
/// # Panics
/// When there are fewer values.
#[inline(always)]
pub(super) fn written(blank: &mut Blank, values: impl Iterator<Item = f32>) -> &mut [f32] {
    let mut count = 0;
    for (cell, value) in blank.iter_mut().zip(values) {
        cell.write(value);
        count += 1;
    }
    assert_eq!(count, blank.len(), "a value for each number");
    // SAFETY: as many cells were written as there are, from the first one on.
    #[allow(unsafe_code)]
    unsafe {
        blank.assume_init_mut()
    }
}

/// Writes rows, one behind the other.
///
/// # Panics
/// When they are fewer or more numbers than there is room for.
pub(super) fn copied<'a, 'b>(
    blank: &'a mut Blank,
    rows: impl Iterator<Item = &'b [f32]>,
) -> &'a mut [f32] {
    let mut at = 0;
    for row in rows {
        blank[at..at + row.len()].write_copy_of_slice(row);
        at += row.len();
    }
    assert_eq!(at, blank.len(), "rows for the whole");
    // SAFETY: each row was written behind the one before, up to the end.
    #[allow(unsafe_code)]
    unsafe {
        blank.assume_init_mut()
    }
}

/// Multiplications below which all is done by the calling thread: some ten microseconds. Less is over
/// before another thread has begun; and on a busy machine a part that another thread has taken, and
/// is then kept from finishing, holds up everything.
const WORTH: usize = 1_000_000;

/// Multiplications that take as long as reading and writing a number.
pub(super) const MOVED: usize = 30;

/// Makes `N` results in parallel, where the `work` (multiplications of all tasks, about) is worth it.
/// Each task says how much of each result is its own, in order, and `make` returns those very parts, written.
///
/// # Panics
/// When `make` returns anything else than the parts that it was given, or the tasks' parts are not
/// the whole of each result.
pub(super) fn fresh<const N: usize, T: Send>(
    sizes: [usize; N],
    work: usize,
    tasks: impl IntoIterator<Item = (T, [usize; N])>,
    make: impl for<'a> Fn(T, [&'a mut Blank; N]) -> [&'a mut [f32]; N] + Sync,
) -> [Vec<f32>; N] {
    let mut results = sizes.map(blank);
    {
        let mut rest = results.each_mut().map(|result| &mut result[..]);
        let tasks: Vec<_> = tasks
            .into_iter()
            .map(|(task, sizes)| {
                let mut sizes = sizes.into_iter();
                let part = |rest| take(rest, sizes.next().expect("a size for each result"));
                (task, rest.each_mut().map(part))
            })
            .collect();
        assert!(rest.iter().all(|rest| rest.is_empty()), "tasks for the whole of each result");
        let checked = |(task, mut parts): (T, [&mut Blank; N])| {
            let given = parts.each_mut().map(|part| (part.as_mut_ptr().cast::<f32>(), part.len()));
            let done = make(task, parts);
            let returned = done.map(|part| (part.as_mut_ptr(), part.len()));
            assert_eq!(given, returned, "a task returns the parts it was given");
        };
        if work < WORTH || is_alone() {
            tasks.into_iter().for_each(checked);
        } else {
            tasks.into_par_iter().for_each(checked);
        }
    }
    // SAFETY: the tasks' parts are the whole of each result, and each part came back as initialised
    // numbers, at the same place and of the same length. A task that panics is passed on by
    // `for_each`, and never comes here.
    #[allow(unsafe_code)]
    results.map(|result| unsafe { result.assume_init() }.into_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_become_whole_results_in_order() {
        let tasks = (0..5_u8).map(|task| (task, [usize::from(task), 2]));
        let [ragged, even] = fresh([10, 10], WORTH, tasks, |task, [ragged, even]| {
            let values = || std::iter::repeat(f32::from(task));
            [written(ragged, values()), written(even, values())]
        });
        assert_eq!(ragged, [1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0, 4.0]);
        assert_eq!(even, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]);
    }

    #[test]
    #[should_panic(expected = "a value for each number")]
    fn too_few_values_are_not_taken_for_a_result() {
        fresh([3], 0, [((), [3])], |(), [part]| [written(part, [1.0, 2.0].into_iter())]);
    }

    #[test]
    #[should_panic(expected = "the parts it was given")]
    fn another_part_is_not_taken_for_a_result() {
        fresh([4], 0, [((), [4])], |(), [part]| {
            let (first, _) = part.split_at_mut(2);
            [written(first, [1.0, 2.0].into_iter())]
        });
    }

    #[test]
    #[should_panic(expected = "the whole of each result")]
    fn a_result_that_no_task_makes_is_not_returned() {
        fresh([4], 0, [((), [3])], |(), [part]| [written(part, std::iter::repeat(0.0))]);
    }
}
