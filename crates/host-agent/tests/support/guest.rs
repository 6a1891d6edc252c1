//! A guest for tests: the built-in image's kernel, drivers and busybox with an `init` of its own,
//! which prints what it sees and does what the kernel's command line says (`probe=...`).

use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use terroir_agent_api::*;
use terroir_types::{InstanceId, InterfaceId, OsRandom, ResourceId, Timestamp, VolumeId};

use super::World;

const INIT: &str = r#"#!/bin/busybox sh
B=/bin/busybox
$B mount -t devtmpfs dev /dev; $B mount -t proc proc /proc; $B mount -t sysfs sys /sys
while read -r module; do $B insmod "/modules/$module.ko"; done < /modules/order
read -r line < /proc/cmdline
echo "probe: up" > /dev/console
case "$line" in
*probe=poweroff*) $B poweroff -f ;;
*probe=deaf*) ;;
*) $B acpid -c /etc/acpi -l /acpid.log -p /acpid.pid ;;
esac
case "$line" in *probe=fill*)
    ($B yes terroir | $B head -c 100663296 | $B dd of=/dev/vdb bs=1M conv=fsync
    sum=$($B head -c 100663296 /dev/vdb | $B md5sum)
    echo "probe: filled $sum" > /dev/console) 2> /dev/null & ;;
esac
last=
while :; do
    now=
    for disk in /sys/block/vd*; do
        [ -e "$disk/serial" ] && now="$now $($B cat "$disk/serial")=$($B cat "$disk/size")"
    done
    for nic in /sys/class/net/eth*; do
        [ -e "$nic/mtu" ] && now="$now $($B cat "$nic/address")/$($B cat "$nic/mtu")"
    done
    [ "$now" != "$last" ] && echo "probe: disks$now;" > /dev/console
    last="$now"
    $B usleep 100000
done
"#;
const BUTTON: &str = "#!/bin/busybox sh\necho 'probe: power button' > /dev/console\n/bin/busybox poweroff -f\n";

#[derive(Debug, Clone)]
pub struct Images {
    pub kernel: BlobRef,
    pub initrd: BlobRef,
    pub disk: BlobRef,
    pub files: BTreeMap<String, PathBuf>,
}

/// Built once for all tests of the machine.
pub fn images() -> Images {
    static IMAGES: OnceLock<Images> = OnceLock::new();
    IMAGES.get_or_init(build).clone()
}

fn build() -> Images {
    let dir = super::shared_folder().join("tiny");
    std::fs::create_dir_all(&dir).unwrap();
    // Test files of one crate run one after the other, but several runs may share the folder.
    let lock = std::fs::File::create(dir.join("lock")).unwrap();
    let _lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let (disk, kernel, tiny_initrd) = (dir.join("tiny.raw"), dir.join("tiny.vmlinuz"), dir.join("tiny.initrd"));
    if ![&disk, &kernel, &tiny_initrd].iter().all(|path| path.exists()) {
        terroir_image_builder::build_tiny(&dir, &terroir_image_builder::Silent).unwrap();
    }
    let mut initrd = std::fs::read(&tiny_initrd).unwrap();
    initrd.resize(initrd.len().next_multiple_of(4), 0);
    for (name, mode, content) in [
        ("init", 0o100_755, INIT),
        ("etc", 0o040_755, ""),
        ("etc/acpi", 0o040_755, ""),
        ("etc/acpi/PWRF", 0o040_755, ""),
        ("etc/acpi/PWRF/00000080", 0o100_755, BUTTON),
        ("TRAILER!!!", 0, ""),
    ] {
        newc(&mut initrd, name, mode, content);
    }
    let probe = dir.join("probe.initrd");
    std::fs::write(&probe, initrd).unwrap();
    let files = [("test/kernel", kernel), ("test/initrd", probe), ("snapshot/tiny", disk)];
    let blob = |n: usize| blob(files[n].0, &files[n].1);
    let (kernel, initrd, disk) = (blob(0), blob(1), blob(2));
    Images { kernel, initrd, disk, files: files.into_iter().map(|(name, path)| (name.to_owned(), path)).collect() }
}

pub fn blob(name: &str, path: &Path) -> BlobRef {
    let bytes = std::fs::read(path).unwrap();
    let sha256 = hex::encode(Sha256::digest(&bytes));
    BlobRef { name: name.to_owned(), sha256, size_bytes: bytes.len() as u64, format: BlobFormat::Raw }
}

/// One entry of an initramfs (cpio, "newc").
fn newc(out: &mut Vec<u8>, name: &str, mode: u32, content: &str) {
    let fields = [0, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    out.extend_from_slice(b"070701");
    fields.iter().for_each(|field| out.extend_from_slice(format!("{field:08x}").as_bytes()));
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(content.as_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
}

pub fn host_section() -> Section {
    Section::Host(HostSection {
        region: "eu-test-1".to_owned(),
        zone: "eu-test-1a".to_owned(),
        guest_mtu: 1370,
        dns_upstreams: vec![],
        egress_deny: vec![],
        public_pools: vec![],
        place: None,
    })
}

pub fn volume(id: VolumeId, size_bytes: u64, source: Option<BlobRef>) -> VolumeSection {
    VolumeSection { id, epoch: 1, desired: Desired::Present, size_bytes, source, demand: None }
}

pub fn attachment(volume: VolumeId, slot: u8) -> VolumeAttachmentSpec {
    VolumeAttachmentSpec { volume, device_name: format!("/dev/sd{}", char::from(b'a' + slot)), boot: slot == 0, slot }
}

/// An instance without interfaces.
pub fn instance(
    id: InstanceId,
    volumes: Vec<VolumeAttachmentSpec>,
    direct_boot: Option<DirectBoot>,
) -> InstanceSection {
    InstanceSection {
        id,
        account: "123456789012".parse().unwrap(),
        epoch: 1,
        run_id: 1,
        desired: PowerState::Running,
        force_stop: false,
        reboot_count: 0,
        instance_type: "tr1.pico".to_owned(),
        vcpus: 1,
        memory_bytes: 128 << 20,
        architecture: "x86_64".to_owned(),
        machine: None,
        direct_boot,
        volumes,
        interfaces: vec![],
        metadata: InstanceMetadata {
            image: ResourceId::generate(&OsRandom),
            launch_index: 0,
            reservation: ResourceId::generate(&OsRandom),
            launched_at: Timestamp::from_secs(1_700_000_000),
            hostname: "ip-10-0-0-5.eu-test-1.compute.internal".to_owned(),
            public_hostname: None,
            key_pair: None,
            security_group_names: vec![],
            user_data: None,
            instance_profile: None,
            tags: BTreeMap::new(),
            options: MetadataOptions { enabled: true, tokens_required: false, hop_limit: 1, tags_enabled: false },
        },
        demand: None,
    }
}

/// The only network of a world's guests.
const VPC: &str = "vpc-00000000000000001";

/// An interface in 10.0.0.0/24; `n` is the last part of its addresses.
pub fn interface(n: u8) -> (InterfaceId, String, Section) {
    let (id, mac) = (InterfaceId::generate(&OsRandom), format!("02:00:00:00:00:{n:02x}"));
    let section = InterfaceSection {
        id,
        vpc: VPC.parse().unwrap(),
        subnet: "subnet-00000000000000001".parse().unwrap(),
        subnet_cidr: "10.0.0.0/24".parse().unwrap(),
        gateway: "10.0.0.1".parse().unwrap(),
        epoch: 1,
        desired: Desired::Present,
        mac: mac.clone(),
        addresses: vec![format!("10.0.0.{n}").parse().unwrap()],
        public_address: None,
        security_groups: BTreeSet::new(),
        source_dest_check: true,
        routes: vec![],
        instance: None,
    };
    (id, mac, Section::Interface(section))
}

fn vpc_section() -> Section {
    let cidrs = vec!["10.0.0.0/16".parse().unwrap()];
    Section::Vpc(VpcSection { id: VPC.parse().unwrap(), index: 1, cidrs, dns_support: true })
}

/// Puts a probe guest with a root volume into the world's spec.
pub fn launch(world: &World, probe: &str) -> (InstanceId, VolumeId) {
    let images = images();
    for (name, path) in &images.files {
        world.plane.add_blob(name, path.clone());
    }
    let (id, root) = (InstanceId::generate(&OsRandom), VolumeId::generate(&OsRandom));
    let boot = DirectBoot {
        kernel: images.kernel,
        initrd: Some(images.initrd),
        command_line: format!("console=ttyS0,115200 quiet reboot=t panic=-1 probe={probe}"),
    };
    world.plane.put_all(vec![
        host_section(),
        vpc_section(),
        Section::Volume(volume(root, 256 << 20, Some(images.disk))),
        Section::Instance(Box::new(instance(id, vec![attachment(root, 0)], Some(boot)))),
    ]);
    (id, root)
}
