//! What guests send, and the disks that tenants bring.

use std::sync::LazyLock;
use terroir_guest_services::Offline;
use terroir_image_builder::{MAX_VIRTUAL_SIZE_BYTES, judge_header};

const GUESTS: &str = include_str!("guests.json");
const TAP: &str = "tap-web";

static OFFLINE: LazyLock<Offline> = LazyLock::new(|| {
    let snapshot = serde_json::from_str(GUESTS).expect("the sample is a snapshot");
    Offline::new(snapshot)
});

/// The first byte says whether the rest is a datagram of DHCP or of DNS.
pub fn packets(bytes: &[u8]) {
    let Some((which, packet)) = bytes.split_first() else { return };
    let vpc = OFFLINE.vpcs().next().expect("the sample has a VPC");
    if which % 2 == 0 {
        let Some(reply) = OFFLINE.dhcp(vpc, TAP, packet) else { return };
        assert_eq!(reply.get(4..8), packet.get(4..8), "an answer carries its request's number");
        let address = reply.get(16..20).expect("an answer has a header");
        assert!(address == [0; 4] || address == [10, 0, 0, 11], "an address that is not the interface's");
    } else if let Some(answer) = OFFLINE.dns(vpc, packet) {
        assert_eq!(answer.get(..2), packet.get(..2), "an answer carries its query's number");
        assert!(answer.len() <= 1232, "{} bytes over UDP", answer.len());
    }
}

/// The beginning of a disk image.
pub fn image(bytes: &[u8]) {
    for length in [bytes.len() as u64, 1 << 30] {
        if let Ok((_, size)) = judge_header(bytes, length) {
            assert!((1..=MAX_VIRTUAL_SIZE_BYTES).contains(&size));
        }
    }
}
