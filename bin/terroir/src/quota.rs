//! `terroir objects quota`.

use crate::admin_api::{ObjectUsage, QuotaRequest};
use crate::admin_client::AdminClient;
use crate::cli::QuotaCommand;
use crate::layout::Layout;

pub async fn run(layout: &Layout, command: QuotaCommand) -> Result<(), String> {
    let client = AdminClient::new(&layout.admin_socket());
    let usage: Vec<ObjectUsage> = match command {
        QuotaCommand::Set { account, bucket, max_bytes, max_objects } => {
            let request = QuotaRequest { account_id: account, bucket, max_bytes, max_objects };
            client.post("/objects/quotas", &request).await.map_err(|error| error.to_string())?
        }
        QuotaCommand::Show { account, json } => {
            let path = format!("/objects/quotas/{account}");
            let usage: Vec<ObjectUsage> = client.get(&path).await.map_err(|error| error.to_string())?;
            if json {
                println!("{}", serde_json::to_string_pretty(&usage).map_err(|error| error.to_string())?);
                return Ok(());
            }
            usage
        }
    };
    let limit = |limit: Option<u64>| limit.map_or("no limit".to_owned(), |limit| limit.to_string());
    for row in usage {
        let what = row.bucket.unwrap_or_else(|| format!("account {}", row.account_id));
        println!(
            "{what}  {} of {} bytes  {} of {} objects",
            row.bytes,
            limit(row.max_bytes),
            row.objects,
            limit(row.max_objects)
        );
    }
    Ok(())
}
