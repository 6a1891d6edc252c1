//! Backups: a consistent cut, in a file that tells when it is not what was written.

mod cut;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use terroir_store::backup::{BackupKey, Opener, Sealer};
use terroir_store::{Durability, LocalKeyRing, Options, Store, StoreError};

fn key(path: &Path) -> BackupKey {
    BackupKey::create(path).unwrap();
    BackupKey::read(path).unwrap()
}

fn read(path: &Path, key: &BackupKey) -> Result<Vec<u8>, StoreError> {
    let mut opener = Opener::open(path, key)?;
    let mut text = Vec::new();
    while let Some(piece) = opener.next_piece()? {
        text.extend_from_slice(&piece);
    }
    Ok(text)
}

#[test]
fn a_file_opens_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (right, wrong) = (key(&path("key")), key(&path("other")));
    assert!(BackupKey::create(&path("key")).is_err(), "a key is never replaced");
    for length in [0, 1, 65_535, 65_536, 65_537, 200_000] {
        let text: Vec<u8> = (0..length).map(|n: usize| (n % 251) as u8).collect();
        let file = path(&format!("{length}"));
        let mut sealer = Sealer::new(File::create(&file).unwrap(), &right).unwrap();
        text.chunks(7000).for_each(|piece| sealer.write(piece).unwrap());
        sealer.finish().unwrap();
        assert_eq!(read(&file, &right).unwrap(), text);
        assert!(matches!(read(&file, &wrong), Err(StoreError::WrongKey)));
        let whole = std::fs::read(&file).unwrap();
        if length > 100 {
            assert!(!whole.windows(50).any(|window| window == &text[..50]), "it is sealed");
        }
        let damaged = path("damaged");
        for at in (0..whole.len()).step_by(whole.len() / 40 + 1) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&damaged, &bytes).unwrap();
            let error = read(&damaged, &right).unwrap_err();
            let told = match at {
                0..16 => matches!(error, StoreError::NotAStore { .. }),
                16..18 => matches!(error, StoreError::Corrupt(_) | StoreError::NewerFormat { .. }),
                _ => matches!(error, StoreError::Corrupt(_)),
            };
            assert!(told, "byte {at} of {length}: {error}");
            std::fs::write(&damaged, &whole[..at]).unwrap();
            let error = read(&damaged, &right).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt(_) | StoreError::NotAStore { .. }), "{at} bytes: {error}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        std::fs::write(&damaged, &longer).unwrap();
        assert!(matches!(read(&damaged, &right), Err(StoreError::Corrupt(_))));
    }
    let mut newer = std::fs::read(path("1")).unwrap();
    newer[16] = 2;
    std::fs::write(path("newer"), newer).unwrap();
    assert!(matches!(read(&path("newer"), &right), Err(StoreError::NewerFormat { found: 2, supported: 1 })));
}

/// Somebody who can compute checksums but does not know the key.
#[test]
fn an_altered_file_with_a_right_checksum_does_not_open() {
    use sha2::{Digest, Sha256};
    let folder = tempfile::tempdir().unwrap();
    let (file, key) = (folder.path().join("file"), key(&folder.path().join("key")));
    let mut sealer = Sealer::new(File::create(&file).unwrap(), &key).unwrap();
    sealer.write(&[7; 150_000]).unwrap();
    sealer.finish().unwrap();
    let whole = std::fs::read(&file).unwrap();
    let body = &whole[..whole.len() - 32];
    let piece = 4 + 65_536 + 16;
    let altered: [(&str, Vec<u8>); 4] = [
        ("a byte", [&body[..1000], &[body[1000] ^ 1], &body[1001..]].concat()),
        (
            "pieces swapped",
            [&body[..66], &body[66 + piece..66 + 2 * piece], &body[66..66 + piece], &body[66 + 2 * piece..]].concat(),
        ),
        ("a piece left out", [&body[..66], &body[66 + piece..]].concat()),
        ("the last piece left out", body[..66 + 2 * piece].to_vec()),
    ];
    for (what, body) in altered {
        std::fs::write(&file, [&body[..], &Sha256::digest(&body)].concat()).unwrap();
        assert!(matches!(read(&file, &key), Err(StoreError::Corrupt(_))), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_writes_is_a_cut() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Arc::new(LocalKeyRing::ephemeral());
    let options = Options {
        durability: Durability::None,
        reserve_bytes: 0,
        ..Options::new(folder.path().join("state.db"), keys)
    };
    cut::check(Store::open(options.clone()).await.unwrap(), &options).await;
}
