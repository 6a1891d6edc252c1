mod receipts;

use terroir_policy::{Forbidden, KeyCustody, Operator, Place, Site, SiteStatement, decide, sign};
use terroir_resources::Tags;
use terroir_store::{Store, Txn};
use terroir_tlog::SigningKey;
use terroir_types::{AccountId, Error, HostId, ResourceId, SeededRandom, Timestamp};

use crate::ops::{self, HostPlace, OwnSite};

pub(super) const REGION: &str = "eu-test-1";
pub(super) const NOW: Timestamp = Timestamp::from_millis(1_000);

pub(super) fn key(id: &str, seed: u8) -> SigningKey {
    SigningKey::from_seed(id, &[seed; 32]).unwrap()
}

pub(super) async fn change<R>(store: &Store, f: impl Fn(&mut Txn) -> Result<R, Error>) -> Result<R, Error> {
    Ok(store.transact(&[], f).await?.0)
}

pub(super) async fn first(key: &SigningKey) -> Store {
    let store = Store::in_memory_for_tests().await;
    let own =
        OwnSite { region: REGION, operator: "own.example", site: "eu-test-1a", country: Some("FR".to_owned()), key };
    change(&store, |txn| ops::ensure_own(txn, &own, NOW)).await.unwrap();
    // The second start finds what the first one made.
    change(&store, |txn| ops::ensure_own(txn, &own, NOW)).await.unwrap();
    store
}

#[tokio::test]
async fn operators_speak_for_themselves_alone() {
    let (own, other) = (key("own.example", 1), key("other.example", 2));
    let store = first(&own).await;
    let operator = |id: &str| Operator { id: id.to_owned(), seat: Some("DE".to_owned()), ..Operator::default() };
    let signed = |operator: Operator, key: &SigningKey, generation| {
        let key_text = key.verifier().to_string();
        sign(&terroir_policy::OperatorStatement { operator, key: key_text, generation, at: NOW }, key).unwrap()
    };
    let put = async |note: String| change(&store, |txn| ops::put_operator(txn, &note, NOW).map(drop)).await;
    put(signed(operator("other.example"), &other, 3)).await.unwrap();
    put(signed(operator("other.example"), &other, 3)).await.unwrap();
    let newer = Operator { name: "Other".to_owned(), ..operator("other.example") };
    for (note, complaint) in [
        (signed(newer.clone(), &other, 3), "generation 3 is known already"),
        (signed(newer.clone(), &key("other.example", 3), 4), "known with another key"),
        (signed(operator("third.example"), &other, 1), "brings the key of 'other.example'"),
        (signed(operator("Third"), &key("Third", 4), 1), "not an operator's id"),
        (signed(Operator { seat: Some("UK".into()), ..newer.clone() }, &other, 4), "seat: 'UK'"),
        (signed(newer.clone(), &other, 4).replace("\"Other\"", "\"0ther\""), "not valid"),
    ] {
        let error = put(note).await.unwrap_err();
        assert!(error.message().contains(complaint), "{error} / {complaint}");
    }
    put(signed(newer, &other, 4)).await.unwrap();

    let site = |id: &str, operator: &str, key: &SigningKey| {
        let site = Site { id: id.to_owned(), operator: operator.to_owned(), ..Site::default() };
        sign(&SiteStatement { site, generation: 1, at: NOW }, key).unwrap()
    };
    let put = async |note: String| change(&store, |txn| ops::put_site(txn, REGION, &note, NOW).map(drop)).await;
    for (note, complaint) in [
        (site("eu-test-1b", "other.example", &own), "not signed with the key"),
        (site("eu-test-1b", "fourth.example", &own), "no operator 'fourth.example'"),
        (site("eu-test-1a", "other.example", &other), "is of the operator 'own.example'"),
        (site("eu-other-1a", "other.example", &other), "no site of this region"),
        (site("eu-test-1", "other.example", &other), "no site of this region"),
    ] {
        let error = put(note).await.unwrap_err();
        assert!(error.message().contains(complaint), "{error} / {complaint}");
    }
    put(site("eu-test-1b", "other.example", &other)).await.unwrap();
    let sites = ops::list_sites(&store.read().await.unwrap()).unwrap();
    let zones: Vec<_> = sites.iter().map(|site| (site.site.id.as_str(), ops::zone_id(REGION, site))).collect();
    assert_eq!(zones, [("eu-test-1a", "et1-az1".to_owned()), ("eu-test-1b", "et1-az2".to_owned())]);
}

#[tokio::test]
async fn what_an_operator_changes_is_signed_anew_and_counts_at_once() {
    let own = key("own.example", 1);
    let store = first(&own).await;
    let host = HostId::generate(&SeededRandom::new(1));
    let at = async || HostPlace::find(&store.read().await.unwrap(), host, "eu-test-1a").unwrap().unwrap();
    let policy = terroir_policy::Policy::parse(r#"{"parents":{"deny":["US"]}}"#).unwrap();
    let place = at().await;
    assert!(decide(&policy, &place.place(KeyCustody::Operator)).is_err(), "not stated");
    let said = Operator {
        id: "own.example".to_owned(),
        parent_country: Some("FR".to_owned()),
        ..place.operator.operator.clone()
    };
    change(&store, |txn| ops::sign_operator(txn, said.clone(), &own, NOW).map(drop)).await.unwrap();
    let place = at().await;
    assert_eq!((decide(&policy, &place.place(KeyCustody::Operator)), place.operator.generation), (Ok(()), 2));
    let bought = Operator { parent_country: Some("US".to_owned()), ..said };
    change(&store, |txn| ops::sign_operator(txn, bought.clone(), &own, NOW).map(drop)).await.unwrap();
    assert!(matches!(
        decide(&policy, &at().await.place(KeyCustody::Operator)),
        Err(Forbidden::Denied { about: terroir_policy::Attribute::Parent, .. })
    ));
    let zone = |zone: &str| Some(zone.to_owned());
    let sign_host = async |fire: Option<String>| {
        change(&store, |txn| ops::sign_host(txn, host, "eu-test-1a", fire.clone(), &own, NOW).map(drop)).await
    };
    assert!(sign_host(zone("west")).await.unwrap_err().message().contains("no fire zone 'west'"));
    let site = Site { fire_zones: ["east".to_owned(), "west".to_owned()].into(), ..place.site.site.clone() };
    change(&store, |txn| ops::sign_site(txn, REGION, site.clone(), &own, NOW).map(drop)).await.unwrap();
    sign_host(zone("west")).await.unwrap();
    assert_eq!(Place::fire_zone(&at().await.place(KeyCustody::Operator)), Some("west"));
}

#[tokio::test]
async fn a_resource_is_under_its_accounts_policy_and_its_own() {
    let store = first(&key("own.example", 1)).await;
    let account = AccountId::from_number(123_456_789_012).unwrap();
    let set = async |document: &str| change(&store, |txn| ops::set_account_policy(txn, account, document, NOW)).await;
    let name = async |name: &str, document: &str| {
        change(&store, |txn| ops::set_named_policy(txn, account, name, document, NOW)).await
    };
    set(r#"{"countries":{"allow":["EU"]}}"#).await.unwrap();
    name("french", r#"{"countries":{"allow":["FR","US"]}}"#).await.unwrap();
    let effective = async |tag: Option<&str>| {
        let tags: Tags = tag.map(|tag| (ops::POLICY_TAG.to_owned(), tag.to_owned())).into_iter().collect();
        ops::effective_policy(&store.read().await.unwrap(), account, &tags)
    };
    let allowed = |policy: &terroir_policy::Policy| policy.countries.allow.clone().unwrap().len();
    assert_eq!(allowed(&effective(None).await.unwrap()), 28);
    let both = effective(Some("french")).await.unwrap();
    assert_eq!(both.countries.allow.unwrap().into_iter().collect::<Vec<_>>(), ["FR"], "nothing is loosened");
    assert!(effective(Some("german")).await.unwrap_err().message().contains("'german', which does not exist"));
    for (result, complaint) in [
        (name("us", r#"{"countries":{"allow":["US"]}}"#).await, "nothing would be left"),
        (set(r#"{"countries":{"deny":["FR","US"]}}"#).await, "together with the policy 'french'"),
        (set(r#"{"operators":{"allow":["nobody.example"]}}"#).await, "no operator 'nobody.example'"),
        (set("{").await, "no sovereignty policy"),
        (name("a b", "{}").await, "not a policy's name"),
    ] {
        let error = result.unwrap_err();
        assert!(error.message().contains(complaint), "{error} / {complaint}");
    }
    change(&store, |txn| ops::remove_named_policy(txn, account, "french", NOW)).await.unwrap();
    assert!(change(&store, |txn| ops::remove_named_policy(txn, account, "french", NOW)).await.is_err());
    set("{}").await.unwrap();
    assert!(effective(None).await.unwrap().is_open());
}
