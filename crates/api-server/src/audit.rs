//! The audit trail of changes: written with the change, shipped to an append-only file.
//!
//! A write puts one record into the store's outbox `audit`, in its own transaction. [`AuditLog::ship`] appends what is
//! there as lines of JSON, syncs the file, and only then trims the outbox. After a crash between the two the last lines
//! come again; those that the file already ends with are not appended twice.

use serde::Serialize;
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use terroir_action::{Caller, Target};
use terroir_iam::RequestFacts;
use terroir_store::Store;
use terroir_types::{AccountId, Arn, Timestamp};

/// The outbox stream that records wait in.
pub const STREAM: &str = "audit";
const BATCH: usize = 500;
/// How much of the file's end is read: more than one batch.
const TAIL_BYTES: u64 = 4 << 20;
const MAX_USER_AGENT: usize = 256;

/// One successful change.
#[derive(Serialize)]
struct Record<'a> {
    time: String,
    request_id: &'a str,
    account: AccountId,
    principal: &'a Arn,
    access_key_id: &'a str,
    source_ip: Option<String>,
    user_agent: Option<&'a str>,
    service: &'a str,
    action: &'a str,
    resources: Vec<&'a Arn>,
}

/// The audit record of a change, as JSON.
pub(crate) fn record(
    caller: &Caller,
    facts: &RequestFacts,
    request_id: &str,
    (service, action): (&str, &str),
    targets: &[Target],
    now: Timestamp,
) -> Vec<u8> {
    let agent = facts.user_agent.as_deref().map(|agent| {
        let end = agent.char_indices().nth(MAX_USER_AGENT).map_or(agent.len(), |(at, _)| at);
        &agent[..end]
    });
    let record = Record {
        time: now.to_rfc3339(),
        request_id,
        account: caller.account,
        principal: &caller.arn,
        access_key_id: &caller.access_key_id,
        source_ip: facts.source_ip.map(|address| address.to_string()),
        user_agent: agent,
        service,
        action,
        resources: targets.iter().filter_map(|target| target.resource.as_ref()).collect(),
    };
    // Text and lists of text always have a JSON form.
    serde_json::to_vec(&record).unwrap_or_default()
}

/// The file that audit records end in.
pub struct AuditLog {
    path: PathBuf,
    file: File,
    /// Lines at the end of the file, until the outbox was trimmed once.
    known: HashSet<Vec<u8>>,
}

impl AuditLog {
    /// Opens the file for appending, or makes it with mode 0600. A last line that a crash cut off is removed.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let length = file.metadata()?.len();
        let from = length.saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if whole < tail.len() && (whole > 0 || from == 0) {
            file.set_len(from + u64::try_from(whole).unwrap_or_default())?;
        }
        let known = tail[..whole].split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        Ok(Self { path: path.to_owned(), file, known })
    }

    /// Appends what the outbox holds and trims it. Returns how many records were appended.
    pub async fn ship(&mut self, store: &Store) -> Result<usize, terroir_types::Error> {
        let mut shipped = 0;
        loop {
            let entries = store.outbox(STREAM, 0, BATCH).await?;
            let Some(through) = entries.last().map(|entry| entry.sequence) else { return Ok(shipped) };
            let mut lines = Vec::new();
            for entry in entries {
                let line = [
                    format!("{{\"sequence\":{},", entry.sequence).as_bytes(),
                    entry.payload.get(1..).unwrap_or_default(),
                    b"\n",
                ]
                .concat();
                if !self.known.contains(&line) {
                    lines.extend_from_slice(&line);
                    shipped += 1;
                }
            }
            self.append(lines).await.map_err(|error| {
                terroir_types::Error::unavailable("The audit log cannot be written.")
                    .with_internal(format!("{}: {error}", self.path.display()))
            })?;
            store.outbox_trim(STREAM, through).await?;
            self.known.clear();
        }
    }

    async fn append(&self, lines: Vec<u8>) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut file = self.file.try_clone()?;
        let written = tokio::task::spawn_blocking(move || {
            let length = file.metadata()?.len();
            let done = file.write_all(&lines).and_then(|()| file.sync_data());
            if done.is_err() {
                // Half a batch must not stay in front of the next attempt.
                file.set_len(length)?;
            }
            done
        });
        written.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn put(store: &Store, payload: &str) {
        store
            .transact(&[], |txn| {
                txn.outbox(STREAM, payload.as_bytes().to_vec());
                Ok(())
            })
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn lines_come_once_and_in_order_across_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/audit.log");
        let store = Store::in_memory_for_tests().await;
        let text = || std::fs::read_to_string(&path).unwrap();

        put(&store, "{\"n\":1}").await;
        put(&store, "{\"n\":2}").await;
        assert_eq!(AuditLog::open(&path).unwrap().ship(&store).await.unwrap(), 2);
        assert_eq!(store.outbox(STREAM, 0, 10).await.unwrap().len(), 0, "what is in the file leaves the outbox");
        let first = text();

        // A crash in the middle of a line.
        std::fs::write(&path, format!("{first}{{\"sequence\":3,\"n")).unwrap();
        put(&store, "{\"n\":3}").await;
        let mut log = AuditLog::open(&path).unwrap();
        assert_eq!(text(), first);
        assert_eq!(log.ship(&store).await.unwrap(), 1);
        let lines: Vec<serde_json::Value> = text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.iter().map(|line| line["n"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);

        // A crash between the file and the outbox: what the file has does not come again.
        put(&store, "{\"n\":4}").await;
        let entry = store.outbox(STREAM, 0, 10).await.unwrap().remove(0);
        std::fs::write(&path, format!("{}{{\"sequence\":{},\"n\":4}}\n", text(), entry.sequence)).unwrap();
        assert_eq!(AuditLog::open(&path).unwrap().ship(&store).await.unwrap(), 0);
        assert_eq!(text().lines().count(), 4);
        assert_eq!(store.outbox(STREAM, 0, 10).await.unwrap().len(), 0);
    }
}
