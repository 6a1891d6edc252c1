//! `cargo xtask codegen`: botocore's service models and `crates/aws-model/actions/*.txt` in, Rust types and codecs out.
//!
//! The output is a pure function of the two: same inputs, same bytes. It holds names and structure only, none of AWS's
//! prose.

mod emit;
mod json;
mod model;
mod names;
mod source;

use model::Selection;
use source::Botocore;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub type Result<T> = std::result::Result<T, String>;

/// A service of which some actions are listed.
pub struct Service {
    /// As botocore calls it.
    pub name: String,
    /// Of the module in aws-model.
    pub module: String,
    /// Of the enum `Service` in aws-model.
    pub variant: String,
}

impl Service {
    /// `service-quotas` gives the module `service_quotas` and the variant `ServiceQuotas`.
    fn new(name: &str) -> Self {
        let variant = name.split('-').map(names::capitalised).collect();
        Self { name: name.to_owned(), module: name.replace('-', "_"), variant }
    }
}

/// Every service that has a list of actions, in order of their names.
fn services(lists: &Path) -> Result<Vec<Service>> {
    let explain = |error: std::io::Error| format!("{}: {error}", lists.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(lists).map_err(explain)? {
        let name = entry.map_err(explain)?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".txt").map(str::to_owned));
    }
    names.sort();
    Ok(names.iter().map(|name| Service::new(name)).collect())
}

pub fn run(args: &[String]) -> Result<()> {
    let (mut directory, mut check) = (None, false);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--botocore" => directory = Some(PathBuf::from(args.next().ok_or("--botocore wants a directory")?)),
            "--check" => check = true,
            other => return Err(format!("codegen: unknown argument {other}")),
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask has no parent directory")?;
    let botocore = Botocore::open(root, directory)?;
    let crate_dir = root.join("crates/aws-model");
    let mut selections = Vec::new();
    for service in services(&crate_dir.join("actions"))? {
        let actions = read_actions(&crate_dir.join(format!("actions/{}.txt", service.name)))?;
        let selection = Selection::new(&botocore.model(&service)?, &actions)
            .map_err(|error| format!("{}: {error}", service.name))?;
        selections.push((service, selection));
    }
    let mut files = vec![("mod.rs".to_owned(), emit::services(&selections, &botocore.version))];
    for (service, selection) in &selections {
        let module = &service.module;
        files.push((format!("{module}.rs"), emit::service(service, selection, &botocore.version)));
        files.push((format!("{module}_json.rs"), json::service(service, selection, &botocore.version)));
    }
    let mut stale = Vec::new();
    for (name, code) in files {
        let path = crate_dir.join("src/generated").join(name);
        let code = rustfmt(root, &code)?;
        if fs::read_to_string(&path).is_ok_and(|old| old == code) {
            continue;
        }
        if !check {
            fs::write(&path, code).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        stale.push(path.strip_prefix(root).unwrap_or(&path).display().to_string());
    }
    match (check, stale.is_empty()) {
        (true, false) => Err(format!("not up to date, run `cargo xtask codegen`: {}", stale.join(", "))),
        (false, false) => {
            println!("written: {}", stale.join(", "));
            Ok(())
        }
        (_, true) => Ok(()),
    }
}

/// One action per line; blank lines and `#` comments are skipped. The order does not matter.
fn read_actions(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut actions: Vec<String> = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
    actions.sort();
    match actions.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("{}: {} is listed twice", path.display(), pair[0])),
        None => Ok(actions),
    }
}

fn rustfmt(root: &Path, code: &str) -> Result<String> {
    let explain = |error: std::io::Error| format!("codegen needs rustfmt: {error}");
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path"])
        .arg(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(explain)?;
    let mut stdin = child.stdin.take().ok_or("rustfmt has no standard input")?;
    // From a thread of its own, so that neither side waits for the other on a full pipe.
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(code.as_bytes()));
        child.wait_with_output()
    })
    .map_err(explain)?;
    if !output.status.success() {
        return Err("rustfmt refused the generated code".to_owned());
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_sorted_and_unique() {
        let dir = std::env::temp_dir().join(format!("xtask-actions-{}", std::process::id()));
        fs::write(&dir, "# all\nB\n\nA # why\n").unwrap();
        assert_eq!(read_actions(&dir).unwrap(), ["A", "B"]);
        fs::write(&dir, "A\nB\nA\n").unwrap();
        assert!(read_actions(&dir).unwrap_err().ends_with("A is listed twice"));
        fs::remove_file(&dir).unwrap();
    }
}
