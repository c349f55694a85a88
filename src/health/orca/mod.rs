//! Load reports in the headers and trailers of responses: gRPC's binary one (gRFC A51), and Envoy's
//! in words, JSON or binary.

mod base64;
mod json;
mod protobuf;

use http::HeaderMap;

use crate::node::LoadReport;

/// gRPC's: an `OrcaLoadReport`, in base64 as all headers that end like this one.
const BINARY: &str = "endpoint-load-metrics-bin";
/// Envoy's: one word says how the rest is written.
const PREFIXED: &str = "endpoint-load-metrics";

/// Why a load report could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the load report in `{header}`: {reason}")]
#[non_exhaustive]
pub struct ReportError {
    /// The header, or trailer, that it stands in.
    pub header: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl LoadReport {
    /// The report in the headers, or trailers, of a response; `None` if there is none.
    ///
    /// | header | value |
    /// |---|---|
    /// | `endpoint-load-metrics-bin` | the message in base64, as gRPC servers send it (gRFC A51) |
    /// | `endpoint-load-metrics` | `BIN ` and the same; `JSON ` and its JSON form; or `TEXT ` and pairs such as `cpu_utilization=0.5,named_metrics.queue=0.8` (Envoy) |
    ///
    /// Where there are both, the binary one is read.
    ///
    /// # Errors
    /// A value that does not parse, names an unknown or the same metric twice, or is no finite
    /// number.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, ReportError> {
        let (header, report) = if let Some(value) = headers.get(BINARY) {
            (BINARY, binary(value.as_bytes()))
        } else if let Some(value) = headers.get(PREFIXED) {
            (PREFIXED, prefixed(value.as_bytes()))
        } else {
            return Ok(None);
        };
        report.map(Some).map_err(|reason| ReportError { header, reason })
    }

    /// Sets the metric that has `name` in the text and JSON forms.
    fn set(&mut self, name: &str, value: f64) -> Result<(), String> {
        if !value.is_finite() {
            return Err(format!("`{name}` is {value}"));
        }
        let (map, key) = match name.split_once('.') {
            Some(("utilization", key)) => (&mut self.utilization, key),
            Some(("request_cost", key)) => (&mut self.request_cost, key),
            Some(("named_metrics", key)) => (&mut self.named_metrics, key),
            _ => {
                let field = match name {
                    "cpu_utilization" => &mut self.cpu_utilization,
                    "mem_utilization" => &mut self.memory_utilization,
                    "application_utilization" => &mut self.application_utilization,
                    "rps_fractional" => &mut self.rps,
                    "eps" => &mut self.eps,
                    _ => return Err(format!("unknown metric `{name}`")),
                };
                *field = value;
                return Ok(());
            }
        };
        if key.is_empty() {
            return Err(format!("`{name}` does not name a metric"));
        }
        match map.insert(key.into(), value) {
            None => Ok(()),
            Some(_) => Err(format!("`{name}` twice")),
        }
    }
}

fn prefixed(value: &[u8]) -> Result<LoadReport, String> {
    let text = std::str::from_utf8(value).map_err(|_| "not UTF-8".to_owned())?;
    match text.split_once(' ') {
        Some(("BIN", rest)) => binary(rest.as_bytes()),
        Some(("JSON", rest)) => json::parse(rest),
        Some(("TEXT", rest)) => pairs(rest),
        _ => Err("begins with none of `BIN `, `JSON ` and `TEXT `".to_owned()),
    }
}

fn binary(value: &[u8]) -> Result<LoadReport, String> {
    if value.is_empty() {
        return Err("empty".to_owned());
    }
    let bytes = base64::decode(value).ok_or("not base64")?;
    protobuf::parse(&bytes).map_err(|at| format!("byte {at} is not part of an OrcaLoadReport"))
}

/// `name=value`, or `name:value` as older proxies write it, separated by commas.
fn pairs(text: &str) -> Result<LoadReport, String> {
    let mut report = LoadReport::default();
    let mut seen = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once(['=', ':']) else {
            return Err(format!("`{pair}` has no value"));
        };
        let (name, value) = (name.trim(), value.trim());
        if seen.contains(&name) {
            return Err(format!("`{name}` twice"));
        }
        seen.push(name);
        let value = value.parse().map_err(|_| format!("`{name}` is `{value}`, no number"))?;
        report.set(name, value)?;
    }
    Ok(report)
}

#[cfg(test)]
mod tests;
