//! Backups of the control plane: what is in one, in which order, and how it is written and read again.
//!
//! A backup is a cut at one revision: records as they were then, and the outbox entries of that and earlier revisions.
//! It does not know which engine it is from, and a restored one goes on with higher revisions. Files that belong to the
//! state but not into it (keys, settings, logs) come along as they are given.

mod seal;

pub use seal::{BackupKey, Opener, Sealer};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use tokio::sync::mpsc;

use crate::engine::{Engine, Op};
use crate::record::open_entry;
use crate::{KeyRange, KeyRing, Store, StoreError, copy};

const PAGE: usize = 1000;
/// Bytes that are sent at a time, about.
const BATCH_BYTES: usize = 64 << 10;
/// Longer than any record or piece of a file.
const MAX_ITEM_BYTES: usize = 16 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The first. `number`: the highest sequence number that an outbox entry can have; `data`: which program wrote it.
    Start = 1,
    /// `name`: the key; `data`: its value as stored, sealed.
    Record = 2,
    /// `name`: the stream; `number`: the sequence number; `data`: the payload.
    Entry = 3,
    /// A piece of a file `name`, in order.
    File = 4,
    /// The last. `number`: how many items came before it.
    End = 5,
}

/// One part of a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    pub kind: Kind,
    pub number: u64,
    pub name: String,
    pub data: Bytes,
}

impl Item {
    fn encode(&self, out: &mut BytesMut) -> Result<(), StoreError> {
        let long = |_| StoreError::Codec(format!("'{}' is too long for a backup", self.name));
        out.put_u8(self.kind as u8);
        out.put_u64_le(self.number);
        out.put_u16_le(u16::try_from(self.name.len()).map_err(long)?);
        out.put_u32_le(u32::try_from(self.data.len()).map_err(long)?);
        out.put_slice(self.name.as_bytes());
        out.put_slice(&self.data);
        Ok(())
    }
}

/// Puts a stream of bytes back together into items.
#[derive(Default)]
pub struct Decoder {
    bytes: BytesMut,
    items: u64,
    started: bool,
    ended: bool,
}

const ITEM_HEADER: usize = 15;

impl Decoder {
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next item, if it is there as a whole.
    pub fn next_item(&mut self) -> Result<Option<Item>, StoreError> {
        let wrong = |what: &str| StoreError::Corrupt(format!("the backup {what}"));
        let Some(mut header) = self.bytes.get(..ITEM_HEADER) else { return Ok(None) };
        let kind = match header.get_u8() {
            1 => Kind::Start,
            2 => Kind::Record,
            3 => Kind::Entry,
            4 => Kind::File,
            5 => Kind::End,
            _ => return Err(wrong("holds something unknown")),
        };
        let (number, name, data) = (header.get_u64_le(), header.get_u16_le() as usize, header.get_u32_le() as usize);
        if data > MAX_ITEM_BYTES {
            return Err(wrong("holds something too long"));
        }
        if self.bytes.len() < ITEM_HEADER + name + data {
            return Ok(None);
        }
        self.bytes.advance(ITEM_HEADER);
        let name = String::from_utf8(self.bytes.split_to(name).to_vec()).map_err(|_| wrong("holds a strange name"))?;
        let data = self.bytes.split_to(data).freeze();
        if self.ended || self.started == (kind == Kind::Start) || (kind == Kind::End && number != self.items) {
            return Err(wrong("is not in order"));
        }
        self.started = true;
        self.ended = kind == Kind::End;
        self.items += 1;
        Ok(Some(Item { kind, number, name, data }))
    }

    /// To be called when no more bytes come.
    pub fn finish(&self) -> Result<(), StoreError> {
        if self.ended && self.bytes.is_empty() {
            return Ok(());
        }
        Err(StoreError::Corrupt("the backup is not whole".into()))
    }
}

/// Where a backup is sent, piece by piece.
pub type Sink = mpsc::Sender<Result<Bytes, StoreError>>;

/// Writes a backup.
pub struct Exporter {
    sink: Sink,
    bytes: BytesMut,
    items: u64,
}

impl Exporter {
    async fn add(&mut self, item: Item) -> Result<(), StoreError> {
        item.encode(&mut self.bytes)?;
        self.items += 1;
        if self.bytes.len() >= BATCH_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        let bytes = self.bytes.split().freeze();
        self.sink.send(Ok(bytes)).await.map_err(|_| StoreError::Io("nobody takes the backup any more".into()))
    }

    /// Adds the next piece of a file, of at most a few MiB.
    pub async fn file(&mut self, name: &str, piece: impl Into<Bytes>) -> Result<(), StoreError> {
        self.add(Item { kind: Kind::File, number: 0, name: name.to_owned(), data: piece.into() }).await
    }

    pub async fn finish(mut self) -> Result<(), StoreError> {
        let number = self.items;
        self.add(Item { kind: Kind::End, number, name: String::new(), data: Bytes::new() }).await?;
        self.flush().await
    }
}

impl Store {
    /// Begins a backup with the whole state at one revision. Files are added to what it returns, which then has to be
    /// finished. `program` is told to whoever reads it.
    pub async fn export(&self, sink: Sink, program: &str) -> Result<Exporter, StoreError> {
        export(&**self.engine(), &**self.keys(), sink, program).await
    }
}

async fn export(engine: &dyn Engine, keys: &dyn KeyRing, sink: Sink, program: &str) -> Result<Exporter, StoreError> {
    let mut exporter = Exporter { sink, bytes: BytesMut::new(), items: 0 };
    let revision = engine.current_revision().await?;
    let limit = engine.last_sequence(revision);
    let data = Bytes::copy_from_slice(program.as_bytes());
    exporter.add(Item { kind: Kind::Start, number: limit, name: String::new(), data }).await?;
    let mut rest = KeyRange::all();
    loop {
        let page = engine.range(&rest, PAGE, Some(revision)).await?;
        if let Some(last) = page.entries.last() {
            rest = rest.after(&last.key);
        }
        for entry in page.entries {
            let name = entry.key.to_string();
            exporter.add(Item { kind: Kind::Record, number: 0, name, data: entry.value }).await?;
        }
        if !page.more {
            break;
        }
    }
    // Later ones are of changes that are not in the backup. Earlier ones may be gone by now; then they are in a log.
    for stream in engine.outbox_streams().await? {
        let mut after = 0;
        loop {
            let entries = engine.outbox(&stream, after, PAGE).await?;
            let Some(last) = entries.last() else { break };
            after = last.sequence;
            for entry in entries.into_iter().filter(|entry| entry.sequence <= limit) {
                let data = if engine.is_shared() { open_entry(keys, &stream, &entry.payload)? } else { entry.payload };
                let (name, number) = (stream.clone(), entry.sequence);
                exporter.add(Item { kind: Kind::Entry, number, name, data }).await?;
            }
        }
    }
    Ok(exporter)
}

/// Puts a backup's records and outbox entries into an engine without records.
pub struct Importer<'e> {
    writer: copy::Writer<'e>,
    /// By stream; written at the end, because a log that comes after them may hold some already.
    entries: BTreeMap<String, BTreeMap<u64, Bytes>>,
    pub records: u64,
}

impl<'e> Importer<'e> {
    pub fn new(engine: &'e dyn Engine) -> Self {
        Self { writer: copy::Writer::new(engine), entries: BTreeMap::new(), records: 0 }
    }

    /// Takes a record or an outbox entry.
    pub async fn add(&mut self, item: Item) -> Result<(), StoreError> {
        match item.kind {
            Kind::Record => {
                self.records += 1;
                self.writer.add(Op::Put { key: item.name.as_str().into(), value: item.data, lease: None }).await
            }
            Kind::Entry => {
                self.entries.entry(item.name).or_default().insert(item.number, item.data);
                Ok(())
            }
            Kind::Start | Kind::File | Kind::End => Ok(()),
        }
    }

    /// Takes note that an entry is in a log already.
    pub fn logged(&mut self, stream: &str, sequence: u64) {
        if let Some(entries) = self.entries.get_mut(stream) {
            entries.remove(&sequence);
        }
    }

    /// Writes what is left.
    pub async fn finish(mut self) -> Result<(), StoreError> {
        for (stream, entries) in std::mem::take(&mut self.entries) {
            for payload in entries.into_values() {
                self.writer.add(Op::Append { stream: stream.clone(), payload }).await?;
            }
        }
        self.writer.flush().await
    }
}
