//! The EC2 network actions: the only files of this crate that see AWS's types.

mod account;
mod address;
mod gateway;
mod interface;
mod listing;
mod permissions;
mod route;
mod route_table;
mod rules;
mod security_group;
mod subnet;
mod vpc;

pub use interface::{instance_network_interfaces, public_dns_name};

use ipnet::IpNet;
use std::net::IpAddr;
use terroir_action::general::specified_tags;
use terroir_action::{Context, Registry, Target};
use terroir_aws_model::ec2;
use terroir_types::{Error, ErrorClass};

/// Adds every action of this crate.
pub fn register(registry: &mut Registry) {
    account::register(registry);
    address::register(registry);
    gateway::register(registry);
    interface::register(registry);
    route::register(registry);
    route_table::register(registry);
    rules::register(registry);
    security_group::register(registry);
    subnet::register(registry);
    vpc::register(registry);
}

/// What creating something of type `kind` needs: the action itself, and `ec2:CreateTags` if it sets tags.
fn creation_targets(
    cx: &Context<'_>,
    action: &str,
    kind: &str,
    specifications: &[ec2::TagSpecification],
) -> Result<Vec<Target>, Error> {
    let tags = specified_tags(specifications, kind, &[])?;
    let mut targets = vec![Target::on(format!("ec2:{action}"), cx.ec2_arn(kind, "*")).request_tags(&tags)];
    if !tags.is_empty() {
        let tagging = Target::on("ec2:CreateTags", cx.ec2_arn(kind, "*"));
        targets.push(tagging.request_tags(&tags).key("ec2:CreateAction", action));
    }
    Ok(targets)
}

/// Errors: `InvalidParameterValue`, in AWS's words.
fn parse_cidr(text: &str, parameter: &str) -> Result<IpNet, Error> {
    text.parse().map_err(|_| {
        let message = format!("Value ({text}) for parameter {parameter} is invalid. This is not a valid CIDR block.");
        Error::invalid("InvalidParameterValue", message)
    })
}

/// Errors: `InvalidParameterValue`, in AWS's words.
fn parse_address(text: &str, parameter: &str) -> Result<IpAddr, Error> {
    text.parse().map_err(|_| {
        let message = format!("Value ({text}) for parameter {parameter} is invalid. Invalid IP address.");
        Error::invalid("InvalidParameterValue", message)
    })
}

/// For what is in AWS's API but not built here: better refused than ignored.
fn unsupported(what: &str) -> Error {
    Error::new(ErrorClass::Unsupported, "UnsupportedOperation", format!("{what} is not supported."))
}

/// Refuses the first parameter of a list that is set.
fn refuse(set: &[(bool, &str)]) -> Result<(), Error> {
    match set.iter().find(|(is_set, _)| *is_set) {
        Some((_, name)) => Err(unsupported(&format!("The parameter {name}"))),
        None => Ok(()),
    }
}

/// The only one of several alternatives that a request may give.
///
/// Errors: `MissingParameter` for none, `InvalidParameterCombination` for several.
fn exactly_one<'a>(alternatives: &[(&str, Option<&'a str>)]) -> Result<(usize, &'a str), Error> {
    let mut given = alternatives.iter().enumerate().filter_map(|(index, (_, value))| Some((index, (*value)?)));
    let names = || alternatives.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    match (given.next(), given.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => {
            let message = format!("The request must contain exactly one of {}", names());
            Err(Error::invalid("MissingParameter", message))
        }
        (Some(_), Some(_)) => {
            let message = format!("The request must contain only one of {}", names());
            Err(Error::invalid("InvalidParameterCombination", message))
        }
    }
}

fn text(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}
