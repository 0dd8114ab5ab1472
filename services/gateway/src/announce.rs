//! Tells the ledger which generation serves here.
use std::time::Duration;

use tidegate_contracts::Actor;
use tidegate_ledger::{Author, Fact, Ledger};
use tokio::sync::mpsc;

use crate::keeper::Swap;

const PAUSE: Duration = Duration::from_secs(1);

/// Appends a `Swapped` for each swap, in order, until nobody sends any more. Waits while the ledger
/// is away: serving does not wait with it.
pub(crate) async fn announce(
    ledger: Ledger,
    gateway: String,
    mut swaps: mpsc::UnboundedReceiver<Swap>,
) {
    let author = Author { actor: Actor::new(format!("gateway:{gateway}")), fence: None };
    while let Some(Swap { generation, prepare }) = swaps.recv().await {
        let fact = || Fact::Swapped { gateway: gateway.clone(), generation, prepare };
        while let Err(error) = ledger.decide(&author, |_| Ok(Some(fact()))).await {
            let generation = generation.short();
            tracing::warn!(%error, generation, "the swap is not in the ledger yet");
            tokio::time::sleep(PAUSE).await;
        }
    }
}
