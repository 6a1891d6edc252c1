//! Closed intervals on disk, as a chained log.

use std::io;
use std::path::Path;
use terroir_store::Store;
use terroir_store::chain::{ChainFormat, ChainedLog};
use terroir_store::ship::Shipper;
use terroir_types::Error;

use crate::STREAM;

const FORMAT: ChainFormat = ChainFormat { name: "usage", content: "interval", numbered: false };
/// Entries that are written and synced together.
const BATCH: usize = 1_000;

/// The folder that closed intervals end in, owned by one process.
pub struct UsageLog(ChainedLog);

impl UsageLog {
    /// Errors: those of [`ChainedLog::open`].
    pub fn open(folder: &Path) -> io::Result<Self> {
        ChainedLog::open(folder, FORMAT).map(Self)
    }
}

impl Shipper for UsageLog {
    const WHAT: &'static str = "closed usage intervals";

    async fn ship(&mut self, store: &Store) -> Result<usize, Error> {
        let mut shipped = 0;
        loop {
            let entries = store.outbox(STREAM, 0, BATCH).await?;
            let Some(last) = entries.last().map(|entry| entry.sequence) else { return Ok(shipped) };
            let written = self.0.append(entries.iter().map(|entry| (Some(entry.sequence), &*entry.payload)));
            shipped += written.map_err(|error| {
                Error::unavailable("The usage log cannot be written.").with_internal(error.to_string())
            })?;
            store.outbox_trim(STREAM, last).await?;
            self.0.trimmed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_outbox_is_emptied_into_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::in_memory_for_tests().await;
        for n in 0..3 {
            let entry = |txn: &mut terroir_store::Txn| {
                txn.outbox(STREAM, format!("{{\"n\":{n}}}").into_bytes());
                Ok(())
            };
            store.transact(&[], entry).await.unwrap();
        }
        let mut log = UsageLog::open(folder.path()).unwrap();
        assert_eq!(log.ship(&store).await.unwrap(), 3);
        assert!(store.outbox(STREAM, 0, 10).await.unwrap().is_empty());
        assert_eq!(log.ship(&store).await.unwrap(), 0);
        let text = std::fs::read_to_string(folder.path().join("usage-00000001.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.iter().map(|line| line["interval"]["n"].as_i64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(lines[1]["sequence"].is_u64() && lines[1].get("number").is_none(), "as earlier versions wrote it");
    }
}
