// SPDX-License-Identifier: MIT OR Apache-2.0
//! The summary for people, on stderr.

use std::fmt;

use super::record::Summary;
use super::units::{plural, Nanos};

/// Displays a summary in two or three lines.
#[derive(Debug)]
pub struct ForPeople<'a>(pub &'a Summary);

impl fmt::Display for ForPeople<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary {
            duration_ns,
            events,
            shown,
            filtered,
            lost,
            undecoded,
            unmatched,
            read_fault,
            ..
        } = self.0;
        write!(f, "{} in {}", plural(*shown, "event"), Nanos(*duration_ns))?;
        if *filtered > 0 {
            write!(f, ", {filtered} more left out by filters")?;
        }
        write!(f, ", {lost} lost")?;
        if *lost > 0 {
            f.write_str(" (raise --ring-bytes)")?;
        }
        for (n, what) in [
            (*undecoded, "not understood (programs of another version?)"),
            (
                *unmatched,
                "calls without record (begun before the start, or the table of calls was full)",
            ),
            (*read_fault, "unreadable fields shown as 0"),
        ] {
            if n > 0 {
                write!(f, "\n  {n} {what}")?;
            }
        }
        for (at, (kind, n)) in events.iter().enumerate() {
            let lead = if at % 4 == 0 { "\n " } else { "," };
            write!(f, "{lead} {} {n}", kind.name())?;
        }
        Ok(())
    }
}
