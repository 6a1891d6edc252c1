//! An endpoint that is told of events, and that refuses them when a test says so.

use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

type Refuses = dyn Fn(&Value) -> bool + Send + Sync;

#[derive(Clone)]
pub struct Hook {
    pub url: String,
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    refuses: Arc<Mutex<Arc<Refuses>>>,
}

impl Hook {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?x=1", listener.local_addr().unwrap());
        let refuses: Arc<Refuses> = Arc::new(|_| false);
        let hook = Self { url, got: Arc::default(), refuses: Arc::new(Mutex::new(refuses)) };
        let serving = hook.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let hook = serving.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| hook.clone().take(request));
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // A connection that breaks is the client's business.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        hook
    }

    async fn take(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        assert_eq!(request.uri(), "/hook?x=1");
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let message: Value = serde_json::from_slice(&body).unwrap();
        let refuses = Arc::clone(&self.refuses.lock().unwrap());
        let mut response = Response::new(Full::new(Bytes::from_static(b"what is said here is nobody's business")));
        if refuses(&message) {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        } else {
            self.got.lock().unwrap().push((parts.headers, body));
        }
        Ok(response)
    }

    pub fn refuse(&self, which: impl Fn(&Value) -> bool + Send + Sync + 'static) {
        *self.refuses.lock().unwrap() = Arc::new(which);
    }

    pub fn got(&self) -> Vec<(HeaderMap, Bytes)> {
        self.got.lock().unwrap().clone()
    }

    /// Records of events so far; tests are left out.
    pub fn records(&self) -> Vec<Value> {
        let got = self.got();
        let messages = got.iter().map(|(_, body)| serde_json::from_slice::<Value>(body).unwrap());
        messages.filter_map(|message| Some(message.get("Records")?[0].clone())).collect()
    }

    /// The records once there are so many.
    pub async fn wait_for(&self, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let records = self.records();
            if records.len() >= count {
                return records;
            }
            assert!(Instant::now() < deadline, "{} of {count} events: {records:#?}", records.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
