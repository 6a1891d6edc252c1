//! Session tokens (IMDSv2). A token carries its end and a MAC over it and the guest, so nothing is remembered: it
//! survives a restart, and what one guest got is worth nothing to another.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use terroir_types::{IdSource, InstanceId, Timestamp, VpcId};

/// Seconds, as in EC2.
pub const LONGEST_LIFE: u32 = 21_600;

const NONCE: usize = 8;
const LENGTH: usize = 8 + NONCE + 32;

pub struct TokenKey([u8; 32]);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(redacted)")
    }
}

impl TokenKey {
    pub fn generate(random: &dyn IdSource) -> Self {
        let mut key = [0; 32];
        random.fill(&mut key);
        Self(key)
    }

    /// Reads the key, or makes one (mode 0600). A file that is no key is an error: replacing it would end all sessions.
    pub fn open_or_create(path: &Path, random: &dyn IdSource) -> io::Result<Self> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(64).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate(random);
                // Appended: the agent may be writing `NAME.new` of a sibling.
                let mut new = path.as_os_str().to_owned();
                new.push(".new");
                let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
                write_durably(options?, &key.0)?;
                std::fs::rename(&new, path)?;
                return Ok(key);
            }
            Err(error) => return Err(error),
        };
        bytes.try_into().map(Self).map_err(|_| io::Error::other("not a key of 32 bytes"))
    }

    fn mac(&self, signed: &[u8], vpc: VpcId, instance: InstanceId) -> Hmac<Sha256> {
        // HMAC takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| unreachable!("any length is taken"));
        mac.update(b"metadata session");
        mac.update(signed);
        mac.update(vpc.to_string().as_bytes());
        mac.update(instance.to_string().as_bytes());
        mac
    }

    /// A token that the guest can use for `life_secs` from `now`.
    pub fn issue(
        &self,
        vpc: VpcId,
        instance: InstanceId,
        now: Timestamp,
        life_secs: u32,
        random: &dyn IdSource,
    ) -> String {
        let mut token = Vec::with_capacity(LENGTH);
        token.extend((now.secs() + i64::from(life_secs)).to_be_bytes());
        let mut nonce = [0; NONCE];
        random.fill(&mut nonce);
        token.extend(nonce);
        let mac = self.mac(&token, vpc, instance).finalize().into_bytes();
        token.extend(mac);
        URL_SAFE.encode(token)
    }

    /// Seconds that the token has left, if it is this guest's and has not ended.
    pub fn check(&self, token: &[u8], vpc: VpcId, instance: InstanceId, now: Timestamp) -> Option<i64> {
        let token = URL_SAFE.decode(token).ok().filter(|token| token.len() == LENGTH)?;
        let (signed, mac) = token.split_at(8 + NONCE);
        self.mac(signed, vpc, instance).verify_slice(mac).ok()?;
        let end = i64::from_be_bytes(signed[..8].try_into().ok()?);
        Some(end - now.secs()).filter(|left| *left > 0)
    }
}

fn write_durably(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use proptest::prelude::*;
    use std::time::Duration;
    use terroir_types::OsRandom;

    #[test]
    fn a_token_is_one_guests_until_it_ends_even_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token-key");
        let index = sample::index();
        let [web, plain, other] = [0, 1, 2].map(|i| index.snapshot().guests[i].instance);
        let now = Timestamp::from_secs(1000);
        std::fs::write(folder.path().join("token-key.new"), b"half").unwrap();
        let key = TokenKey::open_or_create(&path, &OsRandom).unwrap();
        let token = key.issue(sample::vpc(1), web, now, 60, &OsRandom);
        let key = TokenKey::open_or_create(&path, &OsRandom).unwrap();
        let check = |vpc, instance, secs| {
            key.check(token.as_bytes(), sample::vpc(vpc), instance, now.plus(Duration::from_secs(secs)))
        };
        assert_eq!(check(1, web, 0), Some(60));
        assert_eq!(check(1, web, 59), Some(1));
        assert_eq!(check(1, web, 60), None);
        assert_eq!(check(1, plain, 0), None);
        assert_eq!(check(2, other, 0), None);
        assert_eq!(check(2, web, 0), None);
        std::fs::write(&path, b"short").unwrap();
        assert!(TokenKey::open_or_create(&path, &OsRandom).is_err());
    }

    proptest! {
        #[test]
        fn a_changed_token_is_none(at in 0usize..64, to in "[A-Za-z0-9_-]") {
            let key = TokenKey::generate(&OsRandom);
            let web = sample::index().snapshot().guests[0].instance;
            let token = key.issue(sample::vpc(1), web, Timestamp::EPOCH, 60, &OsRandom);
            let mut bent = token.clone();
            bent.replace_range(at..=at, &to);
            prop_assume!(bent != token);
            prop_assert_eq!(key.check(bent.as_bytes(), sample::vpc(1), web, Timestamp::EPOCH), None);
        }
    }
}
