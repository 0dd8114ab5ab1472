//! Sight: tracing, OpenTelemetry, Prometheus metrics, energy meters.
