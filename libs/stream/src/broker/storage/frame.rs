//! Lines that know whether they are whole: `crc32c in hex, a space, JSON, a line feed`.
//!
//! JSON has no raw line feed inside, so a line that was cut short is told by its end or its crc,
//! and a person can read the file.
use serde::{Serialize, de::DeserializeOwned};

/// One line.
pub(crate) fn encode(value: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_vec(value).expect("these types have a JSON form");
    let mut line = format!("{:08x} ", crc32c::crc32c(&json)).into_bytes();
    line.extend_from_slice(&json);
    line.push(b'\n');
    line
}

/// The value of a line, with or without its line feed; None when the line is not whole.
pub(crate) fn decode<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let (crc, json) = line.split_at_checked(9)?;
    let crc = std::str::from_utf8(&crc[..8]).ok()?;
    if u32::from_str_radix(crc, 16).ok()? != crc32c::crc32c(json) {
        return None;
    }
    serde_json::from_slice(json).ok()
}
