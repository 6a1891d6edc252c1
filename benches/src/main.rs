//! `make bench`: measures one Terroir on this machine and prints one table.
//!
//! `TERROIR` is the binary to measure (default: the `terroir` beside this program); `BENCH_QUICK=1` takes smaller
//! counts; `BENCH_ONLY=guests` measures one part (`starts`, `guests`, `objects` or `simulated`). The figures also go to `target/bench/results.json`. Root is needed, as for real guests.

mod bare;
mod client;
mod cloud;
mod instances;
mod objects;
mod report;
mod site;
mod ssh;

use std::path::PathBuf;
use std::time::Duration;

use crate::cloud::Cloud;
use crate::report::Report;

pub(crate) fn say(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// How much is done.
pub(crate) struct Effort {
    pub rounds: usize,
    pub instances: usize,
    pub point: Duration,
    pub large_objects: usize,
}

const FULL: Effort = Effort { rounds: 5, instances: 10_000, point: Duration::from_secs(5), large_objects: 8 };
const QUICK: Effort = Effort { rounds: 3, instances: 2_000, point: Duration::from_millis(1500), large_objects: 4 };

const PARTS: &[&str] = &["starts", "guests", "objects", "simulated"];

#[tokio::main]
async fn main() -> std::process::ExitCode {
    // What the losing branch holds is dropped, and with it the clouds are stopped and removed.
    let ended = tokio::select! {
        ended = run() => ended,
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    };
    match ended {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), String> {
    let is_quick = std::env::var("BENCH_QUICK").is_ok_and(|value| value == "1");
    let effort = if is_quick { QUICK } else { FULL };
    let terroir = match std::env::var_os("TERROIR") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe().map_err(say)?.with_file_name("terroir"),
    };
    let mut report = Report::new(is_quick);
    println!("{}", report.machine());

    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    if !only.is_empty() && !PARTS.contains(&only.as_str()) {
        return Err(format!("BENCH_ONLY is one of {}", PARTS.join(", ")));
    }
    let takes = |part: &str| only.is_empty() || only == part;

    if only != "simulated" {
        let cloud = Cloud::new(&terroir, "qemu")?;
        if takes("starts") {
            site::starts_and_memory(&cloud, &effort, &mut report).await?;
        } else {
            cloud.up()?;
        }
        if takes("guests") {
            instances::run_to_ssh(&cloud, &effort, &mut report).await?;
        }
        if takes("objects") {
            objects::limits_of_the_machine(cloud.folder(), &effort, &mut report).await?;
            objects::put_and_get(&cloud, &effort, &mut report).await?;
        }
    }
    if takes("simulated") {
        let cloud = Cloud::new(&terroir, "simulated")?;
        instances::many_simulated(&cloud, &effort, &mut report).await?;
    }

    report.save(&PathBuf::from("target/bench/results.json"))?;
    Ok(())
}
