//! What the storage promises, tried without a broker around it.
mod catalog;
mod idempotence;
mod log;
mod torn;

use std::path::Path;

use bytes::Bytes;

use super::{
    batch::{Batch, BatchHeader, HEADER},
    log::{Log, LogOptions},
};

/// Small segments, so that tests cross them.
pub(super) fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 1_000,
        retention_bytes: u64::MAX,
        retention_ms: None,
        max_message_bytes: 10_000,
        sync_always: false,
    }
}

pub(super) fn open(dir: &Path) -> Log {
    Log::open(dir, options(), 0).unwrap()
}

/// Who sent a batch: producer id, epoch, sequence of its first record.
pub(super) type Sender = (i64, i16, i32);
pub(super) const NOBODY: Sender = (-1, -1, -1);

fn varint(value: i64, out: &mut Vec<u8>) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// A batch as a client writes it: records of a time and a value.
pub(super) fn bytes_of(records: &[(i64, &[u8])], sender: Sender) -> Vec<u8> {
    let base = records[0].0;
    let mut body = Vec::new();
    for (i, (time, value)) in records.iter().enumerate() {
        let mut record = vec![0];
        varint(time - base, &mut record);
        varint(i as i64, &mut record);
        varint(-1, &mut record);
        varint(value.len() as i64, &mut record);
        record.extend_from_slice(value);
        varint(0, &mut record);
        varint(record.len() as i64, &mut body);
        body.extend_from_slice(&record);
    }
    let count = records.len() as i32;
    let mut rest = 0_i16.to_be_bytes().to_vec();
    rest.extend_from_slice(&(count - 1).to_be_bytes());
    rest.extend_from_slice(&base.to_be_bytes());
    rest.extend_from_slice(&records.iter().map(|r| r.0).max().unwrap().to_be_bytes());
    rest.extend_from_slice(&sender.0.to_be_bytes());
    rest.extend_from_slice(&sender.1.to_be_bytes());
    rest.extend_from_slice(&sender.2.to_be_bytes());
    rest.extend_from_slice(&count.to_be_bytes());
    rest.extend_from_slice(&body);

    let mut batch = 0_i64.to_be_bytes().to_vec();
    batch.extend_from_slice(&(rest.len() as i32 + 9).to_be_bytes());
    batch.extend_from_slice(&7_i32.to_be_bytes());
    batch.push(2);
    batch.extend_from_slice(&crc32c::crc32c(&rest).to_be_bytes());
    batch.extend_from_slice(&rest);
    batch
}

pub(super) fn batch(records: &[(i64, &[u8])], sender: Sender) -> Batch {
    Batch::check(Bytes::from(bytes_of(records, sender))).unwrap()
}

/// A batch of one record.
pub(super) fn one(value: &[u8]) -> Batch {
    batch(&[(1_000, value)], NOBODY)
}

/// Base offset and last bytes of every batch from `from` to the log's end, read piece by piece.
pub(super) fn batches(log: &Log, from: i64, max: usize) -> Vec<(i64, Bytes)> {
    let mut found = Vec::new();
    let mut offset = from;
    while let Some(stretch) = log.stretch(offset).unwrap() {
        let mut bytes = stretch.read(offset, max, true).unwrap();
        assert!(!bytes.is_empty(), "there are records from {offset} on");
        while !bytes.is_empty() {
            let header = BatchHeader::parse(&bytes).expect("only whole batches are returned");
            let batch = bytes.split_to(header.len);
            assert!(
                header.fits(&batch),
                "the batch at {} is as it was written",
                header.base_offset
            );
            found.push((header.base_offset, batch.slice(HEADER..)));
            offset = header.next_offset();
        }
    }
    found
}
