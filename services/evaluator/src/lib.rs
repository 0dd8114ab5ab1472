//! The evaluator: measures a candidate against the champion and issues a verdict.
