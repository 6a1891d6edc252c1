//! `terroir issuer`: the public keys of issuers of identity tokens, for AssumeRoleWithWebIdentity. They are given by
//! the operator, because the control plane fetches nothing from addresses that tenants name.

use crate::admin_api::{IssuerKeysRequest, IssuerSummary, RemoveIssuerRequest};
use crate::admin_client::AdminClient;
use crate::cli::IssuerCommand;
use crate::layout::Layout;

pub async fn run(layout: &Layout, command: IssuerCommand) -> Result<(), String> {
    let client = AdminClient::new(&layout.admin_socket());
    match command {
        IssuerCommand::Set { url, jwks } => {
            let jwks =
                std::fs::read_to_string(&jwks).map_err(|error| format!("cannot read {}: {error}", jwks.display()))?;
            let request = IssuerKeysRequest { url, jwks };
            client.post::<()>("/issuers", &request).await.map_err(|error| error.to_string())
        }
        IssuerCommand::Remove { url } => {
            client.post::<()>("/issuers/remove", &RemoveIssuerRequest { url }).await.map_err(|error| error.to_string())
        }
        IssuerCommand::List { json } => {
            let issuers: Vec<IssuerSummary> = client.get("/issuers").await.map_err(|error| error.to_string())?;
            if json {
                println!("{}", serde_json::to_string_pretty(&issuers).map_err(|error| error.to_string())?);
            } else {
                for issuer in issuers {
                    println!("{}  {}", issuer.updated_at, issuer.url);
                }
            }
            Ok(())
        }
    }
}
