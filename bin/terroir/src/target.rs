//! `terroir objects target` and `terroir objects engine`.

use std::io::Read;
use std::path::Path;
use terroir_object_storage::target::{Destination, ForeignBucket, S3Destination};
use terroir_types::Secret;

use crate::admin_api::{EngineChoice, EngineStatus, NewTargetRequest, TargetRequest, TargetSummary};
use crate::admin_client::AdminClient;
use crate::cli::{EngineArgs, TargetArgs, TargetCommand};
use crate::layout::Layout;

pub async fn run(layout: &Layout, command: TargetCommand) -> Result<(), String> {
    let client = AdminClient::new(&layout.admin_socket());
    match command {
        TargetCommand::Add(args) => {
            let request = request(*args)?;
            let name = request.name.clone();
            client.post::<()>("/objects/targets", &request).await.map_err(|error| error.to_string())?;
            let targets: Vec<TargetSummary> =
                client.get("/objects/targets").await.map_err(|error| error.to_string())?;
            for arn in targets.iter().filter(|target| target.name == name).flat_map(|target| &target.arns) {
                println!("{arn}");
            }
            Ok(())
        }
        TargetCommand::List { json } => {
            let targets: Vec<TargetSummary> =
                client.get("/objects/targets").await.map_err(|error| error.to_string())?;
            if json {
                println!("{}", serde_json::to_string_pretty(&targets).map_err(|error| error.to_string())?);
            } else {
                targets.iter().for_each(print);
            }
            Ok(())
        }
        TargetCommand::Remove { name, force } => {
            let request = TargetRequest { name, force };
            let dropped: u64 =
                client.post("/objects/targets/remove", &request).await.map_err(|error| error.to_string())?;
            if dropped > 0 {
                println!("{dropped} messages were dropped");
            }
            Ok(())
        }
        TargetCommand::Test { name } => {
            let request = TargetRequest { name, force: false };
            let done: String =
                client.post("/objects/targets/test", &request).await.map_err(|error| error.to_string())?;
            println!("{}: {done}", request.name);
            Ok(())
        }
    }
}

pub async fn engine(layout: &Layout, args: EngineArgs) -> Result<(), String> {
    let client = AdminClient::new(&layout.admin_socket());
    let status: EngineStatus = if args.target.is_some() || args.local {
        let choice = EngineChoice { target: args.target, site: args.site };
        client.post("/objects/engine", &choice).await.map_err(|error| error.to_string())?
    } else {
        client.get("/objects/engine").await.map_err(|error| error.to_string())?
    };
    match status.current {
        EngineChoice { target: Some(name), site } => {
            println!("the bytes of new objects above 32 KiB go to the target {name}");
            match site {
                Some(site) => println!("it is at the site {site}"),
                None => println!("nobody has stated where it is: accounts with a sovereignty policy cannot write"),
            }
        }
        EngineChoice { target: None, .. } => println!("the bytes of new objects go to this machine's disk"),
    }
    for place in status.places {
        let bytes = place.bytes.map_or(String::new(), |bytes| format!(", {bytes} bytes"));
        let at = place.target.map_or("here".to_owned(), |name| format!("at {name}"));
        println!("{at}: {} contents{bytes}", place.contents);
    }
    Ok(())
}

fn request(args: TargetArgs) -> Result<NewTargetRequest, String> {
    let secret = args.secret_file.as_deref().map(read_secret).transpose()?;
    let place = match (args.webhook, args.s3, args.bucket, args.bucket_prefix) {
        (Some(url), None, None, None) => Destination::Webhook { url, secret },
        (None, Some(endpoint), bucket, prefix) => Destination::S3(S3Destination {
            endpoint,
            region: args.s3_region,
            access_key_id: args.access_key_id.ok_or("give --access-key-id")?,
            secret_access_key: secret.ok_or("give --secret-file")?,
            bucket: match (bucket, prefix) {
                (Some(bucket), None) => ForeignBucket::One(bucket),
                (None, Some(prefix)) => ForeignBucket::Prefix(prefix),
                _ => return Err("give --bucket or --bucket-prefix".to_owned()),
            },
        }),
        _ => return Err("give --webhook or --s3".to_owned()),
    };
    Ok(NewTargetRequest { name: args.name, accounts: args.accounts, max_queued: args.max_queued, place })
}

/// Without the line end that editors add.
fn read_secret(path: &Path) -> Result<Secret<String>, String> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)).map(drop)
    };
    read.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

fn print(target: &TargetSummary) {
    println!("{}  {}  {}", target.name, target.kind, target.address);
    for arn in &target.arns {
        println!("  {arn}");
    }
    let whose = target.accounts.as_ref().map_or("every account".to_owned(), |accounts| accounts.join(", "));
    println!("  for {whose}");
    let oldest = target.oldest.as_ref().map_or(String::new(), |oldest| format!(", the oldest of {oldest}"));
    println!("  {} of {} messages wait{oldest}; {} were dropped", target.queued, target.max_queued, target.dropped);
    if let Some(trouble) = &target.trouble {
        println!("  it does not take them: {trouble}");
    }
}
