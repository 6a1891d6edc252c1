//! Conditions on writes are exact under concurrency.

use crate::harness::World;
use futures::future::join_all;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_eight_creations_one_wins() {
    let world = World::with_bucket().await;
    for round in 0..20 {
        // Small ones stand in the index, large ones in files.
        let size = if round % 2 == 0 { 100 } else { 100_000 };
        let target = format!("/bucket/{round}");
        let create = |n: u8| {
            let call = world.root.put(&target).header("if-none-match", "*").body(vec![n; size]);
            tokio::spawn(async move { (n, call.send().await) })
        };
        let mut winners = Vec::new();
        for answer in join_all((0..8).map(create)).await {
            let (n, answer) = answer.unwrap();
            match answer.status.as_u16() {
                200 => winners.push(n),
                _ => drop(answer.refused(412, "PreconditionFailed", &target)),
            }
        }
        assert_eq!(winners.len(), 1, "{target}");
        let read = world.root.get(&target).send().await.expect(200, &target);
        assert!(read.body == vec![winners[0]; size], "{target}: the winner's bytes");
    }
    world.files_become(10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replacements_lose_no_update() {
    const TASKS: usize = 6;
    const EACH: usize = 8;
    let world = World::with_bucket().await;
    world.root.put("/bucket/n").body("0").send().await.expect(200, "zero");
    let add = |_| {
        let client = world.root.clone();
        tokio::spawn(async move {
            let mut done = 0;
            while done < EACH {
                let read = client.get("/bucket/n").send().await.expect(200, "read");
                let next = read.text().parse::<usize>().unwrap() + 1;
                let put = client.put("/bucket/n").header("if-match", read.header("etag")).body(next.to_string());
                match put.send().await {
                    answer if answer.status == 200 => done += 1,
                    answer => drop(answer.refused(412, "PreconditionFailed", "somebody was first")),
                }
            }
        })
    };
    join_all((0..TASKS).map(add)).await.into_iter().for_each(Result::unwrap);
    let read = world.root.get("/bucket/n").send().await;
    assert_eq!(read.text(), (TASKS * EACH).to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_is_deleted_or_written_to() {
    let world = World::new().await;
    for round in 0..20 {
        let bucket = format!("/bucket{round}");
        world.root.put(&bucket).send().await.expect(200, &bucket);
        let put = tokio::spawn(world.root.put(&format!("{bucket}/k")).body("x").send());
        let delete = tokio::spawn(world.root.delete(&bucket).send());
        let (put, delete) = (put.await.unwrap(), delete.await.unwrap());
        match delete.status.as_u16() {
            204 => drop(put.refused(404, "NoSuchBucket", &bucket)),
            _ => {
                delete.refused(409, "BucketNotEmpty", &bucket);
                put.expect(200, &bucket);
                world.root.get(&format!("{bucket}/k")).send().await.expect(200, &bucket);
            }
        }
    }
}
