//! What of an input is changed: its coordinates, what the model makes of them, and the way back.
use std::{collections::BTreeMap, ops::Range};

use tidegate_contracts::{FeatureValue, Part};

use super::{Attack, Attacked, Loss, Means, Norm, Point, Space, Stop, margin};
use crate::{
    Features, Input, Modality, Model, ModelError, Picture, Rows, Sound,
    front_ends::{TERMS, picture_slope, sound_slope, table_number},
    inference::softmax,
    text::bucket,
};

/// A sound that is as good as silent has this root mean square.
const SILENT: f64 = 1e-4;
/// Standard deviations to both sides between which a number's slope is taken, at least and at most: its
/// bins in the wide path have no other.
const REACH: (f64, f64) = (0.1, 0.5);

/// One input under attack.
pub(super) struct Target<'a> {
    pub(super) input: &'a Input,
    pub(super) features: Features,
    pub(super) class: usize,
    pub(super) seed: u64,
    point: Point,
    held: Held,
}

/// Where its coordinates are.
enum Held {
    /// Parts, each of the size that is read.
    Pictures(Vec<usize>),
    /// Parts, with the samples of each among the coordinates and the root mean square of these.
    Sounds(Vec<(usize, Range<usize>, f64)>),
    /// Parts and names, with the deviation of each.
    Numbers(Vec<(usize, String, f64)>),
    /// What a step of 1 is, in the tokens' vectors.
    Tokens(f64),
    /// Texts are changed otherwise.
    Text,
}

/// The worst change so far.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) logits: Vec<f32>,
    /// Of the right class; not above 0 where the answer is wrong.
    pub(super) margin: f32,
    pub(super) queries: u32,
    pub(super) change: Change,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Point(Vec<f64>),
    Text(Input),
}

impl Found {
    /// The worse of both, after as many questions.
    pub(super) fn or(self, other: Self) -> Self {
        let queries = self.queries + other.queries;
        let worse = if other.margin < self.margin { other } else { self };
        Self { queries, ..worse }
    }
}

/// Inputs that are attacked together.
pub(super) struct Victims<'a> {
    pub(super) model: &'a Model,
    pub(super) targets: Vec<Target<'a>>,
    /// The place of each among all inputs.
    places: Vec<usize>,
    reach: f64,
}

impl<'a> Victims<'a> {
    pub(super) fn open(
        model: &'a Model,
        inputs: &'a [Input],
        classes: &[usize],
        chunk: &[usize],
        attack: &Attack,
        means: &Means<'_>,
    ) -> Result<Self, ModelError> {
        let mut victims = Self {
            model,
            targets: Vec::new(),
            places: Vec::new(),
            reach: attack.eps.clamp(REACH.0, REACH.1),
        };
        for &place in chunk {
            let input = &inputs[place];
            let features = match model.featurizer().features(input) {
                Ok(features) => features,
                Err(error) if error.is_of_input() => continue,
                Err(error) => return Err(error),
            };
            let Some((point, held)) = open(model, input, &features, attack.space, means) else {
                continue;
            };
            let (class, seed) = (classes[place], means.seeds[place]);
            victims.targets.push(Target { input, features, class, seed, point, held });
            victims.places.push(place);
        }
        Ok(victims)
    }

    pub(super) fn points(&self) -> Vec<Point> {
        self.targets.iter().map(|target| target.point.clone()).collect()
    }

    /// What the model says there.
    pub(super) fn scored(&self, points: Vec<Point>, queries: u32) -> Result<Vec<Found>, Stop> {
        if points.is_empty() {
            return Ok(Vec::new());
        }
        let features = self.features(&points)?;
        let read: Vec<&Features> = features.iter().collect();
        let logits = self.model.logits(&read, self.nudge(&points));
        let rows = logits.chunks_exact(self.model.labels().len());
        let found = rows.zip(points).zip(&self.targets).map(|((logits, point), target)| Found {
            logits: logits.to_vec(),
            margin: margin(logits, target.class).1,
            queries,
            change: Change::Point(point.at),
        });
        Ok(found.collect())
    }

    /// Slopes of the loss over each point's coordinates.
    pub(super) fn slopes(&self, points: &[Point], loss: Loss) -> Result<Vec<Vec<f64>>, Stop> {
        if points.is_empty() {
            return Ok(Vec::new());
        }
        let features = self.features(points)?;
        let read: Vec<&Features> = features.iter().collect();
        let classes = self.model.labels().len();
        let of_logits = |logits: &[f32]| -> Vec<f32> {
            let rows = logits.chunks_exact(classes).zip(&self.targets);
            rows.flat_map(|(logits, target)| loss.slope(logits, target.class)).collect()
        };
        let found = self.model.slopes(&read, self.nudge(points), &of_logits);
        let mut taken = Taken::default();
        let rows = points.iter().zip(&features).zip(&self.targets).enumerate();
        let back = rows.map(|(row, ((point, features), target))| {
            let of_logits = &found.of_logits[row * classes..(row + 1) * classes];
            let wide = |key: u64| self.model.evidence(key, of_logits);
            let count = |rows: fn(&Rows) -> usize| features.parts.iter().map(rows).sum();
            let image = taken.image(count(|rows| match rows {
                Rows::Image(patches) => patches.bytes.len(),
                _ => 0,
            }));
            let audio = taken.audio(count(|rows| match rows {
                Rows::Audio(patches) => patches.bytes.len(),
                _ => 0,
            }));
            let factors = taken.factors(
                TERMS
                    * count(|rows| match rows {
                        Rows::Features(tokens) => tokens.len(),
                        _ => 0,
                    }),
            );
            let width = self.model.architecture().d_model;
            let tokens = if features.tokens.is_empty() && features.parts.is_empty() {
                1
            } else {
                features.tokens.len()
            };
            let tokens = taken.tokens(width * tokens);
            match &target.held {
                Held::Pictures(parts) => {
                    self.over_pictures(parts.len(), point, &found.image[image], wide)
                }
                Held::Sounds(sounds) => {
                    self.over_sounds(sounds, point, features, &found.audio[audio], wide)
                }
                Held::Numbers(numbers) => {
                    let slopes = found.factors.get(factors).unwrap_or_default();
                    self.over_numbers(numbers, point, target.input, slopes, wide)
                }
                Held::Tokens(unit) => {
                    found.tokens[tokens].iter().map(|slope| f64::from(*slope) * unit).collect()
                }
                Held::Text => Vec::new(),
            }
        });
        Ok(back.collect())
    }

    fn over_pictures(
        &self,
        count: usize,
        point: &Point,
        patches: &[f32],
        wide: impl Fn(u64) -> f32,
    ) -> Vec<f64> {
        let shape = &self.model.architecture().image;
        let (size, cut) = (3 * shape.side * shape.side, patches.len() / count);
        let pictures = point.at.chunks_exact(size).zip(patches.chunks_exact(cut));
        let slopes = pictures.flat_map(|(at, patches)| {
            let picture = Picture::of_rgb([shape.side; 2], bytes(at));
            picture_slope(&picture, shape, patches, &wide)
        });
        slopes.map(f64::from).collect()
    }

    fn over_sounds(
        &self,
        sounds: &[(usize, Range<usize>, f64)],
        point: &Point,
        features: &Features,
        patches: &[f32],
        wide: impl Fn(u64) -> f32,
    ) -> Vec<f64> {
        let shape = &self.model.architecture().audio;
        let counts = features.parts.iter().filter_map(|rows| match rows {
            Rows::Audio(patches) => Some(patches.bytes.len()),
            _ => None,
        });
        let mut from = 0;
        let mut all = Vec::with_capacity(point.at.len());
        for ((_, range, unit), count) in sounds.iter().zip(counts) {
            let patches = &patches[from..from + count];
            let samples = samples(&point.at[range.clone()], *unit);
            let slopes = sound_slope(&samples, shape, patches, &wide);
            all.extend(slopes.into_iter().map(|slope| f64::from(slope) * unit));
            from += count;
        }
        all
    }

    fn over_numbers(
        &self,
        numbers: &[(usize, String, f64)],
        point: &Point,
        input: &Input,
        factors: &[f32],
        wide: impl Fn(u64) -> f32,
    ) -> Vec<f64> {
        let scales = &self.model.featurizer().scales;
        // The place of each feature among the tokens: parts in order, names in order.
        let mut places: BTreeMap<(usize, &str), usize> = BTreeMap::new();
        let mut lengths: BTreeMap<usize, f32> = BTreeMap::new();
        for (index, part) in input.parts.iter().enumerate() {
            let Part::Features(values) = part else { continue };
            let mut keys = 0;
            for (name, value) in values {
                places.insert((index, name), places.len());
                keys += if matches!(value, FeatureValue::Number(_)) { 2 } else { 1 };
            }
            lengths.insert(index, (keys as f32).sqrt());
        }
        let reach = self.reach;
        let slope = |((part, name, deviation), at): (&(usize, String, f64), &f64)| {
            let around =
                [at - reach, at + reach].map(|at| table_number(name, at * deviation, scales));
            let place = places[&(*part, name.as_str())];
            // The last two terms of a number's token count as much as it is large.
            let deep: f32 = factors
                .get(place * TERMS..(place + 1) * TERMS)
                .map_or(0.0, |terms| terms[TERMS / 2..].iter().sum());
            let of_wide = |keys: &[u64]| keys.iter().map(|&key| wide(key)).sum::<f32>();
            let [(low, below), (high, above)] = around;
            let risen = deep * (high - low) + (of_wide(&above) - of_wide(&below)) / lengths[part];
            f64::from(risen) / (2.0 * reach)
        };
        numbers.iter().zip(&point.at).map(slope).collect()
    }

    fn features(&self, points: &[Point]) -> Result<Vec<Features>, Stop> {
        let featurizer = self.model.featurizer();
        let read = |(target, point): (&Target<'_>, &Point)| match target.changed(&point.at, self) {
            None => Ok(target.features.clone()),
            Some(input) => Ok(featurizer.features(&input)?),
        };
        self.targets.iter().zip(points).map(read).collect()
    }

    /// What is added to the tokens' vectors, where these are attacked.
    fn nudge(&self, points: &[Point]) -> Option<Vec<f32>> {
        let mut all = Vec::new();
        for (target, point) in self.targets.iter().zip(points) {
            let Held::Tokens(unit) = target.held else { return None };
            all.extend(point.at.iter().map(|at| (at * unit) as f32));
        }
        Some(all)
    }

    /// Of each input of the chunk that there was no time for it, where there was anything to do.
    pub(super) fn unfinished(&self, chunk: &[usize]) -> Vec<Attacked> {
        let one = |place| match self.places.contains(place) {
            true => Attacked::Unfinished,
            false => Attacked::Nothing,
        };
        chunk.iter().map(one).collect()
    }

    /// Of each input of the chunk what became of it.
    pub(super) fn told(&self, found: Vec<Found>, chunk: &[usize]) -> Vec<Attacked> {
        let mut told: BTreeMap<usize, Attacked> = BTreeMap::new();
        for ((found, target), place) in found.into_iter().zip(&self.targets).zip(&self.places) {
            let input = match found.change {
                Change::Point(at) => target.changed(&at, self),
                Change::Text(input) => Some(input),
            };
            let (scores, queries) = (softmax(&found.logits), found.queries);
            told.insert(*place, Attacked::Answer { scores, input, queries });
        }
        chunk.iter().map(|place| told.remove(place).unwrap_or(Attacked::Nothing)).collect()
    }
}

impl Target<'_> {
    /// How far the point may go: `eps` in every coordinate, or as long as if all went so far.
    pub(super) fn radius(&self, attack: &Attack) -> f64 {
        match attack.method.norm() {
            Norm::Linf => attack.eps,
            Norm::L2 => attack.eps * (self.point.at.len() as f64).sqrt(),
        }
    }

    /// The input that the point stands for; nothing where none does.
    fn changed(&self, at: &[f64], victims: &Victims<'_>) -> Option<Input> {
        let mut input = self.input.clone();
        match &self.held {
            Held::Pictures(parts) => {
                let side = victims.model.architecture().image.side;
                for (part, at) in parts.iter().zip(at.chunks_exact(3 * side * side)) {
                    let picture = Picture::of_rgb([side; 2], bytes(at));
                    input.parts[*part] = Part::Image(picture.to_png());
                }
            }
            Held::Sounds(sounds) => {
                for (part, range, unit) in sounds {
                    let samples = samples(&at[range.clone()], *unit);
                    input.parts[*part] = Part::Audio(Sound { samples, rate: 16_000 }.to_wav());
                }
            }
            Held::Numbers(numbers) => {
                for ((part, name, deviation), at) in numbers.iter().zip(at) {
                    if let Part::Features(values) = &mut input.parts[*part] {
                        values.insert(name.clone(), FeatureValue::Number(at * deviation));
                    }
                }
            }
            Held::Tokens(_) | Held::Text => return None,
        }
        Some(input)
    }
}

fn bytes(at: &[f64]) -> Vec<u8> {
    at.iter().map(|at| at.round() as u8).collect()
}

fn samples(at: &[f64], unit: f64) -> Vec<f32> {
    at.iter().map(|at| (at * unit) as f32).collect()
}

/// Coordinates of what the model reads of an input and the space is of; nothing where there are none.
fn open(
    model: &Model,
    input: &Input,
    features: &Features,
    space: Space,
    means: &Means<'_>,
) -> Option<(Point, Held)> {
    let a = model.architecture();
    let reads = |modality| a.modalities.contains(&modality);
    let parts = input.parts.iter().enumerate();
    let opened = match space {
        Space::Pixels => {
            let pictures = parts.filter_map(|(index, part)| match part {
                Part::Image(bytes) if reads(Modality::Image) => Some((index, bytes)),
                _ => None,
            });
            let mut point = Vec::new();
            let mut held = Vec::new();
            for (index, bytes) in pictures.take(a.image.limit) {
                let picture = Picture::read(bytes).ok()?.resized([a.image.side; 2]);
                point.extend(picture.rgb().iter().map(|&byte| f64::from(byte)));
                held.push(index);
            }
            (Point::new(point, 0.0, 255.0), Held::Pictures(held))
        }
        Space::Waveform => {
            let sounds = parts.filter_map(|(index, part)| match part {
                Part::Audio(bytes) if reads(Modality::Audio) => Some((index, bytes)),
                _ => None,
            });
            let (mut point, mut held) = (Point::new(Vec::new(), 0.0, 0.0), Vec::new());
            for (index, bytes) in sounds.take(a.audio.limit) {
                let samples = Sound::read(bytes, a.audio.seconds).ok()?.heard().samples;
                let square = samples.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>();
                let unit = (square / samples.len() as f64).sqrt().max(SILENT);
                let from = point.at.len();
                point.at.extend(samples.iter().map(|&sample| f64::from(sample) / unit));
                let loudest = samples.iter().fold(1.0_f32, |most, s| most.max(s.abs()));
                point.high.resize(point.at.len(), f64::from(loudest) / unit);
                point.low.resize(point.at.len(), -f64::from(loudest) / unit);
                held.push((index, from..point.at.len(), unit));
            }
            point.centre.clone_from(&point.at);
            (point, Held::Sounds(held))
        }
        Space::Numbers => numbers(parts.filter(|_| reads(Modality::Features)), means),
        Space::Embedding => {
            let count = features.tokens.len();
            let vectors = if count > 0 { model.vectors(&features.tokens) } else { Vec::new() };
            let square = vectors.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
            let unit = (square / vectors.len().max(1) as f64).sqrt();
            let point = vec![0.0; count * a.d_model];
            (Point::new(point, f64::NEG_INFINITY, f64::INFINITY), Held::Tokens(unit))
        }
        Space::Characters | Space::Words => {
            let some = !input.texts().is_empty();
            return some.then(|| (Point::new(Vec::new(), 0.0, 0.0), Held::Text));
        }
    };
    (!opened.0.at.is_empty()).then_some(opened)
}

fn numbers<'a>(parts: impl Iterator<Item = (usize, &'a Part)>, means: &Means<'_>) -> (Point, Held) {
    let (mut point, mut held) = (Point::new(Vec::new(), 0.0, 0.0), Vec::new());
    for (index, part) in parts {
        let Part::Features(values) = part else { continue };
        for (name, value) in values {
            let (FeatureValue::Number(number), Some(spread)) = (value, means.spread.number(name))
            else {
                continue;
            };
            // What is always the same is no number that anybody changes.
            if spread.deviation > 0.0 {
                let unit = spread.deviation;
                point.at.push(number / unit);
                point.low.push(spread.low.min(*number) / unit);
                point.high.push(spread.high.max(*number) / unit);
                held.push((index, name.clone(), unit));
            }
        }
    }
    point.centre.clone_from(&point.at);
    (point, Held::Numbers(held))
}

/// How much of a batch's slopes the rows before have taken.
#[derive(Default)]
struct Taken {
    image: usize,
    audio: usize,
    factors: usize,
    tokens: usize,
}

impl Taken {
    fn next(taken: &mut usize, count: usize) -> Range<usize> {
        let from = *taken;
        *taken += count;
        from..*taken
    }

    fn image(&mut self, count: usize) -> Range<usize> {
        Self::next(&mut self.image, count)
    }

    fn audio(&mut self, count: usize) -> Range<usize> {
        Self::next(&mut self.audio, count)
    }

    fn factors(&mut self, count: usize) -> Range<usize> {
        Self::next(&mut self.factors, count)
    }

    fn tokens(&mut self, count: usize) -> Range<usize> {
        Self::next(&mut self.tokens, count)
    }
}

impl Model {
    /// What a key of the wide path adds to a score, from the score's slope over the logits.
    fn evidence(&self, key: u64, of_logits: &[f32]) -> f32 {
        let wide = self.wide();
        let Some(buckets) = Some(wide.buckets()).filter(|&buckets| buckets > 0) else { return 0.0 };
        let from = bucket(key, buckets) as usize * of_logits.len();
        let row = &wide.rows[from..from + of_logits.len()];
        row.iter().zip(of_logits).map(|(weight, slope)| weight * slope).sum()
    }
}
