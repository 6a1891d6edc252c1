//! The log's one writer, and how it is verified.

use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io;
use std::path::Path;
use terroir_store::chain::{self, ChainFormat, ChainHead, ChainedLog, Verification};
use terroir_store::ship::Shipper;
use terroir_store::{Key, Store, Txn, record};
use terroir_types::{Clock, Error};

use crate::{Queue, STREAM};
use std::sync::Arc;

/// How segments and lines look.
pub const FORMAT: ChainFormat = ChainFormat { name: "audit", content: "event", numbered: true };

/// Records of changes that are written and synced together; with the longest parameters they are less than what is read
/// of the log's end when it is opened.
const CHANGES: usize = 200;
/// Others that are written with them, before them.
const OTHERS: usize = 4_000;

/// Where a log has come to, kept where the log is not: who shortens the log does not shorten this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    #[serde(rename = "n")]
    number: u64,
    #[serde(rename = "h")]
    hash: String,
}

record!(Head { kind: "audit-head", version: 1 });

fn head_key(name: &str) -> Key {
    Key::new(format!("audit-head/{name}"))
}

/// The last record of the log `name` that was acknowledged.
///
/// # Errors
/// Those of the store.
pub fn head_of(txn: &Txn, name: &str) -> Result<ChainHead, Error> {
    let head = txn.peek::<Head>(&head_key(name))?;
    Ok(head.map(|head| ChainHead { number: head.number, hash: head.hash.clone() }).unwrap_or_default())
}

/// Reads the whole log and compares it with what was acknowledged.
///
/// # Errors
/// Those of the file system.
pub fn verify(folder: &Path, head: &ChainHead) -> io::Result<Verification> {
    chain::verify(folder, FORMAT, head)
}

/// The folder that audit records end in, owned by one process.
pub struct AuditLog {
    chain: ChainedLog,
    /// Among the logs of a cell.
    name: String,
    queue: Queue,
    clock: Arc<dyn Clock>,
    /// The state was asked where the log should end.
    compared: bool,
}

impl AuditLog {
    /// # Errors
    /// Those of [`ChainedLog::open`].
    pub fn open(folder: &Path, name: &str, queue: Queue, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let chain = ChainedLog::open(folder, FORMAT)?;
        Ok(Self { chain, name: name.to_owned(), queue, clock, compared: false })
    }

    /// A log that ends before what was acknowledged has lost its end: it goes on, and the gap stays in it.
    async fn compare(&mut self, store: &Store) -> Result<(), Error> {
        if self.compared {
            return Ok(());
        }
        let head = head_of(&store.read().await?, &self.name)?;
        let found = self.chain.head().number;
        if self.chain.go_on_from(&head) {
            tracing::error!(found, acknowledged = head.number, "the audit log has lost its end");
        }
        self.compared = true;
        Ok(())
    }

    /// That records are missing, as a record.
    fn gap(&self, dropped: u64) -> Vec<u8> {
        let now = self.clock.now().to_rfc3339_seconds();
        let gap = json!({
            "eventTime": now,
            "eventType": "TerroirRecordsDropped",
            "additionalEventData": { "dropped": dropped },
        });
        gap.to_string().into_bytes()
    }

    /// Moves what there is at most at a time; gives how much it was.
    async fn ship_some(&mut self, store: &Store) -> Result<usize, Error> {
        let changes = store.outbox(STREAM, 0, CHANGES).await?;
        let (taken, dropped) = self.queue.take(OTHERS);
        if changes.is_empty() && taken.is_empty() && dropped == 0 {
            return Ok(0);
        }
        let gap = (dropped > 0).then(|| self.gap(dropped));
        let others = taken.iter().chain(&gap).map(|record| (None, record.as_slice()));
        let of_outbox = changes.iter().map(|entry| (Some(entry.sequence), &*entry.payload));
        let written = match self.chain.append(others.chain(of_outbox)) {
            Ok(written) => written,
            Err(error) => {
                self.queue.put_back(taken, dropped);
                return Err(Error::unavailable("The audit log cannot be written.").with_internal(error.to_string()));
            }
        };
        self.queue.written(written);
        let head = Head { number: self.chain.head().number, hash: self.chain.head().hash.clone() };
        store.transact(&[], |txn| txn.put(&head_key(&self.name), &head)).await?;
        if let Some(last) = changes.last() {
            store.outbox_trim(STREAM, last.sequence).await?;
            self.chain.trimmed();
        }
        Ok(written)
    }
}

impl Shipper for AuditLog {
    const WHAT: &'static str = "audit records";

    async fn ship(&mut self, store: &Store) -> Result<usize, Error> {
        self.compare(store).await?;
        let mut shipped = 0;
        loop {
            match self.ship_some(store).await? {
                0 => return Ok(shipped),
                some => shipped += some,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use terroir_types::{ManualClock, Timestamp};

    struct World {
        folder: tempfile::TempDir,
        store: Store,
        queue: Queue,
    }

    impl World {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self { folder, store: Store::in_memory_for_tests().await, queue: Queue::default() }
        }

        fn open(&self) -> AuditLog {
            let clock = Arc::new(ManualClock::at(Timestamp::EPOCH));
            AuditLog::open(self.folder.path(), "local", self.queue.clone(), clock).unwrap()
        }

        async fn change(&self, n: u32) {
            let change = |txn: &mut Txn| {
                txn.outbox(STREAM, format!("{{\"change\":{n}}}").into_bytes());
                Ok(())
            };
            self.store.transact(&[], change).await.unwrap();
        }

        fn read(&self, n: u32) {
            self.queue.push(format!("{{\"read\":{n}}}").into_bytes());
        }

        async fn faults(&self) -> Vec<String> {
            let head = head_of(&self.store.read().await.unwrap(), "local").unwrap();
            verify(self.folder.path(), &head).unwrap().faults
        }

        fn path(&self) -> std::path::PathBuf {
            self.folder.path().join("audit-00000001.jsonl")
        }
    }

    #[tokio::test]
    async fn changes_and_the_rest_come_once_across_restarts() {
        let world = World::new().await;
        world.change(1).await;
        world.read(1);
        let mut log = world.open();
        assert_eq!(log.ship(&world.store).await.unwrap(), 2);
        assert!(world.store.outbox(STREAM, 0, 10).await.unwrap().is_empty());
        world.change(2).await;
        let entry = world.store.outbox(STREAM, 0, 1).await.unwrap().remove(0);
        // A crash between the log and the outbox.
        log.chain.append([(Some(entry.sequence), &*entry.payload)]).unwrap();
        drop(log);
        world.read(2);
        let mut log = world.open();
        assert_eq!(log.ship(&world.store).await.unwrap(), 1);
        assert_eq!(log.ship(&world.store).await.unwrap(), 0);
        assert_eq!(world.faults().await, Vec::<String>::new());
        let text = fs::read_to_string(world.path()).unwrap();
        for once in ["\"change\":1", "\"change\":2", "\"read\":1", "\"read\":2"] {
            assert_eq!(text.matches(once).count(), 1, "{once}");
        }
    }

    #[tokio::test]
    async fn a_lost_end_is_told_for_ever() {
        let world = World::new().await;
        (1..=4).for_each(|n| world.read(n));
        world.open().ship(&world.store).await.unwrap();
        let text = fs::read_to_string(world.path()).unwrap();
        let half: String = text.split_inclusive('\n').take(2).collect();
        fs::write(world.path(), half).unwrap();
        assert_eq!(world.faults().await, ["the log ends with record 2, but 4 were acknowledged"]);
        world.read(5);
        world.open().ship(&world.store).await.unwrap();
        let faults = world.faults().await;
        assert!(faults.len() == 1 && faults[0].ends_with("records 3 to 4 are missing"), "{faults:?}");
    }

    #[tokio::test]
    async fn what_was_dropped_is_in_the_log() {
        let world = World::new().await;
        world.queue.push(vec![b' '; 64 << 20]);
        world.read(1);
        world.open().ship(&world.store).await.unwrap();
        let text = fs::read_to_string(world.path()).unwrap();
        assert!(text.contains("\"dropped\":1") && text.contains("TerroirRecordsDropped"), "{text}");
        assert_eq!(world.faults().await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_disk_that_fails_loses_nothing() {
        let world = World::new().await;
        let mut log = world.open();
        world.read(1);
        world.change(1).await;
        // Nothing can be made in a folder that is gone.
        let away = world.folder.path().with_extension("away");
        fs::rename(world.folder.path(), &away).unwrap();
        assert_eq!(log.ship(&world.store).await.unwrap_err().code(), "Unavailable");
        assert_eq!((world.queue.counts().waiting, world.queue.counts().failed), (1, 1));
        fs::rename(&away, world.folder.path()).unwrap();
        assert_eq!(log.ship(&world.store).await.unwrap(), 2);
        assert_eq!(world.faults().await, Vec::<String>::new());
    }
}
