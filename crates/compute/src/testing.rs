//! Records for this crate's tests.

use terroir_block_storage::Assignment;
use terroir_types::{AccountId, HostId, ImageId, InstanceId, ReservationId, ResourceId, SeededRandom, Timestamp};

use crate::model::{Desired, Instance, MetadataChoice};

/// An instance that was just launched.
pub fn instance(seed: u64) -> Instance {
    let ids = SeededRandom::new(seed);
    Instance {
        account: AccountId::from_number(1).unwrap(),
        id: InstanceId::generate(&ids),
        reservation: ReservationId::generate(&ids),
        launch_index: 0,
        image: ImageId::generate(&ids),
        instance_type: "t3.nano".to_owned(),
        vcpus: 2,
        memory_bytes: 512 << 20,
        architecture: "x86_64".to_owned(),
        assignment: Assignment::held_by(HostId::generate(&ids)),
        zone: "eu-local-1a".to_owned(),
        run_id: 1,
        desired: Desired::Running,
        force_stop: false,
        reboot_count: 0,
        created_at: Timestamp::EPOCH,
        launched_at: Timestamp::EPOCH,
        volumes: Vec::new(),
        root_device: "/dev/xvda".to_owned(),
        direct_boot: None,
        key_pair: None,
        profile: None,
        user_data: None,
        metadata: MetadataChoice::default(),
        shutdown_terminates: false,
        termination_protected: false,
        stop_protected: false,
        monitoring: false,
        ebs_optimized: false,
        holds_capacity: true,
        reason: None,
        events: Vec::new(),
        terminated_at: None,
    }
}
