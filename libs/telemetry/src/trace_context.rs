//! W3C trace context in Kafka headers: one trace from event to promotion.
use opentelemetry::{Context, propagation::TextMapPropagator as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

struct Pairs<'a>(Vec<(&'a str, &'a str)>);

impl opentelemetry::propagation::Extractor for Pairs<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| *value)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| *name).collect()
    }
}

/// The headers (`traceparent`, `tracestate`) that carry the current span; none outside a trace.
#[must_use]
pub fn inject() -> Vec<(String, String)> {
    let mut carrier = std::collections::HashMap::new();
    TraceContextPropagator::new().inject_context(&tracing::Span::current().context(), &mut carrier);
    carrier.into_iter().collect()
}

/// The trace that headers carry. Malformed ones carry none.
pub fn extract<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Context {
    let pairs = headers
        .filter_map(|(name, value)| Some((name, std::str::from_utf8(value).ok()?)))
        .collect();
    TraceContextPropagator::new().extract(&Pairs(pairs))
}

/// Makes `span` a child of the trace that headers carry.
pub fn continue_trace<'a>(
    span: &tracing::Span,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
) {
    use opentelemetry::trace::TraceContextExt as _;
    let context = extract(headers);
    if context.span().span_context().is_valid() {
        // Fails only when no OpenTelemetry layer is installed: then there is no trace to continue.
        let _ = span.set_parent(context);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceContextExt as _;

    use super::*;

    #[test]
    fn a_traceparent_is_read_and_nonsense_is_not() {
        let good = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".as_slice();
        let context = extract([("traceparent", good)].into_iter());
        assert_eq!(
            context.span().span_context().trace_id().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        let context = extract([("traceparent", b"\xff\xfe".as_slice())].into_iter());
        assert!(!context.span().span_context().is_valid());
    }
}
