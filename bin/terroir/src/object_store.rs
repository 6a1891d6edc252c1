//! `terroir objects`: how much is stored, whether it is whole, and mending it. Asked of the server while it runs; done
//! on the folder itself otherwise.

use futures::StreamExt;
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use terroir_object_storage::backend::local::{LocalBackend, Phase, Progress, Report, Stats};
use terroir_object_storage::budget::Unlimited;
use terroir_types::{OsRandom, SystemClock, Timestamp};

use crate::admin_client::{AdminClient, AdminError};
use crate::cli::IntegrityCommand;
use crate::layout::{Layout, SERVER_UID};
use crate::{Threads, privileges, runtime};

/// One line of the server's answer to a verification.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    Progress(Progress),
    Report(Report),
    Failed(String),
}

/// Between two progress lines.
pub const SAY_EVERY: Duration = Duration::from_millis(500);

enum Answer {
    Stats(Stats),
    Report(Report),
}

pub fn main(layout: &Layout, command: &IntegrityCommand) -> Result<(), String> {
    let asked = runtime(Threads::One)?.block_on(ask_server(layout, command));
    let answer = match asked {
        Ok(answer) => answer,
        Err(AdminError::Refused(message)) => return Err(message),
        Err(AdminError::NotRunning(_)) => {
            // What is made in the folder is to be the server's.
            privileges::become_user(SERVER_UID)?;
            runtime(Threads::Many)?.block_on(open_folder(layout, command))?
        }
    };
    print(command, &answer)
}

async fn ask_server(layout: &Layout, command: &IntegrityCommand) -> Result<Answer, AdminError> {
    let client = AdminClient::new(&layout.admin_socket());
    let repair = match command {
        IntegrityCommand::Stats { .. } => return client.get("/objects/stats").await.map(Answer::Stats),
        IntegrityCommand::Verify { .. } => false,
        IntegrityCommand::Repair { .. } => true,
    };
    let path = if repair { "/objects/repair" } else { "/objects/verify" };
    let mut body = client.post_stream(path).await?.into_data_stream();
    let mut text = Vec::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| AdminError::Refused(format!("the answer broke off: {error}")))?;
        text.extend_from_slice(&piece);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let line = serde_json::from_slice(&line);
            match line.map_err(|error| AdminError::Refused(format!("unexpected answer: {error}")))? {
                Line::Progress(progress) => say(progress),
                Line::Report(report) => return Ok(Answer::Report(report)),
                Line::Failed(message) => return Err(AdminError::Refused(message)),
            }
        }
    }
    Err(AdminError::Refused("the answer broke off".to_owned()))
}

async fn open_folder(layout: &Layout, command: &IntegrityCommand) -> Result<Answer, String> {
    let folder = layout.objects();
    if !folder.join("index.sqlite").exists() {
        return Err(format!("there are no objects in {}", folder.display()));
    }
    let backend = LocalBackend::open(&folder, Arc::new(SystemClock), Arc::new(OsRandom), Arc::new(Unlimited)).await;
    let backend = backend.map_err(|error| error.to_string())?;
    let repair = match command {
        IntegrityCommand::Stats { .. } => {
            return backend.stats().await.map(Answer::Stats).map_err(|error| error.to_string());
        }
        IntegrityCommand::Verify { .. } => false,
        IntegrityCommand::Repair { .. } => true,
    };
    let said = std::sync::Mutex::new(Instant::now());
    let progress = |progress| {
        let mut said = said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if said.elapsed() >= SAY_EVERY {
            *said = Instant::now();
            say(progress);
        }
    };
    backend.verify(repair, progress).await.map(Answer::Report).map_err(|error| error.to_string())
}

/// For people who wait; scripts read the answer.
fn say(progress: Progress) {
    let mut out = std::io::stderr();
    if out.is_terminal() {
        let what = match progress.phase {
            Phase::Index => "the index".to_owned(),
            Phase::Rows => "what the index says".to_owned(),
            Phase::Bytes => format!("{} of about {}", size(progress.bytes), size(progress.of)),
            Phase::Files => "files".to_owned(),
        };
        // Nobody reads it if this fails.
        let _ = write!(out, "\r\x1b[Kreading {what}");
        let _ = out.flush();
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let unit = usize::try_from(bytes.checked_ilog2().unwrap_or(0) / 10).unwrap_or(0).min(UNITS.len() - 1);
    let tenths = (u128::from(bytes) * 10) >> (10 * unit);
    if unit == 0 { format!("{bytes} B") } else { format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]) }
}

fn print(command: &IntegrityCommand, answer: &Answer) -> Result<(), String> {
    let json = match command {
        IntegrityCommand::Stats { json } | IntegrityCommand::Verify { json } | IntegrityCommand::Repair { json } => {
            *json
        }
    };
    if std::io::stderr().is_terminal() && matches!(answer, Answer::Report(_)) {
        eprint!("\r\x1b[K");
    }
    match answer {
        Answer::Stats(stats) if json => print_json(stats)?,
        Answer::Stats(stats) => print_stats(stats),
        Answer::Report(report) if json => print_json(report)?,
        Answer::Report(report) => print_report(report),
    }
    match answer {
        Answer::Report(report) if report.found > report.repaired => {
            let left = report.found - report.repaired;
            Err(format!("{left} of {} findings remain", report.found))
        }
        _ => Ok(()),
    }
}

fn print_json(answer: &impl Serialize) -> Result<(), String> {
    println!("{}", serde_json::to_string_pretty(answer).map_err(|error| error.to_string())?);
    Ok(())
}

fn print_stats(stats: &Stats) {
    let moment = |millis: Option<i64>| {
        millis.map_or("never".to_owned(), |millis| Timestamp::from_millis(millis).to_rfc3339_seconds())
    };
    println!("buckets with objects  {}", stats.buckets);
    println!("objects               {}", stats.objects);
    println!("versions              {}", stats.versions);
    println!("delete markers        {}", stats.delete_markers);
    println!("bytes                 {} ({})", stats.bytes, size(stats.bytes));
    println!("uploads in progress   {}", stats.uploads);
    println!("files to be removed   {}", stats.garbage_files);
    println!("index                 {} ({} free)", size(stats.index_bytes), size(stats.index_free_bytes));
    println!("known to be damaged   {}", stats.damaged);
    println!("all read, last        {}", moment(stats.scrub_done));
    println!("reading since         {}", moment(stats.scrub_begun));
    for place in stats.places.iter().filter(|place| place.target.is_some()) {
        let (name, bytes) = (place.target.as_deref().unwrap_or_default(), place.bytes.unwrap_or(0));
        println!("at {name}: {} contents, {}", place.contents, size(bytes));
    }
    for queue in &stats.queues {
        let oldest = queue.oldest.map_or(String::new(), |_| format!(", the oldest of {}", moment(queue.oldest)));
        println!("waiting for {}: {}{oldest}; {} were dropped", queue.name, queue.entries, queue.dropped);
    }
}

fn print_report(report: &Report) {
    for finding in &report.findings {
        let of = finding.of.as_ref().map_or(String::new(), |of| {
            let version = of.version.as_deref().map_or(" (upload in progress)".to_owned(), |v| format!(" version {v}"));
            let key = if of.key.is_empty() { String::new() } else { format!("/{}{version}", of.key) };
            format!("{}{key}: ", of.bucket_name.clone().unwrap_or_else(|| format!("bucket {}", of.bucket)))
        });
        let end = if finding.repaired { " (repaired)" } else { "" };
        println!("{}: {of}{}{end}", finding.kind.name(), finding.detail);
    }
    let more = report.found - report.findings.len() as u64;
    if more > 0 {
        println!("... and {more} more");
    }
    println!("read {} contents, {}", report.contents, size(report.bytes));
    if report.unsummed > 0 {
        println!("{} of them are older than block checksums; `repair` gives them theirs", report.unsummed);
    }
    if report.away > 0 {
        println!("{} contents at targets that did not answer were not read", report.away);
    }
    println!("{} findings, {} repaired", report.found, report.repaired);
}
