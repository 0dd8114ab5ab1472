//! Types generated from `proto/`.
#![allow(missing_docs, clippy::all, unreachable_pub)]

/// `tidegate.v1`: events, prediction, control. Serde follows the proto3 JSON mapping.
pub mod v1 {
    tonic::include_proto!("tidegate.v1");
    include!(concat!(env!("OUT_DIR"), "/tidegate.v1.serde.rs"));
}

/// The Open Inference Protocol, version 2.
pub mod inference {
    tonic::include_proto!("inference");
}

/// All of them as a `FileDescriptorSet`, for gRPC reflection.
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// A time as the wire has it.
#[must_use]
pub fn timestamp(time: chrono::DateTime<chrono::Utc>) -> pbjson_types::Timestamp {
    pbjson_types::Timestamp {
        seconds: time.timestamp(),
        nanos: time.timestamp_subsec_nanos() as i32,
    }
}

/// A time from the wire; `None` when out of chrono's range.
#[must_use]
pub fn from_timestamp(time: &pbjson_types::Timestamp) -> Option<chrono::DateTime<chrono::Utc>> {
    chrono::DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?)
}
