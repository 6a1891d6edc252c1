//! Lets another program check the codecs: one question a line on standard input, one JSON answer a line on standard output.
//!
//! Questions and answers are those of [`terroir_aws_model::differential::answer`]. Run by `tests/differential`.

use std::io::{BufRead, Write};

fn main() -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        writeln!(out, "{}", terroir_aws_model::differential::answer(&line?))?;
        out.flush()?;
    }
    Ok(())
}
