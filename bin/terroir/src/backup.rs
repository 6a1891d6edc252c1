//! `terroir store backup` and `restore`: the control plane in one sealed file, and a data folder made from one.

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::BodyExt;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use terroir_store::backup::{BackupKey, Decoder, Exporter, Importer, Item, Kind, Opener, Sealer, Sink};
use terroir_store::engine::{Engine as _, PLACE_BITS};
use terroir_store::sqlite::SqliteEngine;
use terroir_store::{LocalKeyRing, Options, Store};
use terroir_types::{IdSource, OsRandom};

use crate::admin_client::{AdminClient, AdminError};
use crate::cli::{BackupArgs, RestoreArgs, StoreCommand};
use crate::layout::{Layout, SERVER_UID};
use crate::migrate;
use crate::settings::{Settings, StoreSetting};
use crate::state::{self, Claim};
use crate::{Threads, privileges, runtime};

/// Names of files in a backup.
const MASTER_KEY: &str = "metadata.key";
const HOME: &str = "home";
const OPERATOR_KEY: &str = "operator.key";
const SETTINGS: &str = "terroir.toml";
/// As earlier versions wrote it.
const OLD_AUDIT: &str = "audit";
const AUDIT: &str = "audit-log/";
const USAGE: &str = "usage/";
/// Bytes of a log that are read at a time.
const PIECE_BYTES: usize = 1 << 20;

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

pub fn main(layout: &Layout, command: &StoreCommand) -> Result<(), String> {
    match command {
        StoreCommand::Backup(args) => backup(layout, args),
        StoreCommand::Restore(args) => runtime(Threads::One)?.block_on(restore(layout, args)),
        StoreCommand::Migrate(args) => runtime(Threads::Many)?.block_on(migrate::run(layout, args)),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn named(path: &Path) -> impl Fn(std::io::Error) -> String + '_ {
    |error| format!("{}: {error}", path.display())
}

fn backup(layout: &Layout, args: &BackupArgs) -> Result<(), String> {
    if !layout.metadata_key().exists() {
        return Err(format!("there is no cloud in {}", layout.root().display()));
    }
    if !args.key_file.exists() {
        BackupKey::create(&args.key_file).map_err(text)?;
        println!(
            "made a new key: {}; keep it apart from the backups, they cannot be read without it",
            args.key_file.display()
        );
    }
    let key = BackupKey::read(&args.key_file).map_err(text)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.file);
    let file = file.map_err(named(&args.file))?;
    let folder = args.file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::open(folder).map_err(named(folder))?;
    let done = write_backup(layout, file, &key).and_then(|items| folder.sync_all().map(|()| items).map_err(text));
    match done {
        Ok(records) => {
            println!("{}: {records} records", args.file.display());
            Ok(())
        }
        Err(message) => {
            // It cannot be restored anyway; and after privileges were given up it may not be removed.
            let _ = fs::remove_file(&args.file);
            Err(message)
        }
    }
}

/// By the server if it runs, from its folder otherwise.
fn write_backup(layout: &Layout, file: File, key: &BackupKey) -> Result<u64, String> {
    let client = AdminClient::new(&layout.admin_socket());
    let sealer = Sealer::new(file, key).map_err(text)?;
    let asking = runtime(Threads::One)?;
    match asking.block_on(client.post_stream("/store/backup")) {
        Ok(body) => {
            let pieces =
                body.into_data_stream().map(|piece| piece.map_err(|error| format!("the answer broke off: {error}")));
            asking.block_on(seal(Box::pin(pieces), sealer))
        }
        Err(AdminError::Refused(message)) => Err(message),
        Err(AdminError::NotRunning(_)) => {
            drop(asking);
            let settings = Settings::read(layout)?;
            // What is made in the folder is to be the server's.
            privileges::become_user(SERVER_UID)?;
            runtime(Threads::Many)?.block_on(async {
                let _claim = Claim::take(layout)?;
                let store = state::open(layout, &settings).await?;
                let records = seal(pieces(layout.clone(), settings, store.clone()), sealer).await;
                store.close().await;
                records
            })
        }
    }
}

/// Seals what comes, and makes sure that it is whole. Gives the number of records.
async fn seal(mut pieces: Pieces, mut sealer: Sealer) -> Result<u64, String> {
    let mut decoder = Decoder::default();
    let mut records = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        decoder.add(&piece);
        while let Some(item) = decoder.next_item().map_err(text)? {
            records += u64::from(item.kind == Kind::Record);
        }
        sealer.write(&piece).map_err(text)?;
    }
    decoder.finish().map_err(text)?;
    sealer.finish().map_err(text)?;
    Ok(records)
}

/// The answer of the admin socket.
pub fn stream(layout: Layout, settings: Settings, store: Store) -> Body {
    Body::from_stream(pieces(layout, settings, store).map(|piece| piece.map_err(std::io::Error::other)))
}

fn pieces(layout: Layout, settings: Settings, store: Store) -> Pieces {
    let (sink, reading) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        if let Err(message) = export(&layout, &settings, &store, sink.clone()).await {
            tracing::error!(message, "a backup failed");
            // Nobody waits any more if this fails.
            let _ = sink.send(Err(terroir_store::StoreError::Io(message))).await;
        }
    });
    Box::pin(futures::stream::unfold(reading, |mut reading| async move {
        let piece = reading.recv().await?.map_err(text);
        Some((piece, reading))
    }))
}

async fn export(layout: &Layout, settings: &Settings, store: &Store, sink: Sink) -> Result<(), String> {
    let program = format!("terroir {}", env!("CARGO_PKG_VERSION"));
    let mut exporter = store.export(sink, &program).await.map_err(text)?;
    let master = fs::read(layout.metadata_key()).map_err(named(&layout.metadata_key()))?;
    exporter.file(MASTER_KEY, master).await.map_err(text)?;
    match fs::read(layout.operator_key()) {
        Ok(key) => exporter.file(OPERATOR_KEY, key).await.map_err(text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(named(&layout.operator_key())(error)),
    }
    exporter.file(HOME, state::home(layout)?).await.map_err(text)?;
    exporter.file(SETTINGS, toml::to_string(settings).map_err(text)?).await.map_err(text)?;
    // After the outbox: what left it meanwhile is here.
    log(&mut exporter, OLD_AUDIT, &layout.old_audit()).await?;
    for (prefix, folder) in [(AUDIT, layout.audit()), (USAGE, layout.usage())] {
        for segment in segments(&folder)? {
            let name = segment.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            log(&mut exporter, &format!("{prefix}{name}"), &segment).await?;
        }
    }
    exporter.finish().await.map_err(text)
}

/// The files of a log, in order.
fn segments(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut segments: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(named(folder)(error)),
    };
    segments.sort();
    Ok(segments)
}

async fn log(exporter: &mut Exporter, name: &str, path: &Path) -> Result<(), String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(named(path)(error)),
    };
    loop {
        let mut piece = Vec::new();
        Read::by_ref(&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece).map_err(named(path))?;
        if piece.is_empty() {
            return Ok(());
        }
        exporter.file(name, piece).await.map_err(text)?;
    }
}

async fn restore(layout: &Layout, args: &RestoreArgs) -> Result<(), String> {
    let key = BackupKey::read(&args.key_file).map_err(|error| match error {
        terroir_store::StoreError::WrongKey => format!("{} is no key of backups", args.key_file.display()),
        other => other.to_string(),
    })?;
    let root = layout.root();
    let is_empty = match fs::read_dir(root) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(named(root)(error)),
    };
    if !is_empty {
        return Err(format!("{} is not empty: name a new folder with --data-dir", root.display()));
    }
    let opener = Opener::open(&args.file, &key).map_err(|error| match error {
        terroir_store::StoreError::WrongKey => format!("{} is not the key of this backup", args.key_file.display()),
        terroir_store::StoreError::NotAStore { .. } => format!("{} is no backup", args.file.display()),
        terroir_store::StoreError::NewerFormat { found, supported } => format!(
            "{} was written by a newer version (format {found}, this binary reads up to {supported})",
            args.file.display()
        ),
        other => other.to_string(),
    })?;
    let name = root.file_name().ok_or("the data folder has no name")?.to_string_lossy();
    let draft = root.with_file_name(format!(".{name}.{:016x}.restoring", OsRandom.next_u64()));
    let done = async {
        let place = Layout::find(Some(&draft)).map_err(text)?;
        place.create().map_err(text)?;
        let records = fill(&place, opener).await?;
        migrate::own(&place)?;
        fs::rename(&draft, root).map_err(named(root))?;
        let above = root.parent().unwrap_or(Path::new("/"));
        File::open(above).and_then(|above| above.sync_all()).map_err(named(above))?;
        Ok(records)
    };
    match done.await {
        Ok(records) => {
            println!("{}: {records} records; objects and volumes are not part of a backup", root.display());
            Ok(())
        }
        Err(message) => {
            // Its name says what it is, if it stays.
            let _ = fs::remove_dir_all(&draft);
            Err(message)
        }
    }
}

/// Makes the state, the key, the settings and the logs in an empty folder. Gives the number of records.
async fn fill(place: &Layout, mut opener: Opener) -> Result<u64, String> {
    let mut decoder = Decoder::default();
    let mut next = || loop {
        if let Some(item) = decoder.next_item().map_err(text)? {
            return Ok::<_, String>(Some(item));
        }
        match opener.next_piece().map_err(text)? {
            Some(piece) => decoder.add(&piece),
            None => return decoder.finish().map(|()| None).map_err(text),
        }
    };
    let Some(Item { kind: Kind::Start, number: limit, .. }) = next()? else {
        return Err("the backup does not begin with its beginning".to_owned());
    };
    // The right key comes with the backup, and nothing is sealed before.
    let mut sqlite = Options::new(place.state_file(), Arc::new(LocalKeyRing::ephemeral())).sqlite();
    (sqlite.reserve_bytes, sqlite.first_revision) = (0, (limit >> PLACE_BITS).max(1));
    let engine = SqliteEngine::open(sqlite).await.map_err(text)?;
    let mut importer = Importer::new(&engine);
    let mut logs = Logs::new(place, limit);
    while let Some(item) = next()? {
        match item.kind {
            Kind::File => {
                for (stream, sequence) in file(place, &mut logs, &item)? {
                    importer.logged(stream, sequence);
                }
            }
            _ => importer.add(item).await.map_err(text)?,
        }
    }
    logs.finish()?;
    let records = importer.records;
    importer.finish().await.map_err(text)?;
    engine.close().await;
    // Opens only with the right key.
    let options = Options { reserve_bytes: 0, ..state::options(place)? };
    let store = Store::open(options).await.map_err(text)?;
    store.close().await;
    Ok(records)
}

/// Gives the outbox entries that it found in a log.
fn file(place: &Layout, logs: &mut Logs, item: &Item) -> Result<Vec<(&'static str, u64)>, String> {
    let whole = |path: &Path| {
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(&item.data)?;
            file.sync_all()
        };
        write().map(|()| Vec::new()).map_err(named(path))
    };
    match item.name.as_str() {
        MASTER_KEY => whole(&place.metadata_key()),
        HOME => whole(&place.home_file()),
        OPERATOR_KEY => whole(&place.operator_key()),
        SETTINGS => {
            let settings = std::str::from_utf8(&item.data).map_err(text)?;
            let settings: Settings = toml::from_str(settings).map_err(|error| format!("settings: {error}"))?;
            Settings { store: StoreSetting::Embedded, ..settings }.write(place).map(|()| Vec::new())
        }
        name => logs.write(name, &item.data),
    }
}

/// Logs as they were at the backup's cut: lines of later changes are left out.
struct Logs {
    old_audit: PathBuf,
    audit: PathBuf,
    usage: PathBuf,
    limit: u64,
    /// The audit log, in which not every line has a number, has come to where the state ends.
    audit_ended: bool,
    open: Option<(String, PathBuf, File)>,
    /// The beginning of a line.
    line: Vec<u8>,
}

impl Logs {
    fn new(place: &Layout, limit: u64) -> Self {
        let (old_audit, audit, usage) = (place.old_audit(), place.audit(), place.usage());
        Self { old_audit, audit, usage, limit, audit_ended: false, open: None, line: Vec::new() }
    }

    fn path(&self, name: &str) -> Result<PathBuf, String> {
        let folders = [(AUDIT, &self.audit), (USAGE, &self.usage)];
        let segment = folders.into_iter().find_map(|(prefix, folder)| Some((folder, name.strip_prefix(prefix)?)));
        match segment.filter(|(_, segment)| !segment.contains(['/', '\0']) && !segment.starts_with('.')) {
            _ if name == OLD_AUDIT => Ok(self.old_audit.clone()),
            Some((folder, segment)) => Ok(folder.join(segment)),
            None => Err(format!("the backup holds a file '{name}' that this version does not know")),
        }
    }

    /// Gives the outbox entries that are in it.
    fn write(&mut self, name: &str, piece: &[u8]) -> Result<Vec<(&'static str, u64)>, String> {
        let mut found = Vec::new();
        if self.open.as_ref().is_none_or(|(open, ..)| open != name) {
            self.finish()?;
            let path = self.path(name)?;
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(named(folder))?;
            }
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(named(&path))?;
            self.open = Some((name.to_owned(), path, file));
        }
        let is_audit = name.starts_with(AUDIT);
        let stream = if is_audit || name == OLD_AUDIT { terroir_audit::STREAM } else { terroir_metering::STREAM };
        self.line.extend_from_slice(piece);
        let Some((_, path, file)) = &mut self.open else { return Ok(found) };
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            match sequence(&line) {
                _ if is_audit && self.audit_ended => continue,
                Some(sequence) if sequence > self.limit => {
                    self.audit_ended |= is_audit;
                    continue;
                }
                Some(sequence) => found.push((stream, sequence)),
                None => {}
            }
            file.write_all(&line).map_err(named(path))?;
        }
        Ok(found)
    }

    /// A line that was being written when the backup was made has no end and is left out: the outbox has it still.
    fn finish(&mut self) -> Result<(), String> {
        self.line.clear();
        match self.open.take() {
            Some((_, path, file)) => file.sync_all().map_err(named(&path)),
            None => Ok(()),
        }
    }
}

/// The number of the outbox entry that a line was.
fn sequence(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(b"{\"sequence\":")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_cut_where_the_state_is() {
        let folder = tempfile::tempdir().unwrap();
        let place = Layout::find(Some(folder.path())).unwrap();
        let mut logs = Logs::new(&place, 20);
        let (audit, usage) = (terroir_audit::STREAM, terroir_metering::STREAM);
        for (name, piece, found) in [
            (OLD_AUDIT, &b"{\"sequence\":7,\"a\":1}\n{\"sequ"[..], vec![(audit, 7)]),
            (OLD_AUDIT, b"ence\":20}\n{\"sequence\":21}\n{\"sequence\":8", vec![(audit, 20)]),
            ("audit-log/1", b"{\"sequence\":20}\n{\"sequence\":null}\n{\"sequence\":21}\n", vec![(audit, 20)]),
            ("audit-log/2", b"{\"sequence\":null}\n", vec![]),
            ("usage/usage-00000001.jsonl", b"{\"sequence\":9}\n", vec![(usage, 9)]),
        ] {
            assert_eq!(logs.write(name, piece).unwrap(), found);
        }
        logs.finish().unwrap();
        let whole = "{\"sequence\":20}\n{\"sequence\":null}\n";
        assert_eq!(fs::read_to_string(place.audit().join("1")).unwrap(), whole, "nothing behind what is cut off");
        assert_eq!(fs::read_to_string(place.audit().join("2")).unwrap(), "");
        assert_eq!(fs::read_to_string(place.old_audit()).unwrap(), "{\"sequence\":7,\"a\":1}\n{\"sequence\":20}\n");
        assert_eq!(fs::read_to_string(place.usage().join("usage-00000001.jsonl")).unwrap(), "{\"sequence\":9}\n");
        for name in ["usage/../x", "other", "usage/.x", "usage/a/b", "audit-log/../x", "audit-log/a/b"] {
            assert!(logs.write(name, b"x").is_err(), "{name}");
        }
    }
}
