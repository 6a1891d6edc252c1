//! `make bench`: measures one Terroir on this machine and prints one table.
//!
//! `TERROIR` is the binary to measure (default: the `terroir` beside this program); `BENCH_QUICK=1` takes smaller
//! counts; `BENCH_ONLY=guests` measures one part (see [`PARTS`]). The figures also go to `target/bench/results.json`. Root is needed, as for real guests.

mod bare;
mod client;
mod cloud;
mod garage;
mod instances;
mod limits;
mod many_objects;
mod objects;
mod placement;
mod report;
mod site;
mod ssh;

use std::path::PathBuf;
use std::time::Duration;

use crate::cloud::Cloud;
use crate::objects::Contest;
use crate::report::Report;

pub(crate) fn say(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// How much is done.
pub(crate) struct Effort {
    pub rounds: usize,
    pub instances: usize,
    /// Of each side's load in a comparison.
    pub round: Duration,
    /// Of what the machine itself is measured for.
    pub limit: Duration,
    /// Of what prepares a measurement.
    pub longest: Duration,
    /// Objects in a bucket that grows.
    pub sizes: &'static [usize],
}

const FULL: Effort = Effort {
    rounds: 5,
    instances: 10_000,
    round: Duration::from_secs(10),
    limit: Duration::from_secs(2),
    longest: Duration::from_secs(900),
    sizes: &[10_000, 100_000, 1_000_000],
};
const QUICK: Effort = Effort {
    rounds: 3,
    instances: 2_000,
    round: Duration::from_secs(2),
    limit: Duration::from_millis(700),
    longest: Duration::from_secs(300),
    sizes: &[10_000, 100_000],
};
/// What is measured, in this order.
const PARTS: &[&str] = &["placement", "starts", "guests", "objects", "large-objects", "many-objects", "simulated"];

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

    if takes("placement") {
        placement::placements(&effort, &mut report)?;
    }
    if only != "simulated" && only != "placement" {
        let cloud = Cloud::new(&terroir, "qemu")?;
        if takes("starts") {
            site::starts_and_memory(&cloud, &effort, &mut report).await?;
        } else {
            cloud.up()?;
        }
        if takes("guests") {
            instances::run_to_ssh(&cloud, &effort, &mut report).await?;
        }
        if takes("objects") || takes("large-objects") {
            limits::disk_and_loopback(cloud.folder(), &effort, &mut report).await?;
            let mut contest = Contest::begin(&cloud, &mut report).await?;
            if takes("objects") {
                objects::small(&cloud, &mut contest, &effort, &mut report).await?;
            }
            if takes("large-objects") {
                objects::large(&cloud, &mut contest, &effort, &mut report).await?;
            }
        }
        if takes("many-objects") {
            many_objects::growing(&cloud, &effort, &mut report).await?;
        }
    }
    if takes("simulated") {
        let cloud = Cloud::new(&terroir, "simulated")?;
        instances::many_simulated(&cloud, &effort, &mut report).await?;
    }

    report.save(&PathBuf::from("target/bench/results.json"))?;
    Ok(())
}
