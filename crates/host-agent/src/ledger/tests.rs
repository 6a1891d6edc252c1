use super::*;
use std::fs;
use terroir_agent_api::{Desired, VolumeSection};
use terroir_types::{ResourceId, SeededRandom};

fn volume(n: u64) -> Entry {
    let id = VolumeId::generate(&SeededRandom::new(n));
    let section =
        VolumeSection { id, epoch: n, desired: Desired::Present, size_bytes: n << 20, source: None, demand: None };
    Entry::Section(format!("volume/{id}"), Some(Section::Volume(section)))
}

fn contents_of(batches: &[Vec<Entry>]) -> Contents {
    let mut contents = Contents::default();
    batches.iter().flatten().cloned().for_each(|entry| contents.apply(entry));
    contents
}

async fn written(path: &Path, batches: &[Vec<Entry>]) {
    let mut ledger = Ledger::open_file(path).unwrap();
    for batch in batches {
        ledger.commit(batch.clone()).await.unwrap();
    }
}

#[tokio::test]
async fn a_ledger_cut_at_any_byte_holds_a_whole_prefix_of_its_batches() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let batches: Vec<Vec<Entry>> = (0..4).map(|b| (0..=b).map(|n| volume(10 * b + n)).collect()).collect();
    let mut ends = vec![];
    for count in 0..=batches.len() {
        let _ = fs::remove_file(&path);
        written(&path, &batches[..count]).await;
        ends.push(fs::metadata(&path).unwrap().len() as usize);
    }
    let whole = fs::read(&path).unwrap();
    // Every byte near an end, one in some elsewhere: each cut costs several syncs.
    let near_an_end = |cut: usize| ends.iter().any(|end| cut.abs_diff(*end) <= 13);
    for cut in (ends[0]..=whole.len()).filter(|cut| near_an_end(*cut) || cut % 23 == 0) {
        let garbages = [&b""[..], &b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..], &b"\xff\xff\xff\x7fgarbage-garbage"[..]];
        for garbage in garbages.into_iter().take(if near_an_end(cut) { 3 } else { 1 }) {
            fs::write(&path, [&whole[..cut], garbage].concat()).unwrap();
            let survived = ends.iter().filter(|end| **end <= cut).count() - 1;
            let mut ledger = Ledger::open_file(&path).unwrap();
            assert_eq!(ledger.contents(), &contents_of(&batches[..survived]), "cut at {cut}");
            // What is written after the repair is found again.
            ledger.commit(vec![volume(99)]).await.unwrap();
            drop(ledger);
            let expected = [&batches[..survived], &[vec![volume(99)]]].concat();
            assert_eq!(Ledger::open_file(&path).unwrap().contents(), &contents_of(&expected));
        }
    }
}

#[tokio::test]
async fn an_unfinished_rewrite_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let batches = vec![vec![volume(1), volume(2)], vec![volume(3)]];
    written(&path, &batches).await;
    fs::write(path.with_extension("new"), b"TERROIR-LED").unwrap();
    let mut ledger = Ledger::open_file(&path).unwrap();
    assert_eq!(ledger.contents(), &contents_of(&batches));
    ledger.compact().await.unwrap();
    ledger.commit(vec![volume(4)]).await.unwrap();
    drop(ledger);
    let expected = [&batches[..], &[vec![volume(4)]]].concat();
    assert_eq!(Ledger::open_file(&path).unwrap().contents(), &contents_of(&expected));
}

#[tokio::test]
async fn a_ledger_is_refused_rather_than_misread() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    fs::write(&path, b"TERROIR-LEDGER 7\n").unwrap();
    assert!(matches!(Ledger::open_file(&path), Err(AgentError::NewerLedger { found: 7, .. })));
    fs::write(&path, b"something else").unwrap();
    assert!(matches!(Ledger::open_file(&path), Err(AgentError::DamagedLedger { .. })));
    fs::remove_file(&path).unwrap();
    let _open = Ledger::open_file(&path).unwrap();
    assert!(matches!(Ledger::open_file(&path), Err(AgentError::AlreadyRunning(_))));
}

/// A child that writes as fast as it can is killed again and again; whatever it had acknowledged is there.
#[test]
fn kill_during_writes_loses_nothing_acknowledged() {
    const ROUNDS: u64 = 8;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    if let Ok(path) = std::env::var("TERROIR_LEDGER_WRITER") {
        return write_for_ever(Path::new(&path));
    }
    let mut acknowledged = 0;
    for round in 0..ROUNDS {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "ledger::tests::kill_during_writes_loses_nothing_acknowledged", "--nocapture"])
            .env("TERROIR_LEDGER_WRITER", &path)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        let goal = acknowledged + 20 + 37 * round;
        for line in std::io::BufRead::lines(stdout).map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("written ").and_then(|n| n.parse::<u64>().ok()) {
                acknowledged = acknowledged.max(number);
                if number == goal {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let ledger = Ledger::open_file(&path).unwrap();
        let last = ledger.contents().spec.len() as u64;
        assert!(last >= acknowledged, "round {round}: {acknowledged} acknowledged, {last} found");
        acknowledged = last;
    }
    assert!(acknowledged > 20 * ROUNDS);
}

fn write_for_ever(path: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut ledger = Ledger::open_file(path).unwrap();
        for number in ledger.contents().spec.len() as u64 + 1.. {
            ledger.commit(vec![volume(number)]).await.unwrap();
            if number % 16 == 0 {
                ledger.compact().await.unwrap();
            }
            println!("written {number}");
        }
    });
}
