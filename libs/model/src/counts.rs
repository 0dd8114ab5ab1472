//! What the texts of each class were made of, counted: evidence that needs no steps.
//!
//! Complement naive Bayes (Rennie et al. 2003, "Tackling the poor assumptions of naive Bayes text
//! classifiers", section 3.1) beside weights that are learnt by their errors, each with what it is
//! best at (Raina et al. 2003, "Classification with hybrid generative/discriminative models"): counts
//! know a class after its first texts, and only ever add up, so that nothing which was learnt once is
//! lost by learning more.
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::{
    Architecture, Features, ModelError, bytes::widened, first_not_finite, from_le_bytes,
    to_le_bytes,
};

/// File of a generation: what its texts were made of; [`Counts::to_safetensors`].
pub const COUNTS: &str = "counts.safetensors";

const GRAMS: &str = "grams";
const WEIGHING: &str = "weighing";

/// Cells of a table that one thread turns into evidence at a time.
const CELLS: usize = 1 << 14;

/// Grams of texts by class. A count is an f32: a gram that a class had 16 million times stays there.
#[derive(Debug, Clone, PartialEq)]
pub struct Counts {
    classes: usize,
    /// Texts in which a gram was seen, `[buckets, classes]`; more than one for a text that has it
    /// several times.
    grams: Vec<f32>,
    /// Added to each count: how little is known by one that is 0. Above 0.
    pub smoothing: f32,
    /// What the evidence is multiplied by before it is added to the other logits.
    pub scale: f32,
    /// What the sum of all logits is divided by (temperature: Guo et al. 2017, arXiv 1706.04599,
    /// section 4.2): words say the same many times over, so it is too sure of itself. A power of 2,
    /// so that weights which are divided by it have the same bits again when they are multiplied.
    pub heat: f32,
}

/// What counts say, `[buckets, classes]`: log odds of each gram.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    classes: usize,
    pub(crate) rows: Vec<f32>,
}

impl Counts {
    /// Nothing is counted yet. Without cells where the architecture has no wide path.
    #[must_use]
    pub fn none(architecture: &Architecture, classes: usize, smoothing: f32, scale: f32) -> Self {
        let [buckets, classes] = architecture.wide_shape(classes);
        Self { classes, grams: vec![0.0; buckets * classes], smoothing, scale, heat: 1.0 }
    }

    /// Whether nothing is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.grams.iter().all(|&count| count <= 0.0)
    }

    /// Counts an input of this weight to a class. Its grams count as often as they are in its text,
    /// sub-linearly; an input without text counts for nothing, and what speaks against its own part
    /// (a negative value) neither.
    ///
    /// # Panics
    /// When there are fewer classes.
    pub fn add(&mut self, features: &Features, class: usize, weight: f32) {
        assert!(class < self.classes, "no class {class} of {}", self.classes);
        for &(bucket, value) in &features.grams {
            self.grams[bucket as usize * self.classes + class] +=
                (value * features.gram_norm * weight).max(0.0);
        }
    }

    /// Which classes have been counted.
    #[must_use]
    pub fn counted(&self) -> Vec<bool> {
        self.totals().into_iter().map(|total| total > 0.0).collect()
    }

    /// Grams of each class.
    fn totals(&self) -> Vec<f64> {
        let mut totals = vec![0.0; self.classes];
        for row in self.grams.chunks_exact(self.classes.max(1)) {
            for (total, count) in totals.iter_mut().zip(row) {
                *total += f64::from(*count);
            }
        }
        totals
    }

    /// The log odds of each gram and class: how rare it is in all other classes together,
    ///
    /// ```text
    /// -ln((N_g - n_gc + s) / (N - n_c + s V))
    /// ```
    ///
    /// with `n_gc` the gram's count in the class, `N_g` in all, `n_c` and `N` their sums over grams,
    /// `V` the grams that were seen at all and `s` the smoothing (Rennie et al. 2003, equation 7),
    /// less the mean over the classes that were counted. A gram that no text had speaks for the
    /// classes that little is known of. 0 for classes without a count, and for all while only one
    /// has any.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        let classes = self.classes;
        let mut rows = vec![0.0; self.grams.len()];
        let totals = self.totals();
        let counted: Vec<usize> = (0..classes).filter(|&class| totals[class] > 0.0).collect();
        if counted.len() < 2 {
            return Evidence { classes, rows };
        }
        let seen = self.grams.chunks_exact(classes).filter(|row| row.iter().any(|&n| n > 0.0));
        let smoothing = f64::from(self.smoothing);
        let all = totals.iter().sum::<f64>() + smoothing * seen.count() as f64;
        let of_others: Vec<f32> = totals.iter().map(|own| (all - own).ln() as f32).collect();
        let most = (CELLS / classes).max(1) * classes;
        let parts = rows.par_chunks_mut(most).zip(self.grams.par_chunks(most));
        parts.for_each(|(rows, grams)| {
            for (row, grams) in rows.chunks_exact_mut(classes).zip(grams.chunks_exact(classes)) {
                let sum = grams.iter().sum::<f32>();
                let mut mean = 0.0;
                for &class in &counted {
                    // Rounding may leave a difference below 0.
                    let others = (sum - grams[class]).max(0.0) + self.smoothing;
                    row[class] = of_others[class] - others.ln();
                    mean += row[class] / counted.len() as f32;
                }
                counted.iter().for_each(|&class| row[class] -= mean);
            }
        });
        Evidence { classes, rows }
    }

    /// The content of [`COUNTS`]: `grams` `[buckets, classes]`, and `weighing`: smoothing,
    /// scale and heat.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] when the format cannot hold them.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, ModelError> {
        let buckets = self.grams.len() / self.classes.max(1);
        let grams = to_le_bytes(&self.grams);
        let weighing = to_le_bytes(&[self.smoothing, self.scale, self.heat]);
        let view = |shape, bytes| TensorView::new(Dtype::F32, shape, bytes);
        let views = [
            (GRAMS, view(vec![buckets, self.classes], &grams).map_err(bad)?),
            (WEIGHING, view(vec![3], &weighing).map_err(bad)?),
        ];
        safetensors::serialize(views, None).map_err(bad)
    }

    /// Reads what [`Counts::to_safetensors`] wrote, of as many classes or fewer: the others have no
    /// counts yet.
    ///
    /// # Errors
    /// [`ModelError`] names the tensor that is missing, of another shape or impossible.
    pub fn from_safetensors(
        architecture: &Architecture,
        classes: usize,
        bytes: &[u8],
    ) -> Result<Self, ModelError> {
        let file = SafeTensors::deserialize(bytes).map_err(bad)?;
        let take = |name: &str| {
            let missing = |_| ModelError::MissingTensor { name: name.to_owned() };
            let view = file.tensor(name).map_err(missing)?;
            if view.dtype() != Dtype::F32 {
                let found = format!("{:?}", view.dtype());
                return Err(ModelError::Type { name: name.to_owned(), expected: "F32", found });
            }
            let values = from_le_bytes(view.data());
            match first_not_finite(&values) {
                Some(index) => Err(ModelError::NotFinite { name: name.to_owned(), index }),
                None => Ok((view.shape().to_vec(), values)),
            }
        };
        let wrong = |name: &str, expected: &[usize], found: Vec<usize>| ModelError::Shape {
            name: name.to_owned(),
            expected: expected.to_vec(),
            found,
        };
        let (found, weighing) = take(WEIGHING)?;
        let [smoothing, scale, heat] = weighing[..] else {
            return Err(wrong(WEIGHING, &[3], found));
        };
        let shape = architecture.wide_shape(classes);
        let (found, grams) = take(GRAMS)?;
        let Some(grams) = widened(&grams, &found, &shape) else {
            return Err(wrong(GRAMS, &shape, found));
        };
        let weighs = smoothing > 0.0 && scale >= 0.0 && heat > 0.0 && heat.log2().fract() == 0.0;
        if !weighs || grams.iter().any(|&count| count < 0.0) {
            let reason = "a count is below 0, or what it is weighed by is impossible".to_owned();
            return Err(ModelError::BadFile { file: COUNTS, reason });
        }
        Ok(Self { classes: shape[1], grams, smoothing, scale, heat })
    }
}

impl Evidence {
    /// For each class: the features' log odds, weighted and summed. Returns
    /// `[features.len(), classes]`, row by row.
    #[must_use]
    pub fn logits(&self, features: &[&Features]) -> Vec<f32> {
        crate::wide::summed(&self.rows, self.classes, features)
    }
}

fn bad(error: safetensors::SafeTensorError) -> ModelError {
    ModelError::BadFile { file: COUNTS, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(grams: &[(u32, f32)]) -> Features {
        let norm = grams.iter().map(|(_, value)| value * value).sum::<f32>().sqrt();
        let grams = grams.iter().map(|&(bucket, value)| (bucket, value / norm)).collect();
        Features { grams, gram_norm: norm, ..Features::default() }
    }

    fn architecture() -> Architecture {
        Architecture { wide_buckets: 8, ..Architecture::default() }
    }

    fn counts() -> Counts {
        let mut counts = Counts::none(&architecture(), 3, 0.5, 1.0);
        counts.add(&text(&[(0, 1.0), (1, 2.0)]), 0, 1.0);
        counts.add(&text(&[(1, 1.0), (2, 1.0)]), 1, 2.0);
        counts
    }

    #[test]
    fn evidence_is_that_of_the_formula() {
        // By class 0 and 1: gram 0 has 1 and 0, gram 1 2 and 2, gram 2 0 and 2; 3 were seen.
        let evidence = counts().evidence();
        let odds = |others: f64, all: f64| -((others + 0.5) / (all + 1.5)).ln();
        for (gram, [first, second]) in
            [[1.0, 0.0], [2.0, 2.0], [0.0, 2.0], [0.0, 0.0]].into_iter().enumerate()
        {
            let [a, b] = [odds(second, 4.0), odds(first, 3.0)];
            let row = &evidence.rows[3 * gram..3 * gram + 3];
            assert!((f64::from(row[0]) - (a - b) / 2.0).abs() < 1e-6, "{gram}: {row:?}");
            assert!((f64::from(row[1]) - (b - a) / 2.0).abs() < 1e-6, "{gram}: {row:?}");
            assert!(row[2] == 0.0, "a class without a count has no evidence");
        }
        // What no text had speaks for the class of fewer grams.
        assert!(evidence.rows[21] > 0.0);
    }

    #[test]
    fn the_order_of_texts_changes_nothing_and_one_class_says_nothing() {
        let texts = [(text(&[(3, 1.0)]), 0), (text(&[(4, 1.0), (5, 1.0)]), 1)];
        let [mut one, mut other] = [(); 2].map(|()| Counts::none(&architecture(), 2, 0.5, 1.0));
        texts.iter().for_each(|(text, class)| one.add(text, *class, 1.0));
        assert!(!one.is_empty() && one.counted() == [true, true]);
        texts.iter().rev().for_each(|(text, class)| other.add(text, *class, 1.0));
        assert_eq!(one, other);
        let mut alone = Counts::none(&architecture(), 2, 0.5, 1.0);
        assert!(alone.is_empty());
        alone.add(&texts[0].0, 0, 1.0);
        assert!(alone.evidence().rows.iter().all(|&odds| odds == 0.0));
    }

    #[test]
    fn a_file_reads_back_also_for_more_classes_and_a_bad_one_is_refused_by_name() {
        let counts = counts();
        let bytes = counts.to_safetensors().unwrap();
        assert_eq!(Counts::from_safetensors(&architecture(), 3, &bytes).unwrap(), counts);
        let wider = Counts::from_safetensors(&architecture(), 5, &bytes).unwrap();
        assert_eq!(wider.counted(), [true, true, false, false, false]);
        // More classes change nothing about those that there were.
        let (old, new) = (counts.evidence(), wider.evidence());
        for (old, new) in old.rows.chunks(3).zip(new.rows.chunks(5)) {
            assert_eq!(old[..2], new[..2]);
        }
        let read = |classes, counts: &Counts| {
            let bytes = counts.to_safetensors().unwrap();
            Counts::from_safetensors(&architecture(), classes, &bytes).unwrap_err().to_string()
        };
        assert!(read(2, &counts).contains("`grams`"));
        assert!(
            read(3, &Counts { smoothing: 0.0, ..counts.clone() }).contains("counts.safetensors")
        );
        assert!(read(3, &Counts { heat: 3.0, ..counts.clone() }).contains("impossible"));
        assert!(read(3, &Counts { scale: f32::NAN, ..counts.clone() }).contains("`weighing`"));
        assert!(Counts::from_safetensors(&architecture(), 3, b"{}").is_err());
    }
}
