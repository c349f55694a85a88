//! What names may look like.

/// What is said of a name that cannot be.
pub(super) const RULE: &str =
    "Kubernetes takes `a` to `z`, `0` to `9` and `-` inside, at most 63 of them";

/// Whether `text` is a label of RFC 1123, as the names of namespaces, Services and ports are.
pub(super) fn is_label(text: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let allowed = text.bytes().all(|byte| is_alphanumeric(byte) || byte == b'-');
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= 63 && allowed && ends.iter().all(|end| end.is_some_and(is_alphanumeric))
}
