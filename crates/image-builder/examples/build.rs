//! `cargo run --example build -- tiny|debian-12 DIR`, or `import SOURCE DIR`: prints the result as JSON.

use std::path::Path;

use terroir_image_builder::{ImageError, TerminalProgress, build_debian_12, build_tiny, import};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let progress = TerminalProgress::new();
    let built = match args[..] {
        ["tiny", dir] => build_tiny(Path::new(dir), &progress),
        ["debian-12", dir] => build_debian_12(Path::new(dir), None, &progress),
        ["import", source, dir] => import(source, Path::new(dir), None, &progress).await,
        _ => Err(ImageError::Unexpected("usage: build tiny DIR | import SOURCE DIR".into())),
    }?;
    println!("{}", serde_json::to_string_pretty(&built)?);
    Ok(())
}
