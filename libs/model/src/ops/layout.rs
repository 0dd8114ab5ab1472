//! Who stands where: texts in a batch, tokens at experts.
use std::{cell::RefCell, sync::Arc};

/// Where each text of a batch begins; rows are the tokens of all texts, one behind the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Segments(Arc<Inner>);

#[derive(Debug, PartialEq)]
struct Inner {
    /// First row of each text, and the end of the last: `[texts + 1]`.
    starts: Vec<usize>,
    longest: usize,
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
        Self(Arc::new(Inner { starts, longest }))
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
    /// Base of the rotary position embedding.
    pub rope_base: f64,
}

impl Heads {
    /// Query heads that share a key head.
    pub(crate) fn group(&self) -> usize {
        self.queries / self.keys
    }

    /// Cosine and sine of each angle, `[longest, width / 2]` or more rows: dimension `i` of a head
    /// turns with `i + width / 2` by `position * base^(-2i / width)`.
    pub(crate) fn angles(&self, longest: usize) -> Arc<Angles> {
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
    base: f64,
    longest: usize,
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

impl Angles {
    fn new(heads: &Heads, longest: usize) -> Self {
        let (width, base) = (heads.width, heads.rope_base);
        let speed = |at: usize| base.powf(-2.0 * at as f64 / width as f64);
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
pub struct Dispatch(Arc<Sent>);

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
    pub fn new(choices: &[(u32, u32)], rows: usize, experts: usize) -> Self {
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
    pub fn rows(&self) -> &[u32] {
        &self.0.rows
    }

    /// The assignments of each expert: `starts()[e]..starts()[e + 1]`.
    #[must_use]
    pub fn starts(&self) -> &[usize] {
        &self.0.starts
    }

    /// The assignments of one row.
    #[must_use]
    pub fn of_row(&self, row: usize) -> &[u32] {
        let ends = &self.0.row_starts[row..row + 2];
        &self.0.of_row[ends[0] as usize..ends[1] as usize]
    }
}
