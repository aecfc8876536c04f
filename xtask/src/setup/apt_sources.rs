// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which mirror this machine uses: parses `/etc/apt/sources.list` and `sources.list.d`, in the one-line and
//! in the deb822 style of sources.list(5). Nothing here names a mirror.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// One place packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Addresses of the archive.
    pub(crate) uris: Vec<String>,
    /// Suites taken from it.
    pub(crate) suites: Vec<String>,
    /// Keyring files, or one key in armor; empty means apt's trusted keys.
    pub(crate) signed_by: String,
    /// Other options a fetch needs, such as `trusted=yes`, in the style of one line.
    options: Vec<String>,
}

impl Entry {
    /// The entry as deb822 stanza for another suite.
    pub(crate) fn stanza_for(&self, suite: &str) -> String {
        let mut stanza = format!(
            "Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n",
            self.uris.join(" ")
        );
        if !self.signed_by.is_empty() {
            // A key in armor goes on in continuation lines, which start with a blank; a file name has one line.
            stanza += &format!("Signed-By: {}\n", self.signed_by);
        }
        for option in &self.options {
            if let Some((name, value)) = option.split_once('=') {
                stanza += &format!("{}: {value}\n", title_case(name));
            }
        }
        stanza
    }
}

/// Reads every source of the directory, `/etc/apt` in practice.
pub(crate) fn read_all(etc_apt: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    if let Ok(text) = fs::read_to_string(etc_apt.join("sources.list")) {
        entries.extend(parse_lines(&text));
    }
    let parts = etc_apt.join("sources.list.d");
    let mut files: Vec<_> = match fs::read_dir(&parts) {
        Ok(files) => files.flatten().map(|file| file.path()).collect(),
        Err(_) => Vec::new(),
    };
    files.sort();
    for file in files {
        let parse = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => parse_lines,
            Some("sources") => parse_deb822,
            _ => continue,
        };
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        entries.extend(parse(&text));
    }
    Ok(entries)
}

/// The entry that serves `codename` itself, the archive all of its other suites live in too.
pub(crate) fn main_archive<'a>(entries: &'a [Entry], codename: &str) -> Option<&'a Entry> {
    let serves = |names: &[&str]| {
        let has = |suite: &String| names.contains(&suite.trim_end_matches('/'));
        entries.iter().find(|entry| entry.suites.iter().any(has))
    };
    serves(&[codename]).or_else(|| serves(&["stable", "oldstable", "testing", "unstable", "sid"]))
}

/// The entry that serves the security suites, which live in an archive of their own.
pub(crate) fn security_archive(entries: &[Entry]) -> Option<&Entry> {
    let is_security = |suite: &String| suite.ends_with("-security") || suite.ends_with("/updates");
    entries
        .iter()
        .find(|entry| entry.suites.iter().any(is_security))
}

fn parse_lines(text: &str) -> Vec<Entry> {
    text.lines().filter_map(parse_line).collect()
}

/// `deb [options] uri suite component...`
fn parse_line(line: &str) -> Option<Entry> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let rest = line.strip_prefix("deb")?;
    let rest = rest.strip_prefix(char::is_whitespace)?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracket) => {
            let (options, rest) = bracket.split_once(']')?;
            (
                options.split_whitespace().map(str::to_owned).collect(),
                rest,
            )
        }
        None => (Vec::new(), rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    if !words.any(|component| component == "main") {
        return None;
    }
    let (keys, options): (Vec<String>, Vec<String>) = options
        .into_iter()
        .partition(|option| option.starts_with("signed-by="));
    let signed_by = keys
        .first()
        .map(|key| key["signed-by=".len()..].replace(',', " "))
        .unwrap_or_default();
    Some(Entry {
        uris: vec![uri.to_owned()],
        suites: vec![suite.to_owned()],
        signed_by,
        options: kept(options),
    })
}

/// Only what decides whether a fetch succeeds; an `arch=` or `lang=` of the machine is not ours.
fn kept(options: Vec<String>) -> Vec<String> {
    let wanted = [
        "trusted=",
        "check-valid-until=",
        "allow-insecure=",
        "check-date=",
    ];
    options
        .into_iter()
        .filter(|option| wanted.iter().any(|name| option.starts_with(name)))
        .collect()
}

fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            entries.extend(entry_of(&fields));
            fields.clear();
        } else if line.starts_with('#') {
            // A comment may stand between the lines of a field.
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    entries
}

fn entry_of(fields: &[(String, String)]) -> Option<Entry> {
    let field = |wanted: &str| {
        fields
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.as_str())
    };
    let words = |wanted: &str| -> Vec<String> {
        field(wanted)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    let enabled = !matches!(
        field("enabled"),
        Some("no" | "false" | "0" | "off" | "without" | "disable")
    );
    let usable = enabled
        && words("types").iter().any(|word| word == "deb")
        && words("components").iter().any(|word| word == "main");
    let (uris, suites) = (words("uris"), words("suites"));
    if !usable || uris.is_empty() || suites.is_empty() {
        return None;
    }
    let options = [
        "trusted",
        "check-valid-until",
        "allow-insecure",
        "check-date",
    ]
    .iter()
    .filter_map(|name| field(name).map(|value| format!("{name}={value}")))
    .collect();
    Some(Entry {
        uris,
        suites,
        signed_by: field("signed-by").unwrap_or_default().to_owned(),
        options,
    })
}

/// `check-valid-until` to `Check-Valid-Until`.
fn title_case(name: &str) -> String {
    let capital = |word: &str| {
        let (first, rest) = word.split_at(1.min(word.len()));
        first.to_ascii_uppercase() + rest
    };
    name.split('-').map(capital).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_style_with_and_without_options() {
        let entries = parse_lines(
            "# a comment\n\
             deb http://mirror.example/debian bookworm main contrib # the rest\n\
             deb-src http://mirror.example/debian bookworm main\n\
             deb [arch=amd64 signed-by=/k/a.gpg,/k/b.gpg trusted=yes] https://other.example/d bookworm-security main\n\
             deb http://vendor.example stable tools\n",
        );
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].uris, ["http://mirror.example/debian"]);
        assert_eq!(entries[0].signed_by, "");
        assert_eq!(entries[1].signed_by, "/k/a.gpg /k/b.gpg");
        assert_eq!(
            entries[1].stanza_for("trixie"),
            "Types: deb\nURIs: https://other.example/d\nSuites: trixie\nComponents: main\n\
             Signed-By: /k/a.gpg /k/b.gpg\nTrusted: yes\n"
        );
    }

    #[test]
    fn deb822_style_with_comment_continuation_and_disabled_stanza() {
        let entries = parse_deb822(
            "Types: deb deb-src\n# a snapshot\nURIs: http://mirror.example/debian\nSuites: bookworm\n bookworm-updates\n\
             Components: main contrib\nSigned-By: /k/debian.gpg\n\n\
             Types: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\nComponents: main\nEnabled: no\n\n\
             Types: deb\nURIs: http://mirror.example/s2\nSuites: bookworm-security\nComponents: main\nCheck-Valid-Until: no\n",
        );
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(entries[0].signed_by, "/k/debian.gpg");
        assert!(entries[1]
            .stanza_for("x")
            .contains("Check-Valid-Until: no\n"));
    }

    #[test]
    fn a_key_in_armor_survives() {
        let text = "Types: deb\nURIs: http://m.example/d\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----\n";
        let entries = parse_deb822(text);
        let stanza = entries[0].stanza_for("trixie");
        assert!(stanza.ends_with("Signed-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----\n"));
    }

    #[test]
    fn the_main_archive_is_the_one_of_the_release() {
        let entries = parse_lines(
            "deb http://vendor.example/x stable main\n\
             deb http://s.example/debian-security bookworm-security main\n\
             deb http://m.example/debian bookworm-updates main\n\
             deb http://m.example/debian bookworm main\n",
        );
        assert_eq!(
            main_archive(&entries, "bookworm").unwrap().uris,
            ["http://m.example/debian"]
        );
        assert_eq!(
            main_archive(&entries, "noble").unwrap().uris,
            ["http://vendor.example/x"]
        );
        assert_eq!(
            security_archive(&entries).unwrap().uris,
            ["http://s.example/debian-security"]
        );
        assert!(main_archive(&[], "bookworm").is_none());
    }

    #[test]
    fn both_styles_are_read_from_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let parts = dir.path().join("sources.list.d");
        fs::create_dir(&parts).unwrap();
        fs::write(
            dir.path().join("sources.list"),
            "deb http://a.example/d bookworm main\n",
        )
        .unwrap();
        fs::write(
            parts.join("b.sources"),
            "Types: deb\nURIs: http://b.example/d\nSuites: x\nComponents: main\n",
        )
        .unwrap();
        fs::write(parts.join("c.list"), "deb http://c.example/d x main\n").unwrap();
        fs::write(parts.join("d.list.save"), "deb http://d.example/d x main\n").unwrap();
        let uris: Vec<_> = read_all(dir.path())
            .unwrap()
            .into_iter()
            .flat_map(|entry| entry.uris)
            .collect();
        assert_eq!(
            uris,
            [
                "http://a.example/d",
                "http://b.example/d",
                "http://c.example/d"
            ]
        );
    }
}
