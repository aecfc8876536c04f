// SPDX-License-Identifier: MIT OR Apache-2.0
//! What people see on standard error while something is prepared. Standard output belongs to the commands.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A step shorter than this needs no word about its end.
const SHORT: Duration = Duration::from_secs(2);

/// Says something worth a line.
pub(crate) fn note(text: &str) {
    eprintln!("xtask: {text}");
}

/// Says something the user should not overlook.
pub(crate) fn warn(text: &str) {
    eprintln!("xtask: WARNING: {text}");
}

/// A count of bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..=9_999 => format!("{count} B"),
        10_000..=9_999_999 => format!("{} kB", count / 1000),
        10_000_000..=9_999_999_999 => format!("{} MB", count / 1_000_000),
        _ => format!("{} GB", count / 1_000_000_000),
    }
}

/// A step that takes long enough to wonder about: a bar or spinner on a terminal, a line at its end elsewhere.
pub(crate) struct Step {
    what: String,
    started: Instant,
    bar: ProgressBar,
}

impl Step {
    /// Starts a step of unknown length.
    pub(crate) fn start(what: &str) -> Self {
        Self::with_bar(
            what,
            ProgressBar::new_spinner(),
            "xtask: {spinner} {msg} ({elapsed})",
        )
    }

    /// Starts a step of so many bytes.
    pub(crate) fn of_bytes(what: &str, total: u64) -> Self {
        let template = "xtask: {msg} {wide_bar} {bytes}/{total_bytes}, {eta} left";
        Self::with_bar(what, ProgressBar::new(total), template)
    }

    fn with_bar(what: &str, bar: ProgressBar, template: &str) -> Self {
        if std::io::stderr().is_terminal() {
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
        } else {
            bar.set_draw_target(ProgressDrawTarget::hidden());
            note(&format!("{what} ..."));
        }
        Self {
            what: what.to_owned(),
            started: Instant::now(),
            bar,
        }
    }

    /// So many bytes are done.
    pub(crate) fn at(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Ends the step with a line that says how long it took.
    pub(crate) fn done(self) {
        self.bar.finish_and_clear();
        // Where no bar was shown, the line of its start says enough about a short step.
        if self.bar.is_hidden() && self.started.elapsed() < SHORT {
            return;
        }
        note(&format!(
            "{}: done in {:.1} s",
            self.what,
            self.started.elapsed().as_secs_f64()
        ));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(106_422_608), "106 MB");
        assert_eq!(bytes(30_180), "30 kB");
        assert_eq!(bytes(12_000_000_000), "12 GB");
    }
}
