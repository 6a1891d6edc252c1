use super::*;
use crate::AgentOptions;
use crate::observed::VolumeFormat;
use async_trait::async_trait;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use terroir_agent_api::*;
use terroir_types::{InstanceId, ResourceId, SeededRandom};

const MIB: u64 = 1 << 20;

/// Hands out blobs and nothing else.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

#[async_trait]
impl ControlPlane for Blobs {
    async fn pull_spec(&self, _: HostId, _: Cursor, _: Duration) -> Result<SpecPage, CrossingError> {
        Err(CrossingError::Unreachable(String::new()))
    }
    async fn report(&self, _: HostReport) -> Result<ReportAck, CrossingError> {
        Err(CrossingError::Unreachable(String::new()))
    }
    async fn queries(&self, _: HostId, _: Duration) -> Result<Vec<HostQuery>, CrossingError> {
        Err(CrossingError::Unreachable(String::new()))
    }
    async fn answer(&self, _: HostId, _: u64, _: QueryAnswer) -> Result<(), CrossingError> {
        Err(CrossingError::Unreachable(String::new()))
    }
    async fn fetch_blob(&self, _: HostId, name: &str, sink: BlobSink<'_>) -> Result<(), CrossingError> {
        let bytes = self.0.get(name).ok_or_else(|| CrossingError::NotFound(name.to_owned()))?;
        for piece in bytes.chunks(70_001) {
            sink.write_all(piece).map_err(|e| CrossingError::Refused(e.to_string()))?;
        }
        Ok(())
    }
    async fn credentials(&self, _: HostId, _: InstanceId) -> Result<RoleCredentials, CrossingError> {
        Err(CrossingError::NotFound(String::new()))
    }
}

struct World {
    dir: tempfile::TempDir,
    disks: Disks,
    blobs: Blobs,
}

impl World {
    fn new(change: impl FnOnce(&mut AgentOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = HostId::generate(&SeededRandom::new(0));
        let mut options = AgentOptions::new(dir.path(), host, HypervisorKind::Qemu, "00000000");
        options.volume_reserve_bytes = MIB;
        change(&mut options);
        let disks = Disks::open(&options, Arc::new(DiskFiles::new(&options))).unwrap();
        Self { dir, disks, blobs: Blobs::default() }
    }

    fn blob(&mut self, name: &str, bytes: Vec<u8>, format: BlobFormat) -> BlobRef {
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let size_bytes = bytes.len() as u64;
        self.blobs.0.insert(name.to_owned(), bytes);
        BlobRef { name: name.to_owned(), sha256, size_bytes, format }
    }

    async fn fetch(&self, blob: &BlobRef) -> Result<(), StorageError> {
        self.disks.fetch(blob, HostId::generate(&SeededRandom::new(0)), &self.blobs).await
    }

    async fn create(&self, n: u64, size_bytes: u64, source: Option<BlobRef>) -> Result<VolumeId, StorageError> {
        let volume = VolumeId::generate(&SeededRandom::new(n));
        self.disks.apply(&Op::CreateVolume { volume, size_bytes, source }).await?;
        Ok(volume)
    }

    fn image(&self, blob: &BlobRef) -> Vec<u8> {
        fs::read(self.dir.path().join("images").join(&blob.sha256)).unwrap()
    }

    fn left_over(&self) -> Vec<String> {
        let names = |dir: &str| fs::read_dir(self.dir.path().join(dir)).unwrap().flatten().map(|e| e.file_name());
        let hidden = names("images").chain(names("volumes")).map(|n| n.to_string_lossy().into_owned());
        hidden.filter(|name| name.starts_with('.')).collect()
    }
}

fn pattern(length: usize) -> Vec<u8> {
    // Zeros in the middle: they are left out of the file and must come back.
    (0..length).map(|n| if (100_000..400_000).contains(&n) { 0 } else { (n % 253) as u8 }).collect()
}

fn qemu_img(arguments: &[&str], dir: &Path) -> bool {
    match Command::new("qemu-img").args(arguments).current_dir(dir).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(error) => {
            eprintln!("\n*** SKIPPED: qemu-img: {error} ***\n");
            false
        }
    }
}

#[tokio::test]
async fn volumes_appear_grow_and_go() {
    let mut world = World::new(|_| {});
    let empty = world.create(1, 5 * MIB, None).await.unwrap();
    let file = world.disks.observe(empty).unwrap().unwrap();
    assert_eq!((file.format, file.size_bytes, file.backing), (VolumeFormat::Raw, 5 * MIB, None));
    assert!(world.disks.allocated_bytes(empty) < MIB, "sparse");

    let bytes = pattern(2 * MIB as usize);
    let blob = world.blob("image", bytes.clone(), BlobFormat::Raw);
    world.fetch(&blob).await.unwrap();
    assert_eq!(world.image(&blob), bytes);
    if qemu_img(&["--version"], world.dir.path()) {
        let cloned = world.create(2, 8 * MIB, Some(blob.clone())).await.unwrap();
        let file = world.disks.observe(cloned).unwrap().unwrap();
        assert_eq!(file.size_bytes, 8 * MIB);
        assert_eq!(file.backing.is_some(), file.format == VolumeFormat::Qcow2);
        let raw = world.dir.path().join("raw");
        let disk = world.disks.files().disk(cloned, file.format);
        qemu_img(&["convert", "-O", "raw", disk.to_str().unwrap(), raw.to_str().unwrap()], world.dir.path());
        let mut expected = bytes.clone();
        expected.resize(8 * MIB as usize, 0);
        assert_eq!(fs::read(&raw).unwrap(), expected);
        world.disks.apply(&Op::GrowVolume { volume: cloned, size_bytes: 9 * MIB }).await.unwrap();
        assert_eq!(world.disks.observe(cloned).unwrap().unwrap().size_bytes, 9 * MIB);
        // In use under the overlay: not even an empty cache limit drops it.
        if file.backing.is_some() {
            world.disks.evict(&BTreeSet::new()).unwrap();
            assert!(world.disks.has_blob(&blob));
        }
    }
    let small = world.create(3, MIB, Some(blob)).await;
    assert!(matches!(&small, Err(error @ StorageError::Refused(_)) if error.is_lasting()), "{small:?}");
    world.disks.apply(&Op::GrowVolume { volume: empty, size_bytes: 6 * MIB }).await.unwrap();
    assert_eq!(world.disks.observe(empty).unwrap().unwrap().size_bytes, 6 * MIB);
    for _ in 0..2 {
        world.disks.apply(&Op::DeleteVolume { volume: empty }).await.unwrap();
        assert_eq!(world.disks.observe(empty).unwrap(), None);
    }
    assert_eq!(world.left_over(), Vec::<String>::new());
}

#[tokio::test]
async fn blobs_that_are_not_what_was_announced_are_not_kept() {
    let mut world = World::new(|_| {});
    let good = world.blob("good", pattern(300_000), BlobFormat::Raw);
    for (blob, expected) in [
        (BlobRef { sha256: "0".repeat(64), ..good.clone() }, "SHA-256"),
        (BlobRef { size_bytes: 299_999, ..good.clone() }, "more than"),
        (BlobRef { size_bytes: 300_001, ..good.clone() }, "instead of"),
        (BlobRef { sha256: "../../etc/passwd".to_owned(), ..good.clone() }, "not a SHA-256"),
        (BlobRef { name: "absent".to_owned(), ..good.clone() }, "absent"),
        (BlobRef { format: BlobFormat::Qcow2, ..good.clone() }, "not a qcow2"),
        (BlobRef { format: BlobFormat::Vmdk, ..good.clone() }, "not a VMDK"),
    ] {
        let error = world.fetch(&blob).await.unwrap_err();
        assert!(error.to_string().contains(expected) && error.is_lasting(), "{error}");
        assert!(!world.disks.has_blob(&blob));
    }
    assert_eq!(world.left_over(), Vec::<String>::new());
    world.fetch(&good).await.unwrap();
    assert!(world.disks.has_blob(&good));
}

#[tokio::test]
async fn qcow2_and_vmdk_become_raw() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("\n*** SKIPPED: qcow2_and_vmdk_become_raw needs root (the converter gets a uid of its own) ***\n");
        return;
    }
    let mut world = World::new(|_| {});
    let dir = world.dir.path().to_owned();
    let bytes = pattern(3 * MIB as usize);
    fs::write(dir.join("source.raw"), &bytes).unwrap();
    for (name, format) in [("qcow2", BlobFormat::Qcow2), ("vmdk", BlobFormat::Vmdk)] {
        if !qemu_img(&["convert", "-f", "raw", "-O", name, "source.raw", "converted"], &dir) {
            return;
        }
        let blob = world.blob(name, fs::read(dir.join("converted")).unwrap(), format);
        world.fetch(&blob).await.unwrap();
        assert!(world.image(&blob) == bytes, "{name}");
    }
    // A stranger's image must not show it the host's files.
    fs::write(dir.join("secret"), pattern(MIB as usize)).unwrap();
    let secret = dir.join("secret");
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret.to_str().unwrap(), "thief"], &dir);
    let blob = world.blob("thief", fs::read(dir.join("thief")).unwrap(), BlobFormat::Qcow2);
    let error = world.fetch(&blob).await.unwrap_err().to_string();
    assert!(error.contains("refers to another file"), "{error}");
    assert_eq!(world.left_over(), Vec::<String>::new());
}

#[tokio::test]
async fn the_cache_drops_the_longest_unused_and_never_what_is_in_use() {
    let mut world = World::new(|options| options.image_cache_bytes = 300_000);
    let mut images = Vec::new();
    for n in 0..4u8 {
        let blob = world.blob(&format!("image-{n}"), vec![n + 1; 128 << 10], BlobFormat::Raw);
        world.fetch(&blob).await.unwrap();
        let file = fs::File::open(world.dir.path().join("images").join(&blob.sha256)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1000 + u64::from(n))).unwrap();
        images.push(blob);
    }
    world.disks.evict(&[images[0].sha256.clone()].into()).unwrap();
    let kept: Vec<bool> = images.iter().map(|blob| world.disks.has_blob(blob)).collect();
    assert_eq!(kept, [true, false, false, true]);
}

#[tokio::test]
async fn an_interrupted_agents_half_made_files_are_removed() {
    let world = World::new(|_| {});
    let volume = world.create(1, MIB, None).await.unwrap();
    fs::create_dir(world.dir.path().join("volumes/.new-vol-0")).unwrap();
    fs::create_dir(world.dir.path().join("volumes/.old-vol-1")).unwrap();
    fs::write(world.dir.path().join("images/.new-abc"), "x").unwrap();
    fs::create_dir(world.dir.path().join("volumes/somebody-elses")).unwrap();
    let host = HostId::generate(&SeededRandom::new(0));
    let options = AgentOptions::new(world.dir.path(), host, HypervisorKind::Qemu, "00000000");
    let disks = Disks::open(&options, Arc::new(DiskFiles::new(&options))).unwrap();
    assert_eq!(world.left_over(), Vec::<String>::new());
    assert_eq!(disks.survey().unwrap(), [volume].into());
    assert!(world.dir.path().join("volumes/somebody-elses").exists());
}
