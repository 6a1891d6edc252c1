use async_trait::async_trait;
use base64::Engine;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;
use terroir_agent_api::*;
use terroir_types::{HostId, InstanceId, VolumeId};
use tokio::sync::Notify;

/// A control plane that says what a test puts into it and remembers what it is told.
#[derive(Debug, Default)]
pub struct Plane {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    cursor: Cursor,
    spec: HostSpec,
    instances: BTreeMap<InstanceId, InstanceStatus>,
    /// Every status of an instance that was ever reported, in order.
    history: Vec<InstanceStatus>,
    volumes: BTreeMap<VolumeId, VolumeStatus>,
    facts: Option<HostFacts>,
    blobs: BTreeMap<String, PathBuf>,
    questions: Vec<HostQuery>,
    answers: BTreeMap<u64, QueryAnswer>,
    reports: usize,
}

impl Plane {
    pub fn put(&self, section: Section) {
        self.edit(|state| drop(state.spec.insert(section.key(), section)));
    }

    pub fn put_all(&self, sections: Vec<Section>) {
        self.edit(|state| state.spec.extend(sections.into_iter().map(|section| (section.key(), section))));
    }

    pub fn remove(&self, key: &str) {
        self.edit(|state| drop(state.spec.remove(key)));
    }

    fn edit(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap();
        change(&mut state);
        state.cursor += 1;
        drop(state);
        self.changed.notify_waiters();
    }

    pub fn section(&self, key: &str) -> Option<Section> {
        self.state.lock().unwrap().spec.get(key).cloned()
    }

    pub fn add_blob(&self, name: &str, path: PathBuf) {
        self.state.lock().unwrap().blobs.insert(name.to_owned(), path);
    }

    pub fn instance(&self, id: InstanceId) -> Option<InstanceStatus> {
        self.state.lock().unwrap().instances.get(&id).cloned()
    }

    pub fn count_instances(&self, wish: impl Fn(&InstanceStatus) -> bool) -> usize {
        self.state.lock().unwrap().instances.values().filter(|status| wish(status)).count()
    }

    pub fn history(&self, id: InstanceId) -> Vec<InstanceStatus> {
        self.state.lock().unwrap().history.iter().filter(|status| status.id == id).cloned().collect()
    }

    pub fn volume(&self, id: VolumeId) -> Option<VolumeStatus> {
        self.state.lock().unwrap().volumes.get(&id).cloned()
    }

    pub fn facts(&self) -> Option<HostFacts> {
        self.state.lock().unwrap().facts.clone()
    }

    pub fn reports(&self) -> usize {
        self.state.lock().unwrap().reports
    }

    pub fn ask(&self, id: u64, kind: QueryKind) {
        self.state.lock().unwrap().questions.push(HostQuery { id, kind });
        self.changed.notify_waiters();
    }

    pub fn answered(&self, id: u64) -> Option<Vec<u8>> {
        match self.state.lock().unwrap().answers.get(&id)? {
            QueryAnswer::Bytes { base64, .. } => {
                Some(base64::engine::general_purpose::STANDARD.decode(base64).unwrap())
            }
            other => panic!("{other:?}"),
        }
    }

    async fn wait<T>(&self, wait: Duration, mut look: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let notified = self.changed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if let Some(found) = look(&mut self.state.lock().unwrap()) {
                return Some(found);
            }
            if tokio::time::timeout_at(deadline, notified).await.is_err() {
                return None;
            }
        }
    }
}

#[async_trait]
impl ControlPlane for Plane {
    async fn pull_spec(&self, _host: HostId, cursor: Cursor, wait: Duration) -> Result<SpecPage, CrossingError> {
        let page = self.wait(wait, |state| {
            let news = state.cursor != cursor;
            news.then(|| SpecPage { cursor: state.cursor, full: true, changed: state.spec.clone(), removed: vec![] })
        });
        let nothing = SpecPage { cursor, full: false, changed: BTreeMap::new(), removed: vec![] };
        Ok(page.await.unwrap_or(nothing))
    }

    async fn report(&self, report: HostReport) -> Result<ReportAck, CrossingError> {
        let mut state = self.state.lock().unwrap();
        state.reports += 1;
        if report.facts.is_some() {
            state.facts = report.facts;
        }
        for status in report.instances {
            let last = state.instances.get(&status.id);
            assert!(
                last.is_none_or(|l| l.generation <= status.generation),
                "generations only rise: {last:?} {status:?}"
            );
            if last != Some(&status) {
                state.history.push(status.clone());
            }
            state.instances.insert(status.id, status);
        }
        state.volumes.extend(report.volumes.into_iter().map(|status| (status.id, status)));
        Ok(ReportAck { want_full: false })
    }

    async fn queries(&self, _host: HostId, wait: Duration) -> Result<Vec<HostQuery>, CrossingError> {
        let asked =
            self.wait(wait, |state| (!state.questions.is_empty()).then(|| std::mem::take(&mut state.questions)));
        Ok(asked.await.unwrap_or_default())
    }

    async fn answer(&self, _host: HostId, query: u64, answer: QueryAnswer) -> Result<(), CrossingError> {
        self.state.lock().unwrap().answers.insert(query, answer);
        Ok(())
    }

    async fn fetch_blob(&self, _host: HostId, name: &str, sink: BlobSink<'_>) -> Result<(), CrossingError> {
        let path = self.state.lock().unwrap().blobs.get(name).cloned();
        let path = path.ok_or_else(|| CrossingError::NotFound(name.to_owned()))?;
        let mut file = std::fs::File::open(path).map_err(|e| CrossingError::Unreachable(e.to_string()))?;
        std::io::copy(&mut file, sink).map_err(|e| CrossingError::Unreachable(e.to_string()))?;
        Ok(())
    }

    async fn credentials(&self, _host: HostId, instance: InstanceId) -> Result<RoleCredentials, CrossingError> {
        Err(CrossingError::NotFound(instance.to_string()))
    }
}
