//! The JSON form of an `OrcaLoadReport`: an object of numbers, and of objects of numbers.
//!
//! Read strictly, as Envoy does: an unknown field is an error. Field names come as in the message or
//! in lower camel case, numbers also as strings, as the JSON mapping of protocol buffers allows.

use crate::node::LoadReport;

/// What is left of the text.
struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
}

/// The report that `text` is.
pub(super) fn parse(text: &str) -> Result<LoadReport, String> {
    let mut report = LoadReport::default();
    // Deprecated, for a whole number of requests a second.
    let mut whole_rps = 0.0;
    let mut reader = Reader { text, rest: text };
    let mut seen = Vec::new();
    reader.object(|reader, name| {
        let name = snake_case(&name);
        if seen.contains(&name) {
            return Err(format!("`{name}` twice"));
        }
        if reader.peek() == Some('{') {
            reader.object(|reader, key| {
                let value = reader.number()?;
                report.set(&format!("{name}.{key}"), value)
            })?;
        } else {
            let value = reader.number()?;
            match &*name {
                "rps" if !is_whole(value) => return Err(format!("`rps` is {value}")),
                "rps" => whole_rps = value,
                _ => report.set(&name, value)?,
            }
        }
        seen.push(name);
        Ok(())
    })?;
    if reader.peek().is_some() {
        return Err(reader.error("the end"));
    }
    if report.rps == 0.0 {
        report.rps = whole_rps;
    }
    Ok(report)
}

/// Whether it is an unsigned integer of 64 bits, which no infinity is.
fn is_whole(value: f64) -> bool {
    value.fract() == 0.0 && (0.0..=u64::MAX as f64).contains(&value)
}

fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 2);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

// === impl Reader ===

impl Reader<'_> {
    /// The next character that is no space.
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        self.rest.chars().next()
    }

    fn expect(&mut self, expected: char) -> Result<(), String> {
        self.peek();
        match self.rest.strip_prefix(expected) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(self.error(&format!("`{expected}`"))),
        }
    }

    fn error(&self, expected: &str) -> String {
        format!("invalid JSON, byte {}: expected {expected}", self.text.len() - self.rest.len())
    }

    fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, String) -> Result<(), String>,
    ) -> Result<(), String> {
        self.expect('{')?;
        if self.peek() == Some('}') {
            return self.expect('}');
        }
        loop {
            self.peek();
            let name = self.string()?;
            self.expect(':')?;
            member(self, name)?;
            match self.peek() {
                Some(',') => self.expect(',')?,
                _ => return self.expect('}'),
            }
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.expect('"')?;
        let mut string = String::new();
        loop {
            let mut letters = self.rest.chars();
            let letter = letters.next();
            let rest = letters.as_str();
            match letter {
                Some('"') => {
                    self.rest = rest;
                    return Ok(string);
                }
                Some('\\') => string.push(self.escape()?),
                Some(letter) if letter >= ' ' => {
                    self.rest = rest;
                    string.push(letter);
                }
                _ => return Err(self.error("the rest of a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let escape = self.rest.as_bytes().get(1).copied();
        let plain = match escape {
            Some(letter @ (b'"' | b'\\' | b'/')) => Some(char::from(letter)),
            Some(b'b') => Some('\u{8}'),
            Some(b'f') => Some('\u{c}'),
            Some(b'n') => Some('\n'),
            Some(b'r') => Some('\r'),
            Some(b't') => Some('\t'),
            _ => None,
        };
        let (letter, length) = match plain {
            Some(letter) => (letter, 2),
            None => {
                let digits = self.rest.get(2..6).filter(|_| escape == Some(b'u'));
                let code = digits
                    .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
                    .and_then(|digits| u32::from_str_radix(digits, 16).ok());
                // Half of a surrogate pair is no character: metrics have no names beyond them.
                let letter = code.and_then(char::from_u32);
                (letter.ok_or_else(|| self.error("an escape"))?, 6)
            }
        };
        self.rest = &self.rest[length..];
        Ok(letter)
    }

    fn number(&mut self) -> Result<f64, String> {
        if self.peek() == Some('"') {
            let before = self.rest;
            let text = self.string()?;
            return text.parse().map_err(|_| {
                self.rest = before;
                self.error("a number")
            });
        }
        let end = self.rest.find(|c: char| !c.is_ascii_digit() && !"+-.eE".contains(c));
        let (number, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        let starts_well = number.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        match number.parse() {
            Ok(value) if starts_well => {
                self.rest = rest;
                Ok(value)
            }
            _ => Err(self.error("a number")),
        }
    }
}
