//! The operator's commands about receipts and witnesses, for the admin socket.

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use std::path::PathBuf;
use std::sync::Arc;
use terroir_sovereignty::ops;
use terroir_sovereignty::receipt::{Receipt, ReceiptReader, WitnessError, WitnessFolder};
use terroir_store::Txn;
use terroir_tlog::{AddCheckpoint, Checkpoint, Note, Signature, VerifierKey};
use terroir_types::{Error, Timestamp};

use crate::admin_api::{ReceiptRequest, WitnessRequest, WitnessSignature, WitnessText};
use crate::admin_objects::{account_id, known_account};
use crate::admin_server::{Admin, Answer};

pub fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/receipts", post(receipt))
        .route("/witness/request", post(request))
        .route("/witness/cosign", post(cosign))
        .route("/witness/accept", post(accept))
}

fn reader(admin: &Admin) -> ReceiptReader {
    ReceiptReader::new(&admin.cloud.layout.receipts())
}

fn invalid(message: impl Into<String>) -> Error {
    Error::invalid("InvalidParameterValue", message)
}

fn unreadable(error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::InvalidData => invalid(error.to_string()),
        _ => Error::unavailable("The receipts' log cannot be used.").with_internal(error.to_string()),
    }
}

async fn receipt(State(admin): State<Arc<Admin>>, Json(wanted): Json<ReceiptRequest>) -> Answer<Receipt> {
    let account = account_id(&wanted.account_id)?;
    let txn = admin.cloud.store.read().await?;
    known_account(&txn, account)?;
    let reader = reader(&admin);
    // Names stay out of the log: a bucket is there under its id.
    let bucket = terroir_object_storage::ops::find_bucket(&txn, &wanted.resource)?;
    let bucket = bucket.filter(|bucket| bucket.account == account);
    let resource = bucket.map_or_else(|| wanted.resource.clone(), |bucket| bucket.resource_id());
    // The whole log is read.
    let find = move || ops::receipt(&txn, &reader, account, &resource, wanted.since);
    let found = tokio::task::spawn_blocking(find).await.map_err(Error::internal)??;
    let none = || {
        let message = format!("nothing is in the log about {} of account {account}, or not yet", wanted.resource);
        Error::not_found("NoSuchEntity", message)
    };
    Ok(Json(found.ok_or_else(none)?))
}

fn key_of(txn: &Txn, operator: &str) -> Result<VerifierKey, Error> {
    ops::find_operator(txn, operator)?.key.parse().map_err(Error::internal)
}

/// What was sent to a witness last, to be cosigned.
fn offered(admin: &Admin, operator: &str) -> PathBuf {
    admin.cloud.layout.receipts().join(format!("offered-{operator}"))
}

/// How many entries a witness has cosigned, as far as is known here.
fn seen(admin: &Admin, operator: &str) -> PathBuf {
    admin.cloud.layout.receipts().join(format!("seen-{operator}"))
}

async fn request(State(admin): State<Arc<Admin>>, Json(asked): Json<WitnessRequest>) -> Answer<WitnessText> {
    let txn = admin.cloud.store.read().await?;
    let key = key_of(&txn, &asked.operator)?;
    let known = std::fs::read_to_string(seen(&admin, key.name())).unwrap_or_default();
    // One that has seen more than is known here says so, and its number can be given again.
    let request = reader(&admin).request(known.trim().parse().unwrap_or(0)).map_err(|error| unreadable(&error))?;
    let request = request.ok_or_else(|| invalid("nothing is in the log yet"))?;
    let keep = std::fs::write(offered(&admin, key.name()), request.checkpoint.to_string());
    keep.map_err(|error| unreadable(&error))?;
    Ok(Json(WitnessText { text: request.to_string() }))
}

async fn cosign(State(admin): State<Arc<Admin>>, Json(asked): Json<WitnessText>) -> Answer<WitnessText> {
    let request = AddCheckpoint::parse(&asked.text).ok_or_else(|| invalid("this is no request to a witness"))?;
    let txn = admin.cloud.store.read().await?;
    let seconds = admin.cloud.clock.now().since(Timestamp::EPOCH).as_secs();
    let folder = WitnessFolder::new(&admin.cloud.layout.witness());
    let key_of = |operator: &str| key_of(&txn, operator).ok();
    let signature =
        folder.cosign(&request, key_of, &admin.cloud.operator_key, seconds).map_err(|error| match error {
            WitnessError::Io(error) => unreadable(&error),
            other => invalid(other.to_string()),
        })?;
    Ok(Json(WitnessText { text: signature.to_string() }))
}

async fn accept(State(admin): State<Arc<Admin>>, Json(given): Json<WitnessSignature>) -> Answer<()> {
    let txn = admin.cloud.store.read().await?;
    let key = key_of(&txn, &given.operator)?;
    let text = std::fs::read_to_string(offered(&admin, key.name()));
    let text = text.map_err(|_| invalid(format!("nothing was requested of {}", key.name())))?;
    let note = Note::parse(&text).map_err(|error| invalid(error.to_string()))?;
    let signature: Signature = given.signature.trim_end().parse().map_err(|_| invalid("this is no signature"))?;
    let folder = admin.cloud.layout.receipts();
    reader(&admin).accept(&folder, &note, signature, &key).map_err(|error| unreadable(&error))?;
    let size = Checkpoint::parse(note.text()).map_err(|error| invalid(error.to_string()))?.size;
    std::fs::write(seen(&admin, key.name()), size.to_string()).map_err(|error| unreadable(&error))?;
    Ok(Json(()))
}
