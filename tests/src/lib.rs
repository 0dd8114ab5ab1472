//! A whole house for a test: the real `tidegate` as a process, real parts beside it, and clients
//! that know nothing of our code.
//!
//! It promises that what a test starts ends with the test, also when it fails, and that the log of
//! what it started is printed then. It reaches the house through its public faces only: Kafka,
//! gRPC, HTTP, the command line and the files of its data directory.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use tidegate_tests::{House, Topics};
//!
//! let mut house = House::small("").await?;
//! house.publish(&Topics::new(1).labelled(100)).await?;
//! let champion = house.until_champion().await;
//! house.kill();
//! house.start().await?;
//! assert_eq!(house.ask("an owl in the pine").await?.generation, champion.id);
//! # Ok(()) }
//! ```

mod accounts;
mod chance;
mod foreign;
mod house;
mod parts;
mod process;
mod topics;

pub use accounts::{Account, Accounts, learnt_once};
pub use chance::Chance;
pub use foreign::{Http, cache, curl, python};
pub use house::{Answer, Endpoints, House, binary, question, until};
pub use parts::{Kafka, Redis, free_port};
pub use process::Process;
pub use topics::{Text, Topics};
