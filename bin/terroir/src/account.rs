//! `terroir account` and `terroir env`.

use crate::admin_api::{AccountSummary, Environment, NewAccountAnswer, NewAccountRequest};
use crate::admin_client::AdminClient;
use crate::cli::AccountCommand;
use crate::layout::Layout;

pub async fn run(layout: &Layout, command: AccountCommand) -> Result<(), String> {
    let client = AdminClient::new(&layout.admin_socket());
    match command {
        AccountCommand::Add { name, json } => {
            let request = NewAccountRequest { name };
            let account: NewAccountAnswer =
                client.post("/accounts", &request).await.map_err(|error| error.to_string())?;
            if json {
                println!("{}", serde_json::to_string_pretty(&account).map_err(|error| error.to_string())?);
            } else {
                println!("account_id         {}", account.account_id);
                println!("access_key_id      {}", account.access_key_id);
                println!("secret_access_key  {}", account.secret_access_key);
                println!("\nThe secret is shown only now: keep it.");
            }
        }
        AccountCommand::Policy(command) => crate::sovereignty::policy(layout, command).await?,
        AccountCommand::List { json } => {
            let accounts: Vec<AccountSummary> = client.get("/accounts").await.map_err(|error| error.to_string())?;
            if json {
                println!("{}", serde_json::to_string_pretty(&accounts).map_err(|error| error.to_string())?);
            } else {
                for account in accounts {
                    println!("{}  {}  {}", account.account_id, account.created_at, account.name);
                }
            }
        }
    }
    Ok(())
}

/// Prints lines for `eval "$(terroir env)"`.
pub async fn env(layout: &Layout) -> Result<(), String> {
    let environment = read_environment(layout).await?;
    println!("export AWS_ENDPOINT_URL={}", environment.endpoint);
    println!("export AWS_ACCESS_KEY_ID={}", environment.access_key_id);
    println!("export AWS_SECRET_ACCESS_KEY={}", environment.secret_access_key);
    println!("export AWS_DEFAULT_REGION={}", environment.region);
    if let Some(authorities) = &environment.authorities {
        println!("export AWS_CA_BUNDLE={authorities}");
    }
    Ok(())
}

pub async fn read_environment(layout: &Layout) -> Result<Environment, String> {
    let client = AdminClient::new(&layout.admin_socket());
    client.get("/environment").await.map_err(|error| error.to_string())
}
