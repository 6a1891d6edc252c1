//! Who may use something: the one primitive behind attach, move and restart elsewhere (DESIGN §2).
//!
//! ```text
//!          hold                 begin_release
//!   Free ────────▶ Held(holder) ────────────▶ Releasing(holder)
//!    ▲                  │ ended                    │ released(epoch)
//!    └──────────────────┴──────────────────────────┘
//! ```
//! Every arrow but `released` raises the epoch. A host's report counts only if it carries the current epoch: then the
//! host has seen the order to let go, and whatever it did under an older one is over.

use serde::{Deserialize, Serialize};
use terroir_types::Epoch;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment<H> {
    #[serde(rename = "e")]
    pub epoch: Epoch,
    #[serde(rename = "h")]
    pub hold: Hold<H>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold<H> {
    #[serde(rename = "f")]
    Free,
    #[serde(rename = "h")]
    Held(H),
    #[serde(rename = "r")]
    Releasing(H),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is held or being released")]
pub struct NotFree;

impl<H: Copy + PartialEq> Assignment<H> {
    pub const fn free() -> Self {
        Self { epoch: 1, hold: Hold::Free }
    }

    /// Held by `holder` from the beginning.
    pub const fn held_by(holder: H) -> Self {
        Self { epoch: 1, hold: Hold::Held(holder) }
    }

    /// Who uses it or has not let go yet.
    pub const fn holder(&self) -> Option<H> {
        match self.hold {
            Hold::Free => None,
            Hold::Held(holder) | Hold::Releasing(holder) => Some(holder),
        }
    }

    pub fn is_held_by(&self, holder: H) -> bool {
        self.hold == Hold::Held(holder)
    }

    pub const fn is_free(&self) -> bool {
        matches!(self.hold, Hold::Free)
    }

    pub const fn is_releasing(&self) -> bool {
        matches!(self.hold, Hold::Releasing(_))
    }

    pub fn hold(&mut self, holder: H) -> Result<(), NotFree> {
        if !self.is_free() {
            return Err(NotFree);
        }
        *self = Self { epoch: self.epoch + 1, hold: Hold::Held(holder) };
        Ok(())
    }

    /// Asks the holder to let go. Nothing changes unless it is held.
    pub fn begin_release(&mut self) {
        if let Hold::Held(holder) = self.hold {
            *self = Self { epoch: self.epoch + 1, hold: Hold::Releasing(holder) };
        }
    }

    /// The holder reported at `epoch` that it let go; true if that made it free.
    pub fn released(&mut self, epoch: Epoch) -> bool {
        let counts = self.is_releasing() && epoch == self.epoch;
        if counts {
            self.hold = Hold::Free;
        }
        counts
    }

    /// The holder is known to be over, whatever it was told.
    pub fn ended(&mut self) {
        if !self.is_free() {
            *self = Self { epoch: self.epoch + 1, hold: Hold::Free };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_holder_waits_for_the_release_at_the_current_epoch() {
        let mut a: Assignment<u8> = Assignment::free();
        a.hold(7).unwrap();
        assert_eq!((a.epoch, a.holder()), (2, Some(7)));
        assert_eq!(a.hold(8), Err(NotFree));
        assert!(!a.released(2), "held is not released by a report");
        a.begin_release();
        a.begin_release();
        assert_eq!((a.epoch, a.hold), (3, Hold::Releasing(7)));
        assert_eq!(a.hold(8), Err(NotFree));
        for stale in [0, 1, 2, 4] {
            assert!(!a.released(stale), "{stale}");
        }
        assert!(a.released(3) && a.is_free());
        a.hold(8).unwrap();
        a.ended();
        a.ended();
        assert_eq!((a.epoch, a.hold), (5, Hold::Free));
    }
}
