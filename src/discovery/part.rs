//! Texts that are taken apart without losing where each part stands.

use std::str::FromStr;

/// A part of a text, which knows where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) text: &'a str,
    /// The offset of its first byte.
    pub(crate) position: usize,
}

// === impl Part ===

#[allow(dead_code, reason = "not every build has a source that asks for everything")]
impl<'a> Part<'a> {
    pub(crate) fn split(self, separator: char) -> impl Iterator<Item = Part<'a>> {
        let mut next = self.position;
        self.text.split(separator).map(move |text| {
            let position = next;
            next += text.len() + separator.len_utf8();
            Part { text, position }
        })
    }

    /// What stands before and after the first `separator`.
    pub(crate) fn split_once(self, separator: char) -> Option<(Part<'a>, Part<'a>)> {
        self.cut(self.text.find(separator)?, separator)
    }

    /// What stands before and after the last `separator`.
    pub(crate) fn rsplit_once(self, separator: char) -> Option<(Part<'a>, Part<'a>)> {
        self.cut(self.text.rfind(separator)?, separator)
    }

    fn cut(self, at: usize, separator: char) -> Option<(Part<'a>, Part<'a>)> {
        let after = at + separator.len_utf8();
        let (first, second) = (self.text.get(..at)?, self.text.get(after..)?);
        let position = self.position + after;
        Some((Part { text: first, ..self }, Part { text: second, position }))
    }

    pub(crate) fn trim(self) -> Self {
        let text = self.text.trim_start();
        let position = self.position + (self.text.len() - text.len());
        Part { text: text.trim_end(), position }
    }
}

/// The number that `text` says in digits alone: `parse` would take a plus sign as well.
pub(crate) fn whole_number<N: FromStr>(text: &str) -> Option<N> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}
