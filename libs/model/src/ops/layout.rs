//! Who stands where: texts in a batch, tokens at experts.
use std::{
    any::Any,
    cell::RefCell,
    fmt,
    sync::{Arc, Mutex},
};

/// Where each text of a batch begins; rows are the tokens of all texts, one behind the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Segments(Arc<Inner>);

#[derive(Debug, PartialEq)]
struct Inner {
    /// First row of each text, and the end of the last: `[texts + 1]`.
    starts: Vec<usize>,
    longest: usize,
    kept: Kept,
}

/// What a device derived from the rest.
#[derive(Default)]
struct Kept(Mutex<Vec<Arc<dyn Any + Send + Sync>>>);

impl PartialEq for Kept {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl Segments {
    /// # Panics
    /// When a text has no row.
    #[must_use]
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut starts = vec![0];
        let mut longest = 0;
        for length in lengths {
            assert!(length > 0, "a text has at least one row");
            longest = longest.max(length);
            starts.push(starts[starts.len() - 1] + length);
        }
        Self(Arc::new(Inner { starts, longest, kept: Kept::default() }))
    }

    /// Texts.
    #[must_use]
    pub fn texts(&self) -> usize {
        self.0.starts.len() - 1
    }

    /// Rows of all texts.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.0.starts[self.texts()]
    }

    /// Rows of the longest text.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.0.longest
    }

    /// What was derived from these segments and is `wanted`; made where it is not there yet. It is
    /// the same for all layers of a network, and lives as long as the batch.
    pub(crate) fn kept<T: Any + Send + Sync>(
        &self,
        wanted: impl Fn(&T) -> bool,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let mut all = self.0.kept.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let same = all.iter().filter_map(|kept| Arc::clone(kept).downcast::<T>().ok());
        if let Some(found) = same.into_iter().find(|kept| wanted(kept)) {
            return found;
        }
        let made = Arc::new(make());
        all.push(Arc::clone(&made) as Arc<dyn Any + Send + Sync>);
        made
    }

    /// The rows of each text, in order.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = std::ops::Range<usize>> + '_ {
        self.0.starts.windows(2).map(|ends| ends[0]..ends[1])
    }
}

/// How attention is divided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads; divides `queries`.
    pub keys: usize,
    /// Width of one head; even.
    pub width: usize,
    /// Whether a token sees only those before it and itself.
    pub causal: bool,
    /// Base of the rotary position embedding; nothing is turned without.
    pub rope_base: Option<f64>,
    /// Position of each text's first row: above 0 where what stood before it is known already.
    pub first: usize,
}

impl Heads {
    /// Query heads that share a key head.
    pub(crate) fn group(&self) -> usize {
        self.queries / self.keys
    }

    /// Cosine and sine of each angle, `[first + longest, width / 2]` or more rows: dimension `i` of
    /// a head turns with `i + width / 2` by `position * base^(-2i / width)`.
    pub(crate) fn angles(&self, longest: usize) -> Arc<Angles> {
        let longest = self.first + longest;
        KNOWN.with_borrow_mut(|known| {
            let same = |known: &&Angles| (known.width, known.base) == (self.width, self.rope_base);
            if known.as_deref().filter(same).is_none_or(|known| known.longest < longest) {
                *known = Some(Arc::new(Angles::new(self, longest.next_power_of_two())));
            }
            Arc::clone(known.as_ref().expect("made in the lines above"))
        })
    }
}

thread_local! {
    /// Those of the last network this thread worked for: a sine costs more than a multiplication.
    static KNOWN: RefCell<Option<Arc<Angles>>> = const { RefCell::new(None) };
}

/// See [`Heads::angles`].
pub(crate) struct Angles {
    width: usize,
    base: Option<f64>,
    longest: usize,
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

impl Angles {
    fn new(heads: &Heads, longest: usize) -> Self {
        let (width, base) = (heads.width, heads.rope_base);
        let speed = |at: usize| match base {
            Some(base) => base.powf(-2.0 * at as f64 / width as f64),
            None => 0.0,
        };
        let speeds: Vec<f64> = (0..width / 2).map(speed).collect();
        let (cos, sin) = (0..longest)
            .flat_map(|position| {
                speeds.iter().map(move |speed| {
                    let (sin, cos) = (position as f64 * speed).sin_cos();
                    (cos as f32, sin as f32)
                })
            })
            .unzip();
        Self { width, base, longest, cos, sin }
    }
}

/// Which rows go to which expert.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dispatch(Arc<Sent>);

#[derive(Debug, PartialEq)]
struct Sent {
    rows: Vec<u32>,
    starts: Vec<usize>,
    of_row: Vec<u32>,
    row_starts: Vec<u32>,
}

impl Dispatch {
    /// `choices`: row and expert of each assignment, in any order; a row may have none.
    #[must_use]
    pub(crate) fn new(choices: &[(u32, u32)], rows: usize, experts: usize) -> Self {
        // Counting sorts, by expert and by row: both stable.
        let mut starts = vec![0; experts + 1];
        let mut row_starts = vec![0_u32; rows + 1];
        for &(row, expert) in choices {
            starts[expert as usize + 1] += 1;
            row_starts[row as usize + 1] += 1;
        }
        for at in 0..experts {
            starts[at + 1] += starts[at];
        }
        for at in 0..rows {
            row_starts[at + 1] += row_starts[at];
        }
        let mut next = starts.clone();
        let mut sent = vec![0; choices.len()];
        for &(row, expert) in choices {
            let slot = &mut next[expert as usize];
            sent[*slot] = row;
            *slot += 1;
        }
        let mut next: Vec<u32> = row_starts.clone();
        let mut of_row = vec![0; choices.len()];
        for (at, &row) in (0..).zip(&sent) {
            let slot = &mut next[row as usize];
            of_row[*slot as usize] = at;
            *slot += 1;
        }
        Self(Arc::new(Sent { rows: sent, starts, of_row, row_starts }))
    }

    /// The row of each assignment; those of one expert stand together, in the order of
    /// `choices`.
    #[must_use]
    pub(crate) fn rows(&self) -> &[u32] {
        &self.0.rows
    }

    /// The assignments of each expert: `starts()[e]..starts()[e + 1]`.
    #[must_use]
    pub(crate) fn starts(&self) -> &[usize] {
        &self.0.starts
    }

    /// The assignments of one row.
    #[must_use]
    pub(crate) fn of_row(&self, row: usize) -> &[u32] {
        let ends = &self.0.row_starts[row..row + 2];
        &self.0.of_row[ends[0] as usize..ends[1] as usize]
    }
}
