//! Durable operations per second of the local backend, without HTTP: `cargo run --release --example objects_bench -- FOLDER`.

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use terroir_object_storage::backend::local::LocalBackend;
use terroir_object_storage::backend::{BucketId, List, ObjectBackend, Place, Put};
use terroir_object_storage::budget::Unlimited;
use terroir_types::{OsRandom, SystemClock};

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn put(backend: &LocalBackend, key: String, data: Bytes) -> Result<(), Failure> {
    let pieces: Vec<_> = data.chunks(64 << 10).map(|piece| Ok(data.slice_ref(piece))).collect();
    let place = Place::new(BucketId::from_random(1), key);
    backend.put(&place, Box::pin(futures::stream::iter(pieces)), Put::plain()).await?;
    Ok(())
}

async fn get(backend: &LocalBackend, key: String) -> Result<(), Failure> {
    let place = Place::new(BucketId::from_random(1), key);
    let mut stream = backend.open(&place, None).await?.found().ok_or("the object is not there")?.stream_all();
    while let Some(piece) = stream.next().await {
        piece?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or("give a folder")?);
    let backend = LocalBackend::open(&folder, Arc::new(SystemClock), Arc::new(OsRandom), Arc::new(Unlimited)).await?;
    for (size, count) in [(4 << 10, 8000_usize), (1 << 20, 400), (64 << 20, 8)] {
        let data = Bytes::from(vec![7; size]);
        for tasks in [1, 8, 32] {
            for operation in ["put", "get"] {
                let started = Instant::now();
                let run = |task: usize| {
                    let (backend, data) = (backend.clone(), data.clone());
                    tokio::spawn(async move {
                        for n in (task..count).step_by(tasks) {
                            let key = format!("{size}/{n:06}");
                            if operation == "put" {
                                put(&backend, key, data.clone()).await?;
                            } else {
                                get(&backend, key).await?;
                            }
                        }
                        Ok::<_, Failure>(())
                    })
                };
                for done in join_all((0..tasks).map(run)).await {
                    done??;
                }
                let each = f64::from(u32::try_from(count)?) / started.elapsed().as_secs_f64();
                println!("{operation} of {} KiB, {tasks} at once: {each:.0} per second", size >> 10);
            }
        }
    }
    let started = Instant::now();
    for _ in 0..100 {
        backend.list(BucketId::from_random(1), List { limit: 1000, ..List::default() }).await?;
    }
    println!("list of 1000 keys: {:.2} ms", started.elapsed().as_secs_f64() * 10.0);
    Ok(())
}
