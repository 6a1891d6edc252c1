use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

use crate::{Error, IdSource};

/// What all identifiers of AWS's form `PREFIX-17 hex digits` have in common.
pub trait ResourceId: Copy + Ord + fmt::Display + FromStr<Err = Error> + Send + Sync + 'static {
    /// With its dash, for example `i-`.
    const PREFIX: &'static str;
    /// The code for an id whose form is wrong, for example `InvalidInstanceID.Malformed`.
    const MALFORMED: &'static str;
    /// The code for an id that does not exist, for example `InvalidInstanceID.NotFound`.
    const NOT_FOUND: &'static str;
    /// What people call it, for example `instance ID`.
    const NOUN: &'static str;

    fn generate(source: &dyn IdSource) -> Self;

    /// The error AWS gives for a well-formed id that is unknown to the caller.
    fn not_found(text: impl fmt::Display) -> Error {
        Error::not_found(Self::NOT_FOUND, format!("The {} '{text}' does not exist", Self::NOUN))
    }
}

const ID_BITS: u32 = 68;

macro_rules! resource_ids {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal, $noun:literal, $malformed:literal, $not_found:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl ResourceId for $name {
            const PREFIX: &'static str = $prefix;
            const MALFORMED: &'static str = $malformed;
            const NOT_FOUND: &'static str = $not_found;
            const NOUN: &'static str = $noun;

            fn generate(source: &dyn IdSource) -> Self {
                Self(source.next_u128() & ((1 << ID_BITS) - 1))
            }
        }

        impl $name {
            /// The id's number, below 2^68.
            pub const fn number(self) -> u128 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{:017x}", $prefix, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                parse_hex(text, $prefix).map(Self).ok_or_else(|| {
                    Error::invalid($malformed, format!("Invalid id: \"{text}\" (expecting \"{}...\")", $prefix))
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

/// Ids of today's 17 digits; those of AWS's old 8 are well-formed too but never exist here.
fn parse_hex(text: &str, prefix: &str) -> Option<u128> {
    let digits = text.strip_prefix(prefix)?;
    let well_formed = matches!(digits.len(), 8 | 17) && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if well_formed { u128::from_str_radix(digits, 16).ok() } else { None }
}

resource_ids! {
    InstanceId, "i-", "instance ID", "InvalidInstanceID.Malformed", "InvalidInstanceID.NotFound";
    ReservationId, "r-", "reservation ID", "InvalidReservationID.Malformed", "InvalidReservationID.NotFound";
    VpcId, "vpc-", "vpc ID", "InvalidVpcID.Malformed", "InvalidVpcID.NotFound";
    SubnetId, "subnet-", "subnet ID", "InvalidSubnetID.Malformed", "InvalidSubnetID.NotFound";
    SecurityGroupId, "sg-", "security group", "InvalidGroupId.Malformed", "InvalidGroup.NotFound";
    SecurityGroupRuleId, "sgr-", "security group rule", "InvalidSecurityGroupRuleId.Malformed", "InvalidSecurityGroupRuleId.NotFound";
    InterfaceId, "eni-", "networkInterface ID", "InvalidNetworkInterfaceId.Malformed", "InvalidNetworkInterfaceID.NotFound";
    InterfaceAttachmentId, "eni-attach-", "network interface attachment ID", "InvalidAttachmentID.Malformed", "InvalidAttachmentID.NotFound";
    RouteTableId, "rtb-", "routeTable ID", "InvalidRouteTableId.Malformed", "InvalidRouteTableID.NotFound";
    RouteTableAssociationId, "rtbassoc-", "association ID", "InvalidAssociationID.Malformed", "InvalidAssociationID.NotFound";
    InternetGatewayId, "igw-", "internetGateway ID", "InvalidInternetGatewayId.Malformed", "InvalidInternetGatewayID.NotFound";
    AllocationId, "eipalloc-", "allocation ID", "InvalidAllocationID.Malformed", "InvalidAllocationID.NotFound";
    AddressAssociationId, "eipassoc-", "association ID", "InvalidAssociationID.Malformed", "InvalidAssociationID.NotFound";
    DhcpOptionsId, "dopt-", "dhcpOption ID", "InvalidDhcpOptionsId.Malformed", "InvalidDhcpOptionID.NotFound";
    NetworkAclId, "acl-", "networkAcl ID", "InvalidNetworkAclId.Malformed", "InvalidNetworkAclID.NotFound";
    VolumeId, "vol-", "volume", "InvalidVolumeID.Malformed", "InvalidVolume.NotFound";
    SnapshotId, "snap-", "snapshot", "InvalidSnapshotID.Malformed", "InvalidSnapshot.NotFound";
    ImageId, "ami-", "image id", "InvalidAMIID.Malformed", "InvalidAMIID.NotFound";
    KeyPairId, "key-", "key pair ID", "InvalidKeyPair.Format", "InvalidKeyPair.NotFound";
    HostId, "host-", "host ID", "InvalidHostID.Malformed", "InvalidHostID.NotFound";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SeededRandom;

    #[test]
    fn ids_survive_their_text_form() {
        let source = SeededRandom::new(7);
        for _ in 0..100 {
            let id = InstanceId::generate(&source);
            assert_eq!(id.to_string().len(), 19);
            assert_eq!(id.to_string().parse::<InstanceId>().unwrap(), id);
        }
    }

    #[test]
    fn malformed_ids_name_awss_code() {
        for bad in [
            "",
            "i-",
            "i-123",
            "vol-0123456789abcdef0",
            "i-0123456789ABCDEF0",
            "i-0123456789abcdef01",
            "i-+123456789abcdef0",
        ] {
            let error = bad.parse::<InstanceId>().unwrap_err();
            assert_eq!(error.code(), "InvalidInstanceID.Malformed", "{bad}");
        }
        assert!("i-12345678".parse::<InstanceId>().is_ok(), "AWS's old short form is well-formed");
    }
}
