use hickory_proto::op::Query;
use proptest::prelude::*;

use super::*;
use crate::sample;
use crate::snapshot::Index;

fn query(name: &str, kind: RecordType, edit: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    edit(&mut message);
    message.to_vec().unwrap()
}

fn with_upstream() -> Index {
    let mut snapshot = sample::snapshot();
    snapshot.dns_upstreams = vec!["192.0.2.53".parse().unwrap()];
    Index::new(snapshot)
}

/// One word for what was decided: the record's data, a response code, `ignored` or `forwarded`.
fn word(verdict: Verdict) -> String {
    match verdict {
        Verdict::Ignore => "ignored".to_owned(),
        Verdict::Forward(_) => "forwarded".to_owned(),
        Verdict::Answer(bytes) => {
            let message = Message::from_vec(&bytes).unwrap();
            assert_eq!(message.metadata.message_type, MessageType::Response);
            match &message.answers[..] {
                [record] => record.data.to_string(),
                [] => format!("{:?}", message.metadata.response_code),
                more => panic!("{more:?}"),
            }
        }
    }
}

#[test]
fn names_of_the_cloud_and_of_the_outside() {
    use RecordType as T;
    let rows: &[(&str, T, &str)] = &[
        ("ip-10-0-0-11.eu-test-1.compute.internal.", T::A, "10.0.0.11"),
        ("IP-10-0-0-11.eu-test-1.COMPUTE.internal.", T::A, "10.0.0.11"),
        ("ip-10-0-77-3.eu-test-1.compute.internal.", T::A, "10.0.77.3"),
        ("ip-10-0-0-11.eu-test-1.compute.internal.", T::AAAA, "NoError"),
        ("ip-10-0-0-11.eu-test-1.compute.internal.", T::ANY, "10.0.0.11"),
        ("ip-10-1-0-11.eu-test-1.compute.internal.", T::A, "NXDomain"),
        ("ip-10-0-0-011.eu-test-1.compute.internal.", T::A, "NXDomain"),
        ("ip-10-0-0-11.other-1.compute.internal.", T::A, "NXDomain"),
        ("eu-test-1.compute.internal.", T::A, "NoError"),
        ("nothing.internal.", T::A, "NXDomain"),
        ("11.0.0.10.in-addr.arpa.", T::PTR, "ip-10-0-0-11.eu-test-1.compute.internal."),
        ("11.0.1.10.in-addr.arpa.", T::PTR, "NXDomain"),
        ("1.1.168.192.in-addr.arpa.", T::PTR, "NXDomain"),
        ("8.8.8.8.in-addr.arpa.", T::PTR, "forwarded"),
        ("ec2-198-51-100-10.eu-test-1.compute.terroir.internal.", T::A, "10.0.0.11"),
        ("ec2-198-51-100-99.eu-test-1.compute.terroir.internal.", T::A, "198.51.100.99"),
        ("outside.example.org.", T::A, "forwarded"),
        ("outside.example.org.", T::AXFR, "Refused"),
        (".", T::NS, "forwarded"),
    ];
    let index = with_upstream();
    for (name, kind, expected) in rows {
        let got = word(decide(&query(name, *kind, |_| {}), &index, sample::vpc(1), false));
        assert_eq!(got, *expected, "{name} {kind}");
    }
    let outside = query("outside.example.org.", T::A, |_| {});
    assert_eq!(word(decide(&outside, &sample::index(), sample::vpc(1), false)), "Refused", "no upstreams");
    assert_eq!(word(decide(&outside, &index, sample::vpc(2), false)), "ignored", "DNS is switched off");
    assert_eq!(word(decide(&outside, &index, sample::vpc(3), false)), "ignored", "an unknown VPC");
}

#[test]
fn queries_that_are_wrong() {
    type Edit = fn(&mut Message);
    let rows: [(Edit, &str); 5] = [
        (|m| m.metadata.message_type = MessageType::Response, "ignored"),
        (|m| m.metadata.op_code = OpCode::Update, "NotImp"),
        (|m| m.queries.clear(), "FormErr"),
        (
            |m| {
                let _ = m.queries[0].set_query_class(DNSClass::CH);
            },
            "Refused",
        ),
        (
            |m| {
                let mut edns = Edns::new();
                edns.set_version(1);
                m.edns = Some(edns);
            },
            // BADVERS has the same number.
            "BADSIG",
        ),
    ];
    let index = with_upstream();
    for (edit, expected) in rows {
        let bytes = query("ip-10-0-0-11.eu-test-1.compute.internal.", RecordType::A, edit);
        assert_eq!(word(decide(&bytes, &index, sample::vpc(1), false)), expected);
    }
    let mut garbage = query("outside.example.org.", RecordType::A, |_| {});
    garbage.truncate(20);
    assert_eq!(word(decide(&garbage, &index, sample::vpc(1), false)), "FormErr");
    assert_eq!(decide(&[1, 2, 3], &index, sample::vpc(1), false), Verdict::Ignore);
}

#[test]
fn answers_are_no_larger_than_the_client_takes() {
    let mut message = Message::response(7, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii("a.").unwrap(), RecordType::A));
    for n in 0..100 {
        message.add_answer(Record::from_rdata(Name::from_ascii("a.").unwrap(), 1, RData::A(A([10, 0, 0, n].into()))));
    }
    for (payload, whole) in [(512, false), (1232, false), (u16::MAX, true)] {
        let bytes = fitted(message.clone(), payload);
        assert!(bytes.len() <= usize::from(payload));
        assert_eq!(Message::from_vec(&bytes).unwrap().metadata.truncation, !whole);
    }
    let offered = |size: u16| {
        let bytes = query("outside.example.org.", RecordType::A, |m| {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            m.edns = Some(edns);
        });
        match decide(&bytes, &with_upstream(), sample::vpc(1), false) {
            Verdict::Forward(question) => question.payload,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([offered(100), offered(900), offered(4096)], [512, 900, 1232]);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decide(&bytes, &with_upstream(), sample::vpc(1), false);
    }

    #[test]
    fn no_bent_query_makes_it_panic(at in 0usize..80, value: u8, length in 0usize..80) {
        let mut bytes = query("ip-10-0-0-11.eu-test-1.compute.internal.", RecordType::A, |_| {});
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        bytes.truncate(length);
        let _ = decide(&bytes, &with_upstream(), sample::vpc(1), true);
    }
}
