//! What all our gRPC services read from a call's metadata.
use std::time::Duration;

use tonic::metadata::MetadataMap;

/// The `authorization` header.
pub(crate) fn authorization(metadata: &MetadataMap) -> Option<&str> {
    metadata.get("authorization")?.to_str().ok()
}

/// Who asks, by their own word: any string that stays the same for a client.
pub(crate) const CLIENT: &str = "x-tidegate-client";

/// The [`CLIENT`] header.
pub(crate) fn client(metadata: &MetadataMap) -> Option<String> {
    Some(metadata.get(CLIENT)?.to_str().ok()?.to_owned())
}

/// The trace the caller is in.
pub(crate) fn traceparent(metadata: &MetadataMap) -> impl Iterator<Item = (&str, &[u8])> {
    ["traceparent", "tracestate"]
        .into_iter()
        .filter_map(|name| Some((name, metadata.get(name)?.as_encoded_bytes())))
}

/// The `grpc-timeout` header: at most eight digits and a unit.
///
/// A millisecond is taken off: tonic ends the call at the exact time, and dropping the call would
/// lose our answer, which says where the time went, and its count.
pub(crate) fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    };
    Some(timeout.checked_sub(Duration::from_millis(1)).unwrap_or(timeout / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_in_every_unit_and_nonsense_is_none() {
        let read = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            timeout(&metadata)
        };
        assert_eq!(read("2S"), Some(Duration::from_millis(1999)));
        assert_eq!(read("1M"), Some(Duration::from_millis(59_999)));
        assert_eq!(read("500u"), Some(Duration::from_micros(250)));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(98_999_999)));
        for nonsense in ["", "S", "1", "-1S", "123456789S", "1x", "1.5S"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }
}
