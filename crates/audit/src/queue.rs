//! What waits in memory for the log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that may wait: some seconds of a busy server.
const MOST_BYTES: usize = 32 << 20;
/// What an entry takes besides its text.
const ENTRY_BYTES: usize = 64;

/// Records that are not part of a transaction, on their way to the log. A cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Queue(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    records: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Since the log was told.
    dropped: u64,
    counts: Counts,
}

/// How the log gets on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records that wait in memory.
    pub waiting: u64,
    /// Records that were written since the start, those of changes included.
    pub written: u64,
    /// Records that there was no room for since the start.
    pub dropped: u64,
    /// Attempts to write that failed since the start.
    pub failed: u64,
}

impl Queue {
    /// Adds a record, or counts it as dropped.
    pub fn push(&self, record: Vec<u8>) {
        self.push_within(record, MOST_BYTES);
    }

    fn push_within(&self, record: Vec<u8>, most: usize) {
        let mut waiting = self.lock();
        let size = record.len() + ENTRY_BYTES;
        if waiting.bytes + size > most {
            waiting.dropped += 1;
            waiting.counts.dropped += 1;
            return;
        }
        waiting.bytes += size;
        waiting.records.push_back(record);
    }

    pub fn counts(&self) -> Counts {
        let waiting = self.lock();
        Counts { waiting: waiting.records.len() as u64, ..waiting.counts }
    }

    /// Metrics in Prometheus's text form.
    pub fn write_metrics(&self, out: &mut String) {
        let Counts { waiting, written, dropped, failed } = self.counts();
        for (name, kind, value) in [
            ("waiting", "gauge", waiting),
            ("written_total", "counter", written),
            ("dropped_total", "counter", dropped),
            ("failures_total", "counter", failed),
        ] {
            out.push_str(&format!("# TYPE terroir_audit_{name} {kind}\nterroir_audit_{name} {value}\n"));
        }
    }

    /// Up to `most` records, and how many were dropped since this was asked last.
    pub(crate) fn take(&self, most: usize) -> (Vec<Vec<u8>>, u64) {
        let mut waiting = self.lock();
        let count = waiting.records.len().min(most);
        let taken: Vec<Vec<u8>> = waiting.records.drain(..count).collect();
        waiting.bytes -= taken.iter().map(|record| record.len() + ENTRY_BYTES).sum::<usize>();
        (taken, std::mem::take(&mut waiting.dropped))
    }

    /// What was taken and could not be written. It has its room again: what came meanwhile is newer, and makes way.
    pub(crate) fn put_back(&self, taken: Vec<Vec<u8>>, dropped: u64) {
        let mut waiting = self.lock();
        waiting.counts.failed += 1;
        waiting.dropped += dropped;
        waiting.bytes += taken.iter().map(|record| record.len() + ENTRY_BYTES).sum::<usize>();
        for record in taken.into_iter().rev() {
            waiting.records.push_front(record);
        }
        while waiting.bytes > MOST_BYTES
            && let Some(newest) = waiting.records.pop_back()
        {
            waiting.bytes -= newest.len() + ENTRY_BYTES;
            waiting.dropped += 1;
            waiting.counts.dropped += 1;
        }
    }

    pub(crate) fn written(&self, count: usize) {
        self.lock().counts.written += count as u64;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_and_what_failed_comes_again_in_order() {
        let queue = Queue::default();
        let room = 3 * (10 + ENTRY_BYTES);
        (0..5_u8).for_each(|n| queue.push_within(vec![n; 10], room));
        assert_eq!(queue.counts(), Counts { waiting: 3, dropped: 2, ..Counts::default() });
        let (taken, dropped) = queue.take(2);
        assert_eq!((taken.len(), dropped), (2, 2));
        queue.push_within(vec![9; 10], room);
        queue.put_back(taken, dropped);
        let (taken, dropped) = queue.take(10);
        assert_eq!((taken.iter().map(|record| record[0]).collect::<Vec<_>>(), dropped), (vec![0, 1, 2, 9], 2));
        assert_eq!(queue.lock().bytes, 0);
        queue.push(vec![0; MOST_BYTES]);
        assert_eq!(queue.counts(), Counts { waiting: 0, dropped: 3, written: 0, failed: 1 });
        queue.written(4);
        let mut text = String::new();
        queue.write_metrics(&mut text);
        assert!(text.contains("terroir_audit_dropped_total 3\n") && text.contains("terroir_audit_written_total 4\n"));
    }
}
