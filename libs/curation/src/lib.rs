//! Data engineering on the stream: duplicates, hold-out, late labels.
