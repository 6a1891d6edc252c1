//! Finding botocore and reading its models.

use super::model::Model;
use super::{Result, Service};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the pin of botocore stands; the differential test talks to the same version.
const PIN_FILE: &str = "tests/requirements.txt";

/// An unpacked botocore package of the pinned version.
pub struct Botocore {
    directory: PathBuf,
    pub version: String,
    python: String,
}

impl Botocore {
    /// Takes `directory`, or else asks the repository's own Python environment, or `python3`, where botocore is.
    ///
    /// # Errors
    /// If it is not there or is not the pinned version.
    pub fn open(root: &Path, directory: Option<PathBuf>) -> Result<Self> {
        let own = root.join(".venv/bin/python3");
        let python = if own.is_file() { own.display().to_string() } else { "python3".to_owned() };
        let directory = match directory {
            Some(directory) => directory,
            None => {
                let script = "import botocore, os; print(os.path.dirname(botocore.__file__))";
                let printed = run_python(&python, &["-c", script])
                    .map_err(|error| format!("botocore not found (install {PIN_FILE}, or --botocore DIR): {error}"))?;
                PathBuf::from(String::from_utf8_lossy(&printed).trim())
            }
        };
        let version = version_of(&directory)?;
        let pinned = pinned_version(&root.join(PIN_FILE))?;
        if version != pinned {
            return Err(format!(
                "botocore in {} is {version}, but {PIN_FILE} pins {pinned}. Other versions hold other models, and the \
                 generated code must be the same wherever it is made: install the pinned one, or change the pin and \
                 commit the new code with it.",
                directory.display()
            ));
        }
        Ok(Self { directory, version, python })
    }

    /// The newest model of a service.
    pub fn model(&self, service: &Service) -> Result<Model> {
        let versions = self.directory.join("data").join(&service.name);
        let read = || -> std::io::Result<Vec<String>> {
            let folders = fs::read_dir(&versions)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            folders.collect()
        };
        let newest = read().map_err(|error| format!("{}: {error}", versions.display()))?.into_iter().max();
        let plain = versions.join(newest.unwrap_or_default()).join("service-2.json");
        let text = if plain.is_file() {
            fs::read(&plain).map_err(|error| format!("{}: {error}", plain.display()))?
        } else {
            let packed = format!("{}.gz", plain.display());
            let script = "import gzip, sys; sys.stdout.buffer.write(gzip.open(sys.argv[1]).read())";
            run_python(&self.python, &["-c", script, &packed])?
        };
        serde_json::from_slice(&text).map_err(|error| format!("the model of {}: {error}", service.name))
    }
}

fn run_python(python: &str, args: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(python).args(args).output().map_err(|error| format!("{python}: {error}"))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        let message = String::from_utf8_lossy(&output.stderr);
        Err(format!("{python}: {}", message.lines().last().unwrap_or("failed")))
    }
}

fn version_of(directory: &Path) -> Result<String> {
    let path = directory.join("__init__.py");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "));
    let version = line.map(|version| version.trim_matches(['\'', '"']).to_owned());
    version.ok_or_else(|| format!("{} names no version", path.display()))
}

fn pinned_version(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("botocore=="));
    let version = line.and_then(|rest| rest.split([' ', ';', '#', '\\']).next()).map(str::to_owned);
    version.ok_or_else(|| format!("{} does not pin botocore", path.display()))
}
