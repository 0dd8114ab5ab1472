//! One file of a partition's log: batches end to end, and a sparse index of them in memory.
use std::{
    fs::File,
    io::{self, BufReader, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{
    batch::{self, BatchHeader, HEADER},
    frame,
    producers::Producers,
};

/// An index entry is made for every so many bytes of log.
const INTERVAL: u64 = 64 << 10;

/// What is known of one segment file without reading it.
///
/// INVARIANT: batches fill `0..len` of the file and `base..next` of the offsets without gaps. Bytes behind `len` are not part of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Segment {
    /// The offset that names the file: no record in it is before.
    pub(crate) base: i64,
    /// The offset after its last record.
    pub(crate) next: i64,
    pub(crate) len: u64,
    /// The latest time of any record; -1 when there is none.
    pub(crate) max_timestamp: i64,
    index: Vec<Entry>,
}

/// A batch that starts at `position` with `offset`; `before` is the latest time of all batches
/// before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry(i64, u64, i64);

/// What a sealed segment's sidecar file holds.
#[derive(Serialize, Deserialize)]
struct Sealed {
    segment: Segment,
    producers: Producers,
}

impl Segment {
    pub(crate) fn new(base: i64) -> Self {
        Self { base, next: base, len: 0, max_timestamp: -1, index: Vec::new() }
    }

    pub(crate) fn file(dir: &Path, base: i64) -> PathBuf {
        dir.join(format!("{base:020}.log"))
    }

    fn sidecar(dir: &Path, base: i64) -> PathBuf {
        dir.join(format!("{base:020}.sealed"))
    }

    /// Takes up a batch that was written at `len`.
    pub(crate) fn note(&mut self, batch: &BatchHeader) {
        if self.index.last().is_none_or(|&Entry(_, at, _)| self.len - at >= INTERVAL) {
            self.index.push(Entry(batch.base_offset, self.len, self.max_timestamp));
        }
        self.len += batch.len as u64;
        self.next = batch.next_offset();
        self.max_timestamp = self.max_timestamp.max(batch.max_timestamp);
    }

    /// Where to begin to look for the batch that holds `offset`.
    pub(crate) fn position_before(&self, offset: i64) -> u64 {
        let after = self.index.partition_point(|&Entry(first, _, _)| first <= offset);
        after.checked_sub(1).map_or(0, |i| self.index[i].1)
    }

    /// Where to begin to look for the first record at or after `timestamp`.
    pub(crate) fn position_since(&self, timestamp: i64) -> u64 {
        let after = self.index.partition_point(|&Entry(_, _, before)| before < timestamp);
        after.checked_sub(1).map_or(0, |i| self.index[i].1)
    }

    /// Reads a segment file from its start and stops at the first batch that is not whole, or not
    /// the next: what a write that was cut short, or damage, leaves behind.
    pub(crate) fn scan(dir: &Path, base: i64, producers: &mut Producers) -> io::Result<Self> {
        let mut segment = Self::new(base);
        let mut file = BufReader::with_capacity(1 << 20, File::open(Self::file(dir, base))?);
        let mut batch = Vec::new();
        loop {
            batch.clear();
            file.by_ref().take(HEADER as u64).read_to_end(&mut batch)?;
            let Some(header) = BatchHeader::parse(&batch) else { return Ok(segment) };
            file.by_ref().take((header.len - HEADER) as u64).read_to_end(&mut batch)?;
            if !header.fits(&batch) || header.base_offset != segment.next {
                return Ok(segment);
            }
            segment.note(&header);
            producers.note(&header);
        }
    }

    /// Writes the sidecar, so that the next start need not read the segment.
    ///
    /// INVARIANT: the segment file is on the disk before; a sidecar vouches for it.
    pub(crate) fn seal(&self, dir: &Path, producers: &Producers) -> io::Result<()> {
        let sealed = Sealed { segment: self.clone(), producers: producers.clone() };
        let path = Self::sidecar(dir, self.base);
        let new = path.with_extension("new");
        std::fs::write(&new, frame::encode(&sealed))?;
        File::open(&new)?.sync_data()?;
        std::fs::rename(new, path)
    }

    /// What the sidecar says, if it is whole and fits the segment file.
    pub(crate) fn unseal(dir: &Path, base: i64) -> Option<(Self, Producers)> {
        let sealed: Sealed = frame::decode(&std::fs::read(Self::sidecar(dir, base)).ok()?)?;
        let len = std::fs::metadata(Self::file(dir, base)).ok()?.len();
        let fits = sealed.segment.base == base && sealed.segment.len == len;
        fits.then_some((sealed.segment, sealed.producers))
    }

    /// Removes a sidecar that has no segment: retention was quicker than its writing.
    pub(crate) fn remove_stray(sidecar: &Path) -> io::Result<()> {
        let stray = sidecar.extension().is_some_and(|e| e == "sealed" || e == "new");
        if stray && !sidecar.with_extension("log").exists() {
            std::fs::remove_file(sidecar)?;
        }
        Ok(())
    }

    /// Removes the files. Readers that hold them open are not disturbed.
    pub(crate) fn remove(&self, dir: &Path) -> io::Result<()> {
        // The sidecar first: one without its segment would vouch for nothing.
        match std::fs::remove_file(Self::sidecar(dir, self.base)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => std::fs::remove_file(Self::file(dir, self.base)),
        }
    }
}

/// A part of a segment that can be read while the log goes on growing.
pub(crate) struct Stretch {
    pub(crate) source: Source,
    pub(crate) position: u64,
    /// Where the log ended when this was taken.
    pub(crate) end: u64,
}

/// The file of a stretch: the newest is open, older ones are opened when they are read.
pub(crate) enum Source {
    Open(Arc<File>),
    At(PathBuf),
}

impl Stretch {
    /// Bytes that [`Stretch::read`] may bring at most.
    pub(crate) fn limit(&self, max: usize) -> usize {
        let span = (self.end - self.position).min(max as u64 + INTERVAL);
        usize::try_from(span).expect("a segment's part fits memory")
    }

    fn open(&self) -> io::Result<Arc<File>> {
        match &self.source {
            Source::Open(file) => Ok(file.clone()),
            Source::At(path) => Ok(Arc::new(File::open(path)?)),
        }
    }

    /// Whole batches from the one that holds `offset` on, up to `max` bytes; with `at_least_one`
    /// the first comes even if it is larger.
    pub(crate) fn read(&self, offset: i64, max: usize, at_least_one: bool) -> io::Result<Bytes> {
        let file = self.open()?;
        let mut bytes = BytesMut::zeroed(self.limit(max));
        file.read_exact_at(&mut bytes, self.position)?;
        let mut from = 0;
        loop {
            let header = match BatchHeader::parse(&bytes[from..]) {
                Some(header) => header,
                // Cut by the limit.
                None => self.header_at(&file, self.position + from as u64)?,
            };
            if header.next_offset() > offset {
                return self.take(&file, bytes, from, max, at_least_one.then_some(header.len));
            }
            from += header.len;
            let next = self.position + from as u64;
            if next >= self.end {
                return Ok(Bytes::new());
            }
            // Behind a gap in the offsets, which the index does not lead across.
            if from >= bytes.len() {
                let rest = Self { source: Source::Open(file), position: next, end: self.end };
                return rest.read(offset, max, at_least_one);
            }
        }
    }

    fn take(
        &self,
        file: &File,
        mut bytes: BytesMut,
        from: usize,
        max: usize,
        first: Option<usize>,
    ) -> io::Result<Bytes> {
        if let Some(len) = first.filter(|&len| len > max) {
            let mut whole = BytesMut::zeroed(len);
            file.read_exact_at(&mut whole, self.position + from as u64)?;
            return Ok(whole.freeze());
        }
        let available = max.min(bytes.len() - from);
        let mut taken = 0;
        while let Some(header) = BatchHeader::parse(&bytes[from + taken..]) {
            if taken + header.len > available {
                break;
            }
            taken += header.len;
        }
        Ok(bytes.split_off(from).freeze().slice(..taken))
    }

    fn header_at(&self, file: &File, position: u64) -> io::Result<BatchHeader> {
        let mut head = [0; HEADER];
        file.read_exact_at(&mut head, position)?;
        BatchHeader::parse(&head).ok_or_else(|| damaged(position))
    }

    /// The first record at or after `timestamp`: its offset and time.
    pub(crate) fn since(&self, timestamp: i64) -> io::Result<Option<(i64, i64)>> {
        let file = self.open()?;
        let mut position = self.position;
        while position < self.end {
            let header = self.header_at(&file, position)?;
            if header.max_timestamp >= timestamp {
                let mut bytes = vec![0; header.len];
                file.read_exact_at(&mut bytes, position)?;
                return Ok(Some(batch::first_since(&header, &bytes, timestamp)));
            }
            position += header.len as u64;
        }
        Ok(None)
    }
}

fn damaged(position: u64) -> io::Error {
    io::Error::other(format!("the segment is damaged at byte {position}"))
}
