//! Whose turn it is: what the format's key says, `FORMAT AHEAD` and a phase if it is not live.

use std::sync::atomic::Ordering;

use super::rpc::{self, DeleteRangeRequest, PutRequest, RangeRequest, Request, RequestOp, TxnRequest};
use super::{EtcdEngine, FORMAT, Shared};
use crate::StoreError;
use crate::engine::Revision;

/// Where a move of the state stands, as seen from this etcd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The state is here.
    Live,
    /// It is being copied to here.
    Filling,
    /// All of it is here; where it comes from may still be live.
    Filled,
    /// It has gone elsewhere.
    Moved,
}

const NAMES: [(Phase, &str); 4] =
    [(Phase::Live, ""), (Phase::Filling, "filling"), (Phase::Filled, "filled"), (Phase::Moved, "moved")];

impl Shared {
    async fn found_phase(&self) -> Result<Option<Phase>, StoreError> {
        let find = RangeRequest { key: self.space.format(), ..RangeRequest::default() };
        let found = self.members.ask(&find).await?.kvs;
        let Some(found) = found.first() else { return Ok(None) };
        let text = std::str::from_utf8(&found.value).unwrap_or_default();
        let mut words = text.split(' ');
        let format = words.next().and_then(|word| word.parse::<u32>().ok());
        if let Some(found) = format.filter(|format| *format > FORMAT) {
            return Err(StoreError::NewerFormat { found, supported: FORMAT });
        }
        let ahead = words.next().and_then(|word| word.parse().ok());
        let name = words.next().unwrap_or_default();
        let phase = NAMES.iter().find(|(_, known)| *known == name);
        match (format, ahead, phase) {
            (Some(FORMAT), Some(ahead), Some((phase, _))) => {
                self.ahead.store(ahead, Ordering::Relaxed);
                Ok(Some(*phase))
            }
            _ => Err(StoreError::Corrupt("what lies below the prefix in etcd is not of this program".to_owned())),
        }
    }

    fn format_put(&self, phase: Phase) -> RequestOp {
        let name = NAMES.iter().find(|(known, _)| *known == phase).map_or("", |(_, name)| name);
        let value = format!("{FORMAT} {} {name}", self.ahead.load(Ordering::Relaxed));
        let value = value.trim_end().to_owned().into();
        Request::Put(PutRequest { key: self.space.format(), value, ..PutRequest::default() }).into()
    }

    async fn put_phase(&self, phase: Phase) -> Result<(), StoreError> {
        let request = TxnRequest { success: vec![self.format_put(phase)], ..TxnRequest::default() };
        // Twice the same does no harm.
        self.members.ask(&request).await.map(drop).map_err(StoreError::from)
    }

    /// The phase; live from now on, if nothing is there.
    pub(super) async fn enter(&self) -> Result<Phase, StoreError> {
        loop {
            if let Some(found) = self.found_phase().await? {
                return Ok(found);
            }
            let absent = rpc::Compare {
                result: rpc::EQUAL,
                target: rpc::MOD_REVISION,
                key: self.space.format(),
                mod_revision: Some(0),
                range_end: bytes::Bytes::new(),
            };
            let success = vec![self.format_put(Phase::Live)];
            self.members.ask(&TxnRequest { compare: vec![absent], success, failure: Vec::new() }).await?;
        }
    }
}

impl EtcdEngine {
    /// None: nothing is there.
    pub async fn phase(&self) -> Result<Option<Phase>, StoreError> {
        self.shared.members.unless_closed(self.shared.found_phase()).await
    }

    pub async fn set_phase(&self, phase: Phase) -> Result<(), StoreError> {
        self.shared.members.unless_closed(self.shared.put_phase(phase)).await
    }

    /// Removes whatever is there and makes it a place that is being filled, from a state at `first_revision`.
    pub async fn begin_filling(&self, first_revision: Revision) -> Result<(), StoreError> {
        self.shared.ahead.store(first_revision, Ordering::Relaxed);
        let contents = self.shared.space.contents();
        let delete =
            contents.map(|span| Request::Delete(DeleteRangeRequest { key: span.start, range_end: span.end }).into());
        let success = [vec![self.shared.format_put(Phase::Filling)], delete.to_vec()].concat();
        let request = TxnRequest { success, ..TxnRequest::default() };
        self.shared.members.unless_closed(async { Ok(self.shared.members.ask(&request).await.map(drop)?) }).await
    }
}
