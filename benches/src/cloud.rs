//! A cloud of our own: started, asked, stopped and removed, also when a measurement fails.

use rustix::process::Pid;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::Endpoint;
use crate::say;

pub struct Cloud {
    terroir: PathBuf,
    folder: tempfile::TempDir,
    address: String,
    hypervisor: &'static str,
}

impl Cloud {
    /// Nothing runs yet. The folder may be entered by the unprivileged users of the processes.
    pub fn new(terroir: &Path, hypervisor: &'static str) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("terroir-bench-").tempdir_in("/var/tmp").map_err(say)?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).map_err(say)?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data).map_err(say)?;
        // What one account may do is not what is measured.
        std::fs::write(data.join("terroir.toml"), "s3_requests_per_second = 1000000\n").map_err(say)?;
        let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).map_err(say)?.to_string();
        Ok(Self { terroir: terroir.to_owned(), folder, address, hypervisor })
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.terroir);
        command.args(arguments).arg("--data-dir").arg(self.data()).stdin(Stdio::null());
        command
    }

    /// From the start of the process to the end of `up --detach`, which is the cloud being ready. The pools are
    /// not the default ones, so that a cloud which already runs here is not disturbed.
    pub fn up(&self) -> Result<Duration, String> {
        let log = self.folder.path().join("up.log");
        let output = std::fs::File::create(&log).map_err(say)?;
        let start = Instant::now();
        let status = self
            .command(&["up", "--detach", "--listen", &self.address, "--hypervisor", self.hypervisor])
            .args(["--public-pool", "100.98.0.0/20", "--edge-pool", "100.126.0.0/17"])
            .stdout(output.try_clone().map_err(say)?)
            .stderr(output)
            .status()
            .map_err(say)?;
        let took = start.elapsed();
        if status.success() {
            return Ok(took);
        }
        Err(format!("terroir up: {status}: {}", std::fs::read_to_string(log).unwrap_or_default()))
    }

    pub fn down(&self) -> Result<(), String> {
        self.run(&["down"]).map(drop)
    }

    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(arguments).output().map_err(say)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("terroir {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
    }

    pub fn status(&self) -> Result<serde_json::Value, String> {
        serde_json::from_str(&self.run(&["status", "--json"])?).map_err(say)
    }

    /// Of one of the three processes.
    pub fn pid(&self, name: &str) -> Result<Pid, String> {
        let status = self.status()?;
        let mut processes = status["processes"].as_array().into_iter().flatten();
        let process = processes.find(|process| process["name"] == name);
        let pid = process.and_then(|process| Pid::from_raw(i32::try_from(process["pid"].as_i64()?).ok()?));
        pid.ok_or_else(|| format!("{name} does not run"))
    }

    pub fn endpoint(&self) -> Result<Endpoint, String> {
        let text = self.run(&["env"])?;
        let value = |name: &str| {
            let start = format!("export {name}=");
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            line.map(str::to_owned).ok_or_else(|| format!("`terroir env` names no {name}"))
        };
        Ok(Endpoint {
            address: self.address.clone(),
            region: value("AWS_DEFAULT_REGION")?,
            access_key_id: value("AWS_ACCESS_KEY_ID")?,
            secret_access_key: value("AWS_SECRET_ACCESS_KEY")?,
        })
    }

    /// Bytes of (RSS, PSS) of each of the three processes, by name.
    pub fn memory(&self) -> Result<Vec<(String, u64, u64)>, String> {
        let status = self.status()?;
        let processes = status["processes"].as_array().ok_or("`terroir status` names no processes")?;
        let mut sizes = Vec::new();
        for process in processes {
            let name = process["name"].as_str().unwrap_or_default().to_owned();
            let pid = process["pid"].as_u64().ok_or_else(|| format!("{name} does not run"))?;
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).map_err(say)?;
            let field = |field: &str| {
                let line = rollup.lines().find_map(|line| line.strip_prefix(field));
                let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
                number.map(|kib| kib * 1024).ok_or_else(|| format!("{name}: no {field}"))
            };
            sizes.push((name.clone(), field("Rss:")?, field("Pss:")?));
        }
        Ok(sizes)
    }

    /// The greatest RSS of one of the processes since [`Cloud::forget_peak`], in bytes.
    pub fn peak(&self, name: &str) -> Result<u64, String> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid(name)?)).map_err(say)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| format!("{name}: no VmHWM"))
    }

    pub fn forget_peak(&self, name: &str) -> Result<(), String> {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid(name)?), "5").map_err(say)
    }

    /// Number and bytes (keys and values) of the records in the store by kind, read beside the running server.
    pub fn records(&self) -> Result<Vec<(String, u64, u64)>, String> {
        let file = self.data().join("state/terroir.db");
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let database = rusqlite::Connection::open_with_flags(file, flags).map_err(say)?;
        let query = "SELECT substr(key, 1, instr(key || '/', '/') - 1), count(*), \
                     sum(length(CAST(key AS BLOB)) + length(value)) FROM kv GROUP BY 1 ORDER BY 1";
        let mut statement = database.prepare(query).map_err(say)?;
        let rows = statement
            .query_map((), |row| Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))
            .map_err(say)?;
        rows.map(|row| row.map(|(kind, count, bytes)| (kind, count.unsigned_abs(), bytes.unsigned_abs())).map_err(say))
            .collect()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // Says no when it is stopped already, which is as well.
        let _ = self.command(&["down"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
