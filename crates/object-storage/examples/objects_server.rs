//! S3 alone over a folder, for trying clients against it: `cargo run --example objects_server -- FOLDER [PORT]`.
//!
//! Prints the endpoint and the credentials of a new account.

use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::path::PathBuf;
use std::sync::Arc;
use terroir_iam::{Iam, ops::create_account};
use terroir_object_storage::backend::local::LocalBackend;
use terroir_object_storage::budget::FreeSpaceBudget;
use terroir_object_storage::lifecycle::Day;
use terroir_object_storage::{S3Options, s3_service};
use terroir_store::{LocalKeyRing, Options, Store};
use terroir_types::{Clock, IdSource, OsRandom, SystemClock};

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let root = PathBuf::from(arguments.next().ok_or("give a folder")?);
    let port: u16 = arguments.next().map_or(Ok(0), |port| port.parse())?;
    std::fs::create_dir_all(&root)?;
    let keys = Arc::new(LocalKeyRing::open_or_create(&root.join("master.key"))?);
    let store = Store::open(Options::new(root.join("state.sqlite"), keys)).await?;
    let (clock, ids): (Arc<dyn Clock>, Arc<dyn IdSource>) = (Arc::new(SystemClock), Arc::new(OsRandom));
    let name = format!("example-{:08x}", ids.next_u64() >> 32);
    let now = clock.now();
    let (account, _) = store.transact(&[], |txn| create_account(txn, &name, &*ids, now)).await?;
    let budget = Arc::new(FreeSpaceBudget::new(&root, 1 << 30));
    let backend = LocalBackend::open(&root.join("objects"), Arc::clone(&clock), Arc::clone(&ids), budget).await?;
    let options = S3Options {
        iam: Iam::new(store, Arc::clone(&clock), Arc::clone(&ids)),
        backend: Arc::new(backend),
        clock,
        ids,
        region: "eu-local-1".to_owned(),
        domains: vec!["localhost".to_owned()],
        website_domains: Vec::new(),
        new_buckets: Default::default(),
        data_keys: None,
        lifecycle_day: Day::default(),
    };
    let front = s3_service(options).await?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("export AWS_ENDPOINT_URL=http://{} AWS_DEFAULT_REGION=eu-local-1", listener.local_addr()?);
    println!("export AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={}", account.access_key_id, account.secret.expose());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let front = front.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let front = front.clone();
                async move { Ok::<_, std::convert::Infallible>(front.call(request).await) }
            });
            // A connection that breaks is the client's business.
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
