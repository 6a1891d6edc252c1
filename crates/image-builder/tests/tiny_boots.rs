//! Builds `tiny` and boots it in QEMU without acceleration: the whole life of an instance.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use terroir_image_builder::{BuiltImage, Silent, build_tiny};

/// Generous: other tests use the processor too.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);

const USER_DATA: &str = "#!/bin/bash
echo \"host $(hostname)\"
echo \"root-mib $(df -m / | awk 'NR==2 {print $2}')\"
echo \"keys $(cat /home/ec2-user/.ssh/authorized_keys | wc -l) $(stat -c %U:%a /root/.ssh/authorized_keys)\"
echo \"user $(id -u ec2-user)\"
echo \"disk $(ls /dev/disk/by-id)\"
for tool in nc wget ping nslookup ip mount mkfs.ext4 blkid sha256sum arping; do
    which $tool > /dev/null || echo \"missing $tool\"
done
";

struct Guest {
    qemu: Child,
    dir: PathBuf,
}

impl Guest {
    /// Boots `disk` as instance `id`, through its own boot loader or with the image's kernel.
    fn boot(image: &BuiltImage, dir: &Path, disk: &Path, id: &str, direct: bool) -> Self {
        let console = dir.join("console");
        let _ = fs::remove_file(&console);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/metadata_once.py");
        let metadata = format!("python3 {} {id} {}", script.display(), dir.join("user-data").display());
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-M", "q35"])
            .args(["-accel", "tcg", "-cpu", "max", "-m", "128"])
            .arg("-drive")
            .arg(format!("if=none,id=root,format=raw,file={}", disk.display()))
            .args(["-device", "virtio-blk-pci,drive=root,serial=vol0123456789abcdef0"])
            .arg("-netdev")
            .arg(format!(
                "user,id=net,restrict=on,net=169.254.169.0/24,host=169.254.169.2,\
                 dhcpstart=169.254.169.15,guestfwd=tcp:169.254.169.254:80-cmd:{metadata}"
            ))
            .args(["-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", dir.join("qmp").display()))
            .stdin(Stdio::null());
        if direct {
            let boot = &image.boot;
            command
                .arg("-kernel")
                .arg(boot.kernel.as_ref().unwrap())
                .arg("-initrd")
                .arg(boot.initrd.as_ref().unwrap())
                .args(["-append", boot.cmdline.as_ref().unwrap()]);
        }
        Self { qemu: command.spawn().unwrap(), dir: dir.to_owned() }
    }

    /// Waits for the system to be up and returns what the console said.
    fn console_when_up(&mut self) -> String {
        let deadline = Instant::now() + BOOT_DEADLINE;
        loop {
            let text = fs::read(self.dir.join("console")).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).replace('\r', "");
            if text.contains("tiny: up") {
                return text;
            }
            assert!(self.qemu.try_wait().unwrap().is_none(), "QEMU ended: {text}");
            assert!(Instant::now() < deadline, "not up in time: {text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Presses the power button and waits for the guest to turn itself off.
    fn power_off(mut self) {
        let mut stream = UnixStream::connect(self.dir.join("qmp")).unwrap();
        stream.write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"system_powerdown\"}").unwrap();
        stream.set_read_timeout(Some(BOOT_DEADLINE)).unwrap();
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("\"SHUTDOWN\"")), "no shutdown");
        assert!(self.qemu.wait().unwrap().success());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Ended already when all went well.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn line_after(console: &str, start: &str) -> String {
    console
        .lines()
        .find_map(|line| line.strip_prefix(start))
        .unwrap_or_else(|| panic!("no {start:?} in {console}"))
        .trim()
        .to_owned()
}

#[test]
fn an_instance_gets_its_identity_once_and_powers_off() {
    for program in ["qemu-system-x86_64", "apt-get", "grub-mkimage"] {
        if Command::new(program).arg("--version").output().is_err() {
            eprintln!("SKIPPED: {program} is not installed");
            return;
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tiny");
    let image = build_tiny(&target, &Silent).unwrap();
    assert!(image.size_bytes < 64 << 20);
    let again = build_tiny(&target, &Silent).unwrap();
    assert_eq!(image.sha256, again.sha256, "the same packages give the same bytes");

    fs::write(dir.join("user-data"), USER_DATA).unwrap();
    let disk = dir.join("disk");
    fs::copy(&image.path, &disk).unwrap();
    fs::OpenOptions::new().write(true).open(&disk).unwrap().set_len(1 << 30).unwrap();

    let mut guest = Guest::boot(&image, dir, &disk, "i-0000000000000000a", true);
    let first = guest.console_when_up();
    let host_key = line_after(&first, "SHA256:");
    assert_eq!(line_after(&first, "user-data: host"), "ip-10-0-0-7.ec2.internal");
    let root_mib: u64 = line_after(&first, "user-data: root-mib").parse().unwrap();
    assert!(root_mib > 900, "root file system grew to {root_mib} MiB only");
    assert_eq!(line_after(&first, "user-data: keys"), "1 root:600");
    assert_eq!(line_after(&first, "user-data: user"), "1000");
    assert_eq!(line_after(&first, "user-data: disk"), "virtio-vol0123456789abcdef0");
    assert!(!first.contains("missing "), "{first}");
    assert!(first.contains("tiny: user data ended with status 0"), "{first}");
    guest.power_off();

    let mut guest = Guest::boot(&image, dir, &disk, "i-0000000000000000a", false);
    let second = guest.console_when_up();
    assert_eq!(line_after(&second, "SHA256:"), host_key, "the same instance keeps its key");
    assert!(!second.contains("user-data:"), "user data ran twice: {second}");
    guest.power_off();

    let mut guest = Guest::boot(&image, dir, &disk, "i-0000000000000000b", true);
    let other = guest.console_when_up();
    assert_ne!(line_after(&other, "SHA256:"), host_key, "a copy is another machine");
    assert!(other.contains("user-data:"), "user data of the copy did not run: {other}");
    guest.power_off();
}
