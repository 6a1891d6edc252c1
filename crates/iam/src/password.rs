//! Passwords of login profiles: Argon2id, as OWASP's "Password Storage Cheat Sheet" sets it (19 MiB, two passes).
//!
//! A hash takes tens of milliseconds and 19 MiB, so it is made outside transactions, on a thread for blocking work, and
//! only a few at a time.

use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Argon2, PasswordHash};
use terroir_types::{Error, IdSource, Secret};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

const AT_A_TIME: usize = 2;
static TURNS: Semaphore = Semaphore::const_new(AT_A_TIME);

async fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let _turn = TURNS.acquire().await.map_err(Error::internal)?;
    spawn_blocking(work).await.map_err(Error::internal)?
}

/// The hash of a password under a new salt, in PHC's text form.
pub(crate) async fn hash(password: Secret<String>, ids: &dyn IdSource) -> Result<Secret<String>, Error> {
    let salt = ids.next_u128().to_le_bytes();
    apart(move || {
        let hash = Argon2::default().hash_password_with_salt(password.expose().as_bytes(), &salt);
        Ok(Secret::new(hash.map_err(Error::internal)?.to_string()))
    })
    .await
}

/// Whether the password is that of one of the hashes.
pub(crate) async fn is_one_of(password: Secret<String>, hashes: Vec<Secret<String>>) -> Result<bool, Error> {
    apart(move || {
        for hash in &hashes {
            let parsed = PasswordHash::new(hash.expose()).map_err(Error::internal)?;
            if Argon2::default().verify_password(password.expose().as_bytes(), &parsed).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use terroir_types::OsRandom;

    #[tokio::test]
    async fn a_hash_knows_its_password() {
        let secret = |text: &str| Secret::new(text.to_owned());
        let [one, two] = [hash(secret("one"), &OsRandom).await.unwrap(), hash(secret("one"), &OsRandom).await.unwrap()];
        assert_ne!(one, two, "each has its own salt");
        assert!(one.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", one.expose());
        let both = vec![hash(secret("other"), &OsRandom).await.unwrap(), one];
        assert!(is_one_of(secret("one"), both.clone()).await.unwrap());
        assert!(!is_one_of(secret("One"), both).await.unwrap());
        assert!(!is_one_of(secret("one"), Vec::new()).await.unwrap());
    }
}
