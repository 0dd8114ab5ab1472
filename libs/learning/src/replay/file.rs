//! The replay buffer's file: a magic, then a zlib stream of little-endian, length-prefixed fields.
use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
};

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use half::f16;
use tidegate_contracts::{Class, Domain, EventId, FeatureValue, Part, Producer};
use tidegate_model::Input;

use super::{REPLAY, Remembered, Replay, Stratum};
use crate::{BalanceBy, LearningError};

/// The first format: not compressed, strata are classes, items know neither domain nor groups.
const MAGIC_1: &[u8; 8] = b"TGREPLY1";
/// Items are texts.
const MAGIC_2: &[u8; 8] = b"TGREPLY2";
/// The same, and behind the text of each item its other parts. Only written where there are any.
const MAGIC_3: &[u8; 8] = b"TGREPLY3";
/// The same, and behind each item its producer, empty where it names none. Only written where one does.
const MAGIC_4: &[u8; 8] = b"TGREPLY4";

/// What stands behind an item's text.
#[derive(Clone, Copy, PartialEq)]
enum Behind {
    Nothing,
    Parts,
    PartsAndProducer,
}

/// A file that unpacks to more is not one of ours.
const MOST_BYTES: u64 = 8 << 30;

impl Replay {
    /// The content of [`REPLAY`]; equal buffers give equal bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        put_u32(&mut body, self.balance_by.len());
        body.extend(self.balance_by.iter().map(|&by| code(by)));
        put_u32(&mut body, self.strata.len());
        for (name, stratum) in &self.strata {
            put_text(&mut body, name);
            body.extend(stratum.seen.to_le_bytes());
            body.push(u8::from(stratum.full));
        }
        put_u32(&mut body, self.items.len());
        let (behind, magic) = if self.items.iter().any(|item| item.producer.is_some()) {
            (Behind::PartsAndProducer, MAGIC_4)
        } else if self.items.iter().all(|item| item.input.is_text()) {
            (Behind::Nothing, MAGIC_2)
        } else {
            (Behind::Parts, MAGIC_3)
        };
        for item in &self.items {
            put_item(&mut body, item, behind);
        }
        // Fast: a few per cent larger at a third of the time, which a hot update waits for.
        let mut packer = ZlibEncoder::new(magic.to_vec(), Compression::fast());
        packer.write_all(&body).and_then(|()| packer.finish()).expect("memory takes every byte")
    }

    /// Reads what [`Replay::to_bytes`] wrote, in this version of us or an earlier one.
    ///
    /// # Errors
    /// [`LearningError::BadFile`] when it is cut short or altered beyond reading.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LearningError> {
        let strange = || bad("it does not begin as a replay buffer does");
        let (magic, rest) = bytes.split_first_chunk().ok_or_else(strange)?;
        match magic {
            MAGIC_1 => read_1(Reader { rest }),
            MAGIC_2 => read_2(Reader { rest: &unpacked(rest)? }, Behind::Nothing),
            MAGIC_3 => read_2(Reader { rest: &unpacked(rest)? }, Behind::Parts),
            MAGIC_4 => read_2(Reader { rest: &unpacked(rest)? }, Behind::PartsAndProducer),
            _ => Err(strange()),
        }
    }
}

fn unpacked(packed: &[u8]) -> Result<Vec<u8>, LearningError> {
    let mut decoder = ZlibDecoder::new(packed);
    let mut body = Vec::new();
    let read = decoder.by_ref().take(MOST_BYTES).read_to_end(&mut body);
    read.map_err(|error| bad(&error.to_string()))?;
    if decoder.total_in() < packed.len() as u64 {
        return Err(bad("there are bytes behind its end"));
    }
    Ok(body)
}

fn read_1(mut reader: Reader<'_>) -> Result<Replay, LearningError> {
    let mut replay = Replay { balance_by: vec![BalanceBy::Class], ..Replay::default() };
    let names = reader.strata(&mut replay)?;
    for _ in 0..reader.u32()? {
        let class = names.get(reader.u32()?).ok_or_else(|| bad("an unknown class"))?;
        let class = Class::new(class.clone());
        let weight = reader.weight()?;
        let (id, input) = (EventId::new(reader.text()?), Input::text(reader.text()?));
        let (domain, groups) = (Domain::new(""), BTreeMap::new());
        let (logits, stratum) = (Vec::new(), String::new());
        let producer = None;
        let item =
            Remembered { id, class, weight, domain, groups, producer, input, logits, stratum };
        replay.take(item)?;
    }
    reader.end(replay)
}

fn read_2(mut reader: Reader<'_>, behind: Behind) -> Result<Replay, LearningError> {
    let mut replay = Replay::default();
    for _ in 0..reader.u32()? {
        let [code] = reader.array()?;
        let by = decoded(code).ok_or_else(|| bad("it is balanced by something unknown"))?;
        replay.balance_by.push(by);
    }
    reader.strata(&mut replay)?;
    for _ in 0..reader.u32()? {
        let item = reader.item(behind)?;
        replay.take(item)?;
    }
    reader.end(replay)
}

impl Replay {
    /// Puts an item of a file back where it was.
    fn take(&mut self, mut item: Remembered) -> Result<(), LearningError> {
        item.stratum = item.stratum_by(&self.balance_by);
        let stratum =
            self.strata.get_mut(&item.stratum).ok_or_else(|| bad("an item of no stratum"))?;
        stratum.kept += 1;
        self.items.push(item);
        Ok(())
    }
}

const fn code(by: BalanceBy) -> u8 {
    match by {
        BalanceBy::Class => 0,
        BalanceBy::Group => 1,
        BalanceBy::Domain => 2,
    }
}

const fn decoded(code: u8) -> Option<BalanceBy> {
    match code {
        0 => Some(BalanceBy::Class),
        1 => Some(BalanceBy::Group),
        2 => Some(BalanceBy::Domain),
        _ => None,
    }
}

fn bad(reason: &str) -> LearningError {
    LearningError::BadFile { file: REPLAY.to_owned(), reason: reason.to_owned() }
}

fn put_u32(bytes: &mut Vec<u8>, value: usize) {
    let value = u32::try_from(value).expect("a replay buffer and its texts are far below 4 GiB");
    bytes.extend(value.to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_u32(bytes, text.len());
    bytes.extend(text.as_bytes());
}

fn put_bytes(bytes: &mut Vec<u8>, part: &[u8]) {
    put_u32(bytes, part.len());
    bytes.extend_from_slice(part);
}

/// How a part is told apart.
const IMAGE: u8 = 1;
const AUDIO: u8 = 2;
const FEATURES: u8 = 3;
/// And a value.
const NUMBER: u8 = 0;
const CATEGORY: u8 = 1;

/// All parts but its text.
fn put_parts(bytes: &mut Vec<u8>, input: &Input) {
    let others = || input.parts.iter().filter(|part| !matches!(part, Part::Text(_)));
    // Whether there is a text, since an empty one is one.
    bytes.push(u8::from(others().count() < input.parts.len()));
    put_u32(bytes, others().count());
    for part in others() {
        match part {
            Part::Text(_) => {}
            Part::Image(image) => {
                bytes.push(IMAGE);
                put_bytes(bytes, image);
            }
            Part::Audio(sound) => {
                bytes.push(AUDIO);
                put_bytes(bytes, sound);
            }
            Part::Features(values) => {
                bytes.push(FEATURES);
                put_u32(bytes, values.len());
                for (name, value) in values {
                    put_text(bytes, name);
                    match value {
                        FeatureValue::Number(number) => {
                            bytes.push(NUMBER);
                            bytes.extend(number.to_le_bytes());
                        }
                        FeatureValue::Category(category) => {
                            bytes.push(CATEGORY);
                            put_text(bytes, category);
                        }
                    }
                }
            }
        }
    }
}

fn put_item(bytes: &mut Vec<u8>, item: &Remembered, behind: Behind) {
    put_text(bytes, item.id.as_str());
    put_text(bytes, item.class.as_str());
    bytes.extend(item.weight.to_le_bytes());
    put_text(bytes, item.domain.as_str());
    put_u32(bytes, item.groups.len());
    for (name, value) in &item.groups {
        put_text(bytes, name);
        put_text(bytes, value);
    }
    put_text(bytes, &item.input.texts());
    if behind != Behind::Nothing {
        put_parts(bytes, &item.input);
    }
    put_u32(bytes, item.logits.len());
    for logit in &item.logits {
        bytes.extend(logit.to_le_bytes());
    }
    if behind == Behind::PartsAndProducer {
        put_text(bytes, item.producer.as_ref().map_or("", Producer::as_str));
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, size: usize) -> Result<&'a [u8], LearningError> {
        let (taken, rest) =
            self.rest.split_at_checked(size).ok_or_else(|| bad("it is cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], LearningError> {
        Ok(self.take(N)?.try_into().expect("N bytes were taken"))
    }

    fn u32(&mut self) -> Result<usize, LearningError> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn text(&mut self) -> Result<String, LearningError> {
        let size = self.u32()?;
        let bytes = self.take(size)?.to_vec();
        String::from_utf8(bytes).map_err(|_| bad("a text is not UTF-8"))
    }

    fn weight(&mut self) -> Result<f32, LearningError> {
        let weight = f32::from_le_bytes(self.array()?);
        if weight.is_finite() && weight > 0.0 {
            return Ok(weight);
        }
        Err(bad("a weight is not above 0"))
    }

    /// Returns their names in the order of the file.
    fn strata(&mut self, replay: &mut Replay) -> Result<Vec<String>, LearningError> {
        let mut names = Vec::new();
        for _ in 0..self.u32()? {
            let name = self.text()?;
            let seen = u64::from_le_bytes(self.array()?);
            let full = self.array::<1>()?[0] != 0;
            names.push(name.clone());
            replay.strata.insert(name, Stratum { seen, kept: 0, full });
        }
        Ok(names)
    }

    fn bytes(&mut self) -> Result<Vec<u8>, LearningError> {
        let size = self.u32()?;
        Ok(self.take(size)?.to_vec())
    }

    fn features(&mut self) -> Result<BTreeMap<String, FeatureValue>, LearningError> {
        let mut values = BTreeMap::new();
        for _ in 0..self.u32()? {
            let name = self.text()?;
            let value = match self.array()? {
                [NUMBER] => FeatureValue::Number(f64::from_le_bytes(self.array()?)),
                [CATEGORY] => FeatureValue::Category(self.text()?),
                _ => return Err(bad("a feature of an unknown kind")),
            };
            values.insert(name, value);
        }
        Ok(values)
    }

    /// `text` and the parts that follow.
    fn input(&mut self, text: String, behind: Behind) -> Result<Input, LearningError> {
        if behind == Behind::Nothing {
            return Ok(Input::text(text));
        }
        let mut parts = Vec::new();
        match self.array()? {
            [0] => {}
            [1] => parts.push(Part::Text(text)),
            _ => return Err(bad("a text that is neither there nor not")),
        }
        for _ in 0..self.u32()? {
            parts.push(match self.array()? {
                [IMAGE] => Part::Image(self.bytes()?),
                [AUDIO] => Part::Audio(self.bytes()?),
                [FEATURES] => Part::Features(self.features()?),
                _ => return Err(bad("a part of an unknown kind")),
            });
        }
        Ok(Input { parts })
    }

    fn item(&mut self, behind: Behind) -> Result<Remembered, LearningError> {
        let (id, class) = (EventId::new(self.text()?), Class::new(self.text()?));
        let weight = self.weight()?;
        let domain = Domain::new(self.text()?);
        let mut groups = BTreeMap::new();
        for _ in 0..self.u32()? {
            groups.insert(self.text()?, self.text()?);
        }
        let text = self.text()?;
        let input = self.input(text, behind)?;
        let mut logits = Vec::new();
        for _ in 0..self.u32()? {
            let logit = f16::from_le_bytes(self.array()?);
            if !logit.is_finite() {
                return Err(bad("a logit is not finite"));
            }
            logits.push(logit);
        }
        let producer = match behind {
            Behind::PartsAndProducer => Producer::from_header(self.text()?.as_bytes()),
            Behind::Nothing | Behind::Parts => None,
        };
        let stratum = String::new();
        Ok(Remembered { id, class, weight, domain, groups, producer, input, logits, stratum })
    }

    fn end(self, replay: Replay) -> Result<Replay, LearningError> {
        if self.rest.is_empty() { Ok(replay) } else { Err(bad("there are bytes behind its end")) }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{Example, Rehearsal};

    fn buffer(balance_by: &[BalanceBy]) -> Replay {
        let rehearsal =
            Rehearsal { capacity: 3, balance_by: balance_by.to_vec(), ..Rehearsal::default() };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut replay = Replay::default();
        for (at, class) in ["a", "b", "a", "c"].into_iter().enumerate() {
            let example = Example {
                id: EventId::new(format!("e{at}")),
                input: Input::text(format!("text {at} ü")),
                label: Class::new(class),
                weight: 0.5,
                domain: Domain::new("mail"),
                groups: BTreeMap::from([("region".to_owned(), format!("r{}", at % 2))]),
                producer: None,
            };
            replay.offer(Remembered::new(&example, &rehearsal), &rehearsal, &mut rng);
        }
        replay.items[1].logits = vec![f16::from_f32(0.5), f16::from_f32(-3.25)];
        replay
    }

    #[test]
    fn who_an_example_is_from_is_kept_and_what_is_of_one_can_be_forgotten() {
        let mut replay = buffer(&[BalanceBy::Class]);
        let plain = replay.to_bytes();
        assert!(plain.starts_with(MAGIC_2), "as before there were producers");
        replay.items[0].producer = Some(Producer::new("feed-3"));
        let named = replay.to_bytes();
        assert!(named.starts_with(MAGIC_4));
        assert_eq!(Replay::from_bytes(&named).unwrap(), replay);
        let mut less = replay.clone();
        less.forget(&[Producer::new("feed-3")].into());
        assert_eq!(less.items, replay.items[1..]);
        assert_eq!(less.strata.values().map(|of| of.kept).sum::<usize>(), less.len());
        replay.forget(&[Producer::new(Producer::UNKNOWN)].into());
        assert_eq!(replay.len(), 1);
    }

    #[test]
    fn it_reads_back_and_refuses_any_cut_and_any_bytes_behind_it() {
        use BalanceBy::{Class, Domain, Group};
        for balance_by in [[].as_slice(), &[Class], &[Domain, Group, Class]] {
            let replay = buffer(balance_by);
            let mut bytes = replay.to_bytes();
            assert_eq!(Replay::from_bytes(&bytes).unwrap(), replay);
            for size in 0..bytes.len() {
                assert!(Replay::from_bytes(&bytes[..size]).is_err(), "{size}");
            }
            bytes.push(0);
            assert!(Replay::from_bytes(&bytes).is_err());
        }
    }

    #[test]
    fn other_parts_read_back_and_a_buffer_of_texts_is_written_as_before() {
        let mut replay = buffer(&[BalanceBy::Class]);
        assert!(replay.to_bytes().starts_with(MAGIC_2));
        let values = BTreeMap::from([
            ("a".to_owned(), FeatureValue::Number(-0.5)),
            ("b".to_owned(), FeatureValue::Category("ü".to_owned())),
        ]);
        let image = Part::Image(vec![1, 2, 3]);
        let both = vec![Part::Text("text".to_owned()), image, Part::Features(values)];
        replay.items[0].input = Input { parts: both };
        replay.items[2].input = Input { parts: vec![Part::Audio(vec![9])] };
        let bytes = replay.to_bytes();
        assert!(bytes.starts_with(MAGIC_3));
        assert_eq!(Replay::from_bytes(&bytes).unwrap(), replay);
        for size in 0..bytes.len() {
            assert!(Replay::from_bytes(&bytes[..size]).is_err(), "{size}");
        }
    }

    #[test]
    fn texts_are_stored_compressed() {
        let mut replay = buffer(&[BalanceBy::Class]);
        replay.items[0].input = Input::text("minutes of the meeting ".repeat(1_000));
        assert!(replay.to_bytes().len() < 1_000);
    }

    #[test]
    fn a_buffer_of_the_first_format_is_read() {
        // As written by that version: classes ham (seen 7) and spam (seen 2, full), two items.
        let mut bytes = MAGIC_1.to_vec();
        put_u32(&mut bytes, 2);
        for (class, seen, full) in [("ham", 7_u64, 0), ("spam", 2, 1)] {
            put_text(&mut bytes, class);
            bytes.extend(seen.to_le_bytes());
            bytes.push(full);
        }
        put_u32(&mut bytes, 2);
        for (class, id, text) in [(1, "e1", "prize"), (0, "e2", "lunch ü")] {
            put_u32(&mut bytes, class);
            bytes.extend(1.5_f32.to_le_bytes());
            put_text(&mut bytes, id);
            put_text(&mut bytes, text);
        }
        let replay = Replay::from_bytes(&bytes).unwrap();
        assert_eq!(replay.len(), 2);
        assert_eq!(replay.items[0].class, Class::new("spam"));
        assert_eq!(replay.items[1].input, Input::text("lunch ü"));
        assert_eq!(replay.strata["spam"], Stratum { seen: 2, kept: 1, full: true });
        assert_eq!(Replay::from_bytes(&replay.to_bytes()).unwrap(), replay);
        for size in 0..bytes.len() {
            assert!(Replay::from_bytes(&bytes[..size]).is_err(), "{size}");
        }
    }
}
