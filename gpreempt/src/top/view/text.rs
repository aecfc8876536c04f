// SPDX-License-Identifier: MIT OR Apache-2.0
//! Text in a given number of columns. Names are cut and say so; numbers are never cut: they are written shorter.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// The beginning of a text, in at most so many columns.
pub(super) fn head(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut room = columns.saturating_sub(1);
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if wide > room {
            break;
        }
        room -= wide;
        out.push(c);
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

/// The end of a text, in at most so many columns.
pub(super) fn tail(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut room = columns.saturating_sub(1);
    let mut from = text.len();
    for (at, c) in text.char_indices().rev() {
        let wide = c.width().unwrap_or(0);
        if wide > room {
            break;
        }
        room -= wide;
        from = at;
    }
    let mark = if columns > 0 { "…" } else { "" };
    format!("{mark}{}", &text[from..])
}

/// `name[pid]` in at most so many columns: the name is cut, the pid never.
pub(super) fn process(comm: &str, pid: u32, columns: usize) -> String {
    let pid = format!("[{pid}]");
    let room = columns.saturating_sub(pid.len());
    format!("{}{pid}", head(comm, room))
}

/// Filled with blanks to so many columns.
pub(super) fn pad(text: String, columns: usize, right: bool) -> String {
    let blanks = " ".repeat(columns.saturating_sub(text.width()));
    if right {
        blanks + &text
    } else {
        text + &blanks
    }
}

/// A count in at most five columns: `99999`, `123k`, `12.3M`.
pub(super) fn count(n: u64) -> String {
    const UNITS: &[(u64, &str)] = &[
        (1_000_000_000_000_000_000, "E"),
        (1_000_000_000_000_000, "P"),
        (1_000_000_000_000, "T"),
        (1_000_000_000, "G"),
        (1_000_000, "M"),
        (1_000, "k"),
    ];
    if n < 100_000 {
        return n.to_string();
    }
    let (unit, name) = UNITS
        .iter()
        .find(|(unit, _)| n >= *unit)
        .unwrap_or(&(1, ""));
    let tenths = n / (unit / 10).max(1);
    if tenths < 1000 {
        format!("{}.{}{name}", tenths / 10, tenths % 10)
    } else {
        format!("{}{name}", n / unit)
    }
}

/// A rate: a tenth where it is small.
pub(super) fn rate(per_s: f64) -> String {
    if per_s > 0.0 && per_s < 9.95 {
        format!("{per_s:.1}")
    } else {
        count(per_s.round() as u64)
    }
}

/// A share of 1 in percent: `0`, `0.3`, `12`, `100`.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent >= 9.95 {
        format!("{percent:.0}")
    } else if percent < 0.05 {
        (if percent > 0.0 { "<0.1" } else { "0" }).to_owned()
    } else {
        format!("{percent:.1}")
    }
}

/// The last values as bars, scaled to the largest of them; a blank where there was nothing.
pub(super) fn spark(values: &[u64], columns: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &values[values.len().saturating_sub(columns)..];
    let most = shown.iter().copied().max().unwrap_or(0).max(1);
    let bars = shown.iter().map(|value| match *value {
        0 => ' ',
        value => {
            let height = u128::from(value) * (BARS.len() as u128) / u128::from(most);
            BARS[usize::try_from(height.saturating_sub(1))
                .unwrap_or(0)
                .min(BARS.len() - 1)]
        }
    });
    let blanks = columns.saturating_sub(shown.len());
    std::iter::repeat_n(' ', blanks).chain(bars).collect()
}

/// `n thing` or `n things`.
pub(super) fn plural(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_whole() {
        for (n, text) in [
            (0, "0"),
            (99_999, "99999"),
            (100_000, "100k"),
            (999_999, "999k"),
            (1_234_567, "1.2M"),
            (123_456_789, "123M"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(count(n), text);
        }
        for (share, text) in [
            (0.0, "0"),
            (0.0001, "<0.1"),
            (0.003, "0.3"),
            (0.0996, "10"),
            (1.0, "100"),
        ] {
            assert_eq!(percent(share), text);
        }
        assert_eq!(
            (rate(0.0), rate(0.4), rate(1234.6)),
            ("0".into(), "0.4".into(), "1235".into())
        );
    }

    #[test]
    fn names_are_cut_where_nothing_is_lost() {
        assert_eq!(
            process("VLLM::Worker_TP0", 1_234_567, 16),
            "VLLM::…[1234567]"
        );
        assert_eq!(process("job", 7, 16), "job[7]");
        assert_eq!(tail("/kubepods/pod1/abc", 8), "…od1/abc");
        assert_eq!(head("日本日本", 4), "日…");
    }

    #[test]
    fn sparks_are_scaled_to_the_largest() {
        assert_eq!(spark(&[0, 1, 4, 8], 6), "   ▁▄█");
        assert_eq!(spark(&[9, 1, 1], 2), "██");
        assert_eq!(spark(&[], 3), "   ");
        assert_eq!(spark(&[u64::MAX, 1], 2), "█▁");
    }

    proptest! {
        #[test]
        fn nothing_is_wider_than_its_room(text in any::<String>(), columns in 0usize..40, n in any::<u64>()) {
            prop_assert!(width(&head(&text, columns)) <= columns);
            prop_assert!(width(&tail(&text, columns)) <= columns);
            prop_assert!(width(&count(n)) <= 5);
            prop_assert!(width(&percent(n as f64 / u64::MAX as f64)) <= 4);
        }
    }
}
