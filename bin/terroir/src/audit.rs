//! `terroir audit verify`: the audit log is read where it lies, and compared with the head that the state keeps, which the
//! server is asked for while it runs.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use terroir_audit::{AuditLog, Counts, Queue};
use terroir_store::chain::{ChainHead, Verification};
use terroir_types::Clock;

use crate::admin_client::{AdminClient, AdminError};
use crate::admin_server::{Admin, Answer};
use crate::cli::AuditCommand;
use crate::layout::{Layout, SERVER_UID, describe};
use crate::settings::Settings;
use crate::state::{self, Claim};
use crate::{Threads, privileges, runtime};

/// What the state calls the log of this data folder.
pub const NAME: &str = "local";

/// How the log stands.
#[derive(Debug, Serialize, Deserialize)]
pub struct Standing {
    pub head: ChainHead,
    pub waiting: u64,
    pub dropped: u64,
    pub failed: u64,
}

pub fn open(layout: &Layout, queue: Queue, clock: Arc<dyn Clock>) -> Result<AuditLog, String> {
    let folder = layout.audit();
    AuditLog::open(&folder, NAME, queue, clock).map_err(|error| describe(&error, "cannot open", &folder).to_string())
}

/// A sentence for the operator, if not every call was recorded.
pub fn trouble(counts: Counts) -> Option<String> {
    let Counts { dropped, failed, .. } = counts;
    (dropped > 0 || failed > 0).then(|| {
        format!("the audit log could not be written {failed} times since the start, and lacks {dropped} records")
    })
}

/// The answer of the admin socket.
pub async fn standing(State(admin): State<Arc<Admin>>) -> Answer<Standing> {
    let head = terroir_audit::head_of(&admin.cloud.store.read().await?, NAME)?;
    let Counts { waiting, dropped, failed, .. } = admin.cloud.audit.counts();
    Ok(Json(Standing { head, waiting, dropped, failed }))
}

pub fn main(layout: &Layout, command: &AuditCommand) -> Result<(), String> {
    let AuditCommand::Verify { json } = command;
    if !layout.metadata_key().exists() {
        return Err(format!("there is no cloud in {} that this user may read", layout.root().display()));
    }
    let client = AdminClient::new(&layout.admin_socket());
    let head = match runtime(Threads::One)?.block_on(client.get::<Standing>("/audit")) {
        Ok(standing) => standing.head,
        Err(AdminError::Refused(message)) => return Err(message),
        Err(AdminError::NotRunning(_)) => {
            // What is made in the folder is to be the server's.
            privileges::become_user(SERVER_UID)?;
            runtime(Threads::Many)?.block_on(kept_head(layout))?
        }
    };
    let folder = layout.audit();
    let found = terroir_audit::verify(&folder, &head);
    let found = found.map_err(|error| describe(&error, "cannot read", &folder).to_string())?;
    if *json {
        println!("{}", serde_json::to_string_pretty(&found).map_err(|error| error.to_string())?);
    } else {
        print(layout, &head, &found);
    }
    match found.fault_count {
        0 => Ok(()),
        faults => Err(format!("the audit log is not whole: {faults} faults")),
    }
}

async fn kept_head(layout: &Layout) -> Result<ChainHead, String> {
    let _claim = Claim::take(layout)?;
    let store = state::open(layout, &Settings::read(layout)?).await?;
    let txn = store.read().await.map_err(|error| error.to_string())?;
    let head = terroir_audit::head_of(&txn, NAME).map_err(|error| error.to_string());
    store.close().await;
    head
}

fn print(layout: &Layout, head: &ChainHead, found: &Verification) {
    let Verification { segments, lines, faults, fault_count } = found;
    for fault in faults {
        println!("{fault}");
    }
    let more = fault_count.saturating_sub(faults.len() as u64);
    if more > 0 {
        println!("... and {more} more");
    }
    let acknowledged = head.number;
    if *fault_count == 0 {
        println!(
            "{}: {lines} records in {segments} files, each chained to the one before; {acknowledged} were acknowledged",
            layout.audit().display()
        );
    }
}
