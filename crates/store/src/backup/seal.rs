//! The file of a backup: sealed, so that it can lie anywhere.
//!
//! ```text
//! "terroir backup\n\0" | version u16 | salt 32 | check 16 | pieces | SHA-256 of all before
//! piece: length of the sealed text u32, highest bit set in the last one | AES-256-GCM
//! ```
//! Keys are derived from the operator's key and the salt, so every file has its own; `check` tells a wrong key from
//! damage. The pieces are a STREAM (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-Encryption, 2015): none can be
//! altered, left out, moved or cut off at the end. The checksum can be compared without the key.

use aead_stream::{DecryptorBE32, EncryptorBE32};
use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{KeyInit, Payload};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use terroir_types::{IdSource, OsRandom};
use zeroize::Zeroizing;

use crate::StoreError;
use crate::keyring::{KEY_BYTES, create_key_file, read_key_file};

const MAGIC: &[u8; 16] = b"terroir backup\n\0";
/// Of the format; a file with a higher one is refused.
const VERSION: u16 = 1;
const SALT_BYTES: usize = 32;
const CHECK_BYTES: usize = 16;
const HEADER_BYTES: usize = MAGIC.len() + 2 + SALT_BYTES + CHECK_BYTES;
const SUM_BYTES: usize = 32;
const PIECE_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;
const LAST: u32 = 1 << 31;
/// Every file has a key of its own, so the nonces need no randomness.
const NONCE: [u8; 7] = [0; 7];

/// The operator's key for backups: 32 bytes in a file of mode 0600.
pub struct BackupKey(Zeroizing<[u8; KEY_BYTES]>);

impl BackupKey {
    /// Errors: [`StoreError::WrongKey`] if it is no key, [`StoreError::Io`] if it is not there or others may read it.
    pub fn read(path: &Path) -> Result<Self, StoreError> {
        read_key_file(path).map(Self)
    }

    /// Makes a new one; an error if there is a file already.
    pub fn create(path: &Path) -> Result<(), StoreError> {
        if path.try_exists()? {
            return Err(StoreError::Io(format!("{} is there already", path.display())));
        }
        create_key_file(path)
    }

    fn derive(&self, salt: &[u8], info: &[u8]) -> Zeroizing<[u8; KEY_BYTES]> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        let derivation = Hkdf::<Sha256>::new(Some(salt), &*self.0);
        derivation.expand(info, &mut *key).expect("32 bytes are within HKDF's limit");
        key
    }

    fn check(&self, salt: &[u8]) -> Hmac<Sha256> {
        let key = self.derive(salt, b"terroir backup check v1");
        Hmac::<Sha256>::new_from_slice(&*key).expect("HMAC takes keys of any length").chain_update(MAGIC)
    }

    fn cipher(&self, salt: &[u8]) -> Aes256Gcm {
        let key = self.derive(salt, b"terroir backup text v1");
        Aes256Gcm::new((&*key).into())
    }
}

fn too_long<E>(_: E) -> StoreError {
    StoreError::Seal("the backup is too long".into())
}

/// Writes a file. What is not finished is no backup.
pub struct Sealer {
    out: File,
    sum: Sha256,
    header: Vec<u8>,
    stream: EncryptorBE32<Aes256Gcm>,
    plain: Zeroizing<Vec<u8>>,
}

impl Sealer {
    pub fn new(out: File, key: &BackupKey) -> Result<Self, StoreError> {
        let mut salt = [0; SALT_BYTES];
        OsRandom.fill(&mut salt);
        let check = key.check(&salt).finalize().into_bytes();
        let header = [&MAGIC[..], &VERSION.to_le_bytes(), &salt, &check[..CHECK_BYTES]].concat();
        let stream = EncryptorBE32::from_aead(key.cipher(&salt), &NONCE.into());
        let plain = Zeroizing::new(Vec::with_capacity(PIECE_BYTES));
        let mut sealer = Self { out, sum: Sha256::new(), header, stream, plain };
        let header = sealer.header.clone();
        sealer.put(&header)?;
        Ok(sealer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.sum.update(bytes);
        Ok(self.out.write_all(bytes)?)
    }

    fn piece(&mut self, sealed: &[u8], last: u32) -> Result<(), StoreError> {
        // A piece and its tag are far below 2 GiB.
        let length = u32::try_from(sealed.len()).map_err(too_long)? | last;
        self.put(&length.to_le_bytes())?;
        self.put(sealed)
    }

    pub fn write(&mut self, mut text: &[u8]) -> Result<(), StoreError> {
        while !text.is_empty() {
            if self.plain.len() == PIECE_BYTES {
                let payload = Payload { msg: &self.plain, aad: &self.header };
                let sealed = self.stream.encrypt_next(payload).map_err(too_long)?;
                self.piece(&sealed, 0)?;
                self.plain.clear();
            }
            let (now, rest) = text.split_at(text.len().min(PIECE_BYTES - self.plain.len()));
            self.plain.extend_from_slice(now);
            text = rest;
        }
        Ok(())
    }

    /// Durable when it returns, but for the folder's entry.
    pub fn finish(mut self) -> Result<(), StoreError> {
        let payload = Payload { msg: &self.plain, aad: &self.header };
        let empty = EncryptorBE32::from_aead(Aes256Gcm::new(&[0; KEY_BYTES].into()), &NONCE.into());
        let sealed = std::mem::replace(&mut self.stream, empty).encrypt_last(payload).map_err(too_long)?;
        self.piece(&sealed, LAST)?;
        let sum = std::mem::take(&mut self.sum).finalize();
        self.out.write_all(&sum)?;
        Ok(self.out.sync_all()?)
    }
}

/// Reads a file whose checksum was found right.
pub struct Opener {
    file: BufReader<File>,
    path: PathBuf,
    header: Vec<u8>,
    stream: Option<DecryptorBE32<Aes256Gcm>>,
}

impl Opener {
    /// Errors: [`StoreError::NotAStore`] if it is no backup, [`StoreError::NewerFormat`], [`StoreError::WrongKey`],
    /// [`StoreError::Corrupt`] if a byte is wrong or missing.
    pub fn open(path: &Path, key: &BackupKey) -> Result<Self, StoreError> {
        let named = |error: std::io::Error| StoreError::Io(format!("{}: {error}", path.display()));
        let mut file = File::open(path).map_err(named)?;
        let mut header = Vec::new();
        Read::by_ref(&mut file).take(HEADER_BYTES as u64).read_to_end(&mut header).map_err(named)?;
        if header.get(..MAGIC.len()) != Some(MAGIC) {
            return Err(StoreError::NotAStore { path: path.to_owned() });
        }
        let cut_off = || StoreError::Corrupt(format!("{} is cut off", path.display()));
        let (version, rest) = header[MAGIC.len()..].split_first_chunk::<2>().ok_or_else(cut_off)?;
        let version = u16::from_le_bytes(*version);
        if version > VERSION {
            return Err(StoreError::NewerFormat { found: version.into(), supported: VERSION.into() });
        }
        let (salt, check) = rest.split_at_checked(SALT_BYTES).ok_or_else(cut_off)?;
        let length = file.metadata().map_err(named)?.len();
        let summed = length.checked_sub(SUM_BYTES as u64).filter(|summed| *summed >= HEADER_BYTES as u64);
        if !is_whole(&mut file, summed.ok_or_else(cut_off)?).map_err(named)? {
            let what = "its checksum is wrong: it is damaged or cut off";
            return Err(StoreError::Corrupt(format!("{}: {what}", path.display())));
        }
        key.check(salt).verify_truncated_left(check).map_err(|_| StoreError::WrongKey)?;
        let stream = Some(DecryptorBE32::from_aead(key.cipher(salt), &NONCE.into()));
        file.seek(SeekFrom::Start(HEADER_BYTES as u64)).map_err(named)?;
        Ok(Self { file: BufReader::with_capacity(PIECE_BYTES, file), path: path.to_owned(), header, stream })
    }

    fn damaged<E>(&self, _: E) -> StoreError {
        StoreError::Corrupt(format!("{} does not open with its key: it was altered", self.path.display()))
    }

    /// The next piece of the text; none: that was all.
    pub fn next_piece(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let Some(mut stream) = self.stream.take() else { return Ok(None) };
        let mut length = [0; 4];
        self.file.read_exact(&mut length).map_err(|error| self.damaged(error))?;
        let length = u32::from_le_bytes(length);
        let (last, length) = (length & LAST != 0, (length & !LAST) as usize);
        if length > PIECE_BYTES + TAG_BYTES {
            return Err(self.damaged(()));
        }
        let mut sealed = vec![0; length];
        self.file.read_exact(&mut sealed).map_err(|error| self.damaged(error))?;
        let payload = Payload { msg: &sealed, aad: &self.header };
        let plain = if last {
            stream.decrypt_last(payload).map_err(|error| self.damaged(error))?
        } else {
            let plain = stream.decrypt_next(payload).map_err(|error| self.damaged(error))?;
            self.stream = Some(stream);
            plain
        };
        Ok(Some(Zeroizing::new(plain)))
    }
}

/// Whether the file's last 32 bytes are the SHA-256 of the `summed` bytes before.
fn is_whole(file: &mut File, summed: u64) -> std::io::Result<bool> {
    file.seek(SeekFrom::Start(0))?;
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut rest = Read::by_ref(file).take(summed);
    loop {
        match rest.read(&mut buffer)? {
            0 => break,
            length => sum.update(&buffer[..length]),
        }
    }
    let mut found = [0; SUM_BYTES];
    file.read_exact(&mut found)?;
    Ok(sum.finalize()[..] == found)
}
