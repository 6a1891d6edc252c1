//! `terroir guest-services`: wiring.

use terroir_guest_services::GuestServicesOptions;

use crate::layout::{GUEST_SERVICES_UID, Layout};
use crate::settings::Settings;
use crate::{Threads, privileges, runtime};

pub fn main(layout: Layout) -> Result<(), String> {
    let settings = Settings::read(&layout)?;
    privileges::become_user(GUEST_SERVICES_UID)?;
    runtime(Threads::One)?.block_on(async move {
        let mut options = GuestServicesOptions::new(layout.guest_socket(), layout.guest_snapshot());
        options.dhcp_lease_secs = settings.dhcp_lease_secs;
        terroir_guest_services::run(options, crate::server::terminated()).await.map_err(|error| error.to_string())
    })
}
