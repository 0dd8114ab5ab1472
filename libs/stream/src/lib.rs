//! Kafka: sources with offsets, sinks, dead letters, the embedded broker.
