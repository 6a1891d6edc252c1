//! Object storage, wired: S3 for the API server, and the bytes of images and snapshots for everybody else.

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, Response};
use terroir_object_storage::{S3Front, S3RequestId};

pub struct Objects(pub S3Front);

#[async_trait]
impl terroir_api_server::S3Front for Objects {
    async fn handle(&self, mut request: Request<Body>) -> Response<Body> {
        if let Some(id) = request.extensions().get::<terroir_api_server::RequestId>() {
            let id = S3RequestId(id.0.clone());
            request.extensions_mut().insert(id);
        }
        self.0.call(request).await.map(Body::new)
    }
}
