//! What of the tests is left out where something is missing. Shared by path, since it stands alone.

use std::{fs::OpenOptions, io::Write};

/// Says that a test is skipped, and why: to the terminal, past what cargo keeps of a test that passes,
/// and into the file that `EVENKEEL_SKIPPED` names, if it does, for whoever sums up.
pub(crate) fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("skipped: {test}: {why}\n");
    // Not the macro: what that prints is captured.
    let _ = std::io::stderr().write_all(line.as_bytes());
    let Some(file) = std::env::var_os("EVENKEEL_SKIPPED") else { return };
    let file = OpenOptions::new().append(true).create(true).open(file);
    // In one piece, since tests run at once.
    let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
}
