use terroir_action::{Access, Action, Context, Registry, Target};
use terroir_aws_model::ec2;
use terroir_types::Error;

use crate::model::{DefaultVpc, GROUPS_PER_INTERFACE};
use crate::ops::ADDRESSES_PER_ACCOUNT;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<DescribeAccountAttributes>();
}

/// Here and not with the other general actions because one of the attributes is the default VPC.
struct DescribeAccountAttributes;

const NAMES: [&str; 6] = [
    "default-vpc",
    "max-elastic-ips",
    "max-instances",
    "supported-platforms",
    "vpc-max-elastic-ips",
    "vpc-max-security-groups-per-interface",
];

/// What AWS answers since instances are limited by virtual CPUs; ours are limited by quota and capacity.
const MAX_INSTANCES: &str = "20";

impl Action for DescribeAccountAttributes {
    type Op = ec2::ops::DescribeAccountAttributes;
    const ACCESS: Access = Access::Read;

    fn targets(_cx: &Context<'_>, _request: &ec2::DescribeAccountAttributesRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::any("ec2:DescribeAccountAttributes")])
    }

    fn run(
        cx: &mut Context<'_>,
        request: ec2::DescribeAccountAttributesRequest,
    ) -> Result<ec2::DescribeAccountAttributesResult, Error> {
        let wanted = &request.attribute_names;
        if let Some(unknown) = wanted.iter().find(|name| !NAMES.contains(&name.as_str())) {
            let message = format!("Value ({unknown}) for parameter attributeName is invalid.");
            return Err(Error::invalid("InvalidParameterValue", message));
        }
        let default = cx.txn.peek::<DefaultVpc>(&DefaultVpc::key(cx.account()))?;
        let value = |name: &str| match name {
            "default-vpc" => default.as_ref().map_or_else(|| "none".to_owned(), |default| default.vpc.to_string()),
            "max-elastic-ips" | "vpc-max-elastic-ips" => ADDRESSES_PER_ACCOUNT.to_string(),
            "vpc-max-security-groups-per-interface" => GROUPS_PER_INTERFACE.to_string(),
            "supported-platforms" => "VPC".to_owned(),
            _ => MAX_INSTANCES.to_owned(),
        };
        let attribute = |name: &str| ec2::AccountAttribute {
            attribute_name: Some(name.to_owned()),
            attribute_values: vec![ec2::AccountAttributeValue { attribute_value: Some(value(name)) }],
        };
        let names = NAMES.into_iter().filter(|name| wanted.is_empty() || wanted.iter().any(|w| w == name));
        Ok(ec2::DescribeAccountAttributesResult { account_attributes: names.map(attribute).collect() })
    }
}
