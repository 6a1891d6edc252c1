use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

use crate::observed::ObjectKey;

/// Wakes the reconciler. Ringing twice before it looks is the same as once, and a lost ring costs
/// no more than the time to the next look at everything.
#[derive(Debug, Default)]
pub struct Bell {
    notify: Notify,
    rung: Mutex<Rung>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Rung {
    pub keys: BTreeSet<ObjectKey>,
    /// Something new is known of these: do not wait out the pause after a failure.
    pub news: BTreeSet<ObjectKey>,
}

impl Bell {
    /// Look at the object again, and now.
    pub fn ring_now(&self, key: ObjectKey) {
        {
            let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
            rung.news.insert(key.clone());
            rung.keys.insert(key);
        }
        self.notify.notify_one();
    }

    /// Returns at the next ring, or at once if there was one since the last [`Bell::take`].
    pub async fn rung(&self) {
        self.notify.notified().await;
    }

    pub fn take(&self) -> Rung {
        std::mem::take(&mut *self.rung.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
