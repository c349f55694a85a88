//! A target taken apart, with the place of each part for the errors.

use std::time::Duration;

use super::super::part::{Part, whole_number};
use crate::error::{TargetError, TargetErrorReason};

/// `scheme://body?option=value&option=value`.
#[allow(dead_code, reason = "not every build has a source that asks for everything")]
#[derive(Debug)]
pub(in crate::discovery) struct Uri<'a> {
    text: &'a str,
    scheme: &'a str,
    rest: Part<'a>,
    body: Part<'a>,
    options: Vec<(Part<'a>, Part<'a>)>,
    /// The names of the options that were asked for.
    known: Vec<&'static str>,
}

// === impl Uri ===

#[allow(dead_code, reason = "not every build has a source that asks for everything")]
impl<'a> Uri<'a> {
    /// `None` if the text is no `scheme://...`.
    pub(in crate::discovery) fn parse(text: &'a str) -> Option<Self> {
        let whole = Part { text, position: 0 }.trim();
        let at = whole.text.find("://")?;
        let scheme = whole.text.get(..at).filter(|scheme| is_scheme(scheme))?;
        let after = at + "://".len();
        let rest = Part { text: whole.text.get(after..)?, position: whole.position + after };
        Some(Self { text, scheme, rest, body: rest, options: Vec::new(), known: Vec::new() })
    }

    /// The whole target, as it was given.
    pub(in crate::discovery) fn text(&self) -> &'a str {
        self.text
    }

    pub(super) fn scheme(&self) -> &'a str {
        self.scheme
    }

    /// What stands after the `://`.
    pub(super) fn rest(&self) -> Part<'a> {
        self.rest
    }

    /// What stands between the `://` and the options.
    pub(in crate::discovery) fn body(&self) -> Part<'a> {
        self.body
    }

    /// Cuts the options from the rest.
    pub(in crate::discovery) fn read_options(&mut self) -> Result<(), TargetError> {
        let Some((body, options)) = self.rest.split_once('?') else { return Ok(()) };
        self.body = body;
        for option in options.split('&') {
            let (key, value) = option
                .split_once('=')
                .filter(|(_, value)| !value.text.is_empty())
                .ok_or_else(|| self.wrong(option, TargetErrorReason::EmptyValue))?;
            if self.options.iter().any(|(other, _)| other.text == key.text) {
                return Err(self.wrong(option, TargetErrorReason::Repeated));
            }
            self.options.push((key, value));
        }
        Ok(())
    }

    /// The value of the option `key`, if the target has it.
    pub(in crate::discovery) fn take(&mut self, key: &'static str) -> Option<Part<'a>> {
        self.known.push(key);
        let at = self.options.iter().position(|(other, _)| other.text == key)?;
        Some(self.options.swap_remove(at).1)
    }

    /// Refuses an option that nobody asked for.
    pub(super) fn finish(&self) -> Result<(), TargetError> {
        let Some((key, _)) = self.options.iter().min_by_key(|(key, _)| key.position) else {
            return Ok(());
        };
        let known: Vec<_> = self.known.iter().map(|key| format!("`{key}`")).collect();
        Err(self.wrong(*key, TargetErrorReason::Option(known.join(", "))))
    }

    pub(in crate::discovery) fn wrong(
        &self,
        part: Part<'_>,
        reason: TargetErrorReason,
    ) -> TargetError {
        TargetError {
            target: self.text.to_owned(),
            position: part.position,
            part: part.text.to_owned(),
            reason,
        }
    }

    /// A port, from 1 to 65535.
    pub(in crate::discovery) fn port(&self, part: Part<'_>) -> Result<u16, TargetError> {
        let port = whole_number(part.text).filter(|&port| port > 0);
        port.ok_or_else(|| self.wrong(part, TargetErrorReason::Port))
    }

    /// A time such as `500ms`, `30s` or `5m`.
    pub(in crate::discovery) fn duration(
        &self,
        part: Part<'_>,
        expected: &'static str,
    ) -> Result<Duration, TargetError> {
        let digits = part.text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = part.text.split_at(digits);
        let unit = match unit {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            _ => None,
        };
        let millis = unit.zip(whole_number::<u32>(number));
        let duration = millis.map(|(unit, number)| Duration::from_millis(unit * u64::from(number)));
        duration.ok_or_else(|| self.wrong(part, TargetErrorReason::Expected(expected)))
    }

    /// `true` or `false`.
    pub(in crate::discovery) fn boolean(&self, part: Part<'_>) -> Result<bool, TargetError> {
        match part.text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.wrong(part, TargetErrorReason::Expected("`true` or `false`"))),
        }
    }
}

/// RFC 3986 3.1: a letter, then letters, digits, `+`, `-` and `.`.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}
