//! What agents see: pages, blobs, queries, reports.

use std::sync::Arc;
use std::time::Duration;
use terroir_action::{LiveAction, LiveContext};
use terroir_agent_api::{ControlPlane, CrossingError, QueryAnswer, Section};
use terroir_aws_model::ec2;
use terroir_types::{Clock, HostId, ResourceId, SeededRandom};

use super::{Cloud, ROOMY};
use crate::aws::GetConsoleOutput;
use crate::gateway::HostQueries;
use crate::sim_host::SimHost;

#[tokio::test]
async fn what_changed_is_what_a_fresh_look_gives() {
    let mut cloud = Cloud::new(ROOMY).await;
    cloud.settle().await;
    let ids = cloud.run(cloud.world.run(3)).await;
    cloud.settle().await;
    let gone = ec2::TerminateInstancesRequest { instance_ids: vec![ids[0].to_string()], ..Default::default() };
    cloud.world.call::<crate::aws::TerminateInstances>(gone).await.unwrap();
    cloud.settle().await;
    let whole = cloud.host.whole_spec(&*cloud.gateway).await;
    assert_eq!(*cloud.host.spec(), whole);
    let kind = |kind: &str| whole.keys().filter(|key| key.starts_with(kind)).count();
    assert_eq!((kind("host"), kind("instance/"), kind("volume/"), kind("interface/")), (1, 2, 2, 2));
    assert_eq!((kind("vpc/"), kind("security-group/")), (1, 1));
    let Section::Instance(instance) = &whole[&format!("instance/{}", ids[1])] else { panic!("no instance") };
    assert!(instance.volumes[0].boot && instance.volumes[0].slot == 0);
    assert!(instance.metadata.hostname.starts_with("ip-172-31-"));
    let Section::Volume(volume) = &whole[&format!("volume/{}", instance.volumes[0].volume)] else {
        panic!("no volume")
    };
    assert!(volume.source.as_ref().unwrap().name.starts_with("snapshot/snap-"));
}

#[tokio::test]
async fn a_pull_waits_for_news_and_not_longer() {
    let mut cloud = Cloud::new(ROOMY).await;
    cloud.settle().await;
    let first = cloud.gateway.pull_spec(cloud.world.host, 0, Duration::ZERO).await.unwrap();
    assert!(first.full);
    let nothing = cloud.gateway.pull_spec(cloud.world.host, first.cursor, Duration::from_millis(10)).await.unwrap();
    assert!(nothing.changed.is_empty() && nothing.cursor == first.cursor);
    let gateway = Arc::clone(&cloud.gateway);
    let (host, cursor) = (cloud.world.host, first.cursor);
    let waiting = tokio::spawn(async move { gateway.pull_spec(host, cursor, Duration::from_secs(60)).await });
    tokio::task::yield_now().await;
    let id = cloud.run(cloud.world.run(1)).await[0];
    let page = tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap().unwrap();
    assert!(page.changed.contains_key(&format!("instance/{id}")));
}

#[tokio::test]
async fn blobs_are_given_only_to_hosts_that_need_them() {
    let mut cloud = Cloud::new(ROOMY).await;
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, "#!/bin/sh");
    let request = ec2::RunInstancesRequest { user_data: Some(encoded), ..cloud.world.run(2) };
    let ids = cloud.run(request).await;
    // Not pulled yet: as after a restart of the server.
    let name = format!("user-data/{}", ids[1]);
    let mut bytes = Vec::new();
    cloud.gateway.fetch_blob(cloud.world.host, &name, &mut bytes).await.unwrap();
    assert_eq!(bytes, b"#!/bin/sh");
    cloud.settle().await;
    let snapshot = cloud.host.spec().values().find_map(|section| match section {
        Section::Volume(volume) => volume.source.as_ref().map(|source| source.name.clone()),
        _ => None,
    });
    let snapshot = snapshot.unwrap();
    let mut bytes = Vec::new();
    cloud.gateway.fetch_blob(cloud.world.host, &snapshot, &mut bytes).await.unwrap();
    assert_eq!(bytes, snapshot.as_bytes());
    for name in ["snapshot/snap-0123456789abcdef0", "user-data/i-0123456789abcdef0", "../../etc/passwd", ""] {
        let refused = cloud.gateway.fetch_blob(cloud.world.host, name, &mut Vec::new()).await;
        assert!(matches!(refused, Err(CrossingError::Refused(_))), "{name}");
    }
    let stranger = HostId::generate(&SeededRandom::new(99));
    let refused = cloud.gateway.fetch_blob(stranger, &snapshot, &mut Vec::new()).await;
    assert!(matches!(refused, Err(CrossingError::Refused(_))));
    assert!(matches!(cloud.gateway.credentials(cloud.world.host, ids[0]).await, Err(CrossingError::NotFound(_))));
}

#[tokio::test]
async fn a_gap_in_reports_asks_for_everything() {
    let mut cloud = Cloud::new(ROOMY).await;
    let id = cloud.run(cloud.world.run(1)).await[0];
    cloud.host.pull(&*cloud.gateway).await;
    cloud.host.apply();
    let now = cloud.world.clock.now();
    let first = cloud.host.report(false, now, Some(ROOMY));
    assert!(cloud.gateway.report(first.clone()).await.unwrap().want_full, "the first one after a start");
    let full = cloud.host.report(true, now, None);
    assert!(!cloud.gateway.report(full).await.unwrap().want_full);
    assert!(!cloud.gateway.report(cloud.host.report(false, now, None)).await.unwrap().want_full);
    let lost = cloud.host.report(false, now, None);
    assert!(cloud.gateway.report(cloud.host.report(false, now, None)).await.unwrap().want_full);
    drop(lost);
    cloud.gateway.report(first).await.unwrap();
    cloud.settle().await;
    cloud.expect(id, crate::state::InstanceState::Running).await;
    let mut stranger = SimHost::new(HostId::generate(&SeededRandom::new(99)));
    let refused = cloud.gateway.report(stranger.report(true, now, None)).await;
    assert!(matches!(refused, Err(CrossingError::Refused(_))));
}

#[tokio::test]
async fn the_console_is_asked_of_the_host() {
    let mut cloud = Cloud::new(ROOMY).await;
    let id = cloud.run(cloud.world.run(1)).await[0];
    cloud.settle().await;
    let gateway = Arc::clone(&cloud.gateway);
    let (host, at) = (cloud.world.host, cloud.world.clock.now());
    let answering = tokio::spawn(async move {
        let queries = gateway.queries(host, Duration::from_secs(30)).await.unwrap();
        let answer = QueryAnswer::Bytes { base64: "aGVsbG8=".to_owned(), taken_at: at };
        gateway.answer(host, queries[0].id, answer).await.unwrap();
    });
    let action = GetConsoleOutput { hosts: Arc::clone(&cloud.gateway) as Arc<dyn HostQueries> };
    let clock: Arc<dyn Clock> = Arc::clone(&cloud.world.clock) as Arc<dyn Clock>;
    let context = || LiveContext {
        store: &cloud.world.store,
        caller: &cloud.world.caller,
        clock: &clock,
        ids: &*cloud.world.ids,
        region: &cloud.world.region,
        request_id: "test",
    };
    let request = |id: String| ec2::GetConsoleOutputRequest { instance_id: id, ..Default::default() };
    let answer = action.run(context(), request(id.to_string())).await.unwrap();
    assert_eq!((answer.output.as_deref(), answer.timestamp), (Some("aGVsbG8="), Some(at)));
    answering.await.unwrap();
    let unknown = action.run(context(), request("i-0123456789abcdef0".to_owned())).await.unwrap_err();
    assert_eq!(unknown.code(), "InvalidInstanceID.NotFound");
}
