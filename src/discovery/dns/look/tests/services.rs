//! SRV records, and the targets that they name.

use super::*;

/// SRV targets `a.` and `b.`, whose addresses are known.
async fn two_targets() -> (Fake, Source) {
    let fake = Fake::default();
    fake.a("a.", good([v4(1)]));
    fake.a("b.", good([v4(2)]));
    fake.srv("users.", good([service("a.", 0, 0), service("b.", 0, 0)]));
    let mut source = Source::services(&fake, "users");
    assert_eq!(short(&source.next().await), "set 10.0.0.1 10.0.0.2");
    (fake, source)
}

/// R22: priorities, weights and ports are those of the records, for all addresses of a target.
#[tokio::test(start_paused = true)]
async fn r22_srv_records_say_priority_weight_and_port() {
    let fake = Fake::default();
    let mut with_addresses = service("b.", 20, 0);
    with_addresses.addresses = vec![v4(9)];
    with_addresses.port = 8080;
    let all = [with_addresses, service("a.", 10, 5), service("A.", 10, 7)];
    fake.srv("_http._tcp.users.", good(all.clone()));
    fake.a("a.", good([v4(1)]));
    let question = |ignore_weights| Question::Services {
        name: "_http._tcp.users".parse().unwrap(),
        ignore_weights,
    };
    for (ignore, expected) in [
        (false, ["10.0.0.1:80 10 5", "10.0.0.9:8080 20 1"]),
        (true, ["10.0.0.1:80 10 1", "10.0.0.9:8080 20 1"]),
    ] {
        let mut source = Source::new(&fake, question(ignore), Families::Both);
        let Update::Set(set) = source.next().await else { panic!("no set") };
        let told: Vec<_> = set
            .iter()
            .map(|one| format!("{one} {} {}", one.priority().0, one.weight().0))
            .collect();
        assert_eq!(told, expected);
        assert!(set.iter().all(|one| one.server_name() == Some("users.shop")));
        let asked = fake.asked();
        assert_eq!(
            asked.len(),
            3,
            "what comes along is not asked for, nor a target twice: {asked:?}"
        );
    }
    let mut source = Source::new(&fake, question(false), Families::V6);
    assert_eq!(short(&source.next().await), "empty | `b.` does not exist (NXDOMAIN) (and 2 more)");
}

/// R22: one bad target is skipped and named; "." is no failure.
#[tokio::test(start_paused = true)]
async fn r22_one_bad_target_is_skipped_and_dot_is_unavailable() {
    let fake = Fake::default();
    fake.a("good.", good([v4(1)]));
    fake.a("down.", servfail());
    fake.aaaa("down.", servfail());
    let mut zero = service("good.", 0, 0);
    zero.port = 0;
    let good_one = service("good.", 0, 0);
    let cases = [
        (
            vec![good_one.clone(), service("gone.", 0, 0)],
            "partial 10.0.0.1 | `gone.` does not exist (NXDOMAIN)",
        ),
        (
            vec![good_one.clone(), service("down.", 0, 0)],
            "partial 10.0.0.1 | SERVFAIL (and 1 more)",
        ),
        (vec![good_one.clone(), zero], "partial 10.0.0.1 | `good.` has port 0"),
        (vec![good_one, service(".", 0, 0)], "set 10.0.0.1"),
        (
            vec![service(".", 0, 0)],
            "empty | the domain does not offer the service (SRV target `.`)",
        ),
        (vec![service("gone.", 0, 0)], "empty | `gone.` does not exist (NXDOMAIN)"),
        (vec![service("down.", 0, 0)], "failed | SERVFAIL (and 1 more)"),
        (vec![service("down.", 0, 0), service("gone.", 0, 0)], "failed | SERVFAIL (and 1 more)"),
    ];
    for (records, expected) in cases {
        fake.srv("users.", good(records));
        assert_eq!(short(&Source::services(&fake, "users").next().await), expected);
    }
    fake.srv("users.", servfail());
    assert_eq!(short(&Source::services(&fake, "users").next().await), "failed | SERVFAIL");
    fake.srv("users.", no_records());
    assert_eq!(
        short(&Source::services(&fake, "users").next().await),
        "empty | `users` has no such records (NODATA)"
    );
}

/// R5, R22: a target that cannot be looked up keeps the addresses that it had, and one that is slow
/// does not hold the others up.
#[tokio::test(start_paused = true)]
async fn r22_targets_keep_what_they_had_and_do_not_wait_for_each_other() {
    let (fake, mut source) = two_targets().await;
    fake.a("a.", good([v4(3)]));
    fake.a("b.", refused());
    assert_eq!(short(&source.again().await), "partial 10.0.0.2 10.0.0.3 | REFUSED");
    fake.says("b.", Family::V4, 9 * SECOND, good([v4(4)]));
    fake.a("a.", good([v4(5)]));
    let begin = Clock::default().now();
    let no_answer = "`b.` A: no answer yet from 10.0.0.53:53";
    let expected = format!("partial 10.0.0.2 10.0.0.5 | {no_answer}");
    assert_eq!(short(&source.again().await), expected);
    assert!(Clock::default().now().saturating_duration_since(begin) <= 2 * SECOND);
    // The next look does not wait for it, nor is its answer lost by that.
    fake.a("a.", good([v4(6)]));
    assert_eq!(short(&source.next().await), format!("partial 10.0.0.2 10.0.0.6 | {no_answer}"));
    assert_eq!(short(&source.next().await), "set 10.0.0.4 10.0.0.6");
    // What is no longer a target is forgotten.
    fake.srv("users.", good([service("a.", 0, 0)]));
    assert_eq!(short(&source.again().await), "set 10.0.0.6");
    fake.says("b.", Family::V4, Duration::ZERO, refused());
    fake.srv("users.", good([service("a.", 0, 0), service("b.", 0, 0)]));
    assert_eq!(short(&source.again().await), "partial 10.0.0.6 | REFUSED");
}

/// R5, R22: a target that never answers is given up after half a minute, and looked up again; it does
/// not keep the others from being seen.
#[tokio::test(start_paused = true)]
async fn r22_a_target_that_never_answers_does_not_hide_the_others() {
    let fake = Fake::default();
    fake.a("a.", good([v4(1)]));
    fake.says("b.", Family::V4, 3_600 * SECOND, good([v4(2)]));
    fake.srv("users.", good([service("a.", 0, 0), service("b.", 0, 0)]));
    let mut source = Source::services(&fake, "users");
    let begin = Clock::default().now();
    let yet = "`b.` A: no answer yet from 10.0.0.53:53";
    assert_eq!(short(&source.next().await), format!("partial 10.0.0.1 | {yet}"));
    fake.a("a.", good([v4(3)]));
    assert_eq!(short(&source.next().await), format!("partial 10.0.0.3 | {yet}"));
    let took = Clock::default().now().saturating_duration_since(begin);
    assert!(took <= 6 * SECOND + SECOND / 10, "the grace, and the TTL of 5 s: {took:?}");
    while short(&source.next().await) != "partial 10.0.0.3 | `b.` A: no answer from 10.0.0.53:53" {}
    let took = Clock::default().now().saturating_duration_since(begin);
    assert!((30 * SECOND..31 * SECOND).contains(&took), "{took:?}");
    assert_eq!(short(&source.next().await), format!("partial 10.0.0.3 | {yet}"));
}

/// R22: of a target whose addresses of one family came along, those of the other are asked for, since
/// the answer may have had no room for them; if there are none, that is believed for half a minute.
#[tokio::test(start_paused = true)]
async fn r22_a_family_that_did_not_come_along_is_asked_for() {
    let fake = Fake::default();
    let mut with_v4 = service("a.", 0, 0);
    with_v4.addresses = vec![v4(1)];
    fake.srv("users.", good([with_v4.clone()]));
    fake.aaaa("a.", good([v6(1)]));
    let mut source = Source::services(&fake, "users");
    assert_eq!(short(&source.next().await), "set 10.0.0.1 2001:db8::1");
    assert_eq!(fake.asked(), [("a.".to_owned(), Family::V6)]);
    fake.aaaa("a.", servfail());
    assert_eq!(short(&source.again().await), "partial 10.0.0.1 2001:db8::1 | SERVFAIL");
    fake.aaaa("a.", no_records());
    assert_eq!(short(&source.again().await), "set 10.0.0.1");
    fake.asked();
    // Of looks some 5 s apart, from 4.5 to 5.5 s, 24 last 108 s to 132 s, with 3 to 4 half minutes.
    for _ in 0..24 {
        assert_eq!(short(&source.next().await), "set 10.0.0.1");
    }
    let asked = fake.asked();
    assert!((3..=4).contains(&asked.len()), "{asked:?}");
    assert!(asked.iter().all(|(_, family)| *family == Family::V6));

    let mut with_both = with_v4;
    with_both.addresses.push(v6(7));
    fake.srv("users.", good([with_both]));
    assert_eq!(short(&Source::services(&fake, "users").next().await), "set 10.0.0.1 2001:db8::7");
    assert_eq!(fake.asked(), []);
}

/// R5, R22: addresses that came along are last known as any are: when they come along no more, and
/// cannot be looked up, they stand.
#[tokio::test(start_paused = true)]
async fn r5_what_came_along_is_kept_when_it_does_so_no_more() {
    let fake = Fake::default();
    let with_address = |target, address| {
        let mut service = service(target, 0, 0);
        service.addresses = vec![address];
        service
    };
    fake.srv("users.", good([with_address("a.", v4(1)), with_address("b.", v4(2))]));
    let mut source = Source::services(&fake, "users");
    assert_eq!(short(&source.next().await), "set 10.0.0.1 10.0.0.2");
    fake.srv("users.", good([service("a.", 0, 0), service("b.", 0, 0)]));
    fake.a("a.", servfail());
    fake.a("b.", good([v4(3)]));
    assert_eq!(short(&source.again().await), "partial 10.0.0.1 10.0.0.3 | SERVFAIL");
    // What is no longer a target is forgotten.
    fake.srv("users.", good([service("b.", 0, 0)]));
    assert_eq!(short(&source.again().await), "set 10.0.0.3");
    fake.srv("users.", good([service("a.", 0, 0), service("b.", 0, 0)]));
    assert_eq!(short(&source.again().await), "partial 10.0.0.3 | SERVFAIL");
}

/// R5, R22: while an empty answer leaves the set, it leaves what is known of each target: if one fails
/// when the others are back, it is not lost. Afterwards it is as unknown as the set.
#[tokio::test(start_paused = true)]
async fn r5_what_is_known_of_the_parts_outlives_an_empty_answer_as_the_set_does() {
    for (empty, gone_for, expected) in [
        (no_name(), SECOND, "partial 10.0.0.1 10.0.0.2 | SERVFAIL"),
        (good([service(".", 0, 0)]), SECOND, "partial 10.0.0.1 10.0.0.2 | SERVFAIL"),
        (no_name(), 2 * KEEP_FOR, "partial 10.0.0.2 | SERVFAIL"),
    ] {
        let (fake, mut source) = two_targets().await;
        fake.srv("users.", empty);
        let begin = Clock::default().now();
        while Clock::default().now().saturating_duration_since(begin) < gone_for {
            assert!(short(&source.next().await).starts_with("empty"));
        }
        fake.a("a.", servfail());
        fake.srv("users.", good([service("a.", 0, 0), service("b.", 0, 0)]));
        assert_eq!(short(&source.next().await), expected);
    }
}

/// R5, R22: that is so if it is the targets that have nothing. One that has nothing while others have is
/// not there any more.
#[tokio::test(start_paused = true)]
async fn r5_targets_that_all_have_nothing_for_a_moment_are_still_known() {
    let (fake, mut source) = two_targets().await;
    fake.a("a.", no_name());
    fake.a("b.", no_name());
    assert!(short(&source.again().await).starts_with("empty"));
    fake.a("a.", servfail());
    fake.a("b.", good([v4(2)]));
    assert_eq!(short(&source.again().await), "partial 10.0.0.1 10.0.0.2 | SERVFAIL");
    let gone = "partial 10.0.0.2 | `a.` does not exist (NXDOMAIN)";
    fake.a("a.", no_name());
    assert_eq!(short(&source.again().await), gone);
    fake.a("a.", servfail());
    assert_eq!(short(&source.again().await), "partial 10.0.0.2 | SERVFAIL");
}

/// R8, R22: targets that come and go leave nothing behind, though one among them never answers.
#[tokio::test(start_paused = true)]
async fn r8_targets_that_are_listed_no_more_are_forgotten_while_another_hangs() {
    let fake = Fake::default();
    fake.says("hangs.", Family::V4, 3_600 * SECOND, good([v4(1)]));
    let question = Question::Services { name: "users.".parse().unwrap(), ignore_weights: false };
    let mut looker = Looker::new(fake.clone(), question, Families::V4, None, Clock::default());
    for number in 0..100 {
        let name = format!("pod-{number}.");
        fake.a(&name, good([v4(2)]));
        fake.srv("users.", good([service("hangs.", 0, 0), service(&name, 0, 0)]));
        let seen;
        (looker, seen) = looker.look().await;
        assert!(matches!(seen.update, Some(Update::Partial(..))));
        assert_eq!(looker.last.len(), 1);
    }
}

/// R5: a question says whether there was something the last time, so that one server alone, which may
/// know less than another, cannot end it; also after an empty answer, which may be a hiccup.
#[tokio::test(start_paused = true)]
async fn r5_questions_say_what_had_records() {
    let fake = Fake::default();
    fake.a("a.", good([v4(1)]));
    fake.srv("users.", good([service("a.", 0, 0)]));
    for (mut source, expected) in [
        (Source::host(&fake, "a"), &["a. A"][..]),
        (Source::services(&fake, "users"), &["users. SRV", "a. A"]),
    ] {
        source.next().await;
        assert_eq!(fake.known(), [""; 0]);
        for _ in 0..2 {
            source.again().await;
            assert_eq!(fake.known(), expected);
        }
    }
    let mut source = Source::services(&fake, "users");
    source.next().await;
    fake.srv("users.", no_name());
    for _ in 0..2 {
        assert!(short(&source.again().await).starts_with("empty"));
        assert_eq!(fake.known(), ["users. SRV"]);
    }
}
