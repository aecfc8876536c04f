// SPDX-License-Identifier: MIT OR Apache-2.0
//! Durations and sizes in the three significant digits that people compare.

use std::fmt;

/// `1 queue`, `2 queues`, `2 processes`.
pub(crate) fn plural(n: u64, what: &str) -> String {
    match (n, what) {
        (1, _) => format!("1 {what}"),
        (_, "process") => format!("{n} processes"),
        _ => format!("{n} {what}s"),
    }
}

/// A duration: `850ns`, `3.1µs`, `61µs`, `3.65ms`, `152ms`, `1.20s`, `14m05s`, `3h07m`.
#[derive(Clone, Copy, Debug)]
pub struct Nanos(pub u64);

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0;
        let tenths = |unit: u64| (ns * 10 + unit / 2) / unit;
        let text = match ns {
            0..=999 => format!("{ns}ns"),
            1_000..=9_949 => format!("{}.{}µs", tenths(1_000) / 10, tenths(1_000) % 10),
            9_950..=999_499 => format!("{}µs", (ns + 500) / 1_000),
            999_500..=9_994_999 => hundredths(ns, 1_000_000, "ms"),
            9_995_000..=99_949_999 => {
                format!("{}.{}ms", tenths(1_000_000) / 10, tenths(1_000_000) % 10)
            }
            99_950_000..=999_499_999 => format!("{}ms", (ns + 500_000) / 1_000_000),
            999_500_000..=9_994_999_999 => hundredths(ns, 1_000_000_000, "s"),
            9_995_000_000..=59_949_999_999 => format!(
                "{}.{}s",
                tenths(1_000_000_000) / 10,
                tenths(1_000_000_000) % 10
            ),
            _ => {
                let s = ns / 1_000_000_000 + u64::from(ns % 1_000_000_000 >= 500_000_000);
                match s {
                    0..=3_599 => format!("{}m{:02}s", s / 60, s % 60),
                    _ => format!("{}h{:02}m", s / 3600, s / 60 % 60),
                }
            }
        };
        f.pad(&text)
    }
}

fn hundredths(ns: u64, unit: u64, name: &str) -> String {
    let n = (ns + unit / 200) / (unit / 100);
    format!("{}.{:02}{name}", n / 100, n % 100)
}

/// A size in binary units where it is a round number of them: `64KiB`, `1MiB`, `4100B`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let text = match units
            .iter()
            .find(|(unit, _)| self.0 >= *unit && self.0.is_multiple_of(*unit))
        {
            Some((unit, name)) => format!("{}{name}", self.0 / unit),
            None => format!("{}B", self.0),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn three_digits_are_enough() {
        for (ns, text) in [
            (0, "0ns"),
            (999, "999ns"),
            (3_149, "3.1µs"),
            (9_949, "9.9µs"),
            (9_950, "10µs"),
            (61_300, "61µs"),
            (999_499, "999µs"),
            (999_500, "1.00ms"),
            (3_650_000, "3.65ms"),
            (9_994_999, "9.99ms"),
            (9_995_000, "10.0ms"),
            (152_000_000, "152ms"),
            (999_499_999, "999ms"),
            (1_200_000_000, "1.20s"),
            (12_340_000_000, "12.3s"),
            (59_949_999_999, "59.9s"),
            (60_000_000_000, "1m00s"),
            (845_000_000_000, "14m05s"),
            (11_220_000_000_000, "3h07m"),
        ] {
            assert_eq!(Nanos(ns).to_string(), text, "{ns}");
        }
        assert_eq!(format!("{:>8}|", Nanos(61_300)), "    61µs|");
    }

    #[test]
    fn sizes_are_exact() {
        assert_eq!(Bytes(65536).to_string(), "64KiB");
        assert_eq!(Bytes(1 << 20).to_string(), "1MiB");
        assert_eq!(Bytes(4100).to_string(), "4100B");
        assert_eq!(Bytes(0).to_string(), "0B");
    }

    proptest! {
        #[test]
        fn any_duration_is_short(ns in any::<u64>()) {
            let text = Nanos(ns).to_string();
            prop_assert!(text.chars().count() <= 11, "{}", text);
        }
    }
}
