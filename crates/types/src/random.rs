use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng, TryRng};
use std::sync::Mutex;

/// Where identifiers and secrets get their randomness; injectable, so that a test can replay it.
pub trait IdSource: Send + Sync {
    fn fill(&self, bytes: &mut [u8]);

    fn next_u128(&self) -> u128 {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        u128::from_le_bytes(bytes)
    }

    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// `length` characters drawn evenly from `alphabet` (at most 256 characters, ASCII).
    fn text(&self, alphabet: &[u8], length: usize) -> String {
        let limit = 256 - 256 % alphabet.len();
        let mut out = String::with_capacity(length);
        while out.len() < length {
            let mut bytes = [0; 64];
            self.fill(&mut bytes);
            let fair = bytes.iter().map(|b| usize::from(*b)).filter(|b| *b < limit);
            out.extend(fair.map(|b| char::from(alphabet[b % alphabet.len()])).take(length - out.len()));
        }
        out
    }
}

/// The operating system's generator: the source in production.
#[derive(Debug, Default, Clone, Copy)]
pub struct OsRandom;

impl IdSource for OsRandom {
    fn fill(&self, bytes: &mut [u8]) {
        // getrandom(2) fails only where the kernel has no generator at all; going on with predictable secrets would be worse.
        SysRng.try_fill_bytes(bytes).expect("the kernel gives random bytes");
    }
}

/// The same bytes for the same seed: for tests and simulations only.
#[derive(Debug)]
pub struct SeededRandom(Mutex<StdRng>);

impl SeededRandom {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl IdSource for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).fill_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_its_length_and_alphabet() {
        let text = SeededRandom::new(1).text(b"abc", 1000);
        assert_eq!(text.len(), 1000);
        for letter in ["a", "b", "c"] {
            assert!((250..420).contains(&text.matches(letter).count()), "{letter} is drawn evenly");
        }
        assert_ne!(OsRandom.next_u128(), OsRandom.next_u128());
    }
}
