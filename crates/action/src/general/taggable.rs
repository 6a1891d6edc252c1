use terroir_aws_model::ec2;
use terroir_resources::{Tags, validate_tags};
use terroir_types::{
    AllocationId, DhcpOptionsId, Error, ImageId, InstanceId, InterfaceId, InternetGatewayId, KeyPairId, NetworkAclId,
    ResourceId, RouteTableId, SecurityGroupId, SecurityGroupRuleId, SnapshotId, SubnetId, VolumeId, VpcId,
};

/// Every type that EC2's reference allows in a tag specification of the actions built here.
const TAGGABLE: [&str; 18] = [
    "elastic-ip",
    "image",
    "instance",
    "internet-gateway",
    "key-pair",
    "natgateway",
    "network-acl",
    "network-interface",
    "route-table",
    "security-group",
    "security-group-rule",
    "snapshot",
    "spot-instances-request",
    "elastic-gpu",
    "subnet",
    "volume",
    "vpc",
    "dhcp-options",
];

/// Tags as EC2 answers them.
pub fn ec2_tags(tags: &Tags) -> Vec<ec2::Tag> {
    tags.iter().map(|(key, value)| ec2::Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

/// The tags that a creating action is given for what it creates, of type `kind`. `also` names the other types that the
/// action takes specifications for.
///
/// Errors: `InvalidParameterValue` for an unknown or unfitting type, an empty specification, or the same type or key
/// twice; those of [`validate_tags`].
pub fn specified_tags(specifications: &[ec2::TagSpecification], kind: &str, also: &[&str]) -> Result<Tags, Error> {
    let wrong = |message: String| Err(Error::invalid("InvalidParameterValue", message));
    let mut found = None;
    for specification in specifications {
        let Some(named) = specification.resource_type.as_deref() else {
            return wrong("Tag specification resource type must have a value".to_owned());
        };
        if !TAGGABLE.contains(&named) {
            return wrong(format!("'{named}' is not a valid taggable resource type."));
        }
        if named != kind && !also.contains(&named) {
            return wrong(format!("'{named}' is not a valid taggable resource type for this operation."));
        }
        if specification.tags.is_empty() {
            return wrong("Tag specification must have at least one tag".to_owned());
        }
        if named == kind && found.replace(distinct_tags(&specification.tags)?).is_some() {
            return wrong(format!("Duplicate tag specification for resource type '{kind}'"));
        }
    }
    let tags = found.unwrap_or_default();
    validate_tags(&tags)?;
    Ok(tags)
}

/// Errors: `InvalidParameterValue` for a tag without a key, or a key given twice.
pub(super) fn distinct_tags(list: &[ec2::Tag]) -> Result<Tags, Error> {
    let mut tags = Tags::new();
    for tag in list {
        let key = tag.key.clone().ok_or_else(|| Error::invalid("MissingParameter", "The tag must have a key"))?;
        if tags.insert(key.clone(), tag.value.clone().unwrap_or_default()).is_some() {
            return Err(Error::invalid("InvalidParameterValue", format!("Duplicate tag key '{key}' specified.")));
        }
    }
    Ok(tags)
}

macro_rules! kinds {
    ($text:ident; $($id:ty => $kind:literal),* $(,)?) => {
        [$(($kind, <$id>::PREFIX, $text.parse::<$id>().map(|_| <$id>::not_found($text)))),*]
    };
}

/// EC2's type of the resource that an id names by its prefix, and the error if it does not exist.
///
/// Errors: `InvalidID` for a prefix that no taggable resource has, `...Malformed` for the rest of it.
pub fn kind_of_id(text: &str) -> Result<(&'static str, Error), Error> {
    let kinds = kinds![text;
        AllocationId => "elastic-ip",
        DhcpOptionsId => "dhcp-options",
        ImageId => "image",
        InstanceId => "instance",
        InternetGatewayId => "internet-gateway",
        KeyPairId => "key-pair",
        NetworkAclId => "network-acl",
        InterfaceId => "network-interface",
        RouteTableId => "route-table",
        SecurityGroupId => "security-group",
        SecurityGroupRuleId => "security-group-rule",
        SnapshotId => "snapshot",
        SubnetId => "subnet",
        VolumeId => "volume",
        VpcId => "vpc",
    ];
    match kinds.into_iter().find(|(_, prefix, _)| text.starts_with(prefix)) {
        Some((kind, _, Ok(not_found))) => Ok((kind, not_found)),
        Some((_, _, Err(malformed))) => Err(malformed),
        None => Err(Error::invalid("InvalidID", format!("The ID '{text}' is not valid"))),
    }
}
