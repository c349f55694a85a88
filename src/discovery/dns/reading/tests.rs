use std::cell::RefCell;

use hickory_resolver::proto::{
    op::{OpCode, Query},
    rr::rdata::{A, SOA, SRV},
};

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn alias(from: &str, ttl: u32, to: &str) -> Record {
    Record::from_rdata(name(from), ttl, RData::CNAME(CNAME(name(to))))
}

fn address(of: &str, ttl: u32, last: u8) -> Record {
    Record::from_rdata(name(of), ttl, RData::A(A::new(10, 0, 0, last)))
}

fn service(of: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name(of), ttl, RData::SRV(SRV::new(0, 0, 80, name(target))))
}

fn authority(zone: &str) -> Record {
    let soa = SOA::new(name("ns."), name("admin."), 1, 2, 3, 4, 5);
    Record::from_rdata(name(zone), 5, RData::SOA(soa))
}

fn message(code: ResponseCode, answers: &[Record], authorities: &[Record]) -> Message {
    let mut message = Message::response(0, OpCode::Query);
    message.add_query(Query::query(name("a."), RecordType::A));
    message.metadata.response_code = code;
    message.add_answers(answers.iter().cloned());
    message.add_authorities(authorities.iter().cloned());
    message
}

fn good(answers: &[Record]) -> Message {
    message(ResponseCode::NoError, answers, &[])
}

/// What is read of `a.` where the questions, in this order, have these answers: the kind, the TTL, and
/// how many records; and the names that were asked for.
async fn told(kind: RecordType, answers: Vec<Message>) -> (String, Vec<String>) {
    let asked = RefCell::new(Vec::new());
    let ask = |name: Name| {
        let mut asked = asked.borrow_mut();
        asked.push(name.to_ascii());
        let answer = answers.get(asked.len() - 1).cloned();
        async move { answer.ok_or(NetError::Timeout) }
    };
    let told = match read(name("a."), kind, ask).await {
        Ok(Reading::Records(all)) => format!("{} for {:?}", all.records.len(), all.ttl),
        Ok(Reading::Nothing(absent)) => format!("{absent:?}"),
        Err(fault) => format!("{fault}"),
    };
    (told, asked.into_inner())
}

/// R22: an alias in front of SRV records, which a recursor sends in one answer and an authority in
/// two; the least TTL on the way counts (R6).
#[tokio::test]
async fn r22_srv_records_are_found_behind_aliases() {
    let (first, second) = (alias("a.", 9, "b."), alias("b.", 7, "c."));
    let records = [service("C.", 30, "x."), service("c.", 30, "y.")];
    let together = [&[first.clone(), second.clone()], &records[..]].concat();
    let mut turned = together.clone();
    turned.reverse();
    for (answers, asked) in [
        (vec![good(&together)], &["a."][..]),
        // Whatever the order of the records.
        (vec![good(&turned)], &["a."]),
        (vec![good(&[first.clone(), second.clone()]), good(&records)], &["a.", "c."]),
        (vec![good(&[first]), good(&[second]), good(&records)], &["a.", "b.", "c."]),
    ] {
        let told = told(RecordType::SRV, answers).await;
        assert_eq!((&*told.0, told.1), ("2 for 7s", asked.iter().map(|&it| it.into()).collect()));
    }
    let told = told(RecordType::SRV, vec![good(&[service("a.", 5, "x.")])]).await;
    assert_eq!((&*told.0, told.1.len()), ("1 for 5s", 1), "its target is no alias");
}

/// R5: a circle of aliases, or a chain of them without end, is a failure and no empty set.
#[tokio::test]
async fn r5_aliases_that_lead_nowhere_are_a_failure() {
    let link = |i: usize| alias(&format!("a{i}."), 5, &format!("a{}.", i + 1));
    let chain = |links: usize| {
        let mut chain = vec![alias("a.", 5, "a0.")];
        chain.extend((0..links - 1).map(link));
        chain
    };
    let nowhere = Fault::Aliases.to_string();
    for circle in [vec![alias("a.", 5, "A.")], vec![alias("a.", 5, "b."), alias("b.", 5, "a.")]] {
        let together = told(RecordType::A, vec![good(&circle)]).await;
        assert_eq!(together, (nowhere.clone(), vec!["a.".to_owned()]));
        let apart = circle.iter().map(|record| good(std::slice::from_ref(record))).collect();
        assert_eq!(told(RecordType::A, apart).await.0, nowhere);
    }
    let mut longest = chain(MOST_ALIASES);
    longest.push(address(&format!("a{}.", MOST_ALIASES - 1), 9, 1));
    assert_eq!(told(RecordType::A, vec![good(&longest)]).await.0, "1 for 5s");
    let too_long = chain(MOST_ALIASES + 1);
    assert_eq!(told(RecordType::A, vec![good(&too_long)]).await.0, nowhere);
    let apart = too_long.iter().map(|record| good(std::slice::from_ref(record))).collect();
    let (told, asked) = told(RecordType::A, apart).await;
    assert_eq!((told, asked.len()), (nowhere, MOST_ALIASES + 1));
}

/// R5: what "nothing" looks like, and what only looks like it.
#[tokio::test]
async fn r5_only_what_says_that_there_is_nothing_does() {
    let first = || alias("a.", 9, "b.shop.");
    for (code, answers, authorities, expected) in [
        // RFC 6604: the code is that of the last name.
        (ResponseCode::NXDomain, vec![first()], vec![], "NoName"),
        (ResponseCode::NoError, vec![first()], vec![authority("shop.")], "NoRecords"),
        // That authority knows nothing of the target, which is asked for.
        (ResponseCode::NoError, vec![first()], vec![authority("test.")], "no answer"),
        (ResponseCode::NoError, vec![first()], vec![], "no answer"),
        (ResponseCode::NoError, vec![address("z.", 5, 1)], vec![], "records of other names"),
        (ResponseCode::NoError, vec![service("a.", 5, "x.")], vec![authority("a.")], "NoRecords"),
        (ResponseCode::Unknown(77), vec![address("a.", 5, 1)], vec![], "UNKNOWN(77)"),
        // What is there is there.
        (ResponseCode::NXDomain, vec![address("a.", 5, 1)], vec![], "1 for 5s"),
    ] {
        let message = message(code, &answers, &authorities);
        assert_eq!(told(RecordType::A, vec![message]).await.0, expected);
    }
}

/// RFC 6761: of these nobody is asked, nor where an alias leads to them.
#[tokio::test]
async fn names_of_special_use_are_not_asked_for() {
    let nobody = |_: Name| async { Err(NetError::Message("asked")) };
    for (text, kind, expected) in [
        ("localhost.", RecordType::A, "127.0.0.1"),
        ("a.LOCALHOST.", RecordType::AAAA, "::1"),
        ("localhost.", RecordType::SRV, "NoRecords"),
        ("a.invalid.", RecordType::A, "NoName"),
        ("a.onion.", RecordType::AAAA, "NoName"),
    ] {
        let told = match read(name(text), kind, nobody).await.unwrap() {
            Reading::Records(all) => all.records[0].data.to_string(),
            Reading::Nothing(absent) => format!("{absent:?}"),
        };
        assert_eq!(told, expected);
    }
    let answers = vec![good(&[alias("a.", 9, "localhost.")])];
    assert_eq!(told(RecordType::A, answers).await.1, ["a."]);
}
