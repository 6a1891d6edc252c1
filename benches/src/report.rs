//! The table on the terminal, line by line as it is measured, and the same as JSON.

use serde_json::{Value, json};
use std::path::Path;

use crate::say;

pub struct Report {
    rows: Vec<Value>,
    is_quick: bool,
}

/// A bound on a figure.
#[derive(Clone, Copy)]
pub enum Aim {
    None,
    AtMost(f64),
    AtLeast(f64),
}

impl Report {
    pub fn new(is_quick: bool) -> Self {
        Self { rows: Vec::new(), is_quick }
    }

    pub fn machine(&self) -> String {
        let first = |path: &str, field: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix(field));
            line.unwrap_or("?").trim_start_matches([' ', '\t', ':']).trim().to_owned()
        };
        let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        format!(
            "{processors} × {}, memory {}, Linux {}, load {}{}",
            first("/proc/cpuinfo", "model name"),
            first("/proc/meminfo", "MemTotal"),
            first("/proc/sys/kernel/osrelease", ""),
            first("/proc/loadavg", ""),
            if self.is_quick { "; quick: small counts" } else { "" }
        )
    }

    pub fn figure(&mut self, what: &str, value: f64, unit: &str, aim: Aim, note: &str) {
        let (bound, is_met) = match aim {
            Aim::None => (String::new(), None),
            Aim::AtMost(bound) => (format!("≤ {}", rounded(bound)), Some(value <= bound)),
            Aim::AtLeast(bound) => (format!("≥ {}", rounded(bound)), Some(value >= bound)),
        };
        let verdict = match is_met {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED",
        };
        let digits = if value >= 100.0 { 0 } else { 2 };
        println!("{what:<50} {value:>10.digits$} {unit:<12} {bound:<7} {verdict:<6} {note}");
        self.rows.push(json!({"what": what, "value": value, "unit": unit, "aim": bound, "met": is_met, "note": note}));
    }

    /// Said once, of the rows that follow.
    pub fn remark(&mut self, text: &str) {
        println!("{text}");
        self.rows.push(json!({"what": text}));
    }

    pub fn save(&self, path: &Path) -> Result<(), String> {
        let all = json!({"machine": self.machine(), "quick": self.is_quick, "rows": self.rows});
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(say)?;
        }
        std::fs::write(path, format!("{all:#}\n")).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("\n{}", path.display());
        Ok(())
    }
}

/// As many digits as a bound is worth.
fn rounded(bound: f64) -> String {
    if bound >= 100.0 { format!("{bound:.0}") } else { format!("{}", (bound * 100.0).round() / 100.0) }
}
