//! The form of whole responses. That values survive is the differential test's business.

use terroir_aws_model::{ActionStatus, Service, ec2, encode_error, encode_response, iam, sts};
use terroir_types::Timestamp;

fn body(text: &str) -> &str {
    text.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").unwrap()
}

#[test]
fn ec2_responses() {
    let reservation = ec2::Reservation {
        reservation_id: Some("r-<&>\u{1}\r".to_owned()),
        instances: vec![ec2::Instance { launch_time: Some(Timestamp::from_millis(1)), ..Default::default() }],
        ..Default::default()
    };
    let text = encode_response::<ec2::ops::RunInstances>(&reservation, "q");
    let text = body(&text);
    let start = "<RunInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>q</requestId>";
    assert!(text.starts_with(start) && text.ends_with("</RunInstancesResponse>"), "{text}");
    for part in [
        "<reservationId>r-&lt;&amp;&gt;\u{fffd}&#13;</reservationId>",
        "<launchTime>1970-01-01T00:00:00.001Z</launchTime>",
        "<groupSet></groupSet>",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for absent in ["tagSet", "ownerId"] {
        assert!(!text.contains(absent), "{absent} in {text}");
    }
    let text = encode_response::<ec2::ops::DeleteVpc>(&terroir_aws_model::Empty, "q");
    assert!(body(&text).ends_with("<requestId>q</requestId><return>true</return></DeleteVpcResponse>"), "{text}");
}

#[test]
fn query_responses() {
    let identity = sts::GetCallerIdentityResponse { account: Some("000000000001".to_owned()), ..Default::default() };
    let text = encode_response::<sts::ops::GetCallerIdentity>(&identity, "q");
    assert_eq!(
        body(&text),
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <GetCallerIdentityResult><Account>000000000001</Account></GetCallerIdentityResult>\
         <ResponseMetadata><RequestId>q</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    );
    let text = encode_response::<iam::ops::DeleteUser>(&terroir_aws_model::Empty, "q");
    assert_eq!(
        body(&text),
        "<DeleteUserResponse xmlns=\"https://iam.amazonaws.com/doc/2010-05-08/\">\
         <ResponseMetadata><RequestId>q</RequestId></ResponseMetadata></DeleteUserResponse>"
    );
}

#[test]
fn errors() {
    assert_eq!(
        body(&encode_error(Service::Ec2, "AuthFailure", "a<b", "q")),
        "<Response><Errors><Error><Code>AuthFailure</Code><Message>a&lt;b</Message></Error></Errors>\
         <RequestID>q</RequestID></Response>"
    );
    assert_eq!(
        body(&encode_error(Service::Sts, "AccessDenied", "no", "q")),
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
         <Code>AccessDenied</Code><Message>no</Message></Error><RequestId>q</RequestId></ErrorResponse>"
    );
}

#[test]
fn actions_are_known() {
    for (service, action, expected) in [
        (Service::Ec2, "RunInstances", ActionStatus::Implemented),
        (Service::Ec2, "CreateTransitGateway", ActionStatus::Unimplemented),
        (Service::Ec2, "GetCallerIdentity", ActionStatus::Unknown),
        (Service::Sts, "GetCallerIdentity", ActionStatus::Implemented),
        (Service::Iam, "", ActionStatus::Unknown),
    ] {
        assert_eq!(service.action_status(action), expected, "{action}");
    }
    for service in Service::ALL {
        assert!(service.implemented_actions().is_sorted() && service.unimplemented_actions().is_sorted());
        assert_eq!(Service::from_signing_name(service.signing_name()), Some(service));
    }
}

#[test]
fn secrets_stay_out_of_debug_output() {
    let request = ec2::RunInstancesRequest { user_data: Some("hunter2".to_owned()), ..Default::default() };
    let key = iam::AccessKey { secret_access_key: Some("hunter2".to_owned()), ..Default::default() };
    let pair = ec2::KeyPair { key_material: Some("hunter2".to_owned()), ..Default::default() };
    let credentials = sts::Credentials { session_token: Some("hunter2".to_owned()), ..Default::default() };
    let text = format!("{request:?} {key:?} {pair:?} {credentials:?}");
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!(text.matches("Some(<redacted>)").count(), 4);
}
