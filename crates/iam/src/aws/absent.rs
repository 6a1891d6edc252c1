//! Lists of credentials of sorts that do not exist here. Tools ask for them before they delete a user.

use terroir_action::Registry;
use terroir_aws_model::iam;

use super::action;
use super::user::Subject;
use crate::ops;

pub(super) fn register(registry: &mut Registry) {
    registry.add::<ListSSHPublicKeys>();
    registry.add::<ListSigningCertificates>();
    registry.add::<ListServiceSpecificCredentials>();
}

macro_rules! none_of {
    ($list:ident, $response:ident, $field:ident) => {
        action!($list, Read, |cx, r| Subject::targets(cx, r.user_name.as_ref()), |cx, r| {
            let subject = Subject::of(cx, r.user_name.as_ref())?;
            // Errors if there is no such user.
            ops::list_access_keys(cx.txn, cx.account(), subject.owner())?;
            Ok(iam::$response { $field: Vec::new(), is_truncated: Some(false), marker: None })
        });
    };
}

none_of!(ListSSHPublicKeys, ListSSHPublicKeysResponse, ssh_public_keys);
none_of!(ListSigningCertificates, ListSigningCertificatesResponse, certificates);
none_of!(ListServiceSpecificCredentials, ListServiceSpecificCredentialsResponse, service_specific_credentials);
