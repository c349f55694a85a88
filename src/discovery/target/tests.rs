use std::time::Duration;

use futures::{FutureExt, StreamExt};
use proptest::prelude::*;

use super::*;
use crate::{
    discovery::{Endpoints, Reason, refresh},
    endpoint::{Endpoint, Protocol},
    error::{DiscoverError, ListErrorReason, TargetErrorReason},
};

fn first(target: Target) -> Update {
    let (_handle, requests) = refresh::channel();
    let mut updates = std::pin::pin!(target.watch(requests));
    updates.next().now_or_never().unwrap().unwrap()
}

#[test]
fn a_static_target_is_its_list() {
    for text in ["static://10.0.0.1:80,10.0.0.2:80", " STATIC://10.0.0.1:80 , 10.0.0.2:80\n"] {
        let target = Target::parse(text).unwrap();
        assert_eq!(target.to_string(), text);
        assert_eq!(&*Discover::target(&target), text);
        assert_eq!(target.on_empty(), OnEmpty::Clear);
        assert!(matches!(first(target), Update::Set(set) if set.len() == 2));
    }
    // A path may hold any character but a comma and a semicolon.
    let target = Target::try_from("static://unix:/run/a?b=c&d".to_owned()).unwrap();
    assert!(matches!(first(target), Update::Set(set)
        if set.iter().eq(&[Endpoint::new(crate::Address::unix("/run/a?b=c&d"))])));
}

#[test]
fn what_is_no_target_is_told_apart() {
    for text in ["", "  ", "10.0.0.1:80", "static:10.0.0.1:80", "://x", "1s://x", "a b://x"] {
        let error = Target::parse(text).unwrap_err();
        assert!(matches!(&error, BuildError::Target { target } if target == text), "{error}");
    }
    let error = Target::parse("http://10.0.0.1:80").unwrap_err();
    assert!(
        matches!(&error, BuildError::UnknownScheme { scheme, .. } if scheme == "http"),
        "{error}"
    );
    let error = Target::parse("static://").unwrap_err();
    assert!(
        matches!(&error, BuildError::List(list) if list.reason == ListErrorReason::EmptyList),
        "{error}"
    );
}

#[cfg(not(feature = "dns"))]
#[test]
fn a_scheme_whose_feature_is_missing_names_it() {
    for text in ["dns://a:80", "srv://_http._tcp.a"] {
        let error = Target::parse(text).unwrap_err();
        assert!(
            matches!(&error, BuildError::MissingFeature { target, feature: "dns" }
                if target == text),
            "{error}"
        );
    }
}

#[cfg(not(feature = "kubernetes"))]
#[test]
fn the_missing_feature_of_kubernetes_is_named() {
    let error = Target::parse("k8s://shop/cart:grpc").unwrap_err();
    assert!(matches!(&error, BuildError::MissingFeature { feature: "kubernetes", .. }), "{error}");
}

#[test]
fn common_options_change_what_the_source_says() {
    let target = Target::parse(
        "test://10.0.0.1:80,10.0.0.2:80?server_name=users.shop&on_empty=1500ms&protocol=http2",
    )
    .unwrap();
    assert_eq!(target.on_empty(), OnEmpty::KeepFor(Duration::from_millis(1_500)));
    let Update::Set(set) = first(target) else { panic!("no set") };
    assert!(set.iter().all(|endpoint| {
        endpoint.server_name() == Some("users.shop") && endpoint.protocol() == Protocol::Http2
    }));
    for (text, on_empty) in [
        ("test://10.0.0.1:80", OnEmpty::Clear),
        ("test://10.0.0.1:80?on_empty=keep", OnEmpty::Keep),
        ("test://10.0.0.1:80?on_empty=clear", OnEmpty::Clear),
        ("test://10.0.0.1:80?on_empty=2m", OnEmpty::KeepFor(Duration::from_secs(120))),
    ] {
        assert_eq!(Target::parse(text).unwrap().on_empty(), on_empty, "{text}");
    }
}

#[test]
fn options_say_what_is_wrong_and_where() {
    use TargetErrorReason::{EmptyValue, Expected, Option, Repeated};
    let on_empty = Expected("`clear`, `keep` or time such as `30s`");
    let known = || Option("`on_empty`, `server_name`, `protocol`".to_owned());
    for (text, position, part, reason) in [
        ("test://10.0.0.1:80?", 19, "", EmptyValue),
        ("test://10.0.0.1:80?on_empty", 19, "on_empty", EmptyValue),
        ("test://10.0.0.1:80?on_empty=", 19, "on_empty=", EmptyValue),
        ("test://10.0.0.1:80?on_empty=30", 28, "30", on_empty.clone()),
        ("test://10.0.0.1:80?on_empty=s", 28, "s", on_empty.clone()),
        ("test://10.0.0.1:80?on_empty=4294967296s", 28, "4294967296s", on_empty),
        ("test://10.0.0.1:80?a=1&a=2", 23, "a=2", Repeated),
        (" test://10.0.0.1:80?server_name=x&b=1&a=1", 34, "b", known()),
        ("test://10.0.0.1:80?On_empty=keep", 19, "On_empty", known()),
        ("test://10.0.0.1:80?protocol=spdy", 28, "spdy", Expected("protocol: `http1` or `http2`")),
    ] {
        match Target::parse(text) {
            Err(BuildError::InTarget(error)) => {
                assert_eq!((error.position, &*error.part, error.reason), (position, part, reason));
                assert_eq!(error.target, text);
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    assert_eq!(
        Target::parse("test://10.0.0.1:80?zone=a").unwrap_err().to_string(),
        "target `test://10.0.0.1:80?zone=a`, byte 19: `zone` is no option of this scheme, which has \
         `on_empty`, `server_name`, `protocol`"
    );
}

#[test]
fn schemes_of_ones_own_come_by_value() {
    let targets = Targets::new()
        .with("Own", |rest: &str| {
            let update = match rest {
                "?down" => Update::Failed(DiscoverError::new("down")),
                "" => return Err("a name is needed"),
                _ => Update::Empty(Reason::says(rest.to_owned())),
            };
            Ok(Say(update))
        })
        .with("static", |_: &str| Ok::<_, BoxError>(Say(Update::Set(Endpoints::default()))));
    let target = targets.parse("oWn://left").unwrap();
    assert_eq!(target.on_empty(), OnEmpty::Keep);
    assert!(matches!(first(target), Update::Empty(reason) if reason.to_string() == "left"));
    assert!(matches!(first(targets.parse("own://?down").unwrap()), Update::Failed(_)));
    assert!(matches!(first(targets.parse("static://x").unwrap()), Update::Set(_)));
    match targets.parse("own://").unwrap_err() {
        BuildError::OwnScheme { scheme, target, source } => {
            assert_eq!((&*scheme, &*target), ("own", "own://"));
            assert_eq!(source.to_string(), "a name is needed");
        }
        other => panic!("{other}"),
    }
    assert!(matches!(Target::parse("own://left").unwrap_err(), BuildError::UnknownScheme { .. }));
}

/// Says its update, and has a mind of its own about emptiness.
#[derive(Clone)]
struct Say(Update);

impl Discover for Say {
    fn watch(self, _: RefreshRequests) -> impl Stream<Item = Update> + Send + 'static {
        futures::stream::iter([self.0])
    }

    fn on_empty(&self) -> OnEmpty {
        OnEmpty::Keep
    }
}

#[test]
fn an_environment_variable_that_names_no_target_is_named() {
    match Target::from_env("EVENKEEL_TEST_NOT_SET").unwrap_err() {
        BuildError::Variable { name, source } => {
            assert_eq!(name, "EVENKEEL_TEST_NOT_SET");
            assert_eq!(source.to_string(), "environment variable not found");
        }
        other => panic!("{other}"),
    }
    // Set on every machine, and no target: `set_var` is unsafe, so none can be set here.
    let error = Target::from_env("PATH").unwrap_err();
    assert!(matches!(&error, BuildError::Variable { name, .. } if name == "PATH"));
    let cause = std::error::Error::source(&error).unwrap();
    assert!(cause.to_string().contains("is no target"), "{cause}");
}

/// A list's error counts from the beginning of the target, and not of the list.
#[test]
fn a_list_says_where_in_the_target_it_is_wrong() {
    for (text, position, entry) in [
        ("static://10.0.0.1:80,localhost:80", 21, "localhost"),
        (" static://10.0.0.1:0", 10, "10.0.0.1:0"),
        ("static://", 9, ""),
    ] {
        match Target::parse(text) {
            Err(BuildError::List(error)) => {
                assert_eq!((error.position, &*error.entry), (position, entry), "{text}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_list_in_a_scheme_of_ones_own_says_where_in_the_target_it_is_wrong() {
    let targets = Targets::new().with("own", StaticList::parse);
    let error = targets.parse(" own://10.0.0.1:80,localhost:80").unwrap_err();
    let BuildError::OwnScheme { source, .. } = error else { panic!("{error}") };
    let error = source.downcast::<ListError>().unwrap();
    assert_eq!((error.position, &*error.entry), (19, "localhost"));
}

/// What is right, as a beginning of what is wrong.
const RIGHT: &[&str] = &[
    "static://10.0.0.1:80,[::1]:80;weight=2,unix:/run/a",
    "static://10.0.0.1:80;zone=a;priority=1;name=users.shop",
    #[cfg(feature = "dns")]
    "dns://users.shop.svc.cluster.local.:8080?family=4&min_refresh=500ms&max_refresh=1m",
    #[cfg(feature = "dns")]
    "dns://[fe80::1%2]:80?nameserver=10.0.0.53:5353,[::1]:53,::1&server_name=users&on_empty=30s",
    #[cfg(feature = "dns")]
    "dns://b\u{fc}cher.example:80?resolver=getaddrinfo&protocol=http2",
    #[cfg(feature = "dns")]
    "srv://_http._tcp.users.shop?ignore_weights=true&resolver=system&family=any&on_empty=clear",
    #[cfg(feature = "kubernetes")]
    "k8s://shop/cart:grpc?on_empty=keep",
];

/// Changes to a text: at a place in it, something is taken out, put in, or said twice.
#[derive(Clone, Debug)]
enum Slip {
    Cut(usize, usize),
    Insert(usize, String),
    Repeat(usize, usize),
}

fn slip() -> impl Strategy<Value = Slip> {
    let place = 0..100_usize;
    let stray = prop_oneof![
        "[\\[\\]:/?&=,;%@# .+0-]",
        Just("%41".to_owned()),
        Just("::".to_owned()),
        Just("\u{2028}".to_owned()),
        Just("\u{0}".to_owned()),
        Just("&family=4".to_owned()),
        any::<char>().prop_map(String::from),
    ];
    prop_oneof![
        (place.clone(), 1..9_usize).prop_map(|(at, length)| Slip::Cut(at, length)),
        (place.clone(), stray).prop_map(|(at, stray)| Slip::Insert(at, stray)),
        (place, 1..40_usize).prop_map(|(at, length)| Slip::Repeat(at, length)),
    ]
}

fn apply(text: &str, slip: &Slip) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    let (at, length) = match slip {
        Slip::Cut(at, length) | Slip::Repeat(at, length) => (*at, *length),
        Slip::Insert(at, _) => (*at, 0),
    };
    let begin = at.min(letters.len());
    let end = (begin + length).min(letters.len());
    match slip {
        Slip::Cut(..) => drop(letters.drain(begin..end)),
        Slip::Insert(_, stray) => drop(letters.splice(begin..begin, stray.chars())),
        Slip::Repeat(..) => {
            let again = letters[begin..end].to_vec();
            letters.splice(end..end, again);
        }
    }
    letters.into_iter().collect()
}

/// The place and the part that an error names, if it names any.
fn place(error: &BuildError) -> Option<(usize, &str)> {
    match error {
        BuildError::InTarget(error) => Some((error.position, &error.part)),
        BuildError::List(error) => Some((error.position, &error.entry)),
        _ => None,
    }
}

#[test]
fn what_the_slips_begin_with_is_right() {
    for text in RIGHT {
        Target::parse(text).unwrap();
    }
}

proptest! {
    #[test]
    fn parsing_never_panics_and_points_into_the_text(
        text in prop_oneof![
            "(test|dns|srv|k8s|static)://[-a-z0-9_.:/\\[\\]%é]{0,12}(\\?[a-z_=&0-9é:]{0,20})?",
            ".*",
        ],
    ) {
        if let Err(error) = Target::parse(&text) {
            if let Some((position, part)) = place(&error) {
                prop_assert!(text[position..].starts_with(part), "{error}");
            }
        }
    }

    /// A slip or three in what is right: whatever is wrong is named with its place, unless it is the
    /// scheme itself; and what is taken all the same is what is shown.
    #[test]
    fn a_slip_is_named_with_its_place(
        text in prop::sample::select(RIGHT),
        slips in prop::collection::vec(slip(), 1..4),
    ) {
        let text = slips.iter().fold(text.to_owned(), |text, slip| apply(&text, slip));
        match Target::parse(&text) {
            Ok(target) => prop_assert_eq!(target.to_string(), text),
            Err(BuildError::Target { target }) => {
                prop_assert!(!target.trim().starts_with("dns://"));
                prop_assert_eq!(target, text);
            }
            Err(BuildError::UnknownScheme { scheme, .. }) => {
                let begin = format!("{scheme}://");
                prop_assert!(text.trim().starts_with(&begin));
            }
            Err(error) => {
                let Some((position, part)) = place(&error) else {
                    return Err(TestCaseError::fail(format!("{text:?}: {error}")));
                };
                prop_assert!(text[position..].starts_with(part), "{text:?}: {error}");
                prop_assert!(position >= text.find("://").unwrap() + 3, "{text:?}: {error}");
            }
        }
    }
}
