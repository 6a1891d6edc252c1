//! `terroir receipt`, `verify` and `witness`.

use std::path::Path;
use terroir_sovereignty::receipt::{Event, Receipt, Report, Trust};
use terroir_tlog::{Checkpoint, Note, VerifierKey};

use crate::admin_api::{ReceiptRequest, WitnessRequest, WitnessSignature, WitnessText};
use crate::admin_client::AdminClient;
use crate::cli::{ReceiptArgs, VerifyArgs, WitnessCommand};
use crate::layout::Layout;
use crate::sovereignty::read;

/// The checkpoint of a receipt; its signatures are checked by whoever uses it.
fn checkpoint_of(path: &Path) -> Result<Note, String> {
    let receipt: Receipt =
        serde_json::from_str(&read(path)?).map_err(|error| format!("{} is no receipt: {error}", path.display()))?;
    Note::parse(&receipt.checkpoint).map_err(|error| format!("{}: {error}", path.display()))
}

pub async fn receipt(layout: &Layout, args: ReceiptArgs) -> Result<(), String> {
    let since = match &args.since {
        Some(path) => {
            let note = checkpoint_of(path)?;
            Some(Checkpoint::parse(note.text()).map_err(|error| error.to_string())?.size)
        }
        None => None,
    };
    let client = AdminClient::new(&layout.admin_socket());
    let request = ReceiptRequest { account_id: args.account, resource: args.resource, since };
    let receipt: Receipt = client.post("/receipts", &request).await.map_err(|error| error.to_string())?;
    let text = serde_json::to_string_pretty(&receipt).map_err(|error| error.to_string())? + "\n";
    match args.output {
        Some(path) => std::fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display())),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

pub fn verify(args: &VerifyArgs) -> Result<(), String> {
    let mut trust = Trust { quorum: args.quorum, ..Trust::default() };
    for line in read(&args.keys)?.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        trust.operators.push(line.parse::<VerifierKey>().map_err(|error| error.to_string())?);
    }
    trust.known = args.known.as_deref().map(checkpoint_of).transpose()?;
    let report = terroir_sovereignty::receipt::verify(&read(&args.file)?, &trust)
        .map_err(|fault| format!("{} is not to be trusted: {fault}", args.file.display()))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?);
    } else {
        print(&report);
    }
    Ok(())
}

fn print(report: &Report) {
    println!("{} ({}) of account {}", report.resource, report.kind, report.account);
    for stay in &report.residences {
        let (operator, site) = (&stay.operator, &stay.site);
        let until = match stay.until {
            None => "to the checkpoint, at least".to_owned(),
            Some((at, Event::Lost)) => format!("to {}: lost with its host, nobody saw it go", at.to_rfc3339()),
            Some((at, Event::Erased)) => format!("to {}: erased", at.to_rfc3339()),
            Some((at, Event::Moved | Event::Placed)) => format!("to {}: moved", at.to_rfc3339()),
        };
        let said = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("not stated").to_owned();
        println!("  from {} {until}", stay.from.to_rfc3339());
        println!("    site           {}, {} {}", site.id, said(site.country.as_deref()), site.city);
        println!("    operator       {} ({})", operator.id, operator.name);
        println!("    seat, parent   {}, {}", said(operator.seat.as_deref()), said(operator.parent_country.as_deref()));
        let jurisdictions =
            operator.jurisdictions.as_ref().map(|set| set.iter().cloned().collect::<Vec<_>>().join(" "));
        println!(
            "    jurisdictions  {}",
            jurisdictions.as_deref().map_or("not stated", |text| if text.is_empty() { "no others" } else { text })
        );
        if let Some(host) = stay.place.host {
            println!("    host           {host}");
        }
        println!("    assurance      {}", stay.assurance.words());
    }
    println!("stated by the log {} at {} entries", report.origin, report.size);
    println!("signed by {}", report.signed_by.join(", "));
}

pub async fn witness(layout: &Layout, command: WitnessCommand) -> Result<(), String> {
    let client = AdminClient::new(&layout.admin_socket());
    match command {
        WitnessCommand::Request { operator } => {
            let answer: WitnessText = client
                .post("/witness/request", &WitnessRequest { operator })
                .await
                .map_err(|error| error.to_string())?;
            print!("{}", answer.text);
            Ok(())
        }
        WitnessCommand::Cosign { request } => {
            let text = read(&request)?;
            let answer: WitnessText =
                client.post("/witness/cosign", &WitnessText { text }).await.map_err(|error| error.to_string())?;
            print!("{}", answer.text);
            Ok(())
        }
        WitnessCommand::Accept { operator, signature } => {
            let request = WitnessSignature { operator, signature: read(&signature)? };
            client.post("/witness/accept", &request).await.map_err(|error| error.to_string())
        }
    }
}
