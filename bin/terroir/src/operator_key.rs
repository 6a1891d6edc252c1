//! The operator's key: 32 random bytes in a file of the control plane's own user.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use terroir_tlog::SigningKey;
use terroir_types::IdSource;
use zeroize::Zeroizing;

use crate::layout::describe;

pub fn open_or_create(path: &Path, operator: &str, ids: &dyn IdSource) -> Result<SigningKey, String> {
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(path, ids)?,
        Err(error) => return Err(describe(&error, "cannot read", path).to_string()),
    };
    let malformed = || format!("{} does not hold an operator's key", path.display());
    let seed: [u8; 32] = hex::decode(text.trim()).ok().and_then(|seed| seed.try_into().ok()).ok_or_else(malformed)?;
    SigningKey::from_seed(operator, &Zeroizing::new(seed)).map_err(|error| error.to_string())
}

fn create(path: &Path, ids: &dyn IdSource) -> Result<Zeroizing<String>, String> {
    let mut seed = Zeroizing::new([0; 32]);
    ids.fill(&mut *seed);
    let text = Zeroizing::new(hex::encode(*seed));
    let fresh = path.with_extension("key.new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        fs::File::open(path.parent().unwrap_or(path))?.sync_all()
    };
    write().map_err(|error| describe(&error, "cannot write", path).to_string())?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use terroir_types::SeededRandom;

    #[test]
    fn the_key_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operator.key");
        let open = |seed| open_or_create(&path, "hoster.example", &SeededRandom::new(seed));
        let first = open(1).unwrap();
        assert_eq!(open(2).unwrap().verifier(), first.verifier());
        fs::write(&path, "short").unwrap();
        assert!(open(3).unwrap_err().contains("does not hold an operator's key"));
    }
}
