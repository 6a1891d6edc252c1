//! How soon a cloud is ready, and what it takes while nobody asks anything of it.

use std::time::Duration;

use crate::Effort;
use crate::client::quantile;
use crate::cloud::Cloud;
use crate::report::{Aim, Report};

/// Idle memory is read when this has passed since the start.
const SETTLING: Duration = Duration::from_secs(5);
const MIB: f64 = 1024.0 * 1024.0;

/// Leaves the cloud running.
pub async fn starts_and_memory(cloud: &Cloud, effort: &Effort, report: &mut Report) -> Result<(), String> {
    let first = cloud.up()?;
    report.figure("first start to ready, new data folder", first.as_secs_f64(), "s", Aim::None, "terroir up --detach");
    let mut starts = Vec::new();
    for _ in 0..effort.rounds {
        cloud.down()?;
        starts.push(cloud.up()?);
    }
    starts.sort();
    let note = format!("median of {}, longest {:.2} s", starts.len(), quantile(&starts, 1.0).as_secs_f64());
    report.figure("process start to ready", quantile(&starts, 0.5).as_secs_f64(), "s", Aim::AtMost(1.0), &note);

    tokio::time::sleep(SETTLING).await;
    let sizes = cloud.memory()?;
    let parts = |of: fn(&(String, u64, u64)) -> u64| {
        let each: Vec<String> = sizes.iter().map(|size| format!("{} {:.1}", size.0, of(size) as f64 / MIB)).collect();
        (sizes.iter().map(of).sum::<u64>() as f64 / MIB, each.join(", "))
    };
    let (rss, note) = parts(|size| size.1);
    report.figure("idle memory, RSS of the three processes", rss, "MiB", Aim::AtMost(80.0), &note);
    let (pss, note) = parts(|size| size.2);
    report.figure("idle memory, PSS of the three processes", pss, "MiB", Aim::AtMost(80.0), &note);
    Ok(())
}
