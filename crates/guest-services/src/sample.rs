//! Two VPCs with the same network, for tests.

use std::collections::BTreeMap;
use std::net::IpAddr;
use terroir_agent_api::*;
use terroir_types::{Secret, SecurityGroupId, Timestamp, VpcId};

use crate::snapshot::Index;

pub fn vpc(n: u32) -> VpcId {
    format!("vpc-{n:017x}").parse().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn guest(vpc_number: u32, name: &str, last: u8) -> Guest {
    let group: SecurityGroupId = "sg-0123456789abcdef0".parse().unwrap();
    let subnet = "subnet-0123456789abcdef0".parse().unwrap();
    let interface = GuestInterface {
        id: format!("eni-{:017x}", u32::from(last) + vpc_number * 256).parse().unwrap(),
        vpc: vpc(vpc_number),
        subnet,
        subnet_cidr: "10.0.0.0/24".parse().unwrap(),
        gateway: address("10.0.0.1"),
        device_index: 0,
        tap: format!("tap-{name}"),
        mac: format!("02:00:00:00:{vpc_number:02x}:{last:02x}").replace(":11", ":0b").replace(":12", ":0c"),
        addresses: vec![address(&format!("10.0.0.{last}"))],
        public_address: None,
        security_group_ids: vec![group.to_string()],
    };
    Guest {
        instance: format!("i-{:017x}", u32::from(last) + vpc_number * 256).parse().unwrap(),
        account: "123456789012".parse().unwrap(),
        instance_type: "t3.micro".to_owned(),
        architecture: "x86_64".to_owned(),
        metadata: InstanceMetadata {
            image: "ami-0123456789abcdef0".parse().unwrap(),
            launch_index: 0,
            reservation: "r-0123456789abcdef0".parse().unwrap(),
            launched_at: Timestamp::from_secs(1_700_000_000),
            hostname: format!("ip-10-0-0-{last}.eu-test-1.compute.internal"),
            public_hostname: None,
            key_pair: None,
            security_group_names: vec!["default".to_owned()],
            user_data: None,
            instance_profile: None,
            tags: BTreeMap::new(),
            options: MetadataOptions { enabled: true, tokens_required: false, hop_limit: 1, tags_enabled: false },
        },
        user_data: None,
        credentials: None,
        interfaces: vec![interface],
    }
}

/// In VPC 1 `web` (.11, everything a guest can have) and `plain` (.12, tokens required); in VPC 2 `other` (.11) with
/// metadata switched off, and no DNS.
pub fn snapshot() -> GuestSnapshot {
    let mut web = guest(1, "web", 11);
    web.interfaces[0].public_address = Some(address("198.51.100.10"));
    web.metadata.public_hostname = Some("ec2-198-51-100-10.eu-test-1.compute.terroir.internal".to_owned());
    web.metadata.key_pair = Some(PublicKey { name: "my key".to_owned(), openssh: "ssh-ed25519 AAAA me".to_owned() });
    web.metadata.tags = [("Name".to_owned(), "web".to_owned()), ("a/b".to_owned(), "unservable".to_owned())].into();
    web.metadata.options.tags_enabled = true;
    web.metadata.instance_profile = Some(InstanceProfileRef {
        arn: "arn:aws:iam::123456789012:instance-profile/p".to_owned(),
        id: "AIPA0123456789ABCDEF0".to_owned(),
        role_name: "web-role".to_owned(),
    });
    // `#!/bin/sh\n` and a byte that is no UTF-8.
    web.user_data = Some("IyEvYmluL3NoCv8=".to_owned());
    web.credentials = Some(RoleCredentials {
        role_name: "web-role".to_owned(),
        access_key_id: "ASIAEXAMPLE".to_owned(),
        secret_access_key: Secret::new("secret".to_owned()),
        session_token: Secret::new("token".to_owned()),
        issued_at: Timestamp::from_secs(1_700_000_000),
        expires_at: Timestamp::from_secs(1_700_043_200),
    });
    let mut plain = guest(1, "plain", 12);
    plain.metadata.options.tokens_required = true;
    let mut other = guest(2, "other", 11);
    other.metadata.options.enabled = false;
    let cidrs = vec!["10.0.0.0/16".parse().unwrap()];
    GuestSnapshot {
        generation: 1,
        region: "eu-test-1".to_owned(),
        zone: "eu-test-1a".to_owned(),
        guest_mtu: 1370,
        dns_upstreams: Vec::new(),
        vpcs: vec![
            GuestVpc { id: vpc(1), cidrs: cidrs.clone(), dns_support: true },
            GuestVpc { id: vpc(2), cidrs, dns_support: false },
        ],
        guests: vec![web, plain, other],
    }
}

pub fn index() -> Index {
    Index::new(snapshot())
}
