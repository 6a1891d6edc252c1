//! Versions against a model: any writes and deletions in any state of versioning, read back in every way there is.

use crate::harness::{backend_in, count};
use bytes::Bytes;
use futures::TryStreamExt;
use proptest::prelude::*;
use std::collections::BTreeMap;
use terroir_object_storage::backend::local::LocalBackend;
use terroir_object_storage::backend::{
    BackendError, BucketId, BucketUsage, Delete, Deleted, List, ListEntry, ListVersions, Lookup, NewCopy,
    ObjectBackend, Place, Put, Source, VersionEntry, VersionId, Versioning, WriteCondition,
};

const KEYS: [&str; 4] = ["a", "b/1", "b/2", "c"];

#[derive(Debug, Clone)]
enum Step {
    Switch(Versioning),
    /// Small ones stand in the index, large ones in files.
    Put {
        key: usize,
        large: bool,
        condition: u8,
    },
    Delete {
        key: usize,
        condition: u8,
    },
    /// Of the versions of all keys, one.
    DeleteVersion(usize),
    DeleteNull(usize),
    Copy(usize, usize),
    Tag(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS.len();
    prop_oneof![
        2 => prop_oneof![3 => Just(Versioning::Enabled), 2 => Just(Versioning::Suspended)].prop_map(Step::Switch),
        8 => (key(), any::<bool>(), 0..6_u8).prop_map(|(key, large, condition)| Step::Put { key, large, condition }),
        4 => (key(), 0..6_u8).prop_map(|(key, condition)| Step::Delete { key, condition }),
        4 => (0..20_usize).prop_map(Step::DeleteVersion),
        2 => key().prop_map(Step::DeleteNull),
        2 => (0..20_usize, key()).prop_map(|(from, to)| Step::Copy(from, to)),
        2 => (0..20_usize).prop_map(Step::Tag),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Version {
    id: VersionId,
    /// None: a delete marker.
    bytes: Option<Vec<u8>>,
    tag: u64,
}

/// Oldest first.
type Model = BTreeMap<&'static str, Vec<Version>>;

fn object<'a>(model: &'a Model, key: &str) -> Option<&'a Version> {
    model.get(key)?.last().filter(|version| version.bytes.is_some())
}

/// Every version of every key.
fn all(model: &Model) -> Vec<(&'static str, Version)> {
    model.iter().flat_map(|(key, versions)| versions.iter().map(|version| (*key, version.clone()))).collect()
}

fn etag(bytes: &[u8]) -> String {
    hex::encode(<md5::Md5 as md5::Digest>::digest(bytes))
}

fn condition(model: &Model, key: &str, choice: u8) -> (WriteCondition, bool) {
    let object = object(model, key).and_then(|version| version.bytes.as_deref());
    match choice {
        0 => (WriteCondition::Absent, object.is_none()),
        1 => (WriteCondition::Present, object.is_some()),
        2 => (WriteCondition::Matches(etag(object.unwrap_or_default())), object.is_some()),
        3 => (WriteCondition::Matches("another".to_owned()), false),
        _ => (WriteCondition::Always, true),
    }
}

struct Run {
    backend: LocalBackend,
    bucket: BucketId,
    versioning: Versioning,
    model: Model,
    written: u64,
}

impl Run {
    fn place(&self, key: &str) -> Place {
        Place::new(self.bucket, key)
    }

    fn add(&mut self, key: &'static str, version: Version) {
        let versions = self.model.entry(key).or_default();
        if version.id.is_null() {
            versions.retain(|old| !old.id.is_null());
        }
        assert!(versions.iter().all(|old| old.id < version.id || old.id.is_null() || version.id.is_null()));
        versions.push(version);
    }

    fn check_name(&self, id: &VersionId) {
        assert_eq!(id.is_null(), self.versioning != Versioning::Enabled, "{id} in {:?}", self.versioning);
    }

    async fn step(&mut self, step: Step) {
        let all = all(&self.model);
        match step {
            Step::Switch(versioning) => self.versioning = versioning,
            Step::Put { key, large, condition: choice } => {
                let key = KEYS[key];
                self.written += 1;
                let mut bytes = format!("{key} {}", self.written).into_bytes();
                bytes.resize(bytes.len() + if large { 40_000 } else { 0 }, 1);
                let (condition, holds) = condition(&self.model, key, choice);
                let put = Put { condition, versioning: self.versioning, ..Put::plain() };
                let body = futures::stream::iter([Ok(Bytes::from(bytes.clone()))]);
                match self.backend.put(&self.place(key), Box::pin(body), put).await {
                    Ok(head) => {
                        assert!(holds);
                        self.check_name(&head.version);
                        self.add(key, Version { id: head.version, bytes: Some(bytes), tag: 0 });
                    }
                    Err(BackendError::PreconditionFailed(_) | BackendError::NoSuchKey) => assert!(!holds),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Delete { key, condition: choice } => self.delete(KEYS[key], choice).await,
            Step::DeleteVersion(n) => {
                let Some((key, version)) = all.get(n).cloned() else { return };
                self.delete_version(key, &version.id).await;
            }
            Step::DeleteNull(key) => self.delete_version(KEYS[key], &VersionId::null()).await,
            Step::Copy(from, to) => {
                let Some((key, version)) = all.get(from).cloned() else { return };
                let Some(bytes) = version.bytes else { return };
                let source = Source { place: self.place(key), version: version.id, etag: etag(&bytes) };
                let copy = NewCopy { versioning: self.versioning, ..NewCopy::default() };
                let head = self.backend.copy(&source, &self.place(KEYS[to]), copy).await.unwrap();
                self.check_name(&head.version);
                self.add(KEYS[to], Version { id: head.version, bytes: Some(bytes), tag: 0 });
            }
            Step::Tag(n) => {
                let Some((key, version)) = all.get(n).cloned() else { return };
                self.written += 1;
                let tags = [("n".to_owned(), self.written.to_string())].into();
                match self.backend.set_tags(&self.place(key), Some(&version.id), tags, Vec::new()).await {
                    Ok(id) => {
                        assert_eq!(id, version.id);
                        let versions = self.model.get_mut(key).unwrap();
                        versions.iter_mut().find(|found| found.id == id).unwrap().tag = self.written;
                    }
                    Err(BackendError::IsDeleteMarker(marker)) => {
                        assert_eq!((marker.version, version.bytes), (version.id, None));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    async fn delete(&mut self, key: &'static str, choice: u8) {
        let (condition, holds) = condition(&self.model, key, choice);
        let delete = Delete { version: None, condition, versioning: self.versioning, bypass: false, notes: Vec::new() };
        let deleted = match self.backend.delete(&self.place(key), delete).await {
            Ok(deleted) => deleted,
            Err(BackendError::PreconditionFailed(_) | BackendError::NoSuchKey) => return assert!(!holds),
            Err(error) => panic!("{error}"),
        };
        assert!(holds);
        assert_eq!(deleted.existed, object(&self.model, key).is_some());
        if self.versioning == Versioning::Off {
            assert_eq!(deleted, Deleted { existed: deleted.existed, ..Deleted::default() });
            self.model.remove(key);
        } else {
            assert!(deleted.marker);
            let id = deleted.version.unwrap();
            self.check_name(&id);
            self.add(key, Version { id, bytes: None, tag: 0 });
        }
    }

    async fn delete_version(&mut self, key: &'static str, id: &VersionId) {
        let before =
            self.model.get(key).and_then(|versions| versions.iter().find(|version| version.id == *id)).cloned();
        let delete = Delete { version: Some(id.clone()), versioning: self.versioning, ..Delete::default() };
        let deleted = self.backend.delete(&self.place(key), delete).await.unwrap();
        let marker = before.as_ref().is_some_and(|version| version.bytes.is_none());
        assert_eq!(deleted, Deleted { existed: before.is_some(), marker, version: Some(id.clone()) });
        if let Some(versions) = self.model.get_mut(key) {
            versions.retain(|version| version.id != *id);
        }
    }

    async fn check(&self) {
        for key in KEYS {
            let versions = self.model.get(key).map(Vec::as_slice).unwrap_or_default();
            self.check_read(key, None, versions.last()).await;
            for version in versions {
                self.check_read(key, Some(&version.id), Some(version)).await;
            }
        }
        let listed = self.backend.list(self.bucket, List { limit: 100, ..List::default() }).await.unwrap();
        let names: Vec<_> = listed.entries.iter().map(ListEntry::name).collect();
        let wanted: Vec<_> = KEYS.into_iter().filter(|key| object(&self.model, key).is_some()).collect();
        assert_eq!(names, wanted);
        for (prefix, delimiter) in [("", ""), ("b", ""), ("", "/"), ("b/", "/")] {
            for limit in [1, 2, 100] {
                self.check_versions(prefix, delimiter, limit).await;
            }
        }
        let bytes: Vec<_> = all(&self.model).into_iter().filter_map(|(_, version)| version.bytes).collect();
        let usage =
            BucketUsage { versions: bytes.len() as u64, bytes: bytes.iter().map(Vec::len).sum::<usize>() as u64 };
        assert_eq!(self.backend.usage(self.bucket).await.unwrap(), usage);
    }

    async fn check_read(&self, key: &str, id: Option<&VersionId>, wanted: Option<&Version>) {
        let opened = self.backend.open(&self.place(key), id).await.unwrap();
        match (opened, wanted) {
            (Lookup::Missing, None) => {}
            (Lookup::Marker(marker), Some(Version { id, bytes: None, .. })) => assert_eq!(marker.version, *id),
            (Lookup::Found(object), Some(Version { id, bytes: Some(bytes), tag })) => {
                assert_eq!((&object.head.version, object.head.size), (id, bytes.len() as u64));
                let tag = (*tag > 0).then(|| tag.to_string());
                assert_eq!(object.head.meta.tags.get("n"), tag.as_ref());
                assert_eq!(object.stream_all().try_collect::<Vec<_>>().await.unwrap().concat(), *bytes);
            }
            (_, wanted) => panic!("{key} {id:?} is not {wanted:?}"),
        }
    }

    async fn check_versions(&self, prefix: &str, delimiter: &str, limit: usize) {
        let mut wanted = Vec::new();
        for key in KEYS.into_iter().filter(|key| key.starts_with(prefix)) {
            let versions = self.model.get(key).map(Vec::as_slice).unwrap_or_default();
            let group = (!delimiter.is_empty()).then(|| key[prefix.len()..].find(delimiter)).flatten();
            for (age, version) in versions.iter().rev().enumerate() {
                let size = version.bytes.as_ref().map(Vec::len);
                match group {
                    Some(at) => wanted.push((key[..=prefix.len() + at].to_owned(), None)),
                    None => wanted.push((key.to_owned(), Some((version.id.clone(), age == 0, size)))),
                }
            }
        }
        wanted.dedup_by(|a, b| a.1.is_none() && a.0 == b.0);
        let mut list = ListVersions {
            prefix: prefix.to_owned(),
            delimiter: delimiter.to_owned(),
            limit,
            ..ListVersions::default()
        };
        let mut got = Vec::new();
        loop {
            let page = self.backend.list_versions(self.bucket, list.clone()).await.unwrap();
            assert!(page.entries.len() == limit || (page.next.is_none() && page.entries.len() < limit));
            for entry in page.entries {
                match entry {
                    VersionEntry::Prefix(prefix) => got.push((prefix, None)),
                    VersionEntry::Version(version) => {
                        assert_eq!(version.latest, version.noncurrent_since.is_none());
                        let size = version.object.map(|object| usize::try_from(object.size).unwrap());
                        got.push((version.key, Some((version.version, version.latest, size))));
                    }
                }
            }
            let Some((after, version)) = page.next else { break };
            (list.after, list.version) = (after, version);
        }
        assert_eq!(got, wanted, "prefix {prefix:?}, delimiter {delimiter:?}, pages of {limit}");
    }
}

#[test]
fn versions_are_the_models() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let backend = runtime.block_on(backend_in(dir.path()));
    let cases = count(100, 1000);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig { cases, ..ProptestConfig::default() });
    let buckets = std::cell::Cell::new(0);
    let outcome = runner.run(&proptest::collection::vec(step(), 1..40), |steps| {
        buckets.set(buckets.get() + 1);
        runtime.block_on(async {
            let bucket = BucketId::from_random(buckets.get());
            let backend = backend.clone();
            let mut run = Run { backend, bucket, versioning: Versioning::Off, model: Model::new(), written: 0 };
            for step in steps {
                run.step(step).await;
            }
            run.check().await;
            let closed = run.backend.close_bucket(bucket).await;
            assert_eq!(closed.is_ok(), all(&run.model).is_empty(), "{closed:?}");
            for (key, version) in all(&run.model) {
                let delete = Delete { version: Some(version.id), ..Delete::default() };
                run.backend.delete(&run.place(key), delete).await.unwrap();
            }
            assert_eq!(run.backend.usage(bucket).await.unwrap(), BucketUsage::default());
        });
        Ok(())
    });
    outcome.unwrap();
    // Everything was deleted: no bytes are left.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let files = || -> usize {
        let folders = std::fs::read_dir(dir.path().join("files")).unwrap();
        folders.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
    };
    while files() > 0 {
        assert!(std::time::Instant::now() < deadline, "{} files are left", files());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
