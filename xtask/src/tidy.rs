//! `cargo xtask tidy`: the rules of this repository that no compiler checks.
//!
//! Each finding names the file, the line and what to do instead. The same rules run as a test.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Which crate may use which, lowest first. A crate may also use whatever the crates that it uses may use.
/// Development dependencies are not edges. `bin/terroir` may use all; no crate may use it.
const EDGES: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("tlog", &[]),
    ("policy", &["types", "tlog"]),
    ("store", &["types"]),
    ("aws-model", &["types"]),
    ("pki", &["types"]),
    ("agent-api", &["policy", "pki"]),
    ("image-builder", &["types"]),
    ("metering", &["store"]),
    ("scheduler", &["policy"]),
    ("resources", &["store", "policy"]),
    ("sovereignty", &["resources"]),
    ("action", &["resources", "aws-model"]),
    ("iam", &["action"]),
    ("kms", &["iam"]),
    ("network", &["action", "agent-api"]),
    ("block-storage", &["action", "agent-api", "metering", "sovereignty"]),
    ("compute", &["network", "block-storage", "scheduler", "sovereignty", "metering", "iam"]),
    ("object-storage", &["iam", "agent-api", "sovereignty"]),
    ("audit", &["iam"]),
    ("api-server", &["audit", "pki"]),
    ("host-agent", &["agent-api", "pki"]),
    ("guest-services", &["agent-api"]),
];

/// Lines of a file written by hand. A longer file has two jobs.
const MAX_LINES: usize = 800;
const GENERATED: &str = "crates/aws-model/src/generated/";
const SELF: &str = "xtask/src/tidy.rs";

/// Text that must not occur, where it may all the same, and why it must not. Matched without regard to case.
/// Broken in two, so that this table does not find itself in a copy of this file.
const BANNED: &[(&[&str], &[&str], &str)] = &[
    (&["to", "do!("], &[SELF], "finish it, or return an error that says so"),
    (&["unimple", "mented!("], &[SELF], "finish it, or return an error that says so"),
    (&["db", "g!("], &[SELF], "use `tracing`"),
    (&["systemtime", "::now("], TELLS_TIME, "take `now` from the context or from terroir_types::Clock"),
    (&["/wo", "rk/"], &[], "a path of one machine"),
    (&["/tmp/ba", "sh"], &[], "a path of one machine"),
    (&["/ro", "ot/."], &["crates/image-builder/"], "a path of one machine"),
    (&["/ho", "me/"], &["crates/image-builder/", "crates/iam/"], "a path of one machine"),
    (&["static.crates", ".io"], &[], "name no registry; cargo knows where it is"),
    (&["index.crates", ".io"], &[], "name no registry; cargo knows where it is"),
    (&["files.pythonho", "sted.org"], &[], "name no registry; pip knows where it is"),
    (&["clau", "de"], &[], "say what the code does, not how it came about"),
    (&["anthro", "pic"], &[], "say what the code does, not how it came about"),
    (&["language mo", "del"], &[], "say what the code does, not how it came about"),
    (&["sub", "agent"], &[], "say what the code does, not how it came about"),
    (&["fix", "me"], &[], "fix it, or open an issue"),
    (&["xx", "x "], &[], "fix it, or open an issue"),
];

/// The clock itself, and the age of files, which the file system counts in the machine's time.
const TELLS_TIME: &[&str] = &["crates/types/src/time.rs", "crates/host-agent/src/host_storage/", "benches/"];

pub fn run(args: &[String]) -> Result<(), String> {
    if let Some(unknown) = args.first() {
        return Err(format!("tidy takes no argument, `{unknown}` was given"));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask has no parent folder")?;
    let findings = check(root)?;
    if findings.is_empty() {
        println!("tidy");
        return Ok(());
    }
    let mut message = String::new();
    for finding in &findings {
        let _ = writeln!(message, "{finding}");
    }
    let _ = write!(message, "tidy: {} findings", findings.len());
    Err(message)
}

/// All findings of the checkout at `root`, in the order of its files.
fn check(root: &Path) -> Result<Vec<String>, String> {
    let files = files(root)?;
    let mut findings = Vec::new();
    for file in &files {
        // Not text, or removed but not yet in the index.
        let Ok(text) = fs::read_to_string(root.join(file)) else { continue };
        check_text(file, &text, &mut findings);
    }
    let manifests = manifests(root, &files)?;
    check_edges(&manifests, &mut findings);
    let map = fs::read_to_string(root.join("ARCHITECTURE.md")).map_err(|error| format!("ARCHITECTURE.md: {error}"))?;
    check_map(&manifests, &map, &mut findings);
    Ok(findings)
}

/// What git has or would take, relative to `root`.
fn files(root: &Path) -> Result<Vec<String>, String> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("git: {error}"))?;
    if !output.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let mut files: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

fn check_text(file: &str, text: &str, findings: &mut Vec<String>) {
    if file == "Cargo.lock" || file.starts_with(GENERATED) {
        return;
    }
    let lower = text.to_lowercase();
    for (parts, allowed, instead) in BANNED {
        let pattern = parts.concat();
        if !lower.contains(&pattern) || allowed.iter().any(|prefix| file.starts_with(prefix)) {
            continue;
        }
        for (number, _) in lower.lines().enumerate().filter(|(_, line)| line.contains(&pattern)) {
            findings.push(format!("{file}:{}: `{pattern}`: {instead}", number + 1));
        }
    }
    let extension = file.rsplit('.').next().unwrap_or_default();
    let count = text.lines().count();
    if ["rs", "py", "sh"].contains(&extension) && count > MAX_LINES {
        findings.push(format!("{file}: {count} lines, more than {MAX_LINES}: cut it by what it does"));
    }
    if ["rs", "py", "sh", "toml", "md"].contains(&extension) && !text.is_empty() && !text.ends_with('\n') {
        findings.push(format!("{file}: does not end with a line end"));
    }
}

/// Manifests of the crates under `crates/` by folder name.
fn manifests(root: &Path, files: &[String]) -> Result<BTreeMap<String, toml::Table>, String> {
    let mut manifests = BTreeMap::new();
    for file in files {
        let Some(name) = file.strip_prefix("crates/").and_then(|rest| rest.strip_suffix("/Cargo.toml")) else {
            continue;
        };
        if name.contains('/') {
            continue;
        }
        let text = fs::read_to_string(root.join(file)).map_err(|error| format!("{file}: {error}"))?;
        let table = text.parse().map_err(|error| format!("{file}: {error}"))?;
        manifests.insert(name.to_owned(), table);
    }
    Ok(manifests)
}

/// All that `name` may use by the table, through any number of steps.
fn reachable(name: &str) -> BTreeSet<&'static str> {
    let direct = EDGES.iter().find(|(from, _)| *from == name).map_or(&[][..], |(_, to)| to);
    let mut all: BTreeSet<&str> = direct.iter().copied().collect();
    for next in direct {
        all.extend(reachable(next));
    }
    all
}

fn check_edges(manifests: &BTreeMap<String, toml::Table>, findings: &mut Vec<String>) {
    for (name, manifest) in manifests {
        let file = format!("crates/{name}/Cargo.toml");
        if !EDGES.iter().any(|(known, _)| known == name) {
            findings.push(format!("{file}: crate `{name}` is not in the table of edges in {SELF}"));
            continue;
        }
        let allowed = reachable(name);
        for section in ["dependencies", "build-dependencies"] {
            let Some(used) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            for dependency in used.keys().filter_map(|key| key.strip_prefix("terroir-")) {
                if dependency == "testkit" {
                    findings.push(format!("{file}: `testkit` is for tests: use it in [dev-dependencies]"));
                } else if !allowed.contains(dependency) {
                    findings.push(format!("{file}: `{name}` may not use `{dependency}` ({SELF} has the table)"));
                }
            }
        }
        let inherits = |section: &str| {
            let table = manifest.get(section).and_then(toml::Value::as_table);
            table.and_then(|table| table.get("workspace")).and_then(toml::Value::as_bool) == Some(true)
        };
        if !inherits("lints") {
            findings.push(format!("{file}: wants `[lints] workspace = true`"));
        }
    }
}

fn check_map(manifests: &BTreeMap<String, toml::Table>, map: &str, findings: &mut Vec<String>) {
    for name in manifests.keys() {
        if !map.contains(&format!("](crates/{name})")) {
            findings.push(format!("ARCHITECTURE.md: the map of crates lacks `{name}`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let findings = check(root).unwrap();
        assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
    }

    #[test]
    fn each_rule_finds_what_it_is_for() {
        let long = "x\n".repeat(MAX_LINES + 1);
        let rows: &[(&str, &str, &str)] = &[
            ("a.rs", &["fn f() { to", "do!() }\n"].concat(), "finish it"),
            ("a.md", &["see /wo", "rk/x\n"].concat(), "one machine"),
            ("a.py", &["x = '/ho", "me/me'\n"].concat(), "one machine"),
            ("a.rs", &long, "cut it by what it does"),
            ("a.sh", "exit", "line end"),
        ];
        for (file, text, expected) in rows {
            let mut findings = Vec::new();
            check_text(file, text, &mut findings);
            assert!(findings.iter().any(|finding| finding.contains(expected)), "{file}: {findings:?}");
        }
        let mut findings = Vec::new();
        check_text(&format!("{GENERATED}x.rs"), &long, &mut findings);
        check_text("crates/network/src/a.rs", "// the network/host\n", &mut findings);
        assert_eq!(findings, Vec::<String>::new());
    }

    #[test]
    fn edges_follow_the_table() {
        let manifest = |text: &str| text.parse::<toml::Table>().unwrap();
        let rows = [
            ("iam", "[dependencies]\nterroir-store = 1\nterroir-aws-model = 1", None),
            ("store", "[dependencies]\nterroir-iam = 1", Some("may not use `iam`")),
            ("host-agent", "[dependencies]\nterroir-store = 1", Some("may not use `store`")),
            ("types", "[dependencies]\nterroir-testkit = 1", Some("is for tests")),
            ("types", "[dev-dependencies]\nterroir-testkit = 1", None),
            ("helpers", "", Some("not in the table")),
        ];
        for (name, text, expected) in rows {
            let text = format!("{text}\n[lints]\nworkspace = true\n");
            let mut findings = Vec::new();
            check_edges(&BTreeMap::from([(name.to_owned(), manifest(&text))]), &mut findings);
            match expected {
                None => assert_eq!(findings, Vec::<String>::new(), "{name}"),
                Some(part) => assert!(findings.iter().any(|it| it.contains(part)), "{name}: {findings:?}"),
            }
        }
    }

    #[test]
    fn the_table_has_no_cycle_and_names_only_itself() {
        for (index, (name, uses)) in EDGES.iter().enumerate() {
            for used in *uses {
                let position = EDGES.iter().position(|(known, _)| known == used);
                assert!(position.is_some_and(|position| position < index), "{name} uses {used}, which stands below");
            }
        }
    }
}
