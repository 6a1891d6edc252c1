use super::*;
use crate::*;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use terroir_types::{ResourceId, Secret, SeededRandom, Timestamp};

const BLOB_BYTES: usize = 3_000_000;

#[derive(Default)]
struct Plane(Mutex<Vec<String>>);

#[async_trait]
impl ControlPlane for Plane {
    async fn pull_spec(&self, host: HostId, cursor: Cursor, wait: Duration) -> Result<SpecPage, CrossingError> {
        self.0.lock().unwrap().push(format!("pull {host} {cursor} {wait:?}"));
        Ok(SpecPage { cursor: cursor + 1, full: true, changed: BTreeMap::new(), removed: vec!["volume/x".to_owned()] })
    }

    async fn report(&self, report: HostReport) -> Result<ReportAck, CrossingError> {
        Ok(ReportAck { want_full: !report.full })
    }

    async fn queries(&self, _host: HostId, _wait: Duration) -> Result<Vec<HostQuery>, CrossingError> {
        Err(CrossingError::Unreachable("going down".to_owned()))
    }

    async fn answer(&self, _host: HostId, query: u64, answer: QueryAnswer) -> Result<(), CrossingError> {
        self.0.lock().unwrap().push(format!("answer {query} {answer:?}"));
        Ok(())
    }

    async fn fetch_blob(&self, _host: HostId, name: &str, sink: BlobSink<'_>) -> Result<(), CrossingError> {
        if name == "absent" {
            return Err(CrossingError::NotFound("no such blob".to_owned()));
        }
        for number in 0..BLOB_BYTES / 1000 {
            let byte = u8::try_from(number % 251).unwrap();
            if sink.write_all(&[byte; 1000]).is_err() {
                return Err(CrossingError::Unreachable("nobody reads".to_owned()));
            }
            tokio::task::yield_now().await;
        }
        if name == "broken" { Err(CrossingError::Unreachable("disk".to_owned())) } else { Ok(()) }
    }

    async fn credentials(&self, _host: HostId, instance: InstanceId) -> Result<RoleCredentials, CrossingError> {
        if instance.number() == 0 {
            return Err(CrossingError::Refused("not yours".to_owned()));
        }
        Ok(RoleCredentials {
            role_name: "role".to_owned(),
            access_key_id: "ASIA".to_owned(),
            secret_access_key: Secret::new("s3cret".to_owned()),
            session_token: Secret::new("token".to_owned()),
            issued_at: Timestamp::EPOCH,
            expires_at: Timestamp::from_secs(60),
        })
    }
}

async fn serve(plane: Arc<Plane>, socket: &std::path::Path) -> tokio::task::JoinHandle<()> {
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    tokio::spawn(async move { axum::serve(listener, router(plane)).await.unwrap() })
}

#[tokio::test]
async fn every_crossing_arrives_and_returns() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let client = HttpControlPlane::new(&socket);
    let host = HostId::generate(&SeededRandom::new(1));
    let away = client.pull_spec(host, 0, Duration::ZERO).await;
    assert!(matches!(away, Err(CrossingError::Unreachable(_))), "{away:?}");

    let plane = Arc::new(Plane::default());
    let server = serve(Arc::clone(&plane), &socket).await;
    let page = client.pull_spec(host, 41, Duration::from_secs(100)).await.unwrap();
    assert_eq!((page.cursor, page.full, page.removed.len()), (42, true, 1));
    let report = HostReport {
        host,
        boot_id: "b".to_owned(),
        sequence: 1,
        full: false,
        facts: None,
        instances: vec![],
        volumes: vec![],
        interfaces: vec![],
    };
    assert!(client.report(report).await.unwrap().want_full);
    assert_eq!(
        client.queries(host, Duration::ZERO).await,
        Err(CrossingError::Unreachable("503 Service Unavailable: going down".to_owned()))
    );
    client.answer(host, 7, QueryAnswer::NotRunning).await.unwrap();
    let instance = InstanceId::generate(&SeededRandom::new(2));
    let credentials = client.credentials(host, instance).await.unwrap();
    assert_eq!(credentials.secret_access_key.expose(), "s3cret");
    let none = "i-00000000000000000".parse().unwrap();
    assert_eq!(client.credentials(host, none).await, Err(CrossingError::Refused("not yours".to_owned())));
    let expected = [format!("pull {host} 41 60s"), "answer 7 NotRunning".to_owned()];
    assert_eq!(*plane.0.lock().unwrap(), expected);
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_arrives_whole_or_fails() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let client = HttpControlPlane::new(&socket);
    let host = HostId::generate(&SeededRandom::new(1));
    let server = serve(Arc::new(Plane::default()), &socket).await;
    for (name, expected) in [("good", Ok(())), ("broken", Err("cut short")), ("absent", Err("no such blob"))] {
        let mut bytes = Vec::new();
        let result = client.fetch_blob(host, name, &mut bytes).await;
        match (&result, expected) {
            (Ok(()), Ok(())) => {
                assert_eq!(bytes.len(), BLOB_BYTES);
                assert!(bytes.chunks(1000).enumerate().all(|(n, c)| c.iter().all(|b| usize::from(*b) == n % 251)));
            }
            (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{name}: {error}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    server.abort();
}
