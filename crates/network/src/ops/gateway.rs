use std::sync::Arc;
use terroir_resources::Tags;
use terroir_types::{Error, InternetGatewayId, ResourceId, VpcId};

use crate::model::{Interface, InternetGateway, Vpc};
use crate::ops::subnet::subnets_of;
use crate::ops::{Scope, dependency_violation};

const GATEWAYS_PER_ACCOUNT: i64 = 50;

/// Errors: `InternetGatewayLimitExceeded`, those of tags.
pub fn create_gateway(scope: &mut Scope<'_>, tags: Tags) -> Result<Arc<InternetGateway>, Error> {
    let limit = "InternetGatewayLimitExceeded";
    scope.count("internet-gateways", GATEWAYS_PER_ACCOUNT, limit, "internet gateways")?;
    let id = InternetGatewayId::generate(scope.ids);
    let gateway = InternetGateway { account: scope.account, id, vpc: None };
    scope.txn.put(&InternetGateway::key(scope.account, id), &gateway)?;
    scope.register(id, InternetGateway::RESOURCE, tags)?;
    Ok(Arc::new(gateway))
}

/// Errors: `DependencyViolation` while it is attached.
pub fn delete_gateway(scope: &mut Scope<'_>, id: InternetGatewayId) -> Result<(), Error> {
    if scope.gateway(id)?.vpc.is_some() {
        return Err(dependency_violation("internetGateway", id));
    }
    scope.txn.delete(&InternetGateway::key(scope.account, id));
    scope.uncount("internet-gateways")?;
    scope.unregister(id)
}

/// Errors: `Resource.AlreadyAssociated` if the gateway is attached, `InvalidParameterValue` if the VPC has another one.
pub fn attach_gateway(scope: &mut Scope<'_>, id: InternetGatewayId, vpc: VpcId) -> Result<(), Error> {
    let (gateway, vpc) = (scope.gateway(id)?, scope.vpc(vpc)?);
    if let Some(other) = gateway.vpc {
        let message = format!("resource {id} is already attached to network {other}");
        return Err(Error::conflict("Resource.AlreadyAssociated", message));
    }
    if vpc.gateway.is_some() {
        let message = format!("Network {} already has an internet gateway attached", vpc.id);
        return Err(Error::invalid("InvalidParameterValue", message));
    }
    link(scope, &vpc, id, true)
}

/// Errors: `Gateway.NotAttached`; `DependencyViolation` while an interface of the VPC has a public address.
pub fn detach_gateway(scope: &mut Scope<'_>, id: InternetGatewayId, vpc: VpcId) -> Result<(), Error> {
    let (gateway, vpc) = (scope.gateway(id)?, scope.vpc(vpc)?);
    if gateway.vpc != Some(vpc.id) {
        let message = format!("resource {id} is not attached to network {}", vpc.id);
        return Err(Error::conflict("Gateway.NotAttached", message));
    }
    if has_public_addresses(scope, vpc.id)? {
        let message = format!(
            "Network {} has some mapped public address(es). Please unmap those before detaching the gateway.",
            vpc.id
        );
        return Err(Error::conflict("DependencyViolation", message));
    }
    link(scope, &vpc, id, false)
}

fn link(scope: &mut Scope<'_>, vpc: &Vpc, id: InternetGatewayId, attached: bool) -> Result<(), Error> {
    let gateway = InternetGateway { account: scope.account, id, vpc: attached.then_some(vpc.id) };
    scope.txn.put(&InternetGateway::key(scope.account, id), &gateway)?;
    scope.txn.put(&Vpc::key(scope.account, vpc.id), &Vpc { gateway: attached.then_some(id), ..vpc.clone() })
}

/// Looks at every interface of the account: detaching is rare, and an index for it would cost every instance.
/// A public address that comes at the same moment only loses its way out; nothing dangles.
fn has_public_addresses(scope: &Scope<'_>, vpc: VpcId) -> Result<bool, Error> {
    let subnets = subnets_of(scope, vpc)?;
    if subnets.iter().all(|subnet| scope.txn.count(&crate::model::Subnet::claims(subnet.id)) == 0) {
        return Ok(false);
    }
    let interfaces = scope.txn.peek_range::<Interface>(&crate::model::objects_of("interface", scope.account))?;
    Ok(interfaces.iter().any(|(_, interface)| interface.vpc == vpc && interface.public.is_some()))
}
