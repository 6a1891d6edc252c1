//! `terroir operator`, `site`, `host` and `account policy`.

use std::io::Read;
use std::path::Path;
use terroir_types::HostId;

use crate::admin_api::{
    HostFireZone, HostModeRequest, HostRow, OperatorChange, OperatorRow, PoliciesAnswer, PolicyRequest, SiteChange,
    SiteRow, StatementRequest,
};
use crate::admin_client::{AdminClient, AdminError};
use crate::cli::{HostCommand, OperatorCommand, PolicyCommand, SiteCommand};
use crate::cli_sovereignty::{OperatorAttributes, SiteAttributes};
use crate::layout::Layout;

#[allow(clippy::needless_pass_by_value, reason = "it is called as map_err(say)")]
pub fn say(error: AdminError) -> String {
    error.to_string()
}

/// A file, or with `-` standard input.
pub fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(path).map(|read| text = read)
    };
    read.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(text)
}

pub fn print_json(rows: &impl serde::Serialize) -> Result<(), String> {
    println!("{}", serde_json::to_string_pretty(rows).map_err(|error| error.to_string())?);
    Ok(())
}

/// Values of an option that may be given several times: none given changes nothing, `none` empties.
fn several(values: Vec<String>) -> Option<Vec<String>> {
    match values.as_slice() {
        [] => None,
        [one] if one == "none" => Some(Vec::new()),
        _ => Some(values),
    }
}

fn or_unstated(text: Option<&str>) -> &str {
    text.filter(|text| !text.is_empty()).unwrap_or("not stated")
}

pub async fn operator(layout: &Layout, command: OperatorCommand) -> Result<(), String> {
    let client = AdminClient::new(&layout.admin_socket());
    let list = async || client.get::<Vec<OperatorRow>>("/operators").await.map_err(say);
    match command {
        OperatorCommand::Add { statement } => {
            let request = StatementRequest { statement: read(&statement)? };
            let added: OperatorRow = client.post("/operators", &request).await.map_err(say)?;
            println!("{}  {}", added.operator.id, added.key);
        }
        OperatorCommand::Set(attributes) => {
            let OperatorAttributes { name, seat, parent, parent_country, jurisdictions, certifications } = attributes;
            let (jurisdictions, certifications) = (several(jurisdictions), several(certifications));
            let change = OperatorChange { name, seat, parent, parent_country, jurisdictions, certifications };
            print_operator(&client.post("/operators/own", &change).await.map_err(say)?);
        }
        OperatorCommand::List { json: true } => print_json(&list().await?)?,
        OperatorCommand::List { json: false } => list().await?.iter().for_each(print_operator),
        OperatorCommand::Keys => list().await?.iter().for_each(|row| println!("{}", row.key)),
        OperatorCommand::Export { id } => {
            let rows = list().await?;
            let found = rows.iter().find(|row| id.as_ref().map_or(row.own, |id| *id == row.operator.id));
            print!("{}", found.ok_or("there is no such operator")?.signed);
        }
    }
    Ok(())
}

fn print_operator(row: &OperatorRow) {
    let operator = &row.operator;
    let list = |set: Option<&std::collections::BTreeSet<String>>| match set {
        None => "not stated".to_owned(),
        Some(set) if set.is_empty() => "none".to_owned(),
        Some(set) => set.iter().cloned().collect::<Vec<_>>().join(" "),
    };
    println!("{}{}", operator.id, if row.own { "  (this cloud's own)" } else { "" });
    println!("  name            {}", or_unstated(Some(&operator.name)));
    println!("  seat            {}", or_unstated(operator.seat.as_deref()));
    println!("  parent          {}", or_unstated(Some(&operator.parent)));
    println!("  parent country  {}", or_unstated(operator.parent_country.as_deref()));
    println!("  jurisdictions   {}", list(operator.jurisdictions.as_ref()));
    println!("  certifications  {}", list(Some(&operator.certifications)));
    println!("  key             {}", row.key);
}

pub async fn site(layout: &Layout, command: SiteCommand) -> Result<(), String> {
    let client = AdminClient::new(&layout.admin_socket());
    let list = async || client.get::<Vec<SiteRow>>("/sites").await.map_err(say);
    let change = async |id: String, is_new: bool, attributes: SiteAttributes| {
        let SiteAttributes { country, city, fire_zones, grid_zone, pue } = attributes;
        let fire_zones = several(fire_zones);
        let change = SiteChange { id, is_new, country, city, fire_zones, grid_zone, pue_milli: pue };
        client.post::<SiteRow>("/sites/own", &change).await.map_err(say)
    };
    match command {
        SiteCommand::Add { statement: Some(path), .. } => {
            let request = StatementRequest { statement: read(&path)? };
            print_site(&client.post("/sites", &request).await.map_err(say)?);
        }
        SiteCommand::Add { id, statement: None, attributes } => {
            print_site(&change(id.unwrap_or_default(), true, attributes).await?);
        }
        SiteCommand::Set { id, attributes } => print_site(&change(id, false, attributes).await?),
        SiteCommand::List { json: true } => print_json(&list().await?)?,
        SiteCommand::List { json: false } => list().await?.iter().for_each(print_site),
        SiteCommand::Export { id } => {
            let rows = list().await?;
            print!("{}", rows.iter().find(|row| row.site.id == id).ok_or("there is no such site")?.signed);
        }
    }
    Ok(())
}

fn print_site(row: &SiteRow) {
    let site = &row.site;
    let zones = site.fire_zones.iter().cloned().collect::<Vec<_>>().join(" ");
    println!("{}  ({})", site.id, row.zone_id);
    println!("  operator    {}", site.operator);
    println!("  country     {}", or_unstated(site.country.as_deref()));
    println!("  city        {}", or_unstated(Some(&site.city)));
    println!("  fire zones  {}", or_unstated(Some(&zones)));
    println!("  grid zone   {}", or_unstated(Some(&site.grid_zone)));
    let pue = site.pue_milli.map(|pue| format!("{}.{:03}", pue / 1000, pue % 1000));
    println!("  PUE         {}", or_unstated(pue.as_deref()));
}

pub async fn host(layout: &Layout, command: HostCommand) -> Result<(), String> {
    let client = AdminClient::new(&layout.admin_socket());
    let id = |text: String| text.parse::<HostId>().map_err(|error| error.to_string());
    match command {
        HostCommand::List { json } => {
            let rows: Vec<HostRow> = client.get("/hosts").await.map_err(say)?;
            if json {
                return print_json(&rows);
            }
            for row in rows {
                let zone = row.fire_zone.map(|zone| format!("  fire zone {zone}")).unwrap_or_default();
                println!("{}  {}  {}  {}{zone}", row.id, row.site, row.mode, row.name);
            }
            Ok(())
        }
        HostCommand::Cordon { id: host } => {
            client.post("/hosts/mode", &HostModeRequest { id: id(host)?, cordoned: true }).await.map_err(say)
        }
        HostCommand::Uncordon { id: host } => {
            client.post("/hosts/mode", &HostModeRequest { id: id(host)?, cordoned: false }).await.map_err(say)
        }
        HostCommand::Set { id: host, fire_zone } => {
            client.post("/hosts/fire-zone", &HostFireZone { id: id(host)?, fire_zone }).await.map_err(say)
        }
        HostCommand::Remove { id: host } => client.post("/hosts/remove", &id(host)?).await.map_err(say),
        HostCommand::Readmit { id: host } => client.post("/hosts/readmit", &id(host)?).await.map_err(say),
        HostCommand::Token(args) => crate::host::token(&client, args).await,
        HostCommand::Join(args) => crate::join::join(layout, &args).await,
        HostCommand::Drain { id: host, json } => crate::host::drain(&client, id(host)?, json).await,
        HostCommand::DeclareLost { id: host, yes } => crate::host::declare_lost(&client, id(host)?, yes).await,
    }
}

pub async fn policy(layout: &Layout, command: PolicyCommand) -> Result<(), String> {
    let client = AdminClient::new(&layout.admin_socket());
    let answer: PoliciesAnswer = match command {
        PolicyCommand::Set { account, name, document } => {
            let request = PolicyRequest { account_id: account, name, document: Some(read(&document)?) };
            client.post("/policies", &request).await.map_err(say)?
        }
        PolicyCommand::Remove { account, name } => {
            let request = PolicyRequest { account_id: account, name: Some(name), document: None };
            client.post("/policies", &request).await.map_err(say)?
        }
        PolicyCommand::Show { account } => client.get(&format!("/policies/{account}")).await.map_err(say)?,
    };
    print_json(&answer)
}
