//! Whether a request is as long as its counts say, before it is decoded.
//!
//! The codec reserves memory for as many elements as an array claims to have: four bytes of a
//! broken client could ask for more than the machine has, and the process would end. So the shape
//! of every request that we take is written down here and walked first, which costs no memory.
use kafka_protocol::messages::ApiKey;

/// Elements of all arrays of one request together.
const ELEMENTS: usize = 1 << 16;

/// The fields of a request, one character each, spaces aside: `1`, `2`, `4`, `8` for integers of so
/// many bytes, `u` for a UUID, `s` for text, `b` for bytes, `[x]` for an array of `x`, `(...)` for a
/// structure. In flexible versions texts, bytes and arrays are compact and structures end in tagged
/// fields.
///
/// None: we do not take this request in this version. From the schemas of Kafka 4.1.
pub(crate) fn shape(key: ApiKey, version: i16) -> Option<&'static str> {
    Some(match (key, version) {
        (ApiKey::Produce, 3..=12) => "s 2 4 [(s [(4 b)])]",
        (ApiKey::Fetch, 4) => "4 4 4 4 1 [(s [(4 8 4)])]",
        (ApiKey::Fetch, 5..=6) => "4 4 4 4 1 [(s [(4 8 8 4)])]",
        (ApiKey::Fetch, 7..=8) => "4 4 4 4 1 4 4 [(s [(4 8 8 4)])] [(s [4])]",
        (ApiKey::Fetch, 9..=10) => "4 4 4 4 1 4 4 [(s [(4 4 8 8 4)])] [(s [4])]",
        (ApiKey::Fetch, 11) => "4 4 4 4 1 4 4 [(s [(4 4 8 8 4)])] [(s [4])] s",
        (ApiKey::Fetch, 12) => "4 4 4 4 1 4 4 [(s [(4 4 8 4 8 4)])] [(s [4])] s",
        (ApiKey::Fetch, 13..=14) => "4 4 4 4 1 4 4 [(u [(4 4 8 4 8 4)])] [(u [4])] s",
        (ApiKey::Fetch, 15..=17) => "4 4 4 1 4 4 [(u [(4 4 8 4 8 4)])] [(u [4])] s",
        (ApiKey::ListOffsets, 1) => "4 [(s [(4 8)])]",
        (ApiKey::ListOffsets, 2..=3) => "4 1 [(s [(4 8)])]",
        (ApiKey::ListOffsets, 4..=9) => "4 1 [(s [(4 4 8)])]",
        (ApiKey::ListOffsets, 10) => "4 1 [(s [(4 4 8)])] 4",
        (ApiKey::Metadata, 0..=3) => "[(s)]",
        (ApiKey::Metadata, 4..=7) => "[(s)] 1",
        (ApiKey::Metadata, 8..=9) => "[(s)] 1 1 1",
        (ApiKey::Metadata, 10) => "[(u s)] 1 1 1",
        (ApiKey::Metadata, 11..=13) => "[(u s)] 1 1",
        (ApiKey::OffsetCommit, 2..=4) => "s 4 s 8 [(s [(4 8 s)])]",
        (ApiKey::OffsetCommit, 5) => "s 4 s [(s [(4 8 s)])]",
        (ApiKey::OffsetCommit, 6) => "s 4 s [(s [(4 8 4 s)])]",
        (ApiKey::OffsetCommit, 7..=9) => "s 4 s s [(s [(4 8 4 s)])]",
        (ApiKey::OffsetFetch, 1..=6) => "s [(s [4])]",
        (ApiKey::OffsetFetch, 7) => "s [(s [4])] 1",
        (ApiKey::OffsetFetch, 8) => "[(s [(s [4])])] 1",
        (ApiKey::OffsetFetch, 9) => "[(s s 4 [(s [4])])] 1",
        (ApiKey::FindCoordinator, 0) => "s",
        (ApiKey::FindCoordinator, 1..=3) => "s 1",
        (ApiKey::FindCoordinator, 4..=6) => "1 [s]",
        (ApiKey::JoinGroup, 0) => "s 4 s s [(s b)]",
        (ApiKey::JoinGroup, 1..=4) => "s 4 4 s s [(s b)]",
        (ApiKey::JoinGroup, 5..=7) => "s 4 4 s s s [(s b)]",
        (ApiKey::JoinGroup, 8..=9) => "s 4 4 s s s [(s b)] s",
        (ApiKey::Heartbeat, 0..=2) => "s 4 s",
        (ApiKey::Heartbeat, 3..=4) => "s 4 s s",
        (ApiKey::LeaveGroup, 0..=2) => "s s",
        (ApiKey::LeaveGroup, 3..=4) => "s [(s s)]",
        (ApiKey::LeaveGroup, 5) => "s [(s s s)]",
        (ApiKey::SyncGroup, 0..=2) => "s 4 s [(s b)]",
        (ApiKey::SyncGroup, 3..=4) => "s 4 s s [(s b)]",
        (ApiKey::SyncGroup, 5) => "s 4 s s s s [(s b)]",
        (ApiKey::DescribeGroups, 0..=2) => "[s]",
        (ApiKey::DescribeGroups, 3..=6) => "[s] 1",
        (ApiKey::ListGroups, 0..=3) => "",
        (ApiKey::ListGroups, 4) => "[s]",
        (ApiKey::ListGroups, 5) => "[s] [s]",
        (ApiKey::ApiVersions, 0..=2) => "",
        (ApiKey::ApiVersions, 3..=4) => "s s",
        (ApiKey::CreateTopics, 2..=7) => "[(s 4 2 [(4 [4])] [(s s)])] 4 1",
        (ApiKey::DeleteTopics, 1..=5) => "[s] 4",
        (ApiKey::DeleteTopics, 6) => "[(s u)] 4",
        (ApiKey::DeleteRecords, 0..=2) => "[(s [(4 8)])] 4",
        (ApiKey::InitProducerId, 0..=2) => "s 4",
        (ApiKey::InitProducerId, 3..=5) => "s 4 8 2",
        (ApiKey::OffsetForLeaderEpoch, 2) => "[(s [(4 4 4)])]",
        (ApiKey::OffsetForLeaderEpoch, 3..=4) => "4 [(s [(4 4 4)])]",
        (ApiKey::DescribeConfigs, 1..=2) => "[(1 s [s])] 1",
        (ApiKey::DescribeConfigs, 3..=4) => "[(1 s [s])] 1 1",
        (ApiKey::CreatePartitions, 0..=3) => "[(s 4 [([4])])] 4 1",
        (ApiKey::DeleteGroups, 0..=2) => "[s]",
        (ApiKey::DescribeCluster, 0) => "1",
        (ApiKey::DescribeCluster, 1) => "1 1",
        (ApiKey::DescribeCluster, 2) => "1 1 1",
        _ => return None,
    })
}

/// The first and the last version of a request that we take.
pub(crate) fn versions(key: ApiKey) -> Option<(i16, i16)> {
    let mut taken = (0..=20).filter(|&version| shape(key, version).is_some());
    let first = taken.next()?;
    Some((first, taken.next_back().unwrap_or(first)))
}

/// Whether `body` has the bytes that its counts and lengths speak of, and not too many elements.
pub(crate) fn fits(shape: &str, flexible: bool, body: &[u8]) -> bool {
    walk(shape, flexible, body).is_some()
}

/// What follows a request of this shape in `body`.
fn walk<'a>(shape: &str, flexible: bool, body: &'a [u8]) -> Option<&'a [u8]> {
    let mut walk = Walk { rest: body, flexible, elements: 0 };
    let fields: Vec<u8> = shape.bytes().filter(|&byte| byte != b' ').collect();
    walk.fields(&fields)?;
    if flexible {
        walk.tags()?;
    }
    Some(walk.rest)
}

struct Walk<'a> {
    rest: &'a [u8],
    flexible: bool,
    elements: usize,
}

impl Walk<'_> {
    fn fields(&mut self, mut fields: &[u8]) -> Option<()> {
        while let Some((&field, after)) = fields.split_first() {
            fields = after;
            match field {
                b'1' | b'2' | b'4' | b'8' => self.skip(usize::from(field - b'0'))?,
                b'u' => self.skip(16)?,
                b's' => {
                    let len = if self.flexible { self.varint()? - 1 } else { self.integer(2)? };
                    self.skip(usize::try_from(len).unwrap_or(0))?;
                }
                b'b' => {
                    let len = self.length()?;
                    self.skip(usize::try_from(len).unwrap_or(0))?;
                }
                b'(' => {
                    let inner = enclosed(fields, b'(', b')');
                    self.fields(&fields[..inner])?;
                    if self.flexible {
                        self.tags()?;
                    }
                    fields = &fields[inner + 1..];
                }
                b'[' => {
                    let inner = enclosed(fields, b'[', b']');
                    for _ in 0..self.length()? {
                        self.elements += 1;
                        if self.elements > ELEMENTS {
                            return None;
                        }
                        self.fields(&fields[..inner])?;
                    }
                    fields = &fields[inner + 1..];
                }
                _ => unreachable!("the shapes are written in the alphabet above"),
            }
        }
        Some(())
    }

    /// The length of bytes or of an array; -1 for none.
    fn length(&mut self) -> Option<i64> {
        if self.flexible { Some(self.varint()? - 1) } else { self.integer(4) }
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.rest = self.rest.get(bytes..)?;
        Some(())
    }

    fn integer(&mut self, bytes: usize) -> Option<i64> {
        let (head, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        let sign = if head[0] & 0x80 == 0 { 0 } else { -1 };
        Some(head.iter().fold(sign, |value, &byte| value << 8 | i64::from(byte)))
    }

    fn varint(&mut self) -> Option<i64> {
        let mut value = 0;
        for i in 0..5 {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= i64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn tags(&mut self) -> Option<()> {
        for _ in 0..self.varint()? {
            self.varint()?;
            let len = self.varint()?;
            self.skip(usize::try_from(len).ok()?)?;
        }
        Some(())
    }
}

/// The length of what stands before the bracket that closes one that was just opened.
fn enclosed(fields: &[u8], open: u8, close: u8) -> usize {
    let mut depth = 1;
    let closing = fields.iter().position(|&field| {
        depth += i32::from(field == open) - i32::from(field == close);
        depth == 0
    });
    closing.expect("brackets of the shapes come in pairs")
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::RequestKind;
    use proptest::prelude::*;

    use super::*;

    fn flexible(key: ApiKey, version: i16) -> bool {
        key.request_header_version(version) >= 2
    }

    /// Every request that we take, in every version.
    fn taken() -> Vec<(ApiKey, i16)> {
        let versions = |key| (0..=20).map(move |version| (key, version));
        ApiKey::iter().flat_map(versions).filter(|&(k, v)| shape(k, v).is_some()).collect()
    }

    #[test]
    fn the_codec_knows_every_version_that_we_offer() {
        for (key, version) in taken() {
            let known = key.valid_versions();
            assert!((known.min..=known.max).contains(&version), "{key:?} {version}");
        }
        for key in ApiKey::iter() {
            let Some((first, last)) = versions(key) else { continue };
            let gaps = (first..=last).filter(|&version| shape(key, version).is_none()).count();
            assert_eq!(gaps, 0, "{key:?} {first}..={last}");
        }
    }

    #[test]
    fn an_array_that_claims_more_than_there_is_does_not_fit() {
        let metadata = shape(ApiKey::Metadata, 1).unwrap();
        assert!(walk(metadata, false, &[0, 0, 0, 0]).is_some());
        assert!(walk(metadata, false, &[0x7f, 0xff, 0xff, 0xff]).is_none());
        // Empty names are two bytes each: enough bytes, and still too many elements.
        let mut many = 100_000_i32.to_be_bytes().to_vec();
        many.resize(4 + 200_000, 0);
        assert!(walk(metadata, false, &many).is_none());
    }

    proptest! {
        /// Where the codec reads a request, the shape ends at the same byte.
        ///
        /// But for Fetch from 12 on: it has tagged fields that the codec knows, and reads without
        /// regard to the length that a field claims, which in these bytes is mostly a lie.
        #[test]
        fn shapes_and_codec_agree(
            bytes in prop::collection::vec(prop::sample::select(vec![0u8, 0, 0, 1, 1, 2]), 0..400),
        ) {
            let lies = |&(key, version): &(ApiKey, i16)| key == ApiKey::Fetch && version >= 12;
            for (key, version) in taken().into_iter().filter(|taken| !lies(taken)) {
                let shape = shape(key, version).unwrap();
                let Some(rest) = walk(shape, flexible(key, version), &bytes) else { continue };
                let mut body = bytes::Bytes::copy_from_slice(&bytes);
                if RequestKind::decode(key, &mut body, version).is_ok() {
                    prop_assert_eq!(rest.len(), body.len(), "{:?} {}", key, version);
                }
            }
        }

        /// No bytes bring it down.
        #[test]
        fn any_bytes_can_be_walked(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for (key, version) in taken() {
                walk(shape(key, version).unwrap(), flexible(key, version), &bytes);
            }
        }
    }
}
