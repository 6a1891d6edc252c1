//! What the operator asks of the store: how much there is, whether it is whole, and to mend what can be mended.
//!
//! Nothing that somebody has stored is ever removed here: an object whose bytes are gone stays, says so when it is
//! read, and is named in the report.

use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::check::{Look, contents_between};
use super::files::{ContentId, Files, epoch_of};
use super::remote::{RemoteData, RemoteStore};
use super::scrub::{Pace, groups};
use super::writer::blocking;
use super::{Inner, LocalBackend, adopt, garbage, outbox, rows, schema, versions};
use crate::backend::{BackendError, BucketId, PartOfObject, Place, QueueStats};

/// More findings are counted and not named.
const NAMED: usize = 1000;
const BATCH: i64 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// The index contradicts itself.
    Index,
    /// Bytes of a version are not there.
    Lost,
    /// Bytes of a version are not what was written.
    Damaged,
    /// Two versions name the same bytes.
    Shared,
    /// Bytes that no version names.
    Unreferenced,
    /// A file of an earlier start that the index does not know.
    OrphanFile,
    /// A bucket's count of versions and bytes is wrong.
    Usage,
    /// A key's versions are not where they should be: the newest one is hidden, or none is newest.
    Order,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub kind: FindingKind,
    /// Whose bytes or rows it is about, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Owner>,
    pub detail: String,
    pub repaired: bool,
}

/// A version, or a part of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub bucket: BucketId,
    /// For whoever knows the names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket_name: Option<String>,
    pub key: String,
    /// None: an upload in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The first thousand.
    pub findings: Vec<Finding>,
    pub found: u64,
    pub repaired: u64,
    /// Contents that were read, and their bytes.
    pub contents: u64,
    pub bytes: u64,
    /// Contents that there is nothing to compare with, because they are older than block checksums. The scrubber gives
    /// them theirs.
    pub unsummed: u64,
    /// Contents at targets that did not answer: nothing is known of them.
    #[serde(default)]
    pub away: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    Index,
    Rows,
    Bytes,
    Files,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub phase: Phase,
    /// Bytes read so far, of about so many.
    pub bytes: u64,
    pub of: u64,
}

/// How much there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Buckets that hold something.
    pub buckets: u64,
    pub objects: u64,
    /// Versions with bytes, the objects among them.
    pub versions: u64,
    pub delete_markers: u64,
    /// Bytes of all versions, and of parts of uploads in progress. Copies share files and count each.
    pub bytes: u64,
    pub uploads: u64,
    /// Files that wait for their last reader.
    pub garbage_files: u64,
    /// Contents that were found damaged and are still there.
    pub damaged: u64,
    pub index_bytes: u64,
    /// Of these, bytes that will be used again.
    pub index_free_bytes: u64,
    /// ms since 1970: when the scrubber began and ended its last pass.
    pub scrub_begun: Option<i64>,
    pub scrub_done: Option<i64>,
    /// What waits to be told to targets.
    #[serde(default)]
    pub queues: Vec<QueueStats>,
    /// Where contents are: here, and at targets.
    #[serde(default)]
    pub places: Vec<PlaceStats>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceStats {
    /// None: here.
    pub target: Option<String>,
    pub contents: u64,
    /// Of what lies at a target.
    pub bytes: Option<u64>,
}

impl FindingKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Lost => "lost",
            Self::Damaged => "damaged",
            Self::Shared => "shared",
            Self::Unreferenced => "unreferenced",
            Self::OrphanFile => "orphan file",
            Self::Usage => "usage",
            Self::Order => "order",
        }
    }
}

impl Owner {
    fn new(bucket: i64, key: Vec<u8>, version: Option<String>) -> Result<Self, BackendError> {
        Ok(Self { bucket: BucketId::from_row(bucket), bucket_name: None, key: rows::text(key)?, version })
    }
}

impl Report {
    fn add(&mut self, kind: FindingKind, of: Option<Owner>, detail: impl Into<String>, repaired: bool) {
        self.found += 1;
        self.repaired += u64::from(repaired);
        if self.findings.len() < NAMED {
            self.findings.push(Finding { kind, of, detail: detail.into(), repaired });
        }
    }

    /// Findings that were counted and are not named.
    fn add_nameless(&mut self, count: u64) {
        self.found += count;
    }
}

impl LocalBackend {
    /// # Errors
    /// Those of the index.
    pub async fn stats(&self) -> Result<Stats, BackendError> {
        self.0.index.read(stats).await
    }

    /// How many contents are known to be damaged.
    ///
    /// # Errors
    /// Those of the index.
    pub async fn damaged(&self) -> Result<u64, BackendError> {
        self.0.index.read(|c| count(c, "SELECT count(*) FROM damage")).await
    }

    /// Reads everything and compares it; with `repair`, mends what follows from the rest. Safe beside other work.
    ///
    /// # Errors
    /// What kept it from going on.
    pub async fn verify(
        &self,
        repair: bool,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Report, BackendError> {
        let inner = &self.0;
        let mut report = Report::default();
        let of = inner.index.read(|c| count(c, "SELECT ifnull(sum(bytes), 0) FROM usage")).await?;
        let says = |phase, bytes| progress(Progress { phase, bytes, of });
        says(Phase::Index, 0);
        check_index(inner, repair, &mut report).await?;
        says(Phase::Rows, 0);
        check_rows(inner, repair, &mut report).await?;
        check_bytes(inner, repair, &mut report, |bytes| says(Phase::Bytes, bytes)).await?;
        says(Phase::Files, report.bytes);
        check_files(inner, repair, &mut report).await?;
        Ok(report)
    }
}

fn count(c: &Connection, sql: &str) -> Result<u64, BackendError> {
    Ok(rows::size(c.prepare_cached(sql)?.query_row([], |row| row.get(0))?))
}

fn stats(c: &Connection) -> Result<Stats, BackendError> {
    let moment = |name| rows::meta(c, name);
    let page: u64 = count(c, "SELECT page_size FROM pragma_page_size")?;
    Ok(Stats {
        buckets: count(c, "SELECT count(*) FROM usage WHERE versions > 0 OR bytes > 0")?,
        objects: count(c, "SELECT count(*) FROM object")?,
        versions: count(c, "SELECT ifnull(sum(versions), 0) FROM usage")?,
        delete_markers: count(c, "SELECT count(*) FROM version WHERE content IS NULL")?,
        bytes: count(c, "SELECT ifnull(sum(bytes), 0) FROM usage")?,
        uploads: count(c, "SELECT count(*) FROM upload")?,
        garbage_files: count(c, "SELECT count(*) FROM garbage")?,
        damaged: count(c, "SELECT count(*) FROM damage")?,
        index_bytes: page * count(c, "SELECT page_count FROM pragma_page_count")?,
        index_free_bytes: page * count(c, "SELECT freelist_count FROM pragma_freelist_count")?,
        scrub_begun: moment(rows::SCRUB_BEGUN)?,
        scrub_done: moment(rows::SCRUB_DONE)?,
        queues: outbox::queues(c)?,
        places: places(c)?,
    })
}

fn places(c: &Connection) -> Result<Vec<PlaceStats>, BackendError> {
    let here = count(c, "SELECT count(*) FROM content WHERE kind IN (0, 1)")?;
    let mut there: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut query = c.prepare_cached("SELECT data FROM content WHERE kind = ?1")?;
    let mut found = query.query([rows::REMOTE])?;
    while let Some(row) = found.next()? {
        let data: RemoteData = rows::unpack(&row.get::<_, Vec<u8>>(0)?)?;
        let (contents, bytes) = there.entry(data.target).or_default();
        *contents += 1;
        *bytes += data.size;
    }
    let here = PlaceStats { target: None, contents: here, bytes: None };
    let there = there.into_iter().map(|(target, (contents, bytes))| PlaceStats {
        target: Some(target),
        contents,
        bytes: Some(bytes),
    });
    Ok(std::iter::once(here).chain(there).collect())
}

async fn check_index(inner: &Arc<Inner>, repair: bool, report: &mut Report) -> Result<(), BackendError> {
    let check = |c: &Connection| -> Result<Vec<String>, BackendError> {
        let mut query = c.prepare("PRAGMA integrity_check")?;
        let lines = query.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
        Ok(lines.into_iter().filter(|line| line != "ok").collect())
    };
    let before = inner.index.read(check).await?;
    if before.is_empty() {
        return Ok(());
    }
    let after = if repair {
        inner.index.write(|c| Ok(c.execute_batch("REINDEX")?)).await?;
        inner.index.read(check).await?
    } else {
        before.clone()
    };
    for line in before {
        let repaired = !after.contains(&line);
        report.add(FindingKind::Index, None, line, repaired);
    }
    Ok(())
}

/// The first of what was found, and how many more there are.
struct First<T> {
    named: Vec<T>,
    more: u64,
}

impl<T> Default for First<T> {
    fn default() -> Self {
        Self { named: Vec::new(), more: 0 }
    }
}

impl<T> First<T> {
    fn add(&mut self, item: T) {
        if self.named.len() < NAMED {
            self.named.push(item);
        } else {
            self.more += 1;
        }
    }
}

/// What the rows say of each other, all read of one moment.
#[derive(Default)]
struct Contradictions {
    lost: First<(Owner, ContentId)>,
    /// Lists of parts that cannot be read.
    unreadable: First<(Owner, ContentId)>,
    shared: First<ContentId>,
    /// With whether it may go: nothing that it lists is listed elsewhere, too.
    unreferenced: First<(ContentId, bool)>,
    usage: Vec<(BucketId, String)>,
    misplaced: First<Owner>,
    disordered: First<Owner>,
}

async fn check_rows(inner: &Arc<Inner>, repair: bool, report: &mut Report) -> Result<(), BackendError> {
    let found = inner.index.read(contradictions).await?;
    let nameless = [
        found.lost.more,
        found.unreadable.more,
        found.shared.more,
        found.disordered.more,
        found.misplaced.more,
        found.unreferenced.more,
    ];
    report.add_nameless(nameless.iter().sum());
    for (owner, id) in found.lost.named {
        report.add(FindingKind::Lost, Some(owner), format!("content {id:016x} is not in the index"), false);
    }
    for (owner, id) in found.unreadable.named {
        report.add(FindingKind::Damaged, Some(owner), format!("the list of parts {id:016x} cannot be read"), false);
    }
    for id in found.shared.named {
        report.add(FindingKind::Shared, None, format!("content {id:016x} is named more than once"), false);
    }
    for owner in found.disordered.named {
        report.add(FindingKind::Order, Some(owner), "a hidden version is newer than the object", false);
    }
    for owner in found.misplaced.named {
        let place = Place::new(owner.bucket, owner.key.as_str());
        if repair {
            inner.index.write(move |c| versions::mend_order(c, &place)).await?;
        }
        report.add(FindingKind::Order, Some(owner), "the newest version is hidden", repair);
    }
    for (id, may_go) in found.unreferenced.named {
        let repair = repair && may_go;
        if repair {
            let garbage = inner.index.write(move |c| rows::drop_content(c, id)).await?;
            inner.ring_if(garbage);
        }
        report.add(FindingKind::Unreferenced, None, format!("no version names content {id:016x}"), repair);
    }
    if repair && !found.usage.is_empty() {
        let count_again = |c: &Connection| Ok(c.execute_batch(&format!("DELETE FROM usage; {}", schema::COUNT_USAGE))?);
        inner.index.write(count_again).await?;
    }
    for (bucket, detail) in found.usage {
        let of = Owner { bucket, bucket_name: None, key: String::new(), version: None };
        report.add(FindingKind::Usage, Some(of), detail, repair);
    }
    Ok(())
}

fn owner(row: &Row<'_>) -> Result<Owner, BackendError> {
    let version = versions::version_id(row.get(2)?, row.get(3)?).to_string();
    Owner::new(row.get(0)?, row.get(1)?, Some(version))
}

const LOST: [&str; 2] = [
    "SELECT o.bucket, o.key, o.seq, o.is_null, o.content FROM object AS o
     WHERE NOT EXISTS (SELECT 1 FROM content WHERE id = o.content)",
    "SELECT v.bucket, v.key, v.seq, v.is_null, v.content FROM version AS v
     WHERE v.content IS NOT NULL AND NOT EXISTS (SELECT 1 FROM content WHERE id = v.content)",
];
/// The newest hidden version of each key that has no object, unless it is a delete marker.
const MISPLACED: &str = "
SELECT bucket, key, max(seq), is_null, content FROM version AS v
WHERE NOT EXISTS (SELECT 1 FROM object AS o WHERE o.bucket = v.bucket AND o.key = v.key)
GROUP BY bucket, key HAVING content IS NOT NULL";
const DISORDERED: &str = "
SELECT o.bucket, o.key, o.seq, o.is_null FROM object AS o
WHERE EXISTS (SELECT 1 FROM version AS v WHERE v.bucket = o.bucket AND v.key = o.key AND v.seq >= o.seq)";

fn contradictions(c: &Connection) -> Result<Contradictions, BackendError> {
    let mut found = Contradictions::default();
    for sql in LOST {
        let mut query = c.prepare(sql)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            found.lost.add((owner(row)?, row.get::<_, i64>(4)?.cast_unsigned()));
        }
    }
    for (sql, owners) in [(MISPLACED, &mut found.misplaced), (DISORDERED, &mut found.disordered)] {
        let mut query = c.prepare(sql)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            owners.add(owner(row)?);
        }
    }
    references(c, &mut found)?;
    usage(c, &mut found)?;
    Ok(found)
}

/// Compares what names contents with the contents that there are. Holds eight bytes for each of them.
fn references(c: &Connection, found: &mut Contradictions) -> Result<(), BackendError> {
    let mut named: Vec<ContentId> = Vec::new();
    let direct = "SELECT content FROM object UNION ALL SELECT content FROM version WHERE content IS NOT NULL
                  UNION ALL SELECT content FROM part";
    let mut query = c.prepare(direct)?;
    for id in query.query_map([], |row| row.get::<_, i64>(0))? {
        named.push(id?.cast_unsigned());
    }
    let mut unreadable = HashSet::new();
    each_part_list(c, |id, parts| match parts {
        Some(parts) => named.extend(parts),
        None => drop(unreadable.insert(id)),
    })?;
    named.sort_unstable();
    let mut shared: HashSet<ContentId> = HashSet::new();
    shared.extend(named.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]));
    let mut query = c.prepare(
        "SELECT id, kind FROM content WHERE NOT EXISTS (SELECT 1 FROM garbage WHERE garbage.id = content.id)",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let id = row.get::<_, i64>(0)?.cast_unsigned();
        if named.binary_search(&id).is_err() {
            let listed = parts_of(c, id, row.get(1)?)?;
            // Bytes whose list cannot be read look as if nothing named them.
            let may_go = unreadable.is_empty() && listed.iter().all(|part| !shared.contains(part));
            found.unreferenced.add((id, may_go));
        }
    }
    let mut shared: Vec<_> = shared.into_iter().collect();
    shared.sort_unstable();
    shared.into_iter().for_each(|id| found.shared.add(id));
    if !unreadable.is_empty() {
        let owners = owners(c, &unreadable)?;
        for id in unreadable {
            if let Some(owner) = owners.get(&id) {
                found.unreadable.add((owner.clone(), id));
            }
        }
    }
    Ok(())
}

/// What a content lists, if it is a list.
fn parts_of(c: &Connection, id: ContentId, kind: i64) -> Result<Vec<ContentId>, BackendError> {
    if kind == rows::INLINE || kind == rows::FILE || kind == rows::REMOTE {
        return Ok(Vec::new());
    }
    match rows::content(c, id) {
        Ok(rows::Data::Parts(parts)) => Ok(parts.iter().map(|part| part.content).collect()),
        Ok(_) | Err(BackendError::Damaged(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Contents that are lists of parts, with the contents that they list; none if the list cannot be read.
fn each_part_list(c: &Connection, mut take: impl FnMut(ContentId, Option<Vec<ContentId>>)) -> Result<(), BackendError> {
    let mut query = c.prepare("SELECT id, data FROM content WHERE kind = 2")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let parts = rows::unpack::<Vec<PartOfObject>>(&row.get::<_, Vec<u8>>(1)?).ok();
        let parts = parts.map(|parts| parts.iter().map(|part| part.content).collect());
        take(row.get::<_, i64>(0)?.cast_unsigned(), parts);
    }
    Ok(())
}

fn usage(c: &Connection, found: &mut Contradictions) -> Result<(), BackendError> {
    let read = |sql: &str| -> Result<HashMap<i64, (i64, i64)>, BackendError> {
        let mut query = c.prepare(sql)?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    let (_, counting) = schema::COUNT_USAGE.split_once("bytes)").unwrap_or_default();
    let counted = read(counting)?;
    let noted = read("SELECT bucket, versions, bytes FROM usage")?;
    let buckets: HashSet<_> = counted.keys().chain(noted.keys()).collect();
    for bucket in buckets {
        let is = counted.get(bucket).copied().unwrap_or_default();
        let says = noted.get(bucket).copied().unwrap_or_default();
        if is != says {
            let detail = format!("has {} versions and {} bytes, and says {} and {}", is.0, is.1, says.0, says.1);
            found.usage.push((BucketId::from_row(*bucket), detail));
        }
    }
    Ok(())
}

async fn check_bytes(
    inner: &Arc<Inner>,
    repair: bool,
    report: &mut Report,
    says: impl Fn(u64) + Send + Sync,
) -> Result<(), BackendError> {
    let (pace, _leash) = Pace::new(0);
    if repair {
        adopt::adopt(inner, &pace).await?;
    }
    let mut damaged = First::default();
    let (mut after, end) = (-1, inner.first_content_to_come());
    loop {
        let batch = inner.index.read(move |c| contents_between(c, after, end, BATCH)).await?;
        let Some(last) = batch.last() else { break };
        after = last.id.cast_signed();
        for group in groups(&batch) {
            let looks = inner.look_at_all(group.to_vec(), &pace).await?;
            for (stored, look) in &looks {
                report.contents += 1;
                report.bytes += look.bytes();
                match look {
                    Look::Damaged(detail) => damaged.add((stored.id, detail.clone())),
                    Look::Unsummed(_) => report.unsummed += 1,
                    Look::Away => report.away += 1,
                    Look::Good(_) | Look::Present | Look::Gone => {}
                }
            }
            inner.record(looks).await?;
            says(report.bytes);
        }
    }
    if damaged.named.is_empty() {
        return Ok(());
    }
    report.add_nameless(damaged.more);
    let ids: HashSet<_> = damaged.named.iter().map(|(id, _)| *id).collect();
    let owners = inner.index.read(move |c| owners(c, &ids)).await?;
    for (id, detail) in damaged.named {
        let of = owners.get(&id);
        if of.is_none() && inner.index.read(move |c| is_gone(c, id)).await? {
            continue;
        }
        report.add(FindingKind::Damaged, of.cloned(), detail, false);
    }
    Ok(())
}

fn is_gone(c: &Connection, id: ContentId) -> Result<bool, BackendError> {
    let mut query =
        c.prepare("SELECT 1 FROM content WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM garbage WHERE garbage.id = ?1)")?;
    Ok(!query.exists([id.cast_signed()])?)
}

/// Whose these contents are.
fn owners(c: &Connection, ids: &HashSet<ContentId>) -> Result<HashMap<ContentId, Owner>, BackendError> {
    let mut parents: HashMap<ContentId, Vec<ContentId>> = HashMap::new();
    each_part_list(c, |list, parts| {
        let wanted: Vec<_> = parts.into_iter().flatten().filter(|part| ids.contains(part)).collect();
        if !wanted.is_empty() {
            parents.insert(list, wanted);
        }
    })?;
    let mut owners = HashMap::new();
    for sql in [
        "SELECT bucket, key, seq, is_null, content FROM object",
        "SELECT bucket, key, seq, is_null, content FROM version WHERE content IS NOT NULL",
    ] {
        let mut query = c.prepare(sql)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let id = row.get::<_, i64>(4)?.cast_unsigned();
            if ids.contains(&id) {
                owners.insert(id, owner(row)?);
            }
            for part in parents.get(&id).into_iter().flatten() {
                owners.insert(*part, owner(row)?);
            }
        }
    }
    let mut query =
        c.prepare("SELECT upload.bucket, upload.key, part.content FROM part JOIN upload ON upload.id = part.upload")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let id = row.get::<_, i64>(2)?.cast_unsigned();
        if ids.contains(&id) {
            owners.insert(id, Owner::new(row.get(0)?, row.get(1)?, None)?);
        }
    }
    Ok(owners)
}

/// Files of this start may belong to writes that are under way.
async fn check_files(inner: &Arc<Inner>, repair: bool, report: &mut Report) -> Result<(), BackendError> {
    for folder in Files::folder_numbers() {
        let (files, current) = (inner.files.clone(), inner.epoch);
        let found = blocking(move || Ok(files.in_folder(folder)?)).await?;
        let suspects: Vec<_> = found.into_iter().filter(|id| epoch_of(*id) < current).collect();
        let orphans = inner.index.read(move |c| garbage::unnamed(c, suspects)).await?;
        for id in orphans {
            if repair {
                let files = inner.files.clone();
                blocking(move || Ok(files.remove(id)?)).await?;
            }
            report.add(FindingKind::OrphanFile, None, format!("no content is in the file {id:016x}"), repair);
        }
    }
    for store in inner.remotes.all() {
        match check_store(inner, &store, repair, report).await {
            Err(error @ (BackendError::Away { .. } | BackendError::Foreign(_))) => {
                tracing::warn!(%error, "what nobody names there is not known");
            }
            checked => checked?,
        }
    }
    Ok(())
}

async fn check_store(
    inner: &Arc<Inner>,
    store: &RemoteStore,
    repair: bool,
    report: &mut Report,
) -> Result<(), BackendError> {
    let mut after = Some(String::new());
    while let Some(from) = after {
        let (orphans, next) = store.orphans(inner, &from).await?;
        for name in orphans {
            if repair {
                store.remove(name).await?;
            }
            let detail = format!("no version names content {:016x} at {}", name.id, store.name());
            report.add(FindingKind::OrphanFile, None, detail, repair);
        }
        after = next;
    }
    Ok(())
}
