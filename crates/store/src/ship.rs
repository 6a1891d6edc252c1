//! The loop of whoever takes entries from the outbox to where they stay.

use std::time::Duration;
use terroir_types::Error;

use crate::Store;

const EVERY: Duration = Duration::from_secs(1);

/// Takes over what waits in the outbox.
pub trait Shipper: Send {
    /// What it ships, as a warning names it: `audit records`.
    const WHAT: &'static str;

    /// Takes over everything that there is; gives how much it wrote. What fails is tried again with the next call.
    fn ship(&mut self, store: &Store) -> impl Future<Output = Result<usize, Error>> + Send;
}

/// Ships every second until `shutdown`, and once more then.
pub async fn run<S: Shipper>(mut shipper: S, store: Store, shutdown: impl Future<Output = ()>) {
    let mut tick = tokio::time::interval(EVERY);
    tokio::pin!(shutdown);
    loop {
        let last = tokio::select! {
            () = &mut shutdown => true,
            _ = tick.tick() => false,
        };
        if let Err(error) = shipper.ship(&store).await {
            tracing::error!(%error, detail = error.internal_detail(), "{} were not shipped", S::WHAT);
        }
        if last {
            return;
        }
    }
}
