//! The record of what happened: hash-chained log, fold, leases, artifact store.
