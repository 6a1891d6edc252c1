use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use terroir_action::{Access, Action, Context, Request, Response, Target};
use terroir_aws_model::{Empty, ec2};
use terroir_store::Key;
use terroir_types::{Error, ErrorClass, InstanceId};

use super::instance_shape::{Lookup, mapping};
use crate::model::{Instance, UserData};
use crate::ops::{self, Flags};

pub struct DescribeInstanceAttribute;

fn unknown(attribute: &str) -> Error {
    let message = format!("Value ({attribute}) for parameter attribute is invalid. Unknown attribute.");
    Error::invalid("InvalidParameterValue", message)
}

fn user_data_key(cx: &Context<'_>, instance: &str) -> Result<Option<Key>, Error> {
    let Ok(id) = instance.parse::<InstanceId>() else { return Ok(None) };
    let found = cx.txn.get::<Instance>(&crate::model::instance_key(cx.account(), id))?;
    Ok(found.and_then(|instance| instance.user_data_key()))
}

impl Action for DescribeInstanceAttribute {
    type Op = ec2::ops::DescribeInstanceAttribute;
    const ACCESS: Access = Access::Read;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        let target = Target::ec2(cx, "ec2:DescribeInstanceAttribute", "instance", &request.instance_id)?;
        Ok(vec![target.key("ec2:Attribute", &request.attribute)])
    }

    fn prefetch(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Key>, Error> {
        match request.attribute.as_str() {
            "userData" => Ok(user_data_key(cx, &request.instance_id)?.into_iter().collect()),
            _ => Ok(Vec::new()),
        }
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let id: InstanceId = request.instance_id.parse()?;
        let spec = ops::find_instance(cx.txn, cx.account(), id)?;
        let mut lookup = Lookup::new(cx);
        let row = lookup.row(spec)?;
        let spec = &*row.spec;
        let value = |text: &str| Some(ec2::AttributeValue { value: Some(text.to_owned()) });
        let flag = |value: bool| Some(ec2::AttributeBooleanValue { value: Some(value) });
        let mut answer = ec2::InstanceAttribute { instance_id: Some(id.to_string()), ..Default::default() };
        match request.attribute.as_str() {
            "instanceType" => answer.instance_type = value(&spec.instance_type),
            "kernel" | "ramdisk" | "productCodes" | "sriovNetSupport" => {}
            "userData" => answer.user_data = Some(ec2::AttributeValue { value: user_data(cx, spec)? }),
            "disableApiTermination" => answer.disable_api_termination = flag(spec.termination_protected),
            "disableApiStop" => answer.disable_api_stop = flag(spec.stop_protected),
            "instanceInitiatedShutdownBehavior" => {
                let behaviour = if spec.shutdown_terminates { "terminate" } else { "stop" };
                answer.instance_initiated_shutdown_behavior = value(behaviour);
            }
            "rootDeviceName" => answer.root_device_name = value(&spec.root_device),
            "blockDeviceMapping" => {
                let mappings = row.volumes.iter().filter_map(|(volume, status)| mapping(id, volume, status.as_deref()));
                answer.block_device_mappings = mappings.collect();
            }
            "sourceDestCheck" => {
                answer.source_dest_check = row.interfaces.first().and_then(|i| flag(i.source_dest_check));
            }
            "groupSet" => answer.groups = lookup.shape(&row)?.security_groups,
            "ebsOptimized" => answer.ebs_optimized = flag(spec.ebs_optimized),
            "enaSupport" => answer.ena_support = flag(false),
            "enclaveOptions" => answer.enclave_options = Some(ec2::EnclaveOptions { enabled: Some(false) }),
            other => return Err(unknown(other)),
        }
        Ok(answer)
    }
}

fn user_data(cx: &Context<'_>, spec: &Instance) -> Result<Option<String>, Error> {
    let Some(key) = spec.user_data_key() else { return Ok(None) };
    let found = cx.txn.get::<UserData>(&key)?;
    Ok(found.map(|user_data| STANDARD.encode(&user_data.tenant)))
}

pub struct ModifyInstanceAttribute;

/// One change of the many that the request has a member for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    InstanceType(String),
    UserData(Vec<u8>),
    Flags(Flags),
    SourceDestCheck(bool),
    Groups(Vec<String>),
    DeleteOnTermination(Vec<(String, bool)>),
    Refused(&'static str),
}

fn parse_flag(text: &str, name: &str) -> Result<bool, Error> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => {
            let message = format!("Value ({text}) for parameter {name} is invalid. Expected: true or false.");
            Err(Error::invalid("InvalidParameterValue", message))
        }
    }
}

fn shutdown(text: &str) -> Result<Change, Error> {
    let terminates = match text {
        "stop" => false,
        "terminate" => true,
        other => {
            let message = format!(
                "Value ({other}) for parameter instanceInitiatedShutdownBehavior is invalid. Expected: stop or terminate."
            );
            return Err(Error::invalid("InvalidParameterValue", message));
        }
    };
    Ok(Change::Flags(Flags { shutdown_terminates: Some(terminates), ..Flags::default() }))
}

fn decode_user_data(text: &str) -> Result<Change, Error> {
    let bytes = STANDARD
        .decode(text.trim())
        .map_err(|_| Error::invalid("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data."))?;
    Ok(Change::UserData(bytes))
}

/// The old form: an attribute's name and its value.
fn named_change(attribute: &str, value: &str) -> Result<Change, Error> {
    let flags = Flags::default();
    let flag = || parse_flag(value, attribute);
    Ok(match attribute {
        "instanceType" => Change::InstanceType(value.to_owned()),
        "userData" => decode_user_data(value)?,
        "disableApiTermination" => Change::Flags(Flags { termination_protected: Some(flag()?), ..flags }),
        "disableApiStop" => Change::Flags(Flags { stop_protected: Some(flag()?), ..flags }),
        "instanceInitiatedShutdownBehavior" => shutdown(value)?,
        "sourceDestCheck" => Change::SourceDestCheck(flag()?),
        "ebsOptimized" => Change::Flags(Flags { ebs_optimized: Some(flag()?), ..flags }),
        "kernel" | "ramdisk" | "enaSupport" | "sriovNetSupport" => {
            Change::Refused("This attribute cannot be changed here.")
        }
        other => return Err(unknown(other)),
    })
}

fn changes(request: &ec2::ModifyInstanceAttributeRequest) -> Result<Vec<Change>, Error> {
    let mut out = Vec::new();
    if let (Some(attribute), Some(value)) = (&request.attribute, &request.value) {
        out.push(named_change(attribute, value)?);
    }
    let text = |value: &Option<ec2::AttributeValue>| value.as_ref().and_then(|value| value.value.clone());
    let flag = |value: &Option<ec2::AttributeBooleanValue>| value.as_ref().and_then(|value| value.value);
    out.extend(text(&request.instance_type).map(Change::InstanceType));
    if let Some(user_data) = &request.user_data {
        out.push(Change::UserData(user_data.value.clone().unwrap_or_default()));
    }
    let flags = Flags {
        termination_protected: flag(&request.disable_api_termination),
        stop_protected: flag(&request.disable_api_stop),
        shutdown_terminates: None,
        ebs_optimized: flag(&request.ebs_optimized),
    };
    if flags != Flags::default() {
        out.push(Change::Flags(flags));
    }
    if let Some(behaviour) = text(&request.instance_initiated_shutdown_behavior) {
        out.push(shutdown(&behaviour)?);
    }
    out.extend(flag(&request.source_dest_check).map(Change::SourceDestCheck));
    if !request.groups.is_empty() {
        out.push(Change::Groups(request.groups.clone()));
    }
    if !request.block_device_mappings.is_empty() {
        out.push(Change::DeleteOnTermination(mappings(request)?));
    }
    let fixed = request.kernel.is_some() || request.ramdisk.is_some() || request.sriov_net_support.is_some();
    if fixed || request.ena_support.is_some() {
        out.push(Change::Refused("This attribute cannot be changed here."));
    }
    Ok(out)
}

fn mappings(request: &ec2::ModifyInstanceAttributeRequest) -> Result<Vec<(String, bool)>, Error> {
    let mut out = Vec::new();
    for mapping in &request.block_device_mappings {
        let device = terroir_action::required(&mapping.device_name, "blockDeviceMapping.deviceName")?;
        if let Some(value) = mapping.ebs.as_ref().and_then(|ebs| ebs.delete_on_termination) {
            out.push((device.to_owned(), value));
        }
    }
    Ok(out)
}

fn set_delete_on_termination(cx: &mut Context<'_>, id: InstanceId, device: &str, value: bool) -> Result<(), Error> {
    let account = cx.caller.account;
    let instance = ops::find_instance(cx.txn, account, id)?;
    for volume in &instance.volumes {
        let found = terroir_block_storage::ops::find_volume(cx.txn, account, *volume)?;
        if found.attachment.as_ref().is_some_and(|attachment| attachment.device == device) {
            return terroir_block_storage::ops::set_delete_on_termination(cx.txn, account, *volume, id, value);
        }
    }
    let message = format!("No device is currently mapped at {device}");
    Err(Error::invalid("InvalidInstanceAttributeValue", message))
}

impl Action for ModifyInstanceAttribute {
    type Op = ec2::ops::ModifyInstanceAttribute;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        let mut target = Target::ec2(cx, "ec2:ModifyInstanceAttribute", "instance", &request.instance_id)?;
        if let Some(attribute) = &request.attribute {
            target = target.key("ec2:Attribute", attribute);
        }
        Ok(vec![target])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let id: InstanceId = request.instance_id.parse()?;
        let account = cx.caller.account;
        ops::find_instance(cx.txn, account, id)?;
        let mut changes = changes(&request)?;
        let (Some(change), true) = (changes.pop(), changes.is_empty()) else {
            let message = "Exactly one attribute must be given.";
            return Err(Error::invalid("InvalidParameterCombination", message));
        };
        match change {
            Change::InstanceType(name) => ops::set_instance_type(cx.txn, account, id, &name)?,
            Change::UserData(bytes) => ops::change_user_data(cx.txn, account, id, bytes)?,
            Change::Flags(flags) => ops::set_flags(cx.txn, account, id, flags)?,
            Change::SourceDestCheck(check) => ops::set_source_dest_check(cx, id, check)?,
            Change::Groups(groups) => {
                let groups = terroir_block_storage::aws::parse_ids(&groups)?;
                ops::set_groups(cx, id, &groups)?;
            }
            Change::DeleteOnTermination(mappings) => {
                for (device, value) in mappings {
                    set_delete_on_termination(cx, id, &device, value)?;
                }
            }
            Change::Refused(why) => {
                return Err(Error::new(ErrorClass::Unsupported, "UnsupportedOperation", why));
            }
        }
        Ok(Empty)
    }
}
