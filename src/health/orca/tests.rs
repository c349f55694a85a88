//! Against the reports of Envoy's `test/common/orca/orca_parser_test.cc`, and a decoder and an
//! encoder that are not ours.

use proptest::prelude::*;
use prost::Message;

use super::*;

/// The message, as prost knows it (`xds/data/orca/v3/orca_load_report.proto`).
#[derive(Clone, PartialEq, Message)]
struct OrcaLoadReport {
    #[prost(double, tag = "1")]
    cpu_utilization: f64,
    #[prost(double, tag = "2")]
    mem_utilization: f64,
    #[prost(uint64, tag = "3")]
    rps: u64,
    #[prost(btree_map = "string, double", tag = "4")]
    request_cost: std::collections::BTreeMap<String, f64>,
    #[prost(btree_map = "string, double", tag = "5")]
    utilization: std::collections::BTreeMap<String, f64>,
    #[prost(double, tag = "6")]
    rps_fractional: f64,
    #[prost(double, tag = "7")]
    eps: f64,
    #[prost(btree_map = "string, double", tag = "8")]
    named_metrics: std::collections::BTreeMap<String, f64>,
    #[prost(double, tag = "9")]
    application_utilization: f64,
}

fn read(header: &'static str, value: &str) -> Result<Option<LoadReport>, ReportError> {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    headers.insert(header, value.parse().unwrap());
    LoadReport::from_headers(&headers)
}

fn reason(header: &'static str, value: &str) -> String {
    let error = read(header, value).unwrap_err();
    assert_eq!(error.header, header);
    error.reason
}

/// Envoy's `exampleOrcaLoadReport`.
fn example() -> LoadReport {
    LoadReport {
        cpu_utilization: 0.7,
        application_utilization: 0.8,
        memory_utilization: 0.9,
        eps: 2.0,
        rps: 1000.0,
        named_metrics: [("foo".into(), 123.0), ("bar".into(), 0.2)].into(),
        ..LoadReport::default()
    }
}

/// The same in base64, encoded by prost.
fn encoded_example() -> String {
    let message = OrcaLoadReport {
        cpu_utilization: 0.7,
        application_utilization: 0.8,
        mem_utilization: 0.9,
        eps: 2.0,
        rps_fractional: 1000.0,
        named_metrics: [("foo".to_owned(), 123.0), ("bar".to_owned(), 0.2)].into(),
        ..OrcaLoadReport::default()
    };
    encode(&message.encode_to_vec())
}

fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut padded = [0; 4];
        padded[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(padded);
        for character in 0..=group.len() {
            let index = bits >> (18 - 6 * character) & 0x3f;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}

/// NoHeaders, MissingOrcaHeaders.
#[test]
fn envoy_without_a_report() {
    assert_eq!(LoadReport::from_headers(&HeaderMap::new()), Ok(None));
    assert_eq!(read("wrong-header", "wrong-value"), Ok(None));
}

/// InvalidOrcaHeaderPrefix, EmptyOrcaHeader.
#[test]
fn envoy_unknown_prefix() {
    for value in ["BAD random-value", "", "cpu_utilization:0.7", "JSON", "text a=1"] {
        assert!(reason(PREFIXED, value).contains("`TEXT `"), "{value}");
    }
}

/// NativeHttpEncodedHeader, and the form with `=` that Envoy's documentation shows.
#[test]
fn envoy_text() {
    for sign in [":", "="] {
        let text = "TEXT cpu_utilization:0.7,application_utilization:0.8,mem_utilization:0.9,\
                    rps_fractional:1000,eps:2,named_metrics.foo:123,named_metrics.bar:0.2";
        assert_eq!(read(PREFIXED, &text.replace(':', sign)), Ok(Some(example())));
    }
}

/// NativeHttpEncodedHeaderIncorrectFieldType, -NanMetricValue, -InfinityMetricValue,
/// -ContainsDuplicateMetric, -UnsupportedMetric, -ContainsDuplicateNamedMetric,
/// -ContainsEmptyNamedMetricKey, InvalidNativeHttpEncodedHeader.
#[test]
fn envoy_text_that_is_wrong() {
    for (text, expected) in [
        ("cpu_utilization:\"0.7\"", "`cpu_utilization` is `\"0.7\"`, no number"),
        ("cpu_utilization:nan", "`cpu_utilization` is NaN"),
        ("cpu_utilization:inf", "`cpu_utilization` is inf"),
        ("cpu_utilization:0.7,cpu_utilization:0.8", "`cpu_utilization` twice"),
        ("cpu_utilization:0.7,unsupported_metric:0.8", "unknown metric `unsupported_metric`"),
        (
            "named_metrics.foo:123,named_metrics.duplicate:123,named_metrics.duplicate:0.2",
            "`named_metrics.duplicate` twice",
        ),
        ("named_metrics.:123", "`named_metrics.` does not name a metric"),
        ("not-a-list-of-key-value-pairs", "`not-a-list-of-key-value-pairs` has no value"),
    ] {
        assert_eq!(reason(PREFIXED, &format!("TEXT {text}")), expected);
    }
}

/// JsonHeader; and the other spellings that the JSON mapping of protocol buffers allows.
#[test]
fn envoy_json() {
    let json = r#"JSON {"cpu_utilization": 0.7, "application_utilization": 0.8, "mem_utilization": 0.9, "rps_fractional": 1000, "eps": 2, "named_metrics": {"foo": 123,"bar": 0.2}}"#;
    assert_eq!(read(PREFIXED, json), Ok(Some(example())));
    let json = r#"JSON {"cpuUtilization":"0.7","applicationUtilization":8e-1,"memUtilization":0.9, "rpsFractional" : 1.0E+3 ,"eps":2,"namedMetrics":{"f\u006fo":123,"bar":0.2},"utilization":{}}"#;
    assert_eq!(read(PREFIXED, json), Ok(Some(example())));
    assert_eq!(read(PREFIXED, "JSON {}"), Ok(Some(LoadReport::default())));
}

/// InvalidJsonHeader, JsonHeaderUnknownField; JsonHeaderIncorrectFieldType is read here, since the
/// JSON mapping allows a number in a string.
#[test]
fn envoy_json_that_is_wrong() {
    for (json, expected) in [
        ("JSON not-a-valid-json-string", "invalid JSON, byte 0: expected `{`"),
        (r#"{"unknown_field": 2}"#, "unknown metric `unknown_field`"),
        (r#"{"eps": "two"}"#, "invalid JSON, byte 8: expected a number"),
        (r#"{"eps": true}"#, "invalid JSON, byte 8: expected a number"),
        (r#"{"eps": 1, "eps": 2}"#, "`eps` twice"),
        (r#"{"eps": 1"#, "invalid JSON, byte 9: expected `}`"),
        (r#"{"eps": 1} x"#, "invalid JSON, byte 11: expected the end"),
        (r#"{"ep"#, "invalid JSON, byte 4: expected the rest of a string"),
        (r#"{"\ud800": 1}"#, "invalid JSON, byte 2: expected an escape"),
        (r#"{"eps": 1e999}"#, "`eps` is inf"),
        (r#"{"eps": "-Infinity"}"#, "`eps` is -inf"),
        (r#"{"named_metrics": {"foo": "nan"}}"#, "`named_metrics.foo` is NaN"),
        (r#"{"rps": "inf"}"#, "`rps` is inf"),
        (r#"{"rps": 1e999, "rps_fractional": 1}"#, "`rps` is inf"),
        (r#"{"rps": "NaN"}"#, "`rps` is NaN"),
        (r#"{"rps": 0.5}"#, "`rps` is 0.5"),
        (r#"{"rps": -1}"#, "`rps` is -1"),
        (r#"{"eps": {"a": 1}}"#, "unknown metric `eps.a`"),
    ] {
        assert_eq!(reason(PREFIXED, &format!("JSON {json}")), expected, "{json}");
    }
}

/// LegacyBinaryHeader, BinaryHeader, BinaryHeaderWithoutPadding; and the one that Envoy has in
/// clear: CPU 0.5, 100 requests and 2 errors a second, the metric `rif` at 4.
#[test]
fn envoy_binary() {
    assert_eq!(read(BINARY, &encoded_example()), Ok(Some(example())));
    assert_eq!(read(PREFIXED, &format!("BIN {}", encoded_example())), Ok(Some(example())));
    let expected = LoadReport {
        cpu_utilization: 0.5,
        rps: 100.0,
        eps: 2.0,
        named_metrics: [("rif".into(), 4.0)].into(),
        ..LoadReport::default()
    };
    for padding in ["", "=="] {
        let text = "CQAAAAAAAOA/MQAAAAAAAFlAOQAAAAAAAABAQg4KA3JpZhEAAAAAAAAQQA";
        assert_eq!(read(BINARY, &format!("{text}{padding}")), Ok(Some(expected.clone())));
    }
}

/// InvalidBinaryHeader, BinaryHeaderPopulatedWithReadableString, EmptyBinaryHeader.
#[test]
fn envoy_binary_that_is_wrong() {
    let half = &encoded_example()[..44];
    assert!(reason(BINARY, half).contains("is not part of an OrcaLoadReport"));
    assert_eq!(reason(BINARY, "not-a-valid-binary-proto"), "not base64");
    assert_eq!(reason(BINARY, ""), "empty");
    let infinite = OrcaLoadReport { eps: f64::INFINITY, ..OrcaLoadReport::default() };
    assert!(reason(BINARY, &encode(&infinite.encode_to_vec())).contains("is not part"));
}

/// BinHeaderPrecedence.
#[test]
fn envoy_the_binary_header_counts() {
    let mut headers = HeaderMap::new();
    headers.insert(PREFIXED, "cpu_utilization:0.7".parse().unwrap());
    headers.insert(BINARY, encoded_example().parse().unwrap());
    assert_eq!(LoadReport::from_headers(&headers), Ok(Some(example())));
}

#[test]
fn whole_requests_a_second_stand_in_for_fractions() {
    let message = OrcaLoadReport { rps: 300, ..OrcaLoadReport::default() };
    assert_eq!(protobuf::parse(&message.encode_to_vec()).unwrap().rps, 300.0);
    let message = OrcaLoadReport { rps: 300, rps_fractional: 2.5, ..OrcaLoadReport::default() };
    assert_eq!(protobuf::parse(&message.encode_to_vec()).unwrap().rps, 2.5);
    for (json, rps) in [
        (r#"{"rps": "300"}"#, 300.0),
        (r#"{"rps": 300, "rps_fractional": 0}"#, 300.0),
        (r#"{"rps_fractional": 0, "rps": 3e2}"#, 300.0),
        (r#"{"rps": 300, "rpsFractional": 2.5}"#, 2.5),
        (r#"{"rps_fractional": 2.5, "rps": 300}"#, 2.5),
    ] {
        assert_eq!(json::parse(json).unwrap().rps, rps, "{json}");
    }
}

/// A message with a field more, as later versions of it may have.
#[test]
fn unknown_fields_are_skipped() {
    let mut bytes = vec![0x50, 0x96, 0x01, 0x5d, 1, 2, 3, 4, 0x62, 2, 9, 9];
    bytes.extend(OrcaLoadReport { eps: 2.0, ..OrcaLoadReport::default() }.encode_to_vec());
    assert_eq!(protobuf::parse(&bytes).unwrap().eps, 2.0);
}

fn map() -> impl Strategy<Value = std::collections::BTreeMap<String, f64>> {
    proptest::collection::btree_map("[a-zé.]{0,5}", -1e9_f64..1e9, 0..4)
}

proptest! {
    /// What prost encodes is read as prost reads it.
    #[test]
    fn agrees_with_prost(
        (cpu, mem, eps, app) in (-1.0..9.0, 0.0..9.0, 0.0..9.0, 0.0..9.0),
        rps in any::<u64>(),
        rps_fractional in prop_oneof![Just(0.0), 0.0..1e6],
        (request_cost, utilization, named_metrics) in (map(), map(), map()),
    ) {
        let message = OrcaLoadReport {
            cpu_utilization: cpu, mem_utilization: mem, rps, request_cost, utilization,
            rps_fractional, eps, named_metrics, application_utilization: app,
        };
        let report = protobuf::parse(&message.encode_to_vec()).unwrap();
        let rps = if rps_fractional == 0.0 { rps as f64 } else { rps_fractional };
        let boxed = |map: std::collections::BTreeMap<String, f64>| {
            map.into_iter().map(|(key, value)| (key.into_boxed_str(), value)).collect()
        };
        prop_assert_eq!(report, LoadReport {
            cpu_utilization: cpu,
            memory_utilization: mem,
            application_utilization: app,
            rps,
            eps,
            utilization: boxed(message.utilization),
            request_cost: boxed(message.request_cost),
            named_metrics: boxed(message.named_metrics),
        });
    }

    /// Nothing that a peer sends makes it panic.
    #[test]
    fn bytes_of_any_kind_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = protobuf::parse(&bytes);
        let _ = prefixed(&[b"TEXT ", &*bytes].concat());
        let _ = prefixed(&[b"JSON {\"eps\":", &*bytes].concat());
        let _ = base64::decode(&bytes);
    }
}
