//! End to end: real broker, Redis, Kafka, browser, faults, foreign clients.
