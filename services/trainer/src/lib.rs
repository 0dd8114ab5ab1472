//! The trainer: runs one job at a time from request to registered candidate.
