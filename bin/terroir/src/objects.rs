//! Object storage, wired: S3 for the API server, and the bytes of images and snapshots for everybody else.

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, Response};
use terroir_api_server::ObjectOutcome;
use terroir_object_storage::{S3Front, S3Outcome, S3RequestId};

pub struct Objects(pub S3Front);

#[async_trait]
impl terroir_api_server::S3Front for Objects {
    async fn handle(&self, mut request: Request<Body>) -> Response<Body> {
        if let Some(id) = request.extensions().get::<terroir_api_server::RequestId>() {
            let id = S3RequestId(id.0.clone());
            request.extensions_mut().insert(id);
        }
        let mut response = self.0.call(request).await.map(Body::new);
        if let Some(outcome) = response.extensions_mut().remove::<S3Outcome>() {
            let S3Outcome { operation, caller, bucket, key, error } = outcome;
            response.extensions_mut().insert(ObjectOutcome { operation, caller, bucket, key, error });
        }
        response
    }
}
