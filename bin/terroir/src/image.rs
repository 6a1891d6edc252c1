//! `terroir image`: builds or reads a disk image and hands it to the control plane.

use bytes::Bytes;
use futures::TryStreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use terroir_image_builder::{BuiltImage, DiskFormat, TerminalProgress};
use terroir_types::{OsRandom, ResourceId, SnapshotId};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use crate::admin_api::{ImageSummary, RegisterImageRequest, StoredBlob};
use crate::admin_client::AdminClient;
use crate::cli::{BuiltIn, ImageCommand};
use crate::layout::Layout;

pub async fn run(layout: &Layout, command: ImageCommand) -> Result<(), String> {
    match command {
        ImageCommand::Build { what, output: Some(folder), mirror } => {
            let image = build(what, folder, mirror).await?;
            println!("{}  sha256 {}", image.path.display(), image.sha256);
            Ok(())
        }
        ImageCommand::Build { what, output: None, mirror } => {
            let client = AdminClient::new(&layout.admin_socket());
            // Before the long part: is there anybody to hand it to?
            let _: serde_json::Value = client.get("/status").await.map_err(|error| error.to_string())?;
            let image = build(what, layout.images(), mirror).await?;
            hand_over(&client, image, None).await
        }
        ImageCommand::Import { source, name, sha256 } => {
            let client = AdminClient::new(&layout.admin_socket());
            let _: serde_json::Value = client.get("/status").await.map_err(|error| error.to_string())?;
            let folder = layout.images();
            std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            let progress = TerminalProgress::new();
            let image = terroir_image_builder::import(&source, &folder, sha256.as_deref(), &progress)
                .await
                .map_err(|error| error.to_string())?;
            hand_over(&client, image, name).await
        }
        ImageCommand::List { json } => list(layout, json).await,
        ImageCommand::Export { image, file } => export(layout, &image, &file).await,
    }
}

async fn build(what: BuiltIn, folder: PathBuf, mirror: Option<String>) -> Result<BuiltImage, String> {
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let build = move || {
        let progress = TerminalProgress::new();
        match what {
            BuiltIn::Tiny => terroir_image_builder::build_tiny(&folder, &progress),
            BuiltIn::Debian12 => terroir_image_builder::build_debian_12(&folder, mirror.as_deref(), &progress),
        }
    };
    tokio::task::spawn_blocking(build).await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Uploads the files and registers them; the local copies are removed, since the cloud keeps its own.
async fn hand_over(client: &AdminClient, image: BuiltImage, name: Option<String>) -> Result<(), String> {
    let snapshot = SnapshotId::generate(&OsRandom).to_string();
    let disk = upload(client, &image.path, &format!("snapshot/{snapshot}")).await?;
    let kernel = upload_by_digest(client, image.boot.kernel.as_deref(), "image-kernel").await?;
    let initrd = upload_by_digest(client, image.boot.initrd.as_deref(), "image-initrd").await?;
    let request = RegisterImageRequest {
        name: name.unwrap_or(image.name),
        description: image.description,
        architecture: image.architecture,
        source: image.source,
        snapshot,
        disk,
        virtual_size_bytes: image.size_bytes,
        format: match image.format {
            DiskFormat::Raw => "raw",
            DiskFormat::Qcow2 => "qcow2",
            DiskFormat::Vmdk => "vmdk",
        }
        .to_owned(),
        kernel,
        initrd,
        command_line: image.boot.cmdline,
    };
    let registered: ImageSummary = client.post("/images", &request).await.map_err(|error| error.to_string())?;
    for file in [Some(image.path), image.boot.kernel, image.boot.initrd].into_iter().flatten() {
        if let Err(error) = std::fs::remove_file(&file) {
            tracing::warn!(file = %file.display(), %error, "cannot remove a file that is no longer needed");
        }
    }
    println!("{}  {}  sha256 {}", registered.image_id, registered.name, registered.sha256);
    Ok(())
}

/// Small files are kept under their digest, so that images share them.
async fn upload_by_digest(client: &AdminClient, file: Option<&Path>, kind: &str) -> Result<Option<StoredBlob>, String> {
    let Some(file) = file else { return Ok(None) };
    let bytes = tokio::fs::read(file).await.map_err(|error| format!("{}: {error}", file.display()))?;
    let name = format!("{kind}/{}", hex::encode(Sha256::digest(&bytes)));
    upload(client, file, &name).await.map(Some)
}

async fn upload(client: &AdminClient, file: &Path, name: &str) -> Result<StoredBlob, String> {
    let reader = tokio::fs::File::open(file).await.map_err(|error| format!("{}: {error}", file.display()))?;
    let chunks = ReaderStream::with_capacity(reader, 256 << 10).map_ok(Frame::<Bytes>::data);
    let body = StreamBody::new(chunks).boxed_unsync();
    client.put(&format!("/blobs/{name}"), body).await.map_err(|error| error.to_string())
}

async fn list(layout: &Layout, json: bool) -> Result<(), String> {
    let client = AdminClient::new(&layout.admin_socket());
    let images: Vec<ImageSummary> = client.get("/images").await.map_err(|error| error.to_string())?;
    if json {
        println!("{}", serde_json::to_string_pretty(&images).map_err(|error| error.to_string())?);
        return Ok(());
    }
    for image in images {
        let ImageSummary { image_id, name, architecture, size_bytes, sha256, source, .. } = image;
        println!("{image_id}  {name}  {architecture}  {} MiB  sha256 {sha256}  {source}", size_bytes >> 20);
    }
    Ok(())
}

async fn export(layout: &Layout, image: &str, file: &Path) -> Result<(), String> {
    let client = AdminClient::new(&layout.admin_socket());
    let images: Vec<ImageSummary> = client.get("/images").await.map_err(|error| error.to_string())?;
    let found = images
        .into_iter()
        .find(|candidate| candidate.image_id == image || candidate.name == image)
        .ok_or_else(|| format!("there is no image '{image}': see `terroir image list`"))?;
    let mut body =
        client.stream(&format!("/images/{}/disk", found.image_id)).await.map_err(|error| error.to_string())?;
    let cannot = |error: std::io::Error| format!("cannot write {}: {error}", file.display());
    let mut out = tokio::fs::OpenOptions::new().write(true).create_new(true).open(file).await.map_err(cannot)?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the image stopped coming: {error}"))?;
        if let Ok(data) = frame.into_data() {
            out.write_all(&data).await.map_err(cannot)?;
        }
    }
    out.sync_all().await.map_err(cannot)?;
    println!("{}  sha256 {}", file.display(), found.sha256);
    Ok(())
}
