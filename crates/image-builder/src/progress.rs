//! How a long build tells what it does.

use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Receives steps and byte counts of a build or import. Called from one thread at a time.
pub trait Progress: Send + Sync {
    /// A new step begins; the one before is done.
    fn step(&self, message: &str);
    /// `done` bytes of `total` of the current step; `total` is unknown for some downloads.
    fn bytes(&self, done: u64, total: Option<u64>);
}

/// Says nothing.
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _message: &str) {}
    fn bytes(&self, _done: u64, _total: Option<u64>) {}
}

/// Progress bar on standard error; plain lines when that is not a terminal.
#[derive(Default)]
pub struct TerminalProgress {
    current: Mutex<Option<ProgressBar>>,
}

impl TerminalProgress {
    pub fn new() -> Self {
        Self::default()
    }

    fn finish(current: &mut Option<ProgressBar>) {
        if let Some(bar) = current.take() {
            bar.finish();
        }
    }
}

impl Progress for TerminalProgress {
    fn step(&self, message: &str) {
        let mut current = self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Self::finish(&mut current);
        let bar = ProgressBar::new_spinner().with_message(message.to_owned());
        if bar.is_hidden() {
            eprintln!("{message}");
        } else {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        *current = Some(bar);
    }

    fn bytes(&self, done: u64, total: Option<u64>) {
        let current = self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Some(bar) = current.as_ref() else { return };
        if let Some(total) = total
            && bar.length() != Some(total)
        {
            bar.set_length(total);
            let template = "{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            // The template is a constant and valid.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
        }
        bar.set_position(done);
    }
}

impl Drop for TerminalProgress {
    fn drop(&mut self) {
        let mut current = self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        Self::finish(&mut current);
    }
}
