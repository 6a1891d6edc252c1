//! QEMU's command line, and the places on the guest's bus. Pure.
//!
//! ```text
//! pcie.0  0x01      display (VGA: for screenshots)
//!         0x02      random numbers
//!         0x03      the root volume (slot 0)
//!         0x04      the primary interface (device index 0)
//!         0x10.0-7  root ports of volumes, slots 1 to 8
//!         0x11.0-6  root ports of volumes, slots 9 to 15
//!         0x12.0-2  root ports of interfaces, device indices 1 to 3
//! ```
//!
//! Ports stand before the guest boots, whether or not something is plugged in, so that addresses
//! never move: a running guest gets devices by hotplug, and a saved one finds the same bus. Each
//! costs a guest under TCG 20 ms of its boot, so what is never unplugged has none.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::os::fd::RawFd;
use terroir_types::{InstanceId, InterfaceId, VolumeId};

use super::accelerator::Accelerator;
use super::process::name_of_run;
use crate::observed::VolumeFormat;
use crate::plan::{InterfaceOrder, StartOrder};

/// The machine type of new instances, of the oldest QEMU that is supported.
pub(super) const DEFAULT_MACHINE: &str = "pc-q35-7.2";
pub(super) const MAX_VOLUME_SLOT: u8 = 15;
pub(super) const MAX_DEVICE_INDEX: u8 = 3;

/// What a command line refers to by number; open in QEMU under the same numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Descriptors {
    /// A listening Unix socket.
    pub(super) monitor: RawFd,
    pub(super) console: RawFd,
    pub(super) kernel: Option<RawFd>,
    pub(super) initrd: Option<RawFd>,
    /// In the order of the volumes.
    pub(super) disks: Vec<DiskDescriptors>,
    /// In the order of the interfaces.
    pub(super) taps: Vec<RawFd>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct DiskDescriptors {
    pub(super) disk: RawFd,
    pub(super) backing: Option<RawFd>,
}

pub(super) fn volume_bus(slot: u8) -> String {
    if slot == 0 { "pcie.0".to_owned() } else { format!("vp{slot}") }
}

pub(super) fn interface_bus(device_index: u8) -> String {
    if device_index == 0 { "pcie.0".to_owned() } else { format!("np{device_index}") }
}

/// Number of the descriptor set that holds a slot's disk; the next one holds its backing file.
pub(super) fn disk_set(slot: u8) -> u32 {
    100 + 2 * u32::from(slot)
}

/// `vol` and 17 digits: what fits into virtio's 20 bytes, and what the guest finds in `/sys/block/*/serial`.
pub(super) fn serial(volume: VolumeId) -> String {
    volume.to_string().replace('-', "")
}

pub(super) fn device_of_volume(id: &str) -> Option<VolumeId> {
    id.parse().ok()
}

pub(super) fn device_of_interface(id: &str) -> Option<InterfaceId> {
    id.parse().ok()
}

/// Cloud-init's EC2 data source takes a machine for EC2's if its UUID begins with `ec2` and equals its serial number.
pub(super) fn system_uuid(instance: InstanceId) -> String {
    let id = instance.to_string();
    let rest = hex::encode(Sha256::digest(id.as_bytes()));
    let digits = format!("ec2{}{}", &id[2..], &rest[..12]);
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

/// The block device description of a volume, for `-blockdev` and `blockdev-add`.
pub(super) fn block_device(volume: VolumeId, slot: u8, format: VolumeFormat) -> Value {
    let set = disk_set(slot);
    let file = |set: u32| json!({ "driver": "file", "filename": format!("/dev/fdset/{set}"), "discard": "unmap" });
    match format {
        VolumeFormat::Raw => json!({
            "driver": "raw", "node-name": volume.to_string(), "discard": "unmap", "file": file(set),
        }),
        VolumeFormat::Qcow2 => json!({
            "driver": "qcow2", "node-name": volume.to_string(), "discard": "unmap", "file": file(set),
            "backing": {
                "driver": "raw", "read-only": true,
                "file": { "driver": "file", "filename": format!("/dev/fdset/{}", set + 1), "read-only": true },
            },
        }),
    }
}

/// The device of a volume, for `-device` and `device_add`. A guest whose disk cannot be written is paused.
pub(super) fn volume_device(volume: VolumeId, slot: u8) -> Value {
    json!({
        "driver": "virtio-blk-pci", "id": volume.to_string(), "drive": volume.to_string(), "bus": volume_bus(slot),
        "addr": if slot == 0 { "0x3" } else { "0x0" }, "serial": serial(volume), "werror": "stop", "rerror": "report",
    })
}

pub(super) fn netdev(interface: InterfaceId) -> String {
    format!("n{interface}")
}

pub(super) fn interface_device(order: &InterfaceOrder) -> Value {
    let id = order.section.id;
    let index = order.attachment.device_index;
    json!({
        "driver": "virtio-net-pci", "id": id.to_string(), "netdev": netdev(id), "mac": order.section.mac,
        "bus": interface_bus(index), "addr": if index == 0 { "0x4" } else { "0x0" },
        "host_mtu": order.mtu, "romfile": "",
    })
}

pub(super) fn arguments(order: &StartOrder, accelerator: &Accelerator, fds: &Descriptors) -> Vec<String> {
    let section = &order.section;
    let mut line = CommandLine::default();
    line.add("-name", name_of_run(section.id, section.run_id));
    line.flag("-nodefaults");
    line.flag("-no-user-config");
    line.add("-display", "none");
    line.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    // A guest that powers off leaves QEMU paused until the agent has recorded why it ended.
    line.add("-action", "shutdown=pause");
    let machine = order.machine.as_deref().unwrap_or(DEFAULT_MACHINE);
    line.add("-machine", format!("{machine},usb=off,vmport=off,dump-guest-core=off"));
    if accelerator.is_kvm() {
        line.add("-accel", "kvm");
        line.add("-cpu", "host");
    } else {
        line.add("-accel", "tcg,thread=multi,tb-size=256");
        line.add("-cpu", "max");
    }
    line.add("-smp", section.vcpus.max(1).to_string());
    line.add("-m", format!("{}M", section.memory_bytes >> 20));
    let uuid = system_uuid(section.id);
    line.add("-smbios", "type=0,vendor=Amazon EC2,version=1.0");
    let product = section.instance_type.replace(',', ",,");
    line.add("-smbios", format!("type=1,manufacturer=Amazon EC2,product={product},uuid={uuid},serial={uuid}"));
    line.add("-smbios", format!("type=3,manufacturer=Amazon EC2,asset={}", section.id));
    line.add("-rtc", "base=utc");
    line.add("-chardev", format!("socket,id=monitor,fd={},server=on,wait=off", fds.monitor));
    line.add("-mon", "chardev=monitor,mode=control");
    line.add("-add-fd", format!("fd={},set=1,opaque=console", fds.console));
    line.add("-chardev", "file,id=console,path=/dev/fdset/1,append=on");
    line.add("-serial", "chardev:console");
    line.device(
        &json!({ "driver": "VGA", "bus": "pcie.0", "addr": "0x1", "vgamem_mb": 8, "romfile": "vgabios-stdvga.bin" }),
    );
    line.device(&json!({ "driver": "virtio-rng-pci", "bus": "pcie.0", "addr": "0x2" }));
    ports(&mut line);
    if let Some(boot) = &section.direct_boot {
        if let Some(kernel) = fds.kernel {
            line.add("-kernel", format!("/proc/self/fd/{kernel}"));
        }
        if let Some(initrd) = fds.initrd {
            line.add("-initrd", format!("/proc/self/fd/{initrd}"));
        }
        line.add("-append", boot.command_line.clone());
    }
    disks(&mut line, order, fds);
    for (interface, tap) in order.interfaces.iter().zip(&fds.taps) {
        line.add("-netdev", format!("tap,id={},fd={tap}", netdev(interface.section.id)));
        line.device(&interface_device(interface));
    }
    line.0
}

fn ports(line: &mut CommandLine) {
    let mut port = |id: String, chassis: u8, addr: String| {
        line.device(&json!({
            "driver": "pcie-root-port", "id": id, "bus": "pcie.0", "addr": addr, "chassis": chassis, "slot": chassis,
            "multifunction": true, "io-reserve": 0,
        }));
    };
    for slot in 1..=MAX_VOLUME_SLOT {
        let addr = format!("0x{:x}.{}", 0x10 + (slot - 1) / 8, (slot - 1) % 8);
        port(volume_bus(slot), slot, addr);
    }
    for index in 1..=MAX_DEVICE_INDEX {
        port(interface_bus(index), MAX_VOLUME_SLOT + index, format!("0x12.{}", index - 1));
    }
}

fn disks(line: &mut CommandLine, order: &StartOrder, fds: &Descriptors) {
    for ((attachment, file), fd) in order.volumes.iter().zip(&fds.disks) {
        let set = disk_set(attachment.slot);
        line.add("-add-fd", format!("fd={},set={set},opaque={}", fd.disk, attachment.volume));
        if let Some(backing) = fd.backing {
            line.add("-add-fd", format!("fd={backing},set={},opaque=backing", set + 1));
        }
        line.add("-blockdev", block_device(attachment.volume, attachment.slot, file.format).to_string());
        let mut device = volume_device(attachment.volume, attachment.slot);
        if attachment.boot {
            device["bootindex"] = json!(1);
        }
        line.device(&device);
    }
}

#[derive(Default)]
struct CommandLine(Vec<String>);

impl CommandLine {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn add(&mut self, name: &str, value: impl Into<String>) {
        self.0.extend([name.to_owned(), value.into()]);
    }

    fn device(&mut self, device: &Value) {
        self.add("-device", device.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_sees_ec2_and_its_volumes_ids() {
        let instance: InstanceId = "i-0123456789abcdef0".parse().unwrap();
        let uuid = system_uuid(instance);
        assert_eq!(&uuid[..24], "ec201234-5678-9abc-def0-");
        assert_eq!(uuid.len(), 36);
        assert!(uuid.bytes().enumerate().all(|(n, b)| if [8, 13, 18, 23].contains(&n) {
            b == b'-'
        } else {
            b.is_ascii_hexdigit()
        }));
        assert_eq!(uuid, system_uuid(instance));
        let serial = serial("vol-0fedcba9876543210".parse().unwrap());
        assert_eq!((serial.as_str(), serial.len()), ("vol0fedcba9876543210", 20));
    }

    #[test]
    fn every_place_on_the_bus_is_its_own() {
        let mut line = CommandLine::default();
        ports(&mut line);
        let devices: Vec<Value> = line.0.chunks(2).map(|pair| serde_json::from_str(&pair[1]).unwrap()).collect();
        for field in ["id", "addr", "chassis", "slot"] {
            let values: BTreeSet<String> = devices.iter().map(|device| device[field].to_string()).collect();
            assert_eq!(values.len(), 18, "{field}");
        }
        // A guest finds the functions of a device only if it has a function 0.
        for device in &devices {
            let (place, _) = device["addr"].as_str().unwrap().split_once('.').unwrap();
            let first = format!("{place}.0");
            assert!(devices.iter().any(|d| d["addr"] == first), "{first}");
        }
        let sets: BTreeSet<u32> = (0..=MAX_VOLUME_SLOT).flat_map(|slot| [disk_set(slot), disk_set(slot) + 1]).collect();
        assert_eq!(sets.len(), 2 * (usize::from(MAX_VOLUME_SLOT) + 1));
    }

    use std::collections::BTreeSet;
}
