//! Kafka's record batch, format 2: what a producer sends, what the log keeps, what a consumer gets.
//!
//! The broker looks at the header and at the crc. Records stay as they came, compressed or not.
use bytes::Bytes;

/// Bytes of a batch's header.
pub(crate) const HEADER: usize = 61;
/// No batch is larger: the largest request carries one.
pub(crate) const LARGEST: usize = 33 << 20;
/// Of the bytes before the crc, base offset and leader epoch are the broker's to set.
const LEADER_EPOCH: i32 = 0;
const CRC_FROM: usize = 21;

/// A batch's header, in host order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) base_offset: i64,
    /// Bytes of the whole batch.
    pub(crate) len: usize,
    crc: u32,
    attributes: i16,
    last_offset_delta: i32,
    base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    /// -1 without idempotence.
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    records: i32,
}

/// Why bytes from a producer are no batch that the log takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Older than format 2, or no format at all.
    Format,
    /// The crc does not fit.
    Corrupt,
    /// Counts that contradict each other, or more than one batch.
    Invalid(&'static str),
    /// Part of a transaction.
    Transactional,
}

impl BatchHeader {
    /// Reads a header; None when it is cut short or cannot be one of format 2.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
        let len = usize::try_from(i32_at(bytes, 8)).ok()? + 12;
        let header = Self {
            base_offset: i64_at(bytes, 0),
            len,
            crc: i32_at(bytes, 17) as u32,
            attributes: i16_at(bytes, 21),
            last_offset_delta: i32_at(bytes, 23),
            base_timestamp: i64_at(bytes, 27),
            max_timestamp: i64_at(bytes, 35),
            producer_id: i64_at(bytes, 43),
            producer_epoch: i16_at(bytes, 51),
            base_sequence: i32_at(bytes, 53),
            records: i32_at(bytes, 57),
        };
        let plausible =
            bytes[16] == 2 && (HEADER..=LARGEST).contains(&len) && header.last_offset_delta >= 0;
        plausible.then_some(header)
    }

    /// Whether `batch`, the whole of it, has the content that its crc tells of.
    pub(crate) fn fits(&self, batch: &[u8]) -> bool {
        batch.len() == self.len && crc32c::crc32c(&batch[CRC_FROM..]) == self.crc
    }

    /// The offset after its last record.
    pub(crate) fn next_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta) + 1)
    }

    /// The sequence number of its last record; they wrap to 0.
    pub(crate) fn last_sequence(&self) -> i32 {
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        (last % (i64::from(i32::MAX) + 1)) as i32
    }

    fn is_compressed(&self) -> bool {
        self.attributes & 0b111 != 0
    }

    /// The header as it is when the batch stands at `offset`.
    pub(crate) fn at(self, offset: i64) -> Self {
        Self { base_offset: offset, ..self }
    }
}

/// A batch from a producer, checked and ready to be appended.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) header: BatchHeader,
    bytes: Bytes,
}

impl Batch {
    /// Checks what a producer sent for one partition.
    pub(crate) fn check(bytes: Bytes) -> Result<Self, Malformed> {
        if bytes.len() > 16 && bytes[16] != 2 {
            return Err(Malformed::Format);
        }
        let Some(header) = BatchHeader::parse(&bytes) else { return Err(Malformed::Corrupt) };
        if bytes.len() > header.len {
            return Err(Malformed::Invalid("one batch for a partition in one request"));
        }
        if !header.fits(&bytes) {
            return Err(Malformed::Corrupt);
        }
        if header.attributes & 0b11_0000 != 0 {
            return Err(Malformed::Transactional);
        }
        if header.records < 1 || header.records != header.last_offset_delta + 1 {
            return Err(Malformed::Invalid("records are numbered from 0 without gaps"));
        }
        if header.producer_id >= 0 && (header.base_sequence < 0 || header.producer_epoch < 0) {
            return Err(Malformed::Invalid("a producer id comes with an epoch and a sequence"));
        }
        Ok(Self { header, bytes })
    }

    /// Appends the batch to `out` as it stands in the log at `offset`. The crc starts behind what
    /// is changed.
    pub(crate) fn place(&self, offset: i64, out: &mut Vec<u8>) {
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&self.bytes[8..12]);
        out.extend_from_slice(&LEADER_EPOCH.to_be_bytes());
        out.extend_from_slice(&self.bytes[16..]);
    }
}

/// The first record of `batch` at or after `timestamp`: its offset and its time.
///
/// Records of a compressed batch are not looked into: its first offset is the answer then, so that
/// a reader gets a few records too many rather than one too few.
pub(crate) fn first_since(header: &BatchHeader, batch: &[u8], timestamp: i64) -> (i64, i64) {
    let first = (header.base_offset, header.base_timestamp);
    if header.is_compressed() {
        return first;
    }
    let mut rest = &batch[HEADER..];
    for _ in 0..header.records {
        let Some((record, after)) = split_record(rest) else { return first };
        // What is inside a record is its producer's word.
        let time = header.base_timestamp.saturating_add(record.timestamp_delta);
        if time >= timestamp && (0..i64::from(header.records)).contains(&record.offset_delta) {
            return (header.base_offset + record.offset_delta, time);
        }
        rest = after;
    }
    first
}

struct RecordHead {
    timestamp_delta: i64,
    offset_delta: i64,
}

fn split_record(bytes: &[u8]) -> Option<(RecordHead, &[u8])> {
    let (len, body) = varint(bytes)?;
    let (body, after) = body.split_at_checked(usize::try_from(len).ok()?)?;
    let (timestamp_delta, body) = varint(body.get(1..)?)?;
    let (offset_delta, _) = varint(body)?;
    Some((RecordHead { timestamp_delta, offset_delta }, after))
}

/// A zigzag varint, and what follows it.
fn varint(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            let signed = (value >> 1) as i64 ^ -((value & 1) as i64);
            return Some((signed, &bytes[i + 1..]));
        }
    }
    None
}

fn i16_at(bytes: &[u8; HEADER], at: usize) -> i16 {
    i16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn i32_at(bytes: &[u8; HEADER], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn i64_at(bytes: &[u8; HEADER], at: usize) -> i64 {
    i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
