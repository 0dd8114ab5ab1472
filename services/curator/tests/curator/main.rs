//! The curator on a real broker and a real ledger.
mod faults;
mod house;
mod records;
