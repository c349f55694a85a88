//! Redirects by a layer: the URL of the response, and where no redirect leads.

use evenkeel::client::ReqwestClient;
use http::header::LOCATION;
use tower_http::follow_redirect::{
    FollowRedirectLayer,
    policy::{PolicyExt, SameOrigin, Standard},
};

use crate::peer::{Served, serving};

#[tokio::test(start_paused = true)]
async fn the_url_is_that_of_the_last_hop_though_a_layer_drops_extensions() {
    let served = Served::new(false);
    for layer in [FollowRedirectLayer::new(), FollowRedirectLayer::new().preserve_extensions(false)]
    {
        let users = served.client().layer(layer);
        let answer = users.get("http://users/first?/second?/there#part").send().await.unwrap();
        assert_eq!(answer.url().as_str(), "http://users/there#part");
        assert_eq!(answer.text().await.unwrap(), "here");
    }
    assert_eq!(served.asked.all().len(), 6);
}

/// R20: the servers of one name are never asked in another's.
#[tokio::test(start_paused = true)]
async fn r20_a_redirect_to_another_origin_reaches_no_endpoint() {
    for elsewhere in ["http://carts/there", "http://users:81/there", "https://users/there"] {
        let served = Served::new(false);
        let users = served.client().layer(FollowRedirectLayer::new());
        let error = users.get(format!("http://users/away?{elsewhere}")).send().await.unwrap_err();
        let balance = error.balance().unwrap();
        assert_eq!(balance.redirect().unwrap().to_string(), elsewhere, "{error}");
        assert!(balance.is_ambiguous(), "the first hop was processed");
        assert_eq!(error.endpoint(), Some(&serving()));
        let told = format!(
            "the redirect from http://users/away?{elsewhere} to {elsewhere} leads to another \
             origin at endpoint 10.0.0.1:80"
        );
        assert_eq!(error.to_string(), told);
        assert_eq!(served.asked.all(), ["users/away"]);

        // Each call is for itself, of any name.
        let users: ReqwestClient = served.client();
        assert_eq!(users.get("http://carts/there").send().await.unwrap().status(), 200);
    }
}

/// What the documentation names: the redirect itself is the answer.
#[tokio::test(start_paused = true)]
async fn a_redirect_to_another_origin_is_an_answer_where_the_policy_stops_at_it() {
    let served = Served::new(false);
    let policy = SameOrigin::new().and::<_, (), ()>(Standard::default());
    let users = served.client().layer(FollowRedirectLayer::with_policy(policy));
    let first = "http://users/first?/away?http://carts/there";
    let answer = users.get(first).send().await.unwrap();
    assert_eq!(answer.status(), 302);
    assert_eq!(answer.headers()[LOCATION], "http://carts/there");
    assert_eq!(answer.url().as_str(), "http://users/away?http://carts/there");
    assert_eq!(served.asked.all(), ["users/first", "users/away"]);
}
