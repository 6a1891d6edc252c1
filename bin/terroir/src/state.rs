//! Where the state is, by the settings: the embedded engine's file, or etcd. And who may use it.

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use terroir_store::etcd::{EtcdEngine, EtcdIdentity, EtcdOptions, EtcdTls};
use terroir_store::{Key, LocalKeyRing, Options, Store, Txn, record};
use terroir_types::{Error, IdSource, OsRandom};

use crate::layout::{Layout, describe};
use crate::settings::{Settings, StoreSetting};

/// The data folder that a cell on etcd belongs to: objects, logs and the host's folder are only there.
#[derive(Clone, Serialize, Deserialize)]
struct Home {
    id: String,
}
record!(Home { kind: "home", version: 1 });

/// The right to be the only process that uses a data folder's state. Ends with the process.
pub struct Claim {
    _lock: Flock<File>,
}

impl Claim {
    pub fn take(layout: &Layout) -> Result<Self, String> {
        let path = layout.state_lock();
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|error| describe(&error, "cannot open", &path).to_string())?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        let lock =
            lock.map_err(|_| format!("the cloud in {} is running: `terroir down` first", layout.root().display()))?;
        Ok(Self { _lock: lock })
    }
}

pub fn options(layout: &Layout) -> Result<Options, String> {
    let keys = LocalKeyRing::open_or_create(&layout.metadata_key()).map_err(|error| error.to_string())?;
    Ok(Options::new(layout.state_file(), Arc::new(keys)))
}

/// Opens the state, or makes it where there is none.
pub async fn open(layout: &Layout, settings: &Settings) -> Result<Store, String> {
    let options = options(layout)?;
    let (file, moved) = (layout.state_file(), layout.moved_state_file());
    match settings.store {
        StoreSetting::Embedded => {
            if moved.exists() && !file.exists() {
                return Err(format!(
                    "the state was moved from here to etcd ({}): set store = 'etcd' in {}, or run `terroir store \
                     migrate` again",
                    moved.display(),
                    layout.settings_file().display()
                ));
            }
            Store::open(options).await.map_err(|error| error.to_string())
        }
        StoreSetting::Etcd => {
            if file.exists() {
                return Err(format!(
                    "the state of this cloud is in {}: `terroir store migrate --to etcd` moves it to etcd",
                    file.display()
                ));
            }
            let engine = EtcdEngine::connect(etcd_options(settings, &options)?).await;
            let engine = engine.map_err(|error| error.to_string())?;
            let store = Store::with_engine(Arc::new(engine), &options).await.map_err(|error| error.to_string())?;
            come_home(layout, &store).await?;
            Ok(store)
        }
    }
}

pub fn etcd_options(settings: &Settings, options: &Options) -> Result<EtcdOptions, String> {
    let read = |path: &str| fs::read(path).map_err(|error| format!("{path}: {error}"));
    let mut etcd = EtcdOptions::new(settings.etcd_endpoints.clone(), settings.etcd_prefix.clone(), options);
    if !settings.etcd_ca.is_empty() {
        let identity = match settings.etcd_cert.is_empty() {
            true => None,
            false => {
                Some(EtcdIdentity { certificate: read(&settings.etcd_cert)?, key: read(&settings.etcd_key)?.into() })
            }
        };
        etcd.tls = Some(EtcdTls { authorities: read(&settings.etcd_ca)?, identity });
    }
    Ok(etcd)
}

/// This folder's number, made if there is none.
pub fn home(layout: &Layout) -> Result<String, String> {
    let path = layout.home_file();
    let named = |error: std::io::Error| describe(&error, "cannot keep", &path).to_string();
    match fs::read_to_string(&path) {
        Ok(id) => return Ok(id.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(named(error)),
    }
    let id = format!("{:032x}", OsRandom.next_u128());
    let fresh = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&fresh)?;
        file.write_all(id.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &path)
    };
    write().map_err(named)?;
    Ok(id)
}

/// Makes sure that the cell belongs to this folder.
pub async fn come_home(layout: &Layout, store: &Store) -> Result<(), String> {
    let id = home(layout)?;
    let key = Key::new("home/local");
    let claim = |txn: &mut Txn| {
        if let Some(found) = txn.get::<Home>(&key)? {
            return Ok(found.id == id);
        }
        txn.put(&key, &Home { id: id.clone() })?;
        Ok::<_, Error>(true)
    };
    match store.transact(&[], claim).await {
        Ok((true, _)) => Ok(()),
        Ok((false, _)) => Err(format!(
            "this cell in etcd belongs to another data folder, which has its objects and its logs; {} cannot serve it \
             too. To take it over, restore a backup of that folder here (see docs/operations/etcd.md)",
            layout.root().display()
        )),
        Err(error) => Err(error.to_string()),
    }
}
