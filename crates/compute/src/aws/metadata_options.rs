use terroir_action::{Access, Action, Context, Request, Response, Target};
use terroir_aws_model::ec2;
use terroir_types::{Error, ErrorClass, InstanceId};

use super::instance_shape::metadata_options;
use crate::model::MetadataChoice;
use crate::ops;

/// What a request says about the metadata service.
pub(super) struct Choice<'a> {
    pub endpoint: Option<&'a str>,
    pub ipv6: Option<&'a str>,
    pub hop_limit: Option<i32>,
    pub tokens: Option<&'a str>,
    pub tags: Option<&'a str>,
}

fn switch(value: Option<&str>, name: &str) -> Result<Option<bool>, Error> {
    match value.filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some("enabled") => Ok(Some(true)),
        Some("disabled") => Ok(Some(false)),
        Some(other) => Err(bad(other, name, "enabled or disabled")),
    }
}

fn bad(value: impl std::fmt::Display, name: &str, expected: &str) -> Error {
    let message = format!("Value ({value}) for parameter {name} is invalid. Expected: {expected}.");
    Error::invalid("InvalidParameterValue", message)
}

/// Applies a choice to what was before.
///
/// Errors: `InvalidParameterValue`; `UnsupportedOperation` for the IPv6 endpoint.
pub(super) fn apply(choice: &Choice<'_>, before: MetadataChoice) -> Result<MetadataChoice, Error> {
    let tokens_required = match choice.tokens.filter(|value| !value.is_empty()) {
        None => before.tokens_required,
        Some("required") => true,
        Some("optional") => false,
        Some(other) => return Err(bad(other, "HttpTokens", "required or optional")),
    };
    let hop_limit = match choice.hop_limit {
        None => before.hop_limit,
        Some(limit) => u8::try_from(limit)
            .ok()
            .filter(|limit| (1..=64).contains(limit))
            .ok_or_else(|| bad(limit, "HttpPutResponseHopLimit", "a number between 1 and 64"))?,
    };
    if switch(choice.ipv6, "HttpProtocolIpv6")? == Some(true) {
        let message = "The metadata service is not available over IPv6 here.";
        return Err(Error::new(ErrorClass::Unsupported, "UnsupportedOperation", message));
    }
    Ok(MetadataChoice {
        enabled: switch(choice.endpoint, "HttpEndpoint")?.unwrap_or(before.enabled),
        tokens_required,
        hop_limit,
        tags_enabled: switch(choice.tags, "InstanceMetadataTags")?.unwrap_or(before.tags_enabled),
    })
}

pub struct ModifyInstanceMetadataOptions;

impl Action for ModifyInstanceMetadataOptions {
    type Op = ec2::ops::ModifyInstanceMetadataOptions;
    const ACCESS: Access = Access::Write;

    fn targets(cx: &Context<'_>, request: &Request<Self>) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::ec2(cx, "ec2:ModifyInstanceMetadataOptions", "instance", &request.instance_id)?])
    }

    fn run(cx: &mut Context<'_>, request: Request<Self>) -> Result<Response<Self>, Error> {
        let id: InstanceId = request.instance_id.parse()?;
        let choice = Choice {
            endpoint: request.http_endpoint.as_deref(),
            ipv6: request.http_protocol_ipv6.as_deref(),
            hop_limit: request.http_put_response_hop_limit,
            tokens: request.http_tokens.as_deref(),
            tags: request.instance_metadata_tags.as_deref(),
        };
        let after = ops::set_metadata(cx.txn, cx.caller.account, id, |before| apply(&choice, before))?;
        Ok(ec2::ModifyInstanceMetadataOptionsResult {
            instance_id: Some(id.to_string()),
            instance_metadata_options: Some(metadata_options(&after)),
        })
    }
}
