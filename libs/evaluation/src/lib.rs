//! Metrics with intervals, perturbations, load, suites and verdicts.
