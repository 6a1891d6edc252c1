//! The log through crashes, and receipts against everybody who changes something.

use std::path::Path;
use terroir_policy::{Site, SiteStatement, sign};
use terroir_store::Store;
use terroir_tlog::{Note, SigningKey, leaf_hash, node_hash};
use terroir_types::{AccountId, HostId, ResourceId, SeededRandom, Timestamp};

use super::{NOW, REGION, change, first, key};
use crate::ops;
use crate::receipt::{
    Entry, Event, Fact, Fault, Receipt, ReceiptLog, Stay, Trust, WitnessError, WitnessFolder, note, origin, verify,
};

const OWN: &str = "own.example";

fn account() -> AccountId {
    AccountId::from_number(123_456_789_012).unwrap()
}

fn own_origin() -> String {
    origin(OWN, REGION)
}

fn open(folder: &Path, key: &SigningKey) -> ReceiptLog {
    ReceiptLog::open(folder, key, &own_origin()).unwrap()
}

/// RFC 6962 by the book.
fn naive_root(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => terroir_tlog::EMPTY_ROOT,
        [one] => *one,
        _ => {
            let half = leaves.len().next_power_of_two() / 2;
            node_hash(&naive_root(&leaves[..half]), &naive_root(&leaves[half..]))
        }
    }
}

fn lines(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(n % 40))).collect()
}

/// That the log holds exactly the first `count` lines, and signs for them.
fn holds(log: &ReceiptLog, count: usize) {
    assert_eq!(log.size(), count as u64);
    let leaves: Vec<_> = lines(0..count).iter().map(|line| leaf_hash(line.as_bytes())).collect();
    let note = log.reader().checkpoint().unwrap().unwrap();
    let checkpoint = terroir_tlog::Checkpoint::parse(note.text()).unwrap();
    assert_eq!((checkpoint.size, checkpoint.root), (count as u64, naive_root(&leaves)));
    assert_eq!(log.reader().root(count as u64).unwrap(), checkpoint.root, "tiles on disk say the same");
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, target) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn every_entry_is_there_once_whatever_the_crash_cut_off() {
    let key = key(OWN, 1);
    // The second batch stays inside a bundle, fills one, fills two and begins another.
    for (before, after) in [(3, 7), (250, 256), (250, 260), (255, 800)] {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path(), &key);
        log.append(&lines(0..before)).unwrap();
        holds(&log, before);
        let signed = std::fs::read(folder.path().join("checkpoint")).unwrap();
        let pending = std::fs::read(folder.path().join("pending")).unwrap();
        log.append(&lines(before..after)).unwrap();
        holds(&log, after);
        drop(log);
        let whole = std::fs::read(folder.path().join("pending")).unwrap();
        // Before the checkpoint was signed: the last file was cut off anywhere, or is the one from before.
        let step = if std::env::var("TERROIR_FULL").is_ok_and(|full| full == "1") { 3 } else { 61 };
        let cuts = (8..=whole.len()).step_by(step).map(|cut| whole[..cut].to_vec());
        let mut states: Vec<Vec<u8>> = vec![pending.clone()];
        let same_bundle = pending[..8] == whole[..8];
        states.extend(cuts.filter(|state| !same_bundle || state.len() >= pending.len()));
        for state in states {
            let crashed = tempfile::tempdir().unwrap();
            copy(folder.path(), crashed.path());
            std::fs::write(crashed.path().join("checkpoint"), &signed).unwrap();
            std::fs::write(crashed.path().join("pending"), &state).unwrap();
            let mut log = open(crashed.path(), &key);
            log.append(&lines(before..after)).unwrap();
            holds(&log, after);
            // Also when it comes a second time, since the outbox was not trimmed.
            log.append(&lines(before..after)).unwrap();
            log.append(&lines(after..after + 3)).unwrap();
            holds(&log, after + 3);
        }
    }
}

/// Three levels of tiles.
#[test]
fn a_log_of_many_entries_is_read_again() {
    let key = key(OWN, 1);
    let folder = tempfile::tempdir().unwrap();
    const COUNT: usize = 256 * 256 + 300;
    open(folder.path(), &key).append(&lines(0..COUNT)).unwrap();
    let mut log = open(folder.path(), &key);
    holds(&log, COUNT);
    log.append(&lines(COUNT..COUNT + 1)).unwrap();
    holds(&log, COUNT + 1);
}

#[test]
fn what_was_signed_for_and_is_gone_or_changed_stops_the_log() {
    let key = key(OWN, 1);
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), &key).append(&lines(0..600)).unwrap();
    let try_open = |spoil: &dyn Fn(&Path)| {
        let spoilt = tempfile::tempdir().unwrap();
        copy(folder.path(), spoilt.path());
        spoil(spoilt.path());
        ReceiptLog::open(spoilt.path(), &key, &own_origin()).map(|log| log.size()).map_err(|error| error.to_string())
    };
    assert_eq!(try_open(&|_| {}), Ok(600));
    let flip = |path: &Path, at: usize| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    for error in [
        try_open(&|folder| std::fs::remove_file(folder.join("tile/entries/001")).unwrap()),
        try_open(&|folder| std::fs::remove_file(folder.join("pending")).unwrap()),
        try_open(&|folder| flip(&folder.join("tile/0/000"), 40)),
        try_open(&|folder| flip(&folder.join("pending"), 30)),
        try_open(&|folder| flip(&folder.join("checkpoint"), 30)),
    ] {
        assert!(error.is_err(), "{error:?}");
    }
    let other = ReceiptLog::open(folder.path(), &super::key(OWN, 9), &own_origin());
    assert!(other.is_err(), "a log goes on under its own key only");
}

/// A cloud whose log has a volume that moved and is gone, among others; and what the reader of a receipt trusts.
struct Story {
    folder: tempfile::TempDir,
    store: Store,
    own: SigningKey,
    witnesses: Vec<SigningKey>,
    trust: Trust,
}

impl Story {
    async fn new() -> Self {
        let own = key(OWN, 1);
        let witnesses = vec![key("b.example", 2), key("c.example", 3)];
        let store = first(&own).await;
        let site = Site { id: "eu-test-1b".to_owned(), operator: OWN.to_owned(), ..Site::default() };
        let statement = sign(&SiteStatement { site, generation: 1, at: NOW }, &own).unwrap();
        change(&store, |txn| ops::put_site(txn, REGION, &statement, NOW)).await.unwrap();
        let keys = std::iter::once(&own).chain(&witnesses);
        let trust = Trust { operators: keys.map(|key| key.verifier().clone()).collect(), ..Trust::default() };
        let story = Self { folder: tempfile::tempdir().unwrap(), store, own, witnesses, trust };
        let (a, b) = (story.host(1), story.host(2));
        let (here, there) = (Stay { host: Some(a), site: "eu-test-1a" }, Stay { host: Some(b), site: "eu-test-1b" });
        story.happens("vol-1", Event::Placed, here, None, 10).await;
        for n in 0..40 {
            story.happens(&format!("vol-other-{n}"), Event::Placed, here, None, 11).await;
        }
        story.happens("vol-1", Event::Moved, there, Some(here), 20).await;
        story.happens("vol-1", Event::Erased, there, None, 30).await;
        story.ship().await;
        story
    }

    fn host(&self, seed: u64) -> HostId {
        HostId::generate(&SeededRandom::new(seed))
    }

    async fn happens(&self, resource: &str, event: Event, stay: Stay<'_>, from: Option<Stay<'_>>, at: i64) {
        let fact = Fact { account: account(), resource, kind: "volume", event, stay, from, policy: "" };
        change(&self.store, |txn| note(txn, &[fact], Timestamp::from_secs(at))).await.unwrap();
    }

    async fn ship(&self) {
        open(self.folder.path(), &self.own).take_over(&self.store).await.unwrap();
        assert!(self.store.outbox(crate::receipt::STREAM, 0, 1).await.unwrap().is_empty());
    }

    fn reader(&self) -> crate::receipt::ReceiptReader {
        crate::receipt::ReceiptReader::new(self.folder.path())
    }

    /// All witnesses have a look.
    fn witnessed(&self, seen: &tempfile::TempDir, since: u64) {
        for witness in &self.witnesses {
            let request = self.reader().request(since).unwrap().unwrap();
            let folder = WitnessFolder::new(&seen.path().join(witness.verifier().name()));
            let key_of = |id: &str| (id == OWN).then(|| self.own.verifier().clone());
            let signature = folder.cosign(&request, key_of, witness, 1_700_000_000).unwrap();
            let offered = &request.checkpoint;
            self.reader().accept(self.folder.path(), offered, signature, witness.verifier()).unwrap();
        }
    }

    async fn receipt(&self, resource: &str, since: Option<u64>) -> Receipt {
        let txn = self.store.read().await.unwrap();
        ops::receipt(&txn, &self.reader(), account(), resource, since).unwrap().unwrap()
    }
}

fn text(receipt: &Receipt) -> String {
    serde_json::to_string(receipt).unwrap()
}

#[tokio::test]
async fn a_receipt_says_where_it_was_and_from_when_to_when() {
    let story = Story::new().await;
    let seen = tempfile::tempdir().unwrap();
    let alone = text(&story.receipt("vol-1", None).await);
    assert_eq!(verify(&alone, &story.trust), Err(Fault::Quorum { signed: 1, given: 3, wanted: 2 }));
    let lone_trust = Trust { operators: vec![story.own.verifier().clone()], ..Trust::default() };
    assert!(verify(&alone, &lone_trust).is_ok(), "a region of one operator has nobody to cosign");
    story.witnessed(&seen, 0);
    let report = verify(&text(&story.receipt("vol-1", None).await), &story.trust).unwrap();
    assert_eq!(report.signed_by, [OWN, "b.example", "c.example"]);
    assert_eq!((report.kind.as_str(), report.size), ("volume", 43));
    let stays: Vec<_> = report
        .residences
        .iter()
        .map(|stay| {
            let until = stay.until;
            (stay.site.id.as_str(), stay.site.country.as_deref(), stay.from, until)
        })
        .collect();
    let at = Timestamp::from_secs;
    assert_eq!(
        stays,
        [
            ("eu-test-1a", Some("FR"), at(10), Some((at(20), Event::Moved))),
            ("eu-test-1b", None, at(20), Some((at(30), Event::Erased))),
        ]
    );
    // What an operator states later does not change what it had stated then.
    let record = ops::find_operator(&story.store.read().await.unwrap(), OWN).unwrap();
    let bought = terroir_policy::Operator { parent_country: Some("US".to_owned()), ..record.operator.clone() };
    change(&story.store, |txn| ops::sign_operator(txn, bought.clone(), &story.own, NOW)).await.unwrap();
    let report = verify(&text(&story.receipt("vol-1", None).await), &story.trust).unwrap();
    assert!(report.residences.iter().all(|stay| stay.operator.parent_country.is_none()));
    let txn = story.store.read().await.unwrap();
    let stranger = AccountId::from_number(1).unwrap();
    assert!(ops::receipt(&txn, &story.reader(), stranger, "vol-1", None).unwrap().is_none(), "it is another account's");
}

#[tokio::test]
async fn one_flipped_byte_is_caught_wherever_it_is() {
    let story = Story::new().await;
    story.witnessed(&tempfile::tempdir().unwrap(), 0);
    let receipt = text(&story.receipt("vol-1", None).await);
    let trust = Trust { quorum: Some(3), ..story.trust.clone() };
    let honest = verify(&receipt, &trust).unwrap();
    for at in 0..receipt.len() {
        for bit in [0, 2, 5] {
            let mut bytes = receipt.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            let verdict = verify(&changed, &trust);
            assert!(verdict.is_err(), "byte {at}, bit {bit}: {verdict:?}\nhonest: {honest:?}");
        }
    }
}

#[tokio::test]
async fn a_missing_entry_is_caught() {
    let story = Story::new().await;
    story.witnessed(&tempfile::tempdir().unwrap(), 0);
    let receipt = story.receipt("vol-1", None).await;
    let without = |index: usize| {
        let mut less = receipt.clone();
        less.entries.remove(index);
        verify(&text(&less), &story.trust)
    };
    assert_eq!(receipt.entries.len(), 3);
    assert!(matches!(without(0), Err(Fault::Gap(_))));
    assert!(matches!(without(1), Err(Fault::Gap(_))));
    // Nobody can tell from a receipt that its end was cut off; it then says less, and nothing that is false.
    assert_eq!(without(2).unwrap().residences[1].until, None);
    let mut swapped = receipt.clone();
    swapped.entries.swap(0, 1);
    assert!(matches!(verify(&text(&swapped), &story.trust), Err(Fault::Gap(_))));
    let mut foreign = receipt.clone();
    foreign.entries = story.receipt("vol-other-3", None).await.entries;
    assert!(matches!(verify(&text(&foreign), &story.trust), Err(Fault::Foreign(_))));
    let mut bare = receipt.clone();
    bare.statements.clear();
    assert_eq!(verify(&text(&bare), &story.trust), Err(Fault::Statement(OWN.to_owned())));
    let strangers = Trust { operators: story.trust.operators[1..].to_vec(), ..Trust::default() };
    assert_eq!(verify(&text(&receipt), &strangers), Err(Fault::UnknownOperator(OWN.to_owned())));
}

/// R9: the operator itself, with its own key.
#[tokio::test]
async fn an_operator_that_rewrites_its_log_is_refused_by_everybody_else() {
    let story = Story::new().await;
    let seen = tempfile::tempdir().unwrap();
    story.witnessed(&seen, 0);
    let before = story.receipt("vol-1", None).await;
    let known = Note::parse(&before.checkpoint).unwrap();

    // Another history in which the volume never was in the first place, signed as well as the first one.
    let forged = tempfile::tempdir().unwrap();
    let mut entries: Vec<String> = Vec::new();
    for bundle in before.entries.iter().take(1) {
        let mut entry: Entry = serde_json::from_str(&bundle.entry).unwrap();
        entry.place.site = "eu-test-1b".to_owned();
        entries.push(serde_json::to_string(&entry).unwrap());
    }
    entries.extend(lines(0..60));
    open(forged.path(), &story.own).append(&entries).unwrap();
    let reader = crate::receipt::ReceiptReader::new(forged.path());
    let txn = story.store.read().await.unwrap();
    let receipt = text(&ops::receipt(&txn, &reader, account(), "vol-1", Some(43)).unwrap().unwrap());

    assert!(matches!(verify(&receipt, &story.trust), Err(Fault::Quorum { signed: 1, .. })), "the offline verifier");
    let trusting = Trust { quorum: Some(1), known: Some(known), ..story.trust.clone() };
    assert_eq!(verify(&receipt, &trusting), Err(Fault::Forked), "the customer, who knows an earlier checkpoint");
    let witness = &story.witnesses[0];
    let folder = WitnessFolder::new(&seen.path().join(witness.verifier().name()));
    let key_of = |id: &str| (id == OWN).then(|| story.own.verifier().clone());
    let request = reader.request(43).unwrap().unwrap();
    let refused = folder.cosign(&request, key_of, witness, 1_700_000_000);
    assert!(matches!(refused, Err(WitnessError::Refused(terroir_tlog::Refusal::Forked))), "the witness");
    let nobody = folder.cosign(&request, |_| None, witness, 1_700_000_000);
    assert!(matches!(nobody, Err(WitnessError::Unknown(_))));

    // The honest log grows, and everybody goes along.
    let stay = Stay { host: None, site: "eu-test-1a" };
    story.happens("snap-1", Event::Placed, stay, None, 40).await;
    story.ship().await;
    let later = text(&story.receipt("snap-1", Some(43)).await);
    let going_on = Trust { known: trusting.known.clone(), quorum: Some(1), ..story.trust.clone() };
    assert!(verify(&later, &going_on).is_ok());
    let unproven = text(&story.receipt("snap-1", None).await);
    assert_eq!(verify(&unproven, &going_on), Err(Fault::NoConsistency));
    story.witnessed(&seen, 43);
    assert_eq!(verify(&text(&story.receipt("snap-1", None).await), &story.trust).unwrap().signed_by.len(), 3);
}
