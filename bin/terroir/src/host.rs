//! `terroir host token`, `drain` and `declare-lost`.

use terroir_types::HostId;

use crate::admin_api::{HostLeft, HostModeRequest, NewTokenAnswer, NewTokenRequest};
use crate::admin_client::AdminClient;
use crate::cli_sovereignty::TokenArgs;
use crate::sovereignty::{print_json, say};

pub async fn token(client: &AdminClient, args: TokenArgs) -> Result<(), String> {
    let host = args.host.map(|host| host.parse::<HostId>()).transpose().map_err(|error| error.to_string())?;
    let request = NewTokenRequest {
        site: args.site,
        fire_zone: args.fire_zone,
        host,
        ttl_secs: args.ttl.as_secs(),
        servers: args.servers,
    };
    let answer: NewTokenAnswer = client.post("/hosts/token", &request).await.map_err(say)?;
    if args.json {
        return print_json(&answer);
    }
    println!("{}", answer.token);
    eprintln!(
        "\nIt counts once, until {}, for a machine at {} that reaches {}. There:\n  terroir host join TOKEN --detach",
        answer.expires_at,
        answer.site,
        answer.servers.join(" or ")
    );
    Ok(())
}

pub async fn drain(client: &AdminClient, host: HostId, json: bool) -> Result<(), String> {
    client.post::<()>("/hosts/mode", &HostModeRequest { id: host, cordoned: true }).await.map_err(say)?;
    let left: HostLeft = client.get(&format!("/hosts/left/{host}")).await.map_err(say)?;
    if json {
        print_json(&left)?;
    }
    if left.instances.is_empty() && left.volumes.is_empty() {
        if !json {
            println!("{host} takes nothing new and has nothing: `terroir host remove {host}` forgets it");
        }
        return Ok(());
    }
    if !json {
        for instance in &left.instances {
            println!("{}  {}  {}", instance.account_id, instance.instance_id, instance.state);
        }
        for volume in &left.volumes {
            println!("{}  {}", volume.account_id, volume.volume_id);
        }
    }
    Err(format!(
        "{host} takes nothing new, but {} instances and {} volumes are on its own disks. They cannot be moved, stopped \
         ones neither: their owners have to copy what they need and delete them",
        left.instances.len(),
        left.volumes.len()
    ))
}

pub async fn declare_lost(client: &AdminClient, host: HostId, yes: bool) -> Result<(), String> {
    let left: HostLeft = client.get(&format!("/hosts/left/{host}")).await.map_err(say)?;
    let what = format!("{} instances and {} volumes", left.instances.len(), left.volumes.len());
    if !yes {
        return Err(format!(
            "this is for a host that never comes back: {what} that are on it are given up, and it is refused for good. \
             Make sure that it is off, then repeat it with --yes"
        ));
    }
    client.post::<()>("/hosts/declare-lost", &host).await.map_err(say)?;
    println!("{host} is lost, and with it {what}; instances are stopped, and their owners may terminate them");
    Ok(())
}
