use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hasher};
use terroir_agent_api::{Cursor, HostSpec, Section, SectionKey, SpecPage};
use terroir_store::Revision;

/// Sections of one page that is not full. Rendering more at once would hold up the others.
const PAGE: usize = 4_000;

/// Removed sections that are remembered; a host that did not pull for so many gets everything.
const REMOVED_KEPT: usize = 10_000;

/// Low bits of a cursor count changes, high bits tell the process that counted.
const COUNT_BITS: u32 = 40;

/// What is remembered of the spec that a host has.
pub(super) struct HostView {
    /// Tells cursors of this process from those of others.
    incarnation: u64,
    count: u64,
    sections: BTreeMap<SectionKey, Sent>,
    /// Sections by the change that touched them last, removed ones too.
    by_change: BTreeMap<u64, SectionKey>,
    removed: BTreeMap<SectionKey, u64>,
    /// Removals up to this change are forgotten.
    floor: u64,
    dirty: BTreeMap<SectionKey, Revision>,
    /// Everything is to be looked at again.
    all_dirty: bool,
    blobs: HashMap<String, BTreeSet<SectionKey>>,
    pub last_sequence: Option<u64>,
    pub boot_id: String,
}

struct Sent {
    hash: u64,
    change: u64,
    blobs: Vec<String>,
}

impl HostView {
    /// `incarnation`: random bits.
    pub fn new(incarnation: u64) -> Self {
        Self {
            // Never 0, which asks for everything.
            incarnation: (incarnation >> COUNT_BITS).max(1),
            count: 0,
            sections: BTreeMap::new(),
            by_change: BTreeMap::new(),
            removed: BTreeMap::new(),
            floor: 0,
            dirty: BTreeMap::new(),
            all_dirty: true,
            blobs: HashMap::new(),
            last_sequence: None,
            boot_id: String::new(),
        }
    }

    fn cursor(&self, count: u64) -> Cursor {
        self.incarnation << COUNT_BITS | count
    }

    /// The change that a cursor of this process stands for.
    fn count_of(&self, cursor: Cursor) -> Option<u64> {
        let count = cursor & ((1 << COUNT_BITS) - 1);
        let ours = cursor >> COUNT_BITS == self.incarnation;
        (ours && (self.floor..=self.count).contains(&count)).then_some(count)
    }

    pub fn mark(&mut self, section: SectionKey, revision: Revision) {
        let at = self.dirty.entry(section).or_default();
        *at = revision.max(*at);
    }

    pub fn mark_all(&mut self) {
        self.all_dirty = true;
    }

    pub fn is_dirty(&self) -> bool {
        self.all_dirty || !self.dirty.is_empty()
    }

    /// What has to be rendered again. `all` names every section there should be, and is asked only if needed. Sections
    /// that changed after `revision` stay marked: the snapshot that they are rendered from does not show it.
    pub fn take_dirty<E>(
        &mut self,
        revision: Revision,
        all: impl FnOnce() -> Result<BTreeSet<SectionKey>, E>,
    ) -> Result<BTreeSet<SectionKey>, E> {
        let mut keys: BTreeSet<SectionKey> = self.dirty.keys().cloned().collect();
        if self.all_dirty {
            keys.extend(all()?);
            keys.extend(self.sections.keys().cloned());
            self.all_dirty = false;
        }
        self.dirty.retain(|_, at| *at > revision);
        Ok(keys)
    }

    /// Takes over a section as it is now; true if the host has to be told.
    pub fn update(&mut self, key: &SectionKey, section: Option<&Section>) -> bool {
        let hash = section.map(hash);
        let known = self.sections.get(key).map(|sent| sent.hash);
        if hash == known {
            return false;
        }
        let last = match self.sections.remove(key) {
            Some(sent) => {
                self.forget_blobs(key, &sent.blobs);
                Some(sent.change)
            }
            None => self.removed.remove(key),
        };
        if let Some(last) = last {
            self.by_change.remove(&last);
        }
        self.count += 1;
        self.by_change.insert(self.count, key.clone());
        match (section, hash) {
            (Some(section), Some(hash)) => {
                let blobs = blob_names(section);
                for name in &blobs {
                    self.blobs.entry(name.clone()).or_default().insert(key.clone());
                }
                self.sections.insert(key.clone(), Sent { hash, change: self.count, blobs });
            }
            _ => {
                self.removed.insert(key.clone(), self.count);
                self.forget_removals();
            }
        }
        true
    }

    fn forget_removals(&mut self) {
        while self.removed.len() > REMOVED_KEPT {
            let Some((change, key)) =
                self.by_change.iter().find(|(_, key)| self.removed.contains_key(*key)).map(|(c, k)| (*c, k.clone()))
            else {
                return;
            };
            self.by_change.remove(&change);
            self.removed.remove(&key);
            self.floor = change;
        }
    }

    fn forget_blobs(&mut self, key: &SectionKey, names: &[String]) {
        for name in names {
            if let Some(users) = self.blobs.get_mut(name) {
                users.remove(key);
                if users.is_empty() {
                    self.blobs.remove(name);
                }
            }
        }
    }

    /// A section that refers to the blob.
    pub fn user_of_blob(&self, name: &str) -> Option<&SectionKey> {
        self.blobs.get(name)?.first()
    }

    /// What a host with `cursor` has to be told. `render` gives a section as it was taken over by [`Self::update`].
    pub fn page<E>(
        &self,
        cursor: Cursor,
        mut render: impl FnMut(&SectionKey) -> Result<Option<Section>, E>,
    ) -> Result<SpecPage, E> {
        let mut changed = HostSpec::new();
        let Some(count) = self.count_of(cursor) else {
            for key in self.sections.keys() {
                changed.extend(render(key)?.map(|section| (key.clone(), section)));
            }
            return Ok(SpecPage { cursor: self.cursor(self.count), full: true, changed, removed: Vec::new() });
        };
        let mut removed = Vec::new();
        let mut last = count;
        for (change, key) in self.by_change.range(count + 1..).take(PAGE) {
            last = *change;
            match render(key)? {
                Some(section) => {
                    changed.insert(key.clone(), section);
                }
                None => removed.push(key.clone()),
            }
        }
        Ok(SpecPage { cursor: self.cursor(last), full: false, changed, removed })
    }
}

/// Stable within a process, which is as long as it is kept.
fn hash(section: &Section) -> u64 {
    struct Feed(DefaultHasher);
    impl std::io::Write for Feed {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.write(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut feed = Feed(DefaultHasher::new());
    // A section is plain data with string keys, and the feed takes every byte.
    let _ = serde_json::to_writer(&mut feed, section);
    feed.0.finish()
}

fn blob_names(section: &Section) -> Vec<String> {
    match section {
        Section::Volume(volume) => volume.source.iter().map(|blob| blob.name.clone()).collect(),
        Section::Instance(instance) => {
            let boot =
                instance.direct_boot.iter().flat_map(|boot| [Some(&boot.kernel), boot.initrd.as_ref()]).flatten();
            boot.chain(&instance.metadata.user_data).map(|blob| blob.name.clone()).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use terroir_agent_api::HostSection;

    fn section(zone: &str) -> Section {
        Section::Host(HostSection {
            region: "r".to_owned(),
            zone: zone.to_owned(),
            guest_mtu: 1370,
            dns_upstreams: Vec::new(),
            egress_deny: Vec::new(),
            public_pools: Vec::new(),
            place: None,
        })
    }

    /// A world of sections by key; `None` is one that is gone.
    type World = BTreeMap<SectionKey, Option<Section>>;

    fn pull(view: &HostView, world: &World, cursor: Cursor) -> SpecPage {
        view.page::<Infallible>(cursor, |key| Ok(world.get(key).cloned().flatten())).unwrap()
    }

    #[test]
    fn a_host_is_told_what_changed_since_its_cursor() {
        let mut view = HostView::new(u64::MAX);
        let mut world = World::new();
        let change = |view: &mut HostView, world: &mut World, key: &str, zone: Option<&str>| {
            world.insert(key.to_owned(), zone.map(section));
            view.update(&key.to_owned(), world[key].as_ref())
        };
        assert!(change(&mut view, &mut world, "a", Some("1")));
        assert!(change(&mut view, &mut world, "b", Some("1")));
        let all = pull(&view, &world, 0);
        assert!(all.full && all.changed.len() == 2);
        assert!(!change(&mut view, &mut world, "a", Some("1")), "the same is no change");
        let none = pull(&view, &world, all.cursor);
        assert!(!none.full && none.changed.is_empty() && none.removed.is_empty() && none.cursor == all.cursor);
        change(&mut view, &mut world, "a", Some("2"));
        change(&mut view, &mut world, "b", None);
        change(&mut view, &mut world, "c", Some("1"));
        let some = pull(&view, &world, all.cursor);
        assert_eq!(some.changed.keys().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(some.removed, ["b"]);
        assert_eq!(pull(&view, &world, all.cursor), some, "an answer that was lost can be asked for again");
        change(&mut view, &mut world, "b", Some("3"));
        let back = pull(&view, &world, some.cursor);
        assert_eq!(back.changed.keys().collect::<Vec<_>>(), ["b"]);
        for foreign in [0, 7, HostView::new(1 << 50).cursor(1), all.cursor + 1000] {
            assert!(pull(&view, &world, foreign).full, "{foreign}");
        }
    }

    #[test]
    fn what_changed_after_the_snapshot_stays_marked() {
        let mut view = HostView::new(1);
        let all = || Ok::<_, Infallible>(BTreeSet::from(["x".to_owned()]));
        assert_eq!(view.take_dirty(1, all).unwrap(), BTreeSet::from(["x".to_owned()]), "at first, everything");
        view.mark("a".to_owned(), 5);
        view.mark("b".to_owned(), 9);
        view.mark("a".to_owned(), 3);
        let both = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        assert_eq!(view.take_dirty(6, all).unwrap(), both);
        assert_eq!(view.take_dirty(9, all).unwrap(), BTreeSet::from(["b".to_owned()]));
        assert!(!view.is_dirty());
    }
}
