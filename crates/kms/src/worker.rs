//! Does what falls due: automatic rotations, and the end of keys whose deletion was scheduled.

use std::future::Future;
use std::time::Duration;
use terroir_store::Txn;
use terroir_types::Error;

use crate::KeyService;
use crate::model::{Due, KeyState, KmsKey};
use crate::ops;

/// Between two looks whether something is due.
const PAUSE: Duration = Duration::from_secs(60);
const PAGE: usize = 100;

/// Looks again and again until `stop` is ready.
pub async fn run(service: &KeyService, stop: impl Future<Output = ()>) {
    let mut stop = std::pin::pin!(stop);
    loop {
        if let Err(error) = tick(service).await {
            let detail = error.internal_detail();
            tracing::warn!(%error, detail, "what fell due of keys was not all done; it is tried again");
        }
        tokio::select! {
            () = &mut stop => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Does all that is due now; how many keys it was.
///
/// # Errors
/// Those of the store. What was done stays done.
pub async fn tick(service: &KeyService) -> Result<usize, Error> {
    let mut count = 0;
    loop {
        let now = service.clock().now();
        let txn = service.store().read().await?;
        let due: Vec<Due> = txn.peek_page::<Due>(&Due::all(), None, PAGE)?.into_iter().map(|(_, due)| *due).collect();
        drop(txn);
        let due: Vec<Due> = due.into_iter().take_while(|due| due.at <= now).collect();
        if due.is_empty() {
            return Ok(count);
        }
        for entry in due {
            // A key with many grants takes more than one transaction.
            while !service.store().transact(&[], |txn| step(service, txn, entry)).await?.0 {}
            count += 1;
        }
    }
}

/// `true`: nothing is left to do for this entry.
fn step(service: &KeyService, txn: &mut Txn, entry: Due) -> Result<bool, Error> {
    let now = service.clock().now();
    let Some(key) = ops::find_key(txn, entry.account, entry.key)?.filter(|key| Due::of(key) == Some(entry)) else {
        // It was changed meanwhile, and the entry with it; one that nothing stands behind must not stay.
        txn.delete(&entry.store_key());
        return Ok(true);
    };
    match key.state {
        KeyState::PendingDeletion { .. } => end(txn, &key, now),
        KeyState::Enabled | KeyState::Disabled => ops::rotate(txn, &key, service.ids(), now).map(|()| true),
    }
}

fn end(txn: &mut Txn, key: &KmsKey, now: terroir_types::Timestamp) -> Result<bool, Error> {
    let done = ops::destroy(txn, key, now)?;
    if done {
        tracing::info!(account = %key.account, key = %key.id, "a key was destroyed");
    }
    Ok(done)
}
