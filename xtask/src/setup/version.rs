// SPDX-License-Identifier: MIT OR Apache-2.0
//! Order of Debian package versions, as deb-version(7) defines it, and names with one `*` group.

use std::cmp::Ordering;

/// Compares two Debian versions `[epoch:]upstream[-revision]`.
pub(crate) fn compare(left: &str, right: &str) -> Ordering {
    let (left_epoch, left_upstream, left_revision) = split(left);
    let (right_epoch, right_upstream, right_revision) = split(right);
    left_epoch
        .cmp(&right_epoch)
        .then_with(|| compare_part(left_upstream, right_upstream))
        .then_with(|| compare_part(left_revision, right_revision))
}

/// The upstream part of a version.
pub(crate) fn upstream(version: &str) -> &str {
    split(version).1
}

fn split(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
    (epoch.parse().unwrap_or(0), upstream, revision)
}

/// Compares alternately the longest prefixes without and with digits.
fn compare_part(mut left: &str, mut right: &str) -> Ordering {
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = left.split_at(
            left.find(|c: char| c.is_ascii_digit())
                .unwrap_or(left.len()),
        );
        let (right_text, right_rest) = right.split_at(
            right
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(right.len()),
        );
        let text = compare_text(left_text, right_text);
        let (left_number, left_rest) = left_rest.split_at(
            left_rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(left_rest.len()),
        );
        let (right_number, right_rest) = right_rest.split_at(
            right_rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(right_rest.len()),
        );
        let order = text.then_with(|| compare_number(left_number, right_number));
        if order.is_ne() {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

/// Letters sort before other characters, `~` before everything, even the end.
fn compare_text(left: &str, right: &str) -> Ordering {
    let rank = |c: Option<u8>| match c {
        Some(b'~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(c),
        Some(c) => i32::from(c) + 256,
    };
    let (left, right) = (left.as_bytes(), right.as_bytes());
    (0..left.len().max(right.len()))
        .map(|at| rank(left.get(at).copied()).cmp(&rank(right.get(at).copied())))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn compare_number(left: &str, right: &str) -> Ordering {
    let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

/// A name pattern `before(group)after`, where `*` in the group stands for digits, dots and nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NamePattern<'a> {
    before: &'a str,
    group: &'a str,
    after: &'a str,
}

impl<'a> NamePattern<'a> {
    /// Takes the pattern apart; `None` if it has no group.
    pub(crate) fn parse(pattern: &'a str) -> Option<Self> {
        let (before, rest) = pattern.split_once('(')?;
        let (group, after) = rest.split_once(')')?;
        Some(Self {
            before,
            group,
            after,
        })
    }

    /// The group's text in `name`, if the name fits.
    pub(crate) fn group_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        let text = name.strip_prefix(self.before)?.strip_suffix(self.after)?;
        let fits = match self.group.split_once('*') {
            Some((start, end)) => {
                let middle = text.strip_prefix(start)?.strip_suffix(end)?;
                !middle.is_empty() && middle.bytes().all(|c| c.is_ascii_digit() || c == b'.')
            }
            None => text == self.group,
        };
        fits.then_some(text)
    }

    /// What every fitting name begins with.
    pub(crate) fn prefix(&self) -> String {
        let start = self
            .group
            .split_once('*')
            .map_or(self.group, |(start, _)| start);
        format!("{}{start}", self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_dpkg_sorts_them() {
        let rising = [
            "1.0~rc1-1",
            "1.0-1~bpo12+1",
            "1.0-1",
            "1.0-1+b1",
            "1.0-1.1",
            "1.0-2",
            "1.0+dfsg-1",
            "1.0.1-1",
            "1.2-1",
            "1.10-1",
            "1:0.1-1",
        ];
        for (at, left) in rising.iter().enumerate() {
            for (other, right) in rising.iter().enumerate() {
                assert_eq!(
                    compare(left, right),
                    at.cmp(&other),
                    "{left} against {right}"
                );
            }
        }
    }

    #[test]
    fn kernel_versions_sort() {
        assert_eq!(
            compare("6.12.95-1~bpo12+1", "6.12.117-1~deb12u1"),
            Ordering::Less
        );
        assert_eq!(compare("6.1.187-1", "6.1.90-1"), Ordering::Greater);
        assert_eq!(
            compare("7.3.4-1~bpo13+1", "7.3.4-1~bpo13+1"),
            Ordering::Equal
        );
        assert_eq!(compare("1.0-01", "1.0-1"), Ordering::Equal);
    }

    #[test]
    fn the_upstream_part_has_neither_epoch_nor_revision() {
        assert_eq!(upstream("1:1.3.dfsg+really1.3.2-3"), "1.3.dfsg+really1.3.2");
        assert_eq!(upstream("1.95.0+dfsg1-2~bpo13+1"), "1.95.0+dfsg1");
        assert_eq!(upstream("5"), "5");
    }

    #[test]
    fn a_pattern_finds_its_series_and_no_other() {
        let pattern = NamePattern::parse("linux-image-(6.12.*+deb12)-amd64").unwrap();
        assert_eq!(
            pattern.group_of("linux-image-6.12.117+deb12-amd64"),
            Some("6.12.117+deb12")
        );
        assert_eq!(
            pattern.group_of("linux-image-6.12.117+deb12-cloud-amd64"),
            None
        );
        assert_eq!(
            pattern.group_of("linux-image-6.12.117+deb12-amd64-dbg"),
            None
        );
        assert_eq!(pattern.group_of("linux-image-6.1.0-53-amd64"), None);
        assert_eq!(pattern.prefix(), "linux-image-6.12.");
        let pattern = NamePattern::parse("linux-image-(6.1.0-*)-amd64").unwrap();
        assert_eq!(
            pattern.group_of("linux-image-6.1.0-9-amd64"),
            Some("6.1.0-9")
        );
        assert_eq!(pattern.group_of("linux-image-6.1.0-rt-9-amd64"), None);
        assert!(NamePattern::parse("no group").is_none());
    }
}
