//! Garage on one node, with data of its own, as the peer that object storage is measured against. It is never
//! installed from here.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::Endpoint;
use crate::objects::BUCKET;
use crate::say;

pub const HOW_TO_INSTALL: &str =
    "no Garage here: cargo install garage --no-default-features --features bundled-libs,lmdb, or GARAGE=path";
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// Of this run and these data only.
const ACCESS_KEY: &str = "GK31c2f218a2e44f485b94239e";
const SECRET_KEY: &str = "b892c0665f0ada8a4755dae98baa3b133590e11dae3bcc1f9d769d67f16c3835";
const RPC_SECRET: &str = "0f5a1d7c9e3b24680f5a1d7c9e3b24680f5a1d7c9e3b24680f5a1d7c9e3b2468";

/// `$GARAGE`, or the one in `$PATH`.
pub fn program() -> Option<PathBuf> {
    let named = std::env::var_os("GARAGE").map(PathBuf::from);
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = || std::env::split_paths(&folders).map(|folder| folder.join("garage")).find(|path| path.is_file());
    named.filter(|path| path.is_file()).or_else(found)
}

/// `garage 2.5.0`, or whatever it calls itself.
pub fn version(program: &Path) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output().map_err(say)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split(" [").next().unwrap_or_default().trim().replace("cargo:", ""))
}

/// A running node with the bucket [`BUCKET`].
pub struct Garage {
    process: Child,
    folder: tempfile::TempDir,
    pub endpoint: Endpoint,
}

impl Garage {
    /// `syncs`: whether it waits for the disk (`metadata_fsync` and `data_fsync`), which by default it does not.
    pub fn start(program: &Path, syncs: bool) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("terroir-bench-garage-").tempdir_in("/var/tmp").map_err(say)?;
        let [api, rpc] = [free_address()?, free_address()?];
        let data = folder.path().display();
        let configuration = format!(
            "metadata_dir = \"{data}/meta\"\ndata_dir = \"{data}/data\"\ndb_engine = \"lmdb\"\n\
             metadata_fsync = {syncs}\ndata_fsync = {syncs}\nreplication_factor = 1\n\
             rpc_bind_addr = \"{rpc}\"\nrpc_public_addr = \"{rpc}\"\nrpc_secret = \"{RPC_SECRET}\"\n\
             [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"{api}\"\nroot_domain = \".s3.garage\"\n"
        );
        let file = folder.path().join("garage.toml");
        std::fs::write(&file, configuration).map_err(say)?;
        let log = File::create(folder.path().join("log")).map_err(say)?;
        let process = Command::new(program)
            .arg("-c")
            .arg(&file)
            .args(["server", "--single-node", "--default-bucket"])
            .env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY)
            .env("GARAGE_DEFAULT_SECRET_KEY", SECRET_KEY)
            .env("GARAGE_DEFAULT_BUCKET", BUCKET)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(say)?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let endpoint = Endpoint {
            address: api,
            region: "garage".to_owned(),
            access_key_id: ACCESS_KEY.to_owned(),
            secret_access_key: SECRET_KEY.to_owned(),
        };
        let mut garage = Self { process, folder, endpoint };
        garage.wait()?;
        Ok(garage)
    }

    fn wait(&mut self) -> Result<(), String> {
        let start = Instant::now();
        while TcpStream::connect(&self.endpoint.address).is_err() {
            if self.process.try_wait().map_err(say)?.is_some() || start.elapsed() > READY_DEADLINE {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                return Err(format!("Garage does not answer: {log}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> Result<String, String> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .map(|address| address.to_string())
        .map_err(say)
}
