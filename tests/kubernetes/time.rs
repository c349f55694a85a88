//! R12, R5, T9, T15: how soon, how late and how often, in paused time against the server in memory.

use std::time::Instant;

use evenkeel::node::Clock;

use super::{
    api_server::{Fault, Verb},
    *,
};

const SECOND: Duration = Duration::from_secs(1);

fn now() -> Instant {
    Clock::default().now()
}

/// R12: a watch that says nothing any more is found when the bookmarks do not come, and goes on from
/// where it was.
#[tokio::test(start_paused = true)]
async fn r12_a_frozen_watch_is_found_after_ninety_seconds() {
    let (api, mut updates) = watched_by(ApiServer::in_memory()).await;
    for _ in 0..10 {
        tokio::time::sleep(60 * SECOND).await;
        api.bookmark();
    }
    tokio::time::sleep(SECOND / 10).await;
    // Some have ended in their time.
    let (frozen, watches) = (now(), api.count(Verb::Watch));
    api.freeze_open_watches();
    api.put("shop", "cart-b", slice("cart", [ready("10.0.0.2")]));
    assert_eq!(updates.set().await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    let took = now() - frozen;
    assert!(took > 89 * SECOND && took < 91 * SECOND, "{took:?}");
    assert_eq!((api.count(Verb::List), api.count(Verb::Watch)), (1, watches + 1));
}

/// R12: where no bookmark ever came, it is found when the server should have ended it.
#[tokio::test(start_paused = true)]
async fn r12_without_bookmarks_a_frozen_watch_is_found_when_it_should_have_ended() {
    let (api, mut updates) = watched_by(ApiServer::in_memory()).await;
    let frozen = now();
    api.freeze_open_watches();
    api.put("shop", "cart-b", slice("cart", [ready("10.0.0.2")]));
    assert_eq!(updates.set().await, ["10.0.0.1:8080", "10.0.0.2:8080"]);
    let took = now() - frozen;
    assert!(took > 240 * SECOND && took < 306 * SECOND, "{took:?}");
    assert_eq!(api.count(Verb::List), 1);
}

/// R12: an endpoint that cannot be reached raises the doubt much earlier.
#[tokio::test(start_paused = true)]
async fn r12_a_failing_endpoint_has_a_silent_watch_begun_anew() {
    let (api, mut updates) = watched_by(ApiServer::in_memory()).await;
    let frozen = now();
    api.freeze_open_watches();
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.2")]));
    for _ in 0..1_000 {
        updates.refresh.request();
    }
    assert_eq!(updates.set().await, ["10.0.0.2:8080"]);
    let took = now() - frozen;
    assert!(took < 16 * SECOND, "{took:?}");
    assert_eq!(
        (api.count(Verb::List), api.count(Verb::Watch)),
        (1, 2),
        "a thousand requests are one"
    );
}

/// R6, R12: an endpoint that is listed and dead raises doubts for ever. They die down; where the server
/// sends bookmarks, they end.
#[tokio::test(start_paused = true)]
async fn r12_an_endpoint_that_stays_dead_does_not_wear_the_server_out() {
    for bookmarks in [true, false] {
        let (api, updates) = watched_by(ApiServer::in_memory()).await;
        let (handle, mut stream) = (updates.refresh, updates.stream);
        let reading = tokio::spawn(async move { while stream.next().await.is_some() {} });
        for second in 0..3_600 {
            handle.request();
            if bookmarks && second % 60 == 0 {
                api.bookmark();
            }
            tokio::time::sleep(SECOND).await;
        }
        reading.abort();
        let watches = api.count(Verb::Watch);
        // Doubts in vain: after 10, 20, 40 and 80 s, and then every 90 s or more. Watches that are not
        // doubted end every 240 s or more.
        let most = if bookmarks { 4 + 3_600 / 240 + 1 } else { 4 + 3_600 / 90 + 1 };
        assert!(watches <= most, "bookmarks {bookmarks}: {watches} watches in an hour");
        assert_eq!(api.count(Verb::List), 1);
    }
}

/// R12: a watch that is busy is good, whatever endpoints do.
#[tokio::test(start_paused = true)]
async fn r12_a_busy_watch_is_not_doubted() {
    let (api, mut updates) = watched_by(ApiServer::in_memory()).await;
    for index in 2..200 {
        updates.refresh.request();
        api.put("shop", "cart-a", slice("cart", [ready(&ip(index))]));
        updates.set().await;
        tokio::time::sleep(SECOND).await;
    }
    assert_eq!(api.count(Verb::Watch), 1);
}

/// R12: a list, or the head of a watch, that never comes.
#[tokio::test(start_paused = true)]
async fn r12_a_server_that_does_not_answer_is_asked_again() {
    for (verb, limit) in [(Verb::List, 90), (Verb::Watch, 10)] {
        let api = ApiServer::in_memory();
        api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
        api.fail(verb, Fault::Hang);
        let begin = now();
        let mut updates = Updates::patient(source(&api));
        if verb == Verb::Watch {
            assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
        } else {
            // Long before that, those who wait hear what they wait for.
            let error = updates.failed().await;
            assert!(error.ends_with("no answer yet from the API server, after 2s"), "{error}");
            assert_eq!((now() - begin).as_secs(), 2);
        }
        let error = updates.failed().await;
        assert!(error.ends_with(&format!("no answer within {limit}s")), "{error}");
        assert!(now() - begin < (limit + 1) * SECOND);
        api.heal();
        updates.until_set(&["10.0.0.1:8080"]).await;
    }
}

/// R9: a server that is slow is waited for; what it is waited for is told, and taken back once it answers.
#[tokio::test(start_paused = true)]
async fn r9_a_late_list_is_awaited_and_said_to_be_late() {
    let api = ApiServer::in_memory();
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    api.fail(Verb::List, Fault::Late(30));
    let begin = now();
    let mut updates = Updates::patient(source(&api));
    assert!(updates.failed().await.contains("no answer yet"));
    assert_eq!(updates.set().await, ["10.0.0.1:8080"], "and the error is gone");
    assert_eq!((now() - begin).as_secs(), 30);
    assert_eq!(api.count(Verb::List), 1);
    // A list that replaces what is known may take its time.
    api.fail(Verb::Watch, Fault::Status(410));
    api.cut_watches();
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.2")]));
    until("another list", || api.count(Verb::List) == 2).await;
    api.heal();
    updates.until_set(&["10.0.0.2:8080"]).await;
}

/// R9: a call that waits for the first answer says in the end what it waited for.
#[tokio::test(start_paused = true)]
async fn r9_a_call_that_waited_in_vain_names_the_api_server() {
    let api = ApiServer::in_memory();
    api.fail(Verb::List, Fault::Hang);
    let balance = evenkeel::Balance::builder(source(&api))
        .complete_at_response()
        .make(|_: &Endpoint| tower::service_fn(|(): ()| async { Ok::<_, std::io::Error>(()) }))
        .unwrap();
    let begin = now();
    let error = tower::ServiceExt::oneshot(balance, ()).await.unwrap_err();
    assert_eq!((now() - begin).as_secs(), 5);
    assert!(error.to_string().contains("no answer yet from the API server"), "{error}");
}

/// R12: a server that is away, refuses connections or answers that it is not ready yet, is asked ever
/// more rarely and then watched on from where it was: a list by every client is the last that a server
/// needs that has just come back.
#[tokio::test(start_paused = true)]
async fn r12_a_long_outage_ends_without_a_list() {
    for fault in [None, Some(Fault::Status(503)), Some(Fault::Throttled(429, 1)), Some(Fault::Hang)]
    {
        let (mut api, mut updates) = watched_by(ApiServer::in_memory()).await;
        match fault {
            None => api.kill().await,
            Some(fault) => {
                api.fail(Verb::Watch, fault);
                api.fail(Verb::List, fault);
                api.cut_watches();
            }
        }
        let error = updates.failed().await;
        assert!(error.starts_with("cannot watch endpointslices"), "{error}");
        tokio::time::sleep(600 * SECOND).await;
        api.put("shop", "cart-b", slice("cart", [ready("10.0.0.2")]));
        let back = now();
        api.heal();
        api.restart().await;
        updates.until_set(&["10.0.0.1:8080", "10.0.0.2:8080"]).await;
        let took = now() - back;
        assert!(took <= 26 * SECOND, "a wait, and the limit of a watch's head: {took:?}");
        assert_eq!(api.count(Verb::List), 1, "{fault:?}");
        // Waits of 7.5 s or more, after the first seven or so.
        assert!(api.count(Verb::Watch) <= 10 + 600 * 2 / 15, "{}", api.count(Verb::Watch));
    }
}

/// R12: a server that ends watches in good order every minute, as proxies in front of it do, is no
/// failure: nothing is said, nothing listed, nothing missed.
#[tokio::test(start_paused = true)]
async fn r12_watches_that_are_closed_every_minute_are_no_news() {
    let (api, mut updates) = watched_by(ApiServer::in_memory()).await;
    for index in 2..60 {
        tokio::time::sleep(60 * SECOND).await;
        api.bookmark();
        tokio::time::sleep(SECOND / 10).await;
        api.close_watches();
        api.put("shop", "cart-a", slice("cart", [ready(&ip(index))]));
        assert_eq!(updates.set().await, [format!("{}:8080", ip(index))]);
    }
    assert_eq!(api.count(Verb::List), 1);
}

/// T9: a server that ends the watches of all its clients at once does not have them all back in the
/// same moment: each comes after a wait of its own between a quarter and half a second.
#[tokio::test(start_paused = true)]
async fn t9_watches_that_end_together_are_not_begun_together() {
    let api = ApiServer::in_memory();
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    let mut all: Vec<_> = (0..30).map(|_| Updates::patient(source(&api))).collect();
    for updates in &mut all {
        updates.set().await;
    }
    until("all watches", || api.open_watches() == 30).await;
    tokio::time::sleep(100 * SECOND).await;
    let ended = now();
    api.close_watches();
    until("all watches again", || api.count(Verb::Watch) == 60).await;
    let times = api.times(Verb::Watch).split_off(30);
    assert!(
        times.iter().all(|at| *at - ended >= SECOND / 4 && *at - ended <= SECOND / 2 + SECOND / 50)
    );
    // Timers go by the millisecond. Fewer than 12 of 250 in 30 draws have a chance of at most
    // C(250,11) x (11/250)^30, which is 10^-22.
    let moments: std::collections::HashSet<_> = times.iter().collect();
    assert!(moments.len() >= 12, "{}", moments.len());
}

/// T15: watches that end as soon as they begin. Waits grow from 0.25 s to 15 s.
#[tokio::test(start_paused = true)]
async fn t15_a_watch_that_ends_at_once_does_not_spin() {
    let api = ApiServer::in_memory();
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    api.fail(Verb::Watch, Fault::EndAtOnce);
    let mut updates = Updates::patient(source(&api));
    assert_eq!(updates.set().await, ["10.0.0.1:8080"]);
    tokio::time::sleep(600 * SECOND).await;
    let (lists, watches) = (api.count(Verb::List), api.count(Verb::Watch));
    assert!(watches <= 10 + 600 * 2 / 15, "{watches} watches");
    assert!(lists <= 1 + watches / 3, "{lists} lists for {watches} watches");
}

/// A server that asks to be left alone is, for as long as it says in the body of its answer.
#[tokio::test(start_paused = true)]
async fn a_throttled_list_waits_as_long_as_it_was_told() {
    let api = ApiServer::in_memory();
    api.put("shop", "cart-a", slice("cart", [ready("10.0.0.1")]));
    api.fail(Verb::List, Fault::Busy(429, 20));
    let mut updates = Updates::patient(source(&api));
    let error = updates.failed().await;
    assert!(error.contains("429"), "{error}");
    let begin = now();
    until("two more", || api.count(Verb::List) == 3).await;
    let took = now() - begin;
    assert!(took >= 40 * SECOND && took < 42 * SECOND, "{took:?}");
    api.heal();
    updates.until_set(&["10.0.0.1:8080"]).await;
}

/// An event that cannot be read is told and takes nothing away; the list that follows sets it right.
#[tokio::test(start_paused = true)]
async fn r5_an_event_that_makes_no_sense_takes_nothing_away() {
    let (api, mut updates) = watched_by(ApiServer::in_memory()).await;
    api.fail(Verb::Watch, Fault::Nonsense);
    api.cut_watches();
    let error = loop {
        let error = updates.failed().await;
        if !error.contains("cut") {
            break error;
        }
    };
    assert!(error.ends_with("the answer makes no sense: no event"), "{error}");
    until("a list", || api.count(Verb::List) == 2).await;
    assert_eq!(api.count(Verb::Watch), 1 + 3, "three of them, and the version is not trusted");
    api.heal();
    api.put("shop", "cart-b", slice("cart", [ready("10.0.0.2")]));
    updates.until_set(&["10.0.0.1:8080", "10.0.0.2:8080"]).await;
}
