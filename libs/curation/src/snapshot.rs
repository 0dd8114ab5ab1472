//! The bytes of a snapshot: small, versioned, checked.
//!
//! `magic (4) | format u32 | body | BLAKE3 of all before it (32)`, little endian. The body is what
//! each stage writes in the order of the pipeline, each under its name, and then the join. Size:
//! 40 bytes for each event that `exact` remembers, 2 for each permutation and the id for each that
//! `near` remembers, 17 for each id that `join` has settled and 8 for each record that waits in it:
//! about 18 MB when everything is full at the defaults.
use crate::config::CurationError;

const MAGIC: &[u8; 4] = b"TGCU";
/// Of the body.
pub(crate) const FORMAT: u32 = 1;
const SEAL: usize = 32;

/// Collects a snapshot.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new() -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(FORMAT.to_le_bytes());
        Self(bytes)
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn u128(&mut self, value: u128) {
        self.0.extend(value.to_le_bytes());
    }

    pub(crate) fn len(&mut self, value: usize) {
        self.u64(value as u64);
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.len(value.len());
        self.0.extend(value.as_bytes());
    }

    /// Writes what `fill` writes under `name`, so that a reader can pass over it.
    pub(crate) fn section(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        self.text(name);
        let at = self.0.len();
        self.u64(0);
        fill(self);
        let len = (self.0.len() - at - 8) as u64;
        self.0[at..at + 8].copy_from_slice(&len.to_le_bytes());
    }

    /// Seals it.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let seal = blake3::hash(&self.0);
        self.0.extend(seal.as_bytes());
        self.0
    }
}

/// Reads a snapshot that is known to be whole.
pub(crate) struct Reader<'a>(&'a [u8]);

fn damaged(what: impl Into<String>) -> CurationError {
    CurationError::Damaged(what.into())
}

impl<'a> Reader<'a> {
    /// Checks seal and format.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, CurationError> {
        let head = MAGIC.len() + 4;
        if bytes.len() < head + SEAL {
            return Err(damaged(format!("it has only {} bytes", bytes.len())));
        }
        let (body, seal) = bytes.split_at(bytes.len() - SEAL);
        if &body[..MAGIC.len()] != MAGIC {
            return Err(damaged("it does not start as one"));
        }
        if blake3::hash(body).as_bytes() != seal {
            return Err(damaged("its hash does not match its bytes"));
        }
        let mut reader = Self(&body[MAGIC.len()..]);
        let found = u32::from_le_bytes(reader.array()?);
        if found != FORMAT {
            return Err(CurationError::Format { found, known: FORMAT });
        }
        Ok(reader)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], CurationError> {
        let (taken, rest) = self
            .0
            .split_at_checked(n)
            .ok_or_else(|| damaged(format!("it ends {n} bytes too early")))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CurationError> {
        Ok(self.take(N)?.try_into().expect("`take` gave N bytes"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CurationError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, CurationError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CurationError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, CurationError> {
        self.array().map(i64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, CurationError> {
        self.array().map(u128::from_le_bytes)
    }

    /// A count of items that take at least `each` bytes: never more than the bytes that are left.
    pub(crate) fn len(&mut self, each: usize) -> Result<usize, CurationError> {
        let len = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        if len > self.0.len() / each.max(1) {
            return Err(damaged(format!("it promises {len} items and has not the bytes for them")));
        }
        Ok(len)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, CurationError> {
        let len = self.len(1)?;
        std::str::from_utf8(self.take(len)?).map_err(|_| damaged("a name in it is not UTF-8"))
    }

    /// The next section and its name; `None` at the end.
    pub(crate) fn section(&mut self) -> Result<Option<(&'a str, Reader<'a>)>, CurationError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let name = self.text()?;
        let len = self.len(1)?;
        Ok(Some((name, Reader(self.take(len)?))))
    }

    /// Passes over the rest.
    pub(crate) fn skip(&mut self) {
        self.0 = &[];
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<(), CurationError> {
        if self.0.is_empty() { Ok(()) } else { Err(damaged("bytes are left over")) }
    }
}
