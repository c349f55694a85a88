//! The one message of protocol buffers that a balancer reads: `OrcaLoadReport`.
//!
//! Written by hand, since it is one flat message of numbers and maps of numbers. Unknown fields are
//! skipped, as the encoding asks.

use crate::node::LoadReport;

/// A field's value, as far as the message uses it.
enum Value<'a> {
    Varint(u64),
    Double(f64),
    Bytes(&'a [u8]),
    /// Of a kind that no known field has.
    Other,
}

/// What is left of a message, and how much was read of it.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// The report in `bytes`; an error is the byte at which they are none.
pub(super) fn parse(bytes: &[u8]) -> Result<LoadReport, usize> {
    let mut report = LoadReport::default();
    let mut whole_rps = 0;
    let mut reader = Reader { bytes, at: 0 };
    while let Some((start, field, value)) = reader.field()? {
        match (field, value) {
            (1, Value::Double(value)) => report.cpu_utilization = value,
            (2, Value::Double(value)) => report.memory_utilization = value,
            // Deprecated, for a whole number of requests a second.
            (3, Value::Varint(value)) => whole_rps = value,
            (6, Value::Double(value)) => report.rps = value,
            (7, Value::Double(value)) => report.eps = value,
            (9, Value::Double(value)) => report.application_utilization = value,
            (4 | 5 | 8, Value::Bytes(entry)) => {
                let (key, value) = parse_entry(entry).map_err(|at| reader.at - entry.len() + at)?;
                let map = match field {
                    4 => &mut report.request_cost,
                    5 => &mut report.utilization,
                    _ => &mut report.named_metrics,
                };
                // Of duplicate keys the last counts.
                map.insert(key.into(), value);
                if !value.is_finite() {
                    return Err(start);
                }
            }
            _ => {}
        }
    }
    if report.rps == 0.0 {
        report.rps = whole_rps as f64;
    }
    let numbers = [
        report.cpu_utilization,
        report.memory_utilization,
        report.rps,
        report.eps,
        report.application_utilization,
    ];
    if numbers.iter().all(|number| number.is_finite()) { Ok(report) } else { Err(bytes.len()) }
}

/// An entry of a map from strings to doubles.
fn parse_entry(bytes: &[u8]) -> Result<(&str, f64), usize> {
    let (mut key, mut value) = ("", 0.0);
    let mut reader = Reader { bytes, at: 0 };
    while let Some((start, field, found)) = reader.field()? {
        match (field, found) {
            (1, Value::Bytes(bytes)) => key = std::str::from_utf8(bytes).map_err(|_| start)?,
            (2, Value::Double(double)) => value = double,
            _ => {}
        }
    }
    Ok((key, value))
}

// === impl Reader ===

impl<'a> Reader<'a> {
    /// Where the next field begins, its number and its value; `None` at the end.
    fn field(&mut self) -> Result<Option<(usize, u64, Value<'a>)>, usize> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.varint()?;
        let value = match tag & 0b111 {
            0 => Value::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?.try_into().map_err(|_| start)?;
                Value::Double(f64::from_le_bytes(bytes))
            }
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(usize::try_from(length).map_err(|_| start)?)?)
            }
            5 => {
                self.take(4)?;
                Value::Other
            }
            // Groups are no part of this version of the language.
            _ => return Err(start),
        };
        if tag >> 3 == 0 { Err(start) } else { Ok(Some((start, tag >> 3, value))) }
    }

    fn varint(&mut self) -> Result<u64, usize> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let &[byte] = self.take(1)? else { return Err(self.at) };
            // The tenth byte has one bit left.
            if shift == 63 && byte > 1 {
                return Err(self.at);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.at)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], usize> {
        let rest = &self.bytes[self.at..];
        let (taken, _) = rest.split_at_checked(count).ok_or(self.at)?;
        self.at += count;
        Ok(taken)
    }
}
