//! What there is to read, as files by path. Listings are made from the files, so whatever is listed is served
//! (cloud-init crawls all of it and waits where a name leads nowhere).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use terroir_agent_api::{Guest, GuestInterface, GuestSnapshot};
use terroir_types::Timestamp;

use crate::snapshot::Seen;

/// The names of the interface's history that EC2 lists; each serves the same tree here.
pub const VERSIONS: [&str; 26] = [
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "2011-01-01",
    "2011-05-01",
    "2012-01-12",
    "2014-02-25",
    "2014-11-05",
    "2015-10-20",
    "2016-04-19",
    "2016-06-30",
    "2016-09-02",
    "2018-03-28",
    "2018-08-17",
    "2018-09-24",
    "2019-10-01",
    "2020-10-27",
    "2021-01-03",
    "2021-03-23",
    "latest",
];

#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    pub bytes: Vec<u8>,
    pub kind: &'static str,
}

fn text(bytes: impl Into<Vec<u8>>) -> Content {
    Content { bytes: bytes.into(), kind: "text/plain" }
}

/// The file or listing at `path` (decoded, without query); `None` if there is none.
pub fn find(path: &str, snapshot: &GuestSnapshot, seen: Seen<'_>, cidrs: &[ipnet::IpNet]) -> Option<Content> {
    // EC2 takes doubled slashes for one, and a listing with or without its last one.
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let Some(version) = parts.next() else { return Some(text(VERSIONS.join("\n"))) };
    if !VERSIONS.contains(&version) {
        return None;
    }
    let parts: Vec<&str> = parts.collect();
    if parts == ["user-data"] {
        return user_data(seen.guest).map(|bytes| Content { bytes, kind: "application/octet-stream" });
    }
    let files = files(snapshot, seen, cidrs);
    let wanted = parts.join("/");
    if !path.ends_with('/')
        && let Some(content) = files.get(&wanted)
    {
        let kind = if wanted.starts_with("dynamic/") { "application/json" } else { "text/plain" };
        return Some(Content { bytes: content.clone().into_bytes(), kind });
    }
    listing(&files, &wanted, seen.guest).map(text)
}

pub fn user_data(guest: &Guest) -> Option<Vec<u8>> {
    guest.user_data.as_ref().and_then(|encoded| STANDARD.decode(encoded).ok())
}

/// Names under `folder`, folders with a slash.
fn listing(files: &BTreeMap<String, String>, folder: &str, guest: &Guest) -> Option<String> {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut names: BTreeSet<String> = files
        .keys()
        .filter_map(|path| path.strip_prefix(&prefix))
        .map(|rest| rest.split_once('/').map_or(rest.to_owned(), |(name, _)| format!("{name}/")))
        .collect();
    if folder.is_empty() {
        names = names.iter().map(|name| name.trim_end_matches('/').to_owned()).collect();
        names.extend(user_data(guest).map(|_| "user-data".to_owned()));
    }
    // Keys are listed by number and name, the name after an equals sign that is no part of the path.
    if folder == "meta-data/public-keys"
        && let Some(key) = &guest.metadata.key_pair
    {
        return Some(format!("0={}", key.name));
    }
    (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>().join("\n"))
}

fn files(snapshot: &GuestSnapshot, seen: Seen<'_>, cidrs: &[ipnet::IpNet]) -> BTreeMap<String, String> {
    let Seen { guest, .. } = seen;
    let metadata = &guest.metadata;
    let primary = guest.interfaces.first().unwrap_or(seen.interface);
    let mut files = BTreeMap::new();
    let mut put = |path: &str, value: String| drop(files.insert(format!("meta-data/{path}"), value));
    put("ami-id", metadata.image.to_string());
    put("ami-launch-index", metadata.launch_index.to_string());
    put("ami-manifest-path", "(unknown)".to_owned());
    put("events/maintenance/history", "[]".to_owned());
    put("events/maintenance/scheduled", "[]".to_owned());
    put("hostname", metadata.hostname.clone());
    put("instance-action", "none".to_owned());
    put("instance-id", guest.instance.to_string());
    put("instance-life-cycle", "on-demand".to_owned());
    put("instance-type", guest.instance_type.clone());
    put("local-hostname", metadata.hostname.clone());
    put("local-ipv4", lines(v4(primary)));
    put("mac", primary.mac.clone());
    put("placement/availability-zone", snapshot.zone.clone());
    put("placement/region", snapshot.region.clone());
    put("profile", "default-hvm".to_owned());
    put("reservation-id", metadata.reservation.to_string());
    put("security-groups", metadata.security_group_names.join("\n"));
    put("services/domain", "amazonaws.com".to_owned());
    put("services/partition", "aws".to_owned());
    if let Some(public) = primary.public_address {
        put("public-ipv4", public.to_string());
        put("public-hostname", metadata.public_hostname.clone().unwrap_or_default());
    }
    if let Some(key) = &metadata.key_pair {
        put("public-keys/0/openssh-key", key.openssh.clone());
    }
    if metadata.options.tags_enabled {
        for (key, value) in metadata.tags.iter().filter(|(key, _)| servable(key)) {
            put(&format!("tags/instance/{key}"), value.clone());
        }
    }
    for interface in &guest.interfaces {
        let folder = format!("network/interfaces/macs/{}", interface.mac);
        network_files(guest, interface, cidrs, |name, value| put(&format!("{folder}/{name}"), value));
    }
    identity_files(guest, &mut put);
    files.insert("dynamic/instance-identity/document".to_owned(), document(snapshot, guest, primary));
    files
}

/// EC2 shows tags here only if their keys can stand in a path.
fn servable(key: &str) -> bool {
    !key.is_empty() && key != "." && key != ".." && !key.contains(['/', ' ', '\n'])
}

fn v4(interface: &GuestInterface) -> impl Iterator<Item = &IpAddr> {
    interface.addresses.iter().filter(|address| address.is_ipv4())
}

fn lines(values: impl Iterator<Item = impl ToString>) -> String {
    values.map(|value| value.to_string()).collect::<Vec<_>>().join("\n")
}

fn network_files(guest: &Guest, interface: &GuestInterface, cidrs: &[ipnet::IpNet], mut put: impl FnMut(&str, String)) {
    put("device-number", interface.device_index.to_string());
    put("interface-id", interface.id.to_string());
    put("local-hostname", guest.metadata.hostname.clone());
    put("local-ipv4s", lines(v4(interface)));
    put("mac", interface.mac.clone());
    put("owner-id", guest.account.to_string());
    put("security-group-ids", interface.security_group_ids.join("\n"));
    put("security-groups", guest.metadata.security_group_names.join("\n"));
    put("subnet-id", interface.subnet.to_string());
    put("subnet-ipv4-cidr-block", interface.subnet_cidr.to_string());
    put("vpc-id", interface.vpc.to_string());
    put("vpc-ipv4-cidr-block", cidrs.first().map(ToString::to_string).unwrap_or_default());
    put("vpc-ipv4-cidr-blocks", lines(cidrs.iter()));
    if let Some(public) = interface.public_address {
        put("public-ipv4s", public.to_string());
        put("public-hostname", guest.metadata.public_hostname.clone().unwrap_or_default());
        put(&format!("ipv4-associations/{public}"), lines(v4(interface).take(1)));
    }
}

/// Role and credentials, as SDKs expect them. Credentials that have ended are still shown: the SDK says so itself.
fn identity_files(guest: &Guest, put: &mut impl FnMut(&str, String)) {
    let Some(credentials) = &guest.credentials else { return };
    if let Some(profile) = &guest.metadata.instance_profile {
        let info = serde_json::json!({
            "Code": "Success",
            "LastUpdated": credentials.issued_at.to_rfc3339_seconds(),
            "InstanceProfileArn": profile.arn,
            "InstanceProfileId": profile.id,
        });
        put("iam/info", pretty(&info));
    }
    let secrets = serde_json::json!({
        "Code": "Success",
        "LastUpdated": credentials.issued_at.to_rfc3339_seconds(),
        "Type": "AWS-HMAC",
        "AccessKeyId": credentials.access_key_id,
        "SecretAccessKey": credentials.secret_access_key.expose(),
        "Token": credentials.session_token.expose(),
        "Expiration": credentials.expires_at.to_rfc3339_seconds(),
    });
    put(&format!("iam/security-credentials/{}", credentials.role_name), pretty(&secrets));
}

fn document(snapshot: &GuestSnapshot, guest: &Guest, primary: &GuestInterface) -> String {
    let launched: Timestamp = guest.metadata.launched_at;
    pretty(&serde_json::json!({
        "accountId": guest.account.to_string(),
        "architecture": guest.architecture,
        "availabilityZone": snapshot.zone,
        "billingProducts": null,
        "devpayProductCodes": null,
        "marketplaceProductCodes": null,
        "imageId": guest.metadata.image.to_string(),
        "instanceId": guest.instance.to_string(),
        "instanceType": guest.instance_type,
        "kernelId": null,
        "pendingTime": launched.to_rfc3339_seconds(),
        "privateIp": lines(v4(primary).take(1)),
        "ramdiskId": null,
        "region": snapshot.region,
        "version": "2017-09-30",
    }))
}

fn pretty(value: &serde_json::Value) -> String {
    // A value made of strings and nulls always serializes.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn get(guest: &str, path: &str) -> Option<String> {
        let index = sample::index();
        let seen = index.by_tap(sample::vpc(1), guest).unwrap();
        let cidrs = &index.vpc(sample::vpc(1)).unwrap().cidrs;
        find(path, index.snapshot(), seen, cidrs).map(|content| String::from_utf8_lossy(&content.bytes).into_owned())
    }

    /// Every name that a listing gives, followed as cloud-init follows it.
    fn walk(guest: &str, folder: &str, seen: &mut Vec<String>) {
        let listing = get(guest, folder).unwrap_or_else(|| panic!("{folder} is listed but not there"));
        for name in listing.lines() {
            let name = match name.split_once('=') {
                Some((number, _)) => format!("{number}/"),
                None => name.to_owned(),
            };
            let path = format!("{folder}{name}");
            match path.ends_with('/') {
                true => walk(guest, &path, seen),
                false if folder == "/" => walk(guest, &format!("{path}/"), seen),
                false if get(guest, &path).is_none_or(|_| matches!(&*name, "meta-data" | "dynamic")) => {
                    walk(guest, &format!("{path}/"), seen);
                }
                false => seen.push(path),
            }
        }
    }

    #[test]
    fn whatever_is_listed_is_served() {
        for guest in ["tap-web", "tap-plain"] {
            let mut seen = Vec::new();
            walk(guest, "/", &mut seen);
            assert_eq!(seen.len() % VERSIONS.len(), 0, "the same in every version");
            assert!(seen.len() / VERSIONS.len() > 30, "{seen:?}");
            assert_eq!(seen.iter().any(|path| path.contains("user-data")), guest == "tap-web");
        }
    }

    #[test]
    fn values() {
        let rows = [
            ("/latest/meta-data/instance-id", "i-0000000000000010b"),
            ("/2009-04-04/meta-data/instance-id", "i-0000000000000010b"),
            ("//latest//meta-data/instance-id", "i-0000000000000010b"),
            ("/latest/meta-data/public-keys/", "0=my key"),
            ("/latest/meta-data/public-keys/0/openssh-key", "ssh-ed25519 AAAA me"),
            ("/latest/meta-data/public-keys/0/", "openssh-key"),
            ("/latest/meta-data/tags/instance/", "Name"),
            ("/latest/meta-data/tags/instance/Name", "web"),
            ("/latest/meta-data/iam/security-credentials/", "web-role"),
            ("/latest/meta-data/placement/region", "eu-test-1"),
            ("/latest/meta-data/network/interfaces/macs/", "02:00:00:00:01:0b/"),
            ("/latest/meta-data/network/interfaces/macs/02:00:00:00:01:0b/vpc-ipv4-cidr-blocks", "10.0.0.0/16"),
            (
                "/latest/meta-data/network/interfaces/macs/02:00:00:00:01:0b/ipv4-associations/198.51.100.10",
                "10.0.0.11",
            ),
            ("/latest/meta-data/public-ipv4", "198.51.100.10"),
            ("/latest/", "dynamic\nmeta-data\nuser-data"),
        ];
        for (path, value) in rows {
            assert_eq!(get("tap-web", path).as_deref(), Some(value), "{path}");
        }
        for nothing in [
            "/latest/meta-data/nothing",
            "/1999-01-01/",
            "/latest/meta-data/instance-id/",
            "/latest/meta-data/instance",
            "/latest/user-data/x",
        ] {
            assert_eq!(get("tap-web", nothing), None, "{nothing}");
        }
        for absent in
            ["/latest/user-data", "/latest/meta-data/public-ipv4", "/latest/meta-data/iam/", "/latest/meta-data/tags/"]
        {
            assert_eq!(get("tap-plain", absent), None, "{absent}");
        }
        let credentials = get("tap-web", "/latest/meta-data/iam/security-credentials/web-role").unwrap();
        let credentials: serde_json::Value = serde_json::from_str(&credentials).unwrap();
        assert_eq!(credentials["SecretAccessKey"], "secret");
        assert_eq!(credentials["Expiration"], "2023-11-15T10:13:20Z");
        let index = sample::index();
        assert_eq!(user_data(&index.snapshot().guests[0]).unwrap(), b"#!/bin/sh\n\xff");
    }
}
