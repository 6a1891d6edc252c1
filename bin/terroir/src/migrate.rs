//! `terroir store migrate`: the state from the embedded engine to etcd and back, while the cloud is stopped.
//!
//! ```text
//! target filling ──▶ target filled, compared ──▶ source retired ──▶ target live ──▶ settings
//! ```
//! Killed before the source is retired, nothing has happened, and the next run begins anew; killed later, the next run
//! goes on. In between nobody can start the cloud on a state that is not the whole one.

use nix::unistd::{Gid, Uid, chown};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use terroir_store::copy::{self, Copied};
use terroir_store::engine::{Engine, PLACE_BITS};
use terroir_store::etcd::{EtcdEngine, Phase};
use terroir_store::sqlite::SqliteEngine;
use terroir_store::{Options, Store};

use crate::cli::{Engine as Target, MigrateArgs};
use crate::layout::{Layout, SERVER_UID, describe};
use crate::settings::{Settings, StoreSetting};
use crate::state::{self, Claim};
use crate::supervisor::{SERVER, SupervisorRecord};

pub async fn run(layout: &Layout, args: &MigrateArgs) -> Result<(), String> {
    let mut settings = Settings::read_with(layout, &args.settings)?;
    if settings.etcd_endpoints.is_empty() {
        return Err("say where etcd is with --etcd-endpoints, or etcd_endpoints in terroir.toml".to_owned());
    }
    if !layout.metadata_key().exists() {
        return Err(format!("there is no state in {}", layout.root().display()));
    }
    let record = SupervisorRecord::read(layout);
    if record.supervisor_is_alive() || record.process(SERVER).is_some_and(|server| server.is_running()) {
        return Err(format!("the cloud in {} is running: `terroir down` first", layout.root().display()));
    }
    let _claim = Claim::take(layout)?;
    let options = state::options(layout)?;
    let etcd = state::etcd_options(&settings, &options)?;
    let done = match args.to {
        Target::Etcd => to_etcd(layout, &options, etcd).await,
        Target::Embedded => to_file(layout, &options, etcd).await,
    };
    own(layout)?;
    let copied = done?;
    settings.store = match args.to {
        Target::Etcd => StoreSetting::Etcd,
        Target::Embedded => StoreSetting::Embedded,
    };
    settings.write(layout)?;
    match copied {
        Some(copied) => println!(
            "moved {} records and {} entries that no log has yet; `terroir up` goes on from there",
            copied.records, copied.outbox_entries
        ),
        None => println!("finished what an earlier run had copied; `terroir up` goes on from there"),
    }
    Ok(())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn open_file(options: &Options, path: PathBuf, first_revision: u64) -> Result<SqliteEngine, String> {
    let mut sqlite = options.sqlite();
    (sqlite.path, sqlite.reserve_bytes, sqlite.first_revision) = (path, 0, first_revision.max(1));
    SqliteEngine::open(sqlite).await.map_err(text)
}

/// Copies and compares.
async fn copy_all(from: &dyn Engine, to: &dyn Engine, options: &Options) -> Result<Copied, String> {
    let copied = copy::all(from, to, &*options.keys).await.map_err(text)?;
    if copy::same(from, to).await.map_err(text)? {
        Ok(copied)
    } else {
        Err("the copy differs from the state it was made from: is something else writing there?".to_owned())
    }
}

async fn first_revision(from: &dyn Engine) -> Result<u64, String> {
    let revision = from.current_revision().await.map_err(text)?;
    Ok(from.last_sequence(revision) >> PLACE_BITS)
}

async fn to_etcd(
    layout: &Layout,
    options: &Options,
    etcd: terroir_store::etcd::EtcdOptions,
) -> Result<Option<Copied>, String> {
    let (file, moved) = (layout.state_file(), layout.moved_state_file());
    let target = EtcdEngine::reach(etcd).await.map_err(text)?;
    let phase = target.phase().await.map_err(text)?;
    let copied = match (file.exists(), phase) {
        (true, None | Some(Phase::Filling | Phase::Filled | Phase::Moved)) => {
            let source = open_file(options, file.clone(), 1).await?;
            target.begin_filling(first_revision(&source).await?).await.map_err(text)?;
            let copied = copy_all(&source, &target, options).await?;
            source.close().await;
            target.set_phase(Phase::Filled).await.map_err(text)?;
            stop_here("filled");
            // It stays under another name, until somebody removes it.
            rename_database(&file, &moved)?;
            stop_here("retired");
            Some(copied)
        }
        (true, Some(Phase::Live)) => {
            return Err("there is a state below this prefix in etcd already: choose another etcd_prefix".to_owned());
        }
        (false, Some(Phase::Filled | Phase::Live)) if moved.exists() => None,
        (false, _) => return Err(format!("there is no state in {}", file.display())),
    };
    target.set_phase(Phase::Live).await.map_err(text)?;
    target.close().await;
    Ok(copied)
}

async fn to_file(
    layout: &Layout,
    options: &Options,
    etcd: terroir_store::etcd::EtcdOptions,
) -> Result<Option<Copied>, String> {
    let file = layout.state_file();
    let (draft, filled) = (file.with_extension("db.filling"), file.with_extension("db.filled"));
    let source = Arc::new(EtcdEngine::reach(etcd).await.map_err(text)?);
    let phase = source.phase().await.map_err(text)?;
    let copied = match phase {
        Some(Phase::Moved) if file.exists() || filled.exists() => None,
        Some(Phase::Live) => {
            if file.exists() {
                return Err(format!("there is a state in {} already", file.display()));
            }
            check_owner(layout, options, &source).await?;
            for old in [&draft, &filled] {
                remove(old)?;
            }
            let target = open_file(options, draft.clone(), first_revision(&*source).await?).await?;
            let copied = copy_all(&*source, &target, options).await?;
            target.close().await;
            remove(&draft.with_extension("filling.lock"))?;
            rename_database(&draft, &filled)?;
            stop_here("filled");
            source.set_phase(Phase::Moved).await.map_err(text)?;
            stop_here("retired");
            Some(copied)
        }
        _ => return Err("there is no state below this prefix in etcd".to_owned()),
    };
    if filled.exists() {
        rename(&filled, &file)?;
    }
    source.close().await;
    Ok(copied)
}

/// Only with the right key and from the right folder may a state be taken out of etcd.
async fn check_owner(layout: &Layout, options: &Options, source: &Arc<EtcdEngine>) -> Result<(), String> {
    let engine: Arc<dyn Engine> = Arc::clone(source) as _;
    let store = Store::with_engine(engine, options).await.map_err(text)?;
    state::come_home(layout, &store).await
}

/// Renames a closed database. What its write-ahead log still held would be lost, or taken for another file's.
fn rename_database(from: &Path, to: &Path) -> Result<(), String> {
    let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", from.display()));
    if fs::metadata(beside("-wal")).is_ok_and(|log| log.len() > 0) {
        return Err(format!("{} was not closed as it should: run this again", from.display()));
    }
    remove(&beside("-wal"))?;
    remove(&beside("-shm"))?;
    rename(from, to)
}

fn rename(from: &Path, to: &Path) -> Result<(), String> {
    let named = |error: std::io::Error| describe(&error, "cannot rename", from).to_string();
    fs::rename(from, to).map_err(named)?;
    let folder = to.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(named)
}

fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(describe(&error, "cannot remove", path).to_string())
        }
        _ => Ok(()),
    }
}

/// What was made here is the server's.
pub fn own(layout: &Layout) -> Result<(), String> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Some(Uid::from_raw(SERVER_UID)), Some(Gid::from_raw(SERVER_UID)));
    let mut folders = vec![layout.state()];
    while let Some(folder) = folders.pop() {
        chown(&folder, uid, gid).map_err(text)?;
        for entry in fs::read_dir(&folder).map_err(text)? {
            let path = entry.map_err(text)?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                chown(&path, uid, gid).map_err(text)?;
            }
        }
    }
    Ok(())
}

/// For the test that kills a move half-way: `TERROIR_STOP_MIGRATION=filled` kills the process there.
fn stop_here(place: &str) {
    if cfg!(debug_assertions) && std::env::var_os("TERROIR_STOP_MIGRATION").is_some_and(|wanted| wanted == place) {
        // As if somebody had done it. If it fails the test notices.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}
