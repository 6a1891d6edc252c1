//! Documents, tokens and texts whose makers are not trusted.

use terroir_iam::evaluation::{
    Decision, Document, DocumentKind, Keys, Question, context_keys, decide, statement_spans,
};
use terroir_kms::ciphertext;
use terroir_policy::Policy;
use terroir_tlog::{AddCheckpoint, Checkpoint, Note, split_bundle};
use terroir_types::Timestamp;

/// The key of RFC 7515 A.3, and what it signed there.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
const EXPIRED: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

/// A policy document of IAM.
pub fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = context_keys(text);
    let _ = statement_spans(text);
    let mut keys = Keys::default();
    keys.set_one("aws:SourceIp", "192.0.2.1");
    keys.set_one("aws:username", "*");
    keys.set("aws:TagKeys", ["a", "b"]);
    let question = Question { action: "s3:GetObject", resource: "arn:aws:s3:::bucket/key", keys: &keys };
    for kind in [DocumentKind::Identity, DocumentKind::Trust, DocumentKind::Resource] {
        let Ok(document) = Document::parse(text, kind) else { continue };
        let (alone, twice) = (decide([&document], question), decide([&document, &document], question));
        assert_eq!(alone, twice, "said twice it says the same");
        if alone == Decision::Allow {
            assert!(document.actions().next().is_some(), "allowed by a document without actions");
        }
        let _ = (document.is_public(), document.principals().count(), document.resources().count());
    }
}

/// A sovereignty policy.
pub fn sovereignty_policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(policy) = Policy::parse(text) else { return };
    let again = Policy::parse(&policy.to_json()).expect("what was read can be written");
    assert_eq!(again, policy);
}

/// A blob that is given to be decrypted.
pub fn ciphertext(bytes: &[u8]) {
    let _ = ciphertext::Header::read(bytes);
    let opened = ciphertext::open(bytes, &[0x5a; 32], &std::collections::BTreeMap::new());
    assert!(opened.is_err(), "opened without having been sealed");
}

/// An identity token.
pub fn web_token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let late = Timestamp::from_secs(1_800_000_000);
    let claims = terroir_iam::web_token_claims(text, KEYS, late);
    assert!(claims.is_err(), "the one token that this key has signed has expired");
    // Operators give the keys.
    let _ = terroir_iam::web_token_claims(EXPIRED, text, late);
}

/// Signed notes, checkpoints, requests to witnesses and tiles of a log.
pub fn note(bytes: &[u8]) {
    let _ = split_bundle(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = AddCheckpoint::parse(text);
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert_eq!(Checkpoint::parse(&checkpoint.text()).expect("what was read can be written"), checkpoint);
    }
    if let Ok(note) = Note::parse(text) {
        // A signature that comes twice is kept once.
        assert_eq!(Note::parse(&note.to_string()).expect("what was read can be written"), note);
    }
}
