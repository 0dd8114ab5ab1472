//! The log of one partition: segments in order, the last of them open for writing.
use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    batch::Batch,
    producers::{Producers, SequenceError, Standing},
    segment::{Segment, Source, Stretch},
};

/// How a partition is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogOptions {
    pub(crate) segment_bytes: u64,
    pub(crate) retention_bytes: u64,
    /// Milliseconds that a record is kept at least; None: for ever.
    pub(crate) retention_ms: Option<u64>,
    /// The largest batch.
    pub(crate) max_message_bytes: usize,
    /// Force every batch to the disk before it is acknowledged.
    pub(crate) sync_always: bool,
}

/// Why a batch was not appended.
#[derive(Debug)]
pub(crate) enum Refused {
    TooLarge,
    Sequence(SequenceError),
    Storage(io::Error),
}

/// An offset that is not in the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutOfRange;

/// A segment that is full, and not yet known to be on the disk.
struct Full {
    dir: PathBuf,
    file: Arc<File>,
    segment: Segment,
    producers: Producers,
}

impl Full {
    /// Forces the segment to the disk and writes its sidecar.
    fn seal(&self) -> io::Result<()> {
        self.file.sync_data()?;
        if !Segment::file(&self.dir, self.segment.base).exists() {
            return Ok(());
        }
        match self.segment.seal(&self.dir, &self.producers) {
            // Retention, or the topic's deletion, was quicker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

/// What must be forced to the disk, taken out of the log so that it needn't be held meanwhile.
pub(crate) struct Unsynced {
    full: Vec<Full>,
    file: Option<Arc<File>>,
    /// The folder, when files were made in it.
    dir: Option<PathBuf>,
}

impl Unsynced {
    /// Forces all of it.
    pub(crate) fn force(&self) -> io::Result<()> {
        for full in &self.full {
            full.seal()?;
        }
        if let Some(file) = &self.file {
            file.sync_data()?;
        }
        // The names of new files, and of the folders above that may be new with them.
        for dir in self.dir.iter().flat_map(|dir| dir.ancestors().take(3)) {
            match File::open(dir) {
                // The topic was deleted.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => opened?.sync_all()?,
            }
        }
        Ok(())
    }
}

/// The log of one partition. See [`super`] for its files and invariants.
pub(crate) struct Log {
    dir: PathBuf,
    options: LogOptions,
    /// The first offset that may be read: raised by `DeleteRecords`, and by retention.
    start: i64,
    closed: VecDeque<Segment>,
    active: Segment,
    file: Arc<File>,
    producers: Producers,
    full: Vec<Full>,
    dirty: bool,
    new_files: bool,
    scratch: Vec<u8>,
}

impl Log {
    /// Opens the log in `dir`, or begins one there. What a write left that was cut short is cut
    /// off; `start` is where records begin that were not deleted.
    pub(crate) fn open(dir: &Path, options: LogOptions, start: i64) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut bases = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "log") {
                let base = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
                let odd = || io::Error::other(format!("{} is no segment", path.display()));
                bases.push(base.ok_or_else(odd)?);
            } else {
                Segment::remove_stray(&path)?;
            }
        }
        bases.sort_unstable();
        let newest = bases.pop();
        let mut producers = Producers::default();
        let mut closed = VecDeque::new();
        for &base in &bases {
            if let Some((segment, state)) = Segment::unseal(dir, base) {
                producers = state;
                closed.push_back(segment);
            } else {
                let segment = Segment::scan(dir, base, &mut producers)?;
                cut(dir, &segment)?;
                // INVARIANT of the sidecar: the file is on the disk before it.
                File::open(Segment::file(dir, base))?.sync_data()?;
                segment.seal(dir, &producers)?;
                closed.push_back(segment);
            }
        }
        let active = match newest {
            Some(base) => Segment::scan(dir, base, &mut producers)?,
            None => Segment::new(start),
        };
        cut(dir, &active)?;
        let file = Arc::new(open(&Segment::file(dir, active.base))?);
        let (full, scratch) = (Vec::new(), Vec::new());
        let mut log = Self {
            dir: dir.to_owned(),
            options,
            start,
            closed,
            active,
            file,
            producers,
            full,
            dirty: true,
            new_files: true,
            scratch,
        };
        if log.end() < start {
            // The log's tail went with a power cut, the deletion of its records did not.
            log.roll(start)?;
        }
        log.drop_deleted();
        Ok(log)
    }

    /// The first offset.
    pub(crate) fn start(&self) -> i64 {
        self.start.max(self.closed.front().unwrap_or(&self.active).base)
    }

    /// The offset that the next record gets.
    pub(crate) fn end(&self) -> i64 {
        self.active.next
    }

    /// Bytes of all segments.
    fn len(&self) -> u64 {
        self.active.len + self.closed.iter().map(|s| s.len).sum::<u64>()
    }

    /// Appends a batch; the operating system has it when this returns. Returns the offset of its
    /// first record, which for a repeated batch is the one it got at first.
    pub(crate) fn append(&mut self, batch: &Batch) -> Result<i64, Refused> {
        if batch.header.len > self.options.max_message_bytes {
            return Err(Refused::TooLarge);
        }
        match self.producers.check(&batch.header).map_err(Refused::Sequence)? {
            Standing::Duplicate(offset) => return Ok(offset),
            Standing::New => {}
        }
        let len = batch.header.len as u64;
        if self.active.len > 0 && self.active.len + len > self.options.segment_bytes {
            self.roll(self.end()).map_err(Refused::Storage)?;
            self.retain_bytes();
        }
        let offset = self.end();
        self.scratch.clear();
        batch.place(offset, &mut self.scratch);
        if let Err(error) = self.write() {
            // What was written of it lies behind the log's end: not part of it, and gone now or
            // overwritten by the next.
            let _ = self.file.set_len(self.active.len);
            return Err(Refused::Storage(error));
        }
        let header = batch.header.at(offset);
        self.active.note(&header);
        self.producers.note(&header);
        // One large message should not hold its memory for ever.
        self.scratch.shrink_to(1 << 20);
        Ok(offset)
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.scratch, self.active.len)?;
        self.dirty = !self.options.sync_always;
        if self.options.sync_always {
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// Begins a new segment at `base`.
    fn roll(&mut self, base: i64) -> io::Result<()> {
        let file = Arc::new(open(&Segment::file(&self.dir, base))?);
        let segment = std::mem::replace(&mut self.active, Segment::new(base));
        let file = std::mem::replace(&mut self.file, file);
        self.full.push(Full {
            dir: self.dir.clone(),
            file,
            segment: segment.clone(),
            producers: self.producers.clone(),
        });
        self.closed.push_back(segment);
        self.dirty = true;
        self.new_files = true;
        Ok(())
    }

    /// A part of the log from `offset` on; None at its end.
    pub(crate) fn stretch(&self, offset: i64) -> Result<Option<Stretch>, OutOfRange> {
        if offset < self.start() || offset > self.end() {
            return Err(OutOfRange);
        }
        let segment = self.segments().find(|s| offset < s.next);
        Ok(segment.map(|segment| self.part(segment, segment.position_before(offset))))
    }

    /// A part of the log that holds the first record at or after `timestamp`, if any is.
    pub(crate) fn since(&self, timestamp: i64) -> Option<Stretch> {
        let segment = self.segments().find(|s| s.len > 0 && s.max_timestamp >= timestamp)?;
        Some(self.part(segment, segment.position_since(timestamp)))
    }

    /// The latest time of any record; -1 when there is none.
    pub(crate) fn max_timestamp(&self) -> i64 {
        self.segments().map(|s| s.max_timestamp).max().unwrap_or(-1)
    }

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.closed.iter().chain(std::iter::once(&self.active))
    }

    fn part(&self, segment: &Segment, position: u64) -> Stretch {
        let source = if segment.base == self.active.base {
            Source::Open(self.file.clone())
        } else {
            Source::At(Segment::file(&self.dir, segment.base))
        };
        Stretch { source, position, end: segment.len }
    }

    /// Deletes the records before `offset`. The catalogue must know of it first.
    pub(crate) fn trim(&mut self, offset: i64) {
        self.start = self.start.max(offset);
        self.drop_deleted();
    }

    fn drop_deleted(&mut self) {
        while self.closed.front().is_some_and(|s| s.next <= self.start) {
            self.drop_oldest("deleted");
        }
    }

    fn retain_bytes(&mut self) {
        while self.len() > self.options.retention_bytes && !self.closed.is_empty() {
            self.drop_oldest("over retention_bytes");
        }
    }

    /// Drops segments that hold nothing younger than `retention_ms`.
    pub(crate) fn retain_time(&mut self, now_ms: i64) {
        let Some(keep) = self.options.retention_ms.and_then(|ms| i64::try_from(ms).ok()) else {
            return;
        };
        while self.closed.front().is_some_and(|s| s.max_timestamp < now_ms.saturating_sub(keep)) {
            self.drop_oldest("over retention.ms");
        }
    }

    fn drop_oldest(&mut self, why: &str) {
        let Some(oldest) = self.closed.pop_front() else { return };
        let (from, to) = (oldest.base, oldest.next);
        match oldest.remove(&self.dir) {
            Ok(()) => tracing::info!(dir = %self.dir.display(), from, to, "segment dropped: {why}"),
            Err(error) => {
                // Comes back, and is dropped again, at the next start.
                tracing::warn!(dir = %self.dir.display(), %error, "a segment could not be removed");
            }
        }
    }

    /// Takes out what is to be forced to the disk.
    pub(crate) fn unsynced(&mut self) -> Unsynced {
        let file = std::mem::take(&mut self.dirty).then(|| self.file.clone());
        let dir = std::mem::take(&mut self.new_files).then(|| self.dir.clone());
        Unsynced { full: std::mem::take(&mut self.full), file, dir }
    }

    /// What could not be forced to the disk is due again.
    pub(crate) fn still_unsynced(&mut self, unsynced: Unsynced) {
        self.dirty = true;
        self.new_files = true;
        self.full.extend(unsynced.full);
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Cuts the file to what is whole of it.
fn cut(dir: &Path, segment: &Segment) -> io::Result<()> {
    let path = Segment::file(dir, segment.base);
    let file = open(&path)?;
    let len = file.metadata()?.len();
    if len > segment.len {
        let bytes = len - segment.len;
        tracing::warn!(
            path = %path.display(),
            bytes,
            offset = segment.next,
            "the end of a segment is not whole and was cut off: it was never acknowledged, or the \
             machine lost power"
        );
        file.set_len(segment.len)?;
    }
    Ok(())
}
