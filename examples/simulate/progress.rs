//! A progress bar on standard error; none where that is no terminal.

use std::io::{IsTerminal, Write};

const WIDTH: usize = 50;

pub(crate) struct Progress {
    of: usize,
    shown: bool,
}

impl Progress {
    pub(crate) fn new(of: usize) -> Self {
        let progress = Self { of, shown: std::io::stderr().is_terminal() };
        progress.show(0);
        progress
    }

    pub(crate) fn show(&self, done: usize) {
        let full = WIDTH * done / self.of.max(1);
        self.write(&format!("[{:<WIDTH$}] {done} of {} runs", "#".repeat(full), self.of));
    }

    pub(crate) fn clear(&self) {
        self.write(&" ".repeat(WIDTH + 40));
        self.write("");
    }

    fn write(&self, line: &str) {
        if self.shown {
            // Nothing is lost if a terminal takes no progress bar.
            let _ = write!(std::io::stderr(), "\r{line}");
        }
    }
}
