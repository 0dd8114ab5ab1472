//! The curator: events and labels in, curated records out, rejects to the dead-letter topic.
//!
//! Partition `p` of the events topic and partition `p` of the labels topic make **lane** `p`, which
//! one curator works on at a time: group consumption deals the lanes out, and a lease for each
//! keeps one that was away from going on with a lane that is another's now.
//!
//! It promises that every event and every label of a lane has exactly one effect: it is in one
//! curated record, or in one dead letter with its original bytes and the reason, or it waits for
//! its other half. That holds over `kill -9`, a broker or a ledger that goes away, and lanes that
//! move:
//!
//! - a lane's **checkpoint** (offsets of both topics, ends of the output topics, state of the
//!   stages) is written to the ledger only when everything that was sent is acknowledged;
//! - whoever opens a lane reads the output topics from those ends on, collects which records have
//!   had their effect, and replays from the offsets without repeating those;
//! - events and labels are read from two topics, so a replay may interleave them in another way.
//!   That can change when an event leaves the join, never how often: effects go by where their
//!   records stand (`tidegate-source-*` and `tidegate-label-offset` headers).
//!
//! One hole is known: a process that is frozen for longer than its lease, between the check of the
//! lease and the write, may double what that one write holds.
mod checkpoint;
mod config;
mod effects;
mod lane;
mod message;
mod service;
mod session;

pub use config::CuratorConfig;
pub use service::run;
