//! The controller with a real ledger and, where records matter, a real broker.
mod doors;
mod gate;
mod hand;
mod hostile;
mod house;
mod http;
mod overrides;
mod pages;
mod producers;
mod signed;
mod stages;
mod verdict;
mod webhooks;
