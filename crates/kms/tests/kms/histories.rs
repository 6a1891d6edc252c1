//! Random histories against a small model: what each call answers, what still opens, and what is left at the end.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::world::{World, code};

#[derive(Debug, Clone)]
enum Step {
    Create,
    Enable(usize),
    Disable(usize),
    Schedule(usize, u64),
    Cancel(usize),
    Rotate(usize),
    Periodic(usize, bool),
    Encrypt(usize, u8, u8),
    /// A blob, the context that is given, and the key that is named.
    Decrypt(usize, u8, Option<usize>),
    ReEncrypt(usize, usize, u8),
    Days(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0..4usize;
    prop_oneof![
        1 => Just(Step::Create),
        1 => n.clone().prop_map(Step::Enable),
        1 => n.clone().prop_map(Step::Disable),
        1 => (n.clone(), 5..12u64).prop_map(|(key, days)| Step::Schedule(key, days)),
        1 => n.clone().prop_map(Step::Cancel),
        1 => n.clone().prop_map(Step::Rotate),
        1 => (n.clone(), any::<bool>()).prop_map(|(key, on)| Step::Periodic(key, on)),
        3 => (n.clone(), 0..3u8, any::<u8>()).prop_map(|(key, context, text)| Step::Encrypt(key, context, text)),
        3 => (0..6usize, 0..3u8, prop::option::of(n.clone())).prop_map(|(blob, context, key)| Step::Decrypt(blob, context, key)),
        1 => (0..6usize, n, 0..3u8).prop_map(|(blob, key, context)| Step::ReEncrypt(blob, key, context)),
        2 => (1..60u64).prop_map(Step::Days),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Enabled,
    Disabled,
    Pending(u64),
    Gone,
}

struct ModelKey {
    arn: String,
    state: State,
    materials: usize,
    next_rotation: Option<u64>,
}

struct ModelBlob {
    key: usize,
    context: u8,
    text: u8,
    blob: String,
}

#[derive(Default)]
struct Model {
    day: u64,
    keys: Vec<ModelKey>,
    blobs: Vec<ModelBlob>,
}

impl Model {
    fn usable(&self, key: usize) -> &'static str {
        match self.keys[key].state {
            State::Enabled => "",
            State::Disabled => "DisabledException",
            State::Pending(_) => "KMSInvalidStateException",
            State::Gone => "NotFoundException",
        }
    }

    fn not_deleted(&self, key: usize) -> &'static str {
        match self.usable(key) {
            "DisabledException" => "",
            other => other,
        }
    }

    fn opens(&self, blob: usize, context: u8) -> &'static str {
        match self.usable(self.blobs[blob].key) {
            "" if self.blobs[blob].context != context => "InvalidCiphertextException",
            other => other,
        }
    }

    fn settle(&mut self) {
        for key in &mut self.keys {
            if matches!(key.state, State::Pending(at) if at <= self.day) {
                key.state = State::Gone;
            }
            if key.state == State::Enabled && key.next_rotation.is_some_and(|at| at <= self.day) {
                key.materials += 1;
                key.next_rotation = Some(self.day + 90);
            }
        }
    }
}

fn context(number: u8) -> Value {
    [json!({}), json!({"a": "1"}), json!({"a": "1", "b": "2"})][usize::from(number)].clone()
}

fn text(number: u8) -> String {
    STANDARD.encode(vec![number; usize::from(number) + 1])
}

async fn run(world: &World, model: &mut Model, step: Step) {
    let keys = model.keys.len();
    let pick = |n: usize| n % keys.max(1);
    let ask = async |action: &str, body: Value, expected: &str| {
        let answer = world.ask(&world.root, action, body.clone()).await;
        assert_eq!(answer.as_ref().err().map_or("", String::as_str), expected, "{action} {body}");
        answer.unwrap_or_default()
    };
    let named = |model: &Model, key: usize| json!({"KeyId": model.keys[key].arn});
    match step {
        Step::Create => {
            let arn = world.key(json!({})).await;
            model.keys.push(ModelKey { arn, state: State::Enabled, materials: 1, next_rotation: None });
        }
        _ if keys == 0 => {}
        Step::Enable(n) | Step::Disable(n) => {
            let enable = matches!(step, Step::Enable(_));
            let (key, action) = (pick(n), if enable { "EnableKey" } else { "DisableKey" });
            let expected = model.not_deleted(key);
            ask(action, named(model, key), expected).await;
            if expected.is_empty() {
                model.keys[key].state = if enable { State::Enabled } else { State::Disabled };
            }
        }
        Step::Schedule(n, days) => {
            let key = pick(n);
            let expected = match model.not_deleted(key) {
                "NotFoundException" => "NotFoundException",
                _ if days < 7 => "ValidationException",
                other => other,
            };
            let mut body = named(model, key);
            body["PendingWindowInDays"] = json!(days);
            ask("ScheduleKeyDeletion", body, expected).await;
            if expected.is_empty() {
                model.keys[key].state = State::Pending(model.day + days);
            }
        }
        Step::Cancel(n) => {
            let key = pick(n);
            let expected = match model.keys[key].state {
                State::Pending(_) => "",
                State::Gone => "NotFoundException",
                State::Enabled | State::Disabled => "KMSInvalidStateException",
            };
            ask("CancelKeyDeletion", named(model, key), expected).await;
            if expected.is_empty() {
                model.keys[key].state = State::Disabled;
            }
        }
        Step::Rotate(n) => {
            let key = pick(n);
            let expected = model.usable(key);
            ask("RotateKeyOnDemand", named(model, key), expected).await;
            model.keys[key].materials += usize::from(expected.is_empty());
        }
        Step::Periodic(n, on) => {
            let key = pick(n);
            let expected = model.usable(key);
            let mut body = named(model, key);
            if on {
                body["RotationPeriodInDays"] = json!(90);
            }
            ask(if on { "EnableKeyRotation" } else { "DisableKeyRotation" }, body, expected).await;
            if expected.is_empty() {
                let day = model.day;
                let next = &mut model.keys[key].next_rotation;
                *next = on.then(|| next.unwrap_or(day + 90));
            }
        }
        Step::Encrypt(n, with, number) => {
            let key = pick(n);
            let mut body = named(model, key);
            body["Plaintext"] = json!(text(number));
            body["EncryptionContext"] = context(with);
            let answer = ask("Encrypt", body, model.usable(key)).await;
            if let Some(blob) = answer["CiphertextBlob"].as_str() {
                model.blobs.push(ModelBlob { key, context: with, text: number, blob: blob.to_owned() });
            }
        }
        _ if model.blobs.is_empty() && !matches!(step, Step::Days(_)) => {}
        Step::Decrypt(n, with, named_key) => {
            let blob = n % model.blobs.len();
            let mut body = json!({"CiphertextBlob": model.blobs[blob].blob, "EncryptionContext": context(with)});
            let mut expected = model.opens(blob, with);
            if let Some(key) = named_key.map(pick) {
                body["KeyId"] = json!(model.keys[key].arn);
                if model.keys[key].state == State::Gone {
                    expected = "NotFoundException";
                } else if key != model.blobs[blob].key {
                    expected = "IncorrectKeyException";
                }
            }
            let answer = ask("Decrypt", body, expected).await;
            if expected.is_empty() {
                assert_eq!(answer["Plaintext"], json!(text(model.blobs[blob].text)));
                assert_eq!(answer["KeyId"], json!(model.keys[model.blobs[blob].key].arn));
            }
        }
        Step::ReEncrypt(n, to, with) => {
            let (blob, to) = (n % model.blobs.len(), pick(to));
            let from = &model.blobs[blob];
            let body = json!({
                "CiphertextBlob": from.blob, "SourceEncryptionContext": context(from.context),
                "DestinationKeyId": model.keys[to].arn, "DestinationEncryptionContext": context(with),
            });
            let gone = |key: usize| model.keys[key].state == State::Gone;
            let expected = match (model.usable(from.key), model.usable(to)) {
                _ if gone(from.key) || gone(to) => "NotFoundException",
                ("", other) => other,
                (other, _) => other,
            };
            let text = from.text;
            let answer = ask("ReEncrypt", body, expected).await;
            if let Some(blob) = answer["CiphertextBlob"].as_str() {
                model.blobs.push(ModelBlob { key: to, context: with, text, blob: blob.to_owned() });
            }
        }
        Step::Days(days) => {
            world.days_later(days).await;
            model.day += days;
            model.settle();
        }
    }
}

async fn whole(steps: Vec<Step>) {
    let world = World::new().await;
    let mut model = Model::default();
    for step in steps {
        // What is due at once, as a rotation of a key that was enabled again, is done before the next call.
        world.days_later(0).await;
        model.settle();
        run(&world, &mut model, step).await;
    }
    world.days_later(0).await;
    model.settle();
    for blob in 0..model.blobs.len() {
        let of = &model.blobs[blob];
        let body = json!({"CiphertextBlob": of.blob, "EncryptionContext": context(of.context)});
        assert_eq!(code(world.ask(&world.root, "Decrypt", body).await), model.opens(blob, of.context));
    }
    let txn = world.store.read().await.unwrap();
    let alive = model.keys.iter().filter(|key| key.state != State::Gone);
    assert_eq!(txn.count(&"kms-key".into()), alive.clone().count());
    assert_eq!(txn.count(&"kms-material".into()), alive.map(|key| key.materials).sum::<usize>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys_do_as_the_model_says(steps in prop::collection::vec(step(), 1..60)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(whole(steps));
    }
}
