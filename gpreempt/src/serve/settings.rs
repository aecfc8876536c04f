// SPDX-License-Identifier: MIT OR Apache-2.0
//! The configuration from its files: the later one counts, rules of all of them count in their order. Every value knows where it
//! comes from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, Context as _, Result};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::api::Setting;
use crate::policy::{Config, PolicyName};

/// Rules of all files are added up, where of other keys the later value counts.
const RULE: &str = "rule";

/// What is in force, and where it comes from.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) config: Config,
    files: Vec<PathBuf>,
    policy: Option<PolicyName>,
    settings: Vec<Setting>,
}

impl Settings {
    /// Reads files, and all `*.toml` of directories, in this order. `policy` counts above them.
    pub(super) fn load(files: &[PathBuf], policy: Option<PolicyName>) -> Result<Self> {
        let mut merged = Table::new();
        let mut settings: BTreeMap<String, Setting> = BTreeMap::new();
        for file in all(files)? {
            let name = file.display().to_string();
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {name}"))?;
            // Told with its line, which is lost when files are merged.
            Config::parse_part(&text).with_context(|| name.clone())?;
            let table: Table = text.parse().with_context(|| name.clone())?;
            let spans = DeTable::parse(&text).with_context(|| name.clone())?;
            let before = rules_of(&merged);
            note(&mut settings, "", spans.get_ref(), before, &|at| {
                format!("{name}:{}", Config::line_of(&text, at))
            });
            merge(&mut merged, table);
        }
        let text = merged.to_string();
        let mut config = Config::parse(&text).map_err(|error| match &error {
            // The line of the merged text would be of no file.
            crate::policy::ConfigError::Invalid { what, .. } => anyhow!("{what}"),
            crate::policy::ConfigError::Parse(error) => anyhow!("{}", error.message()),
        })?;
        if let Some(name) = policy {
            config.policy.name = name;
            if let Some(fault) = config.policy.fault() {
                return Err(anyhow!("{fault}"));
            }
            let key = "policy.name".to_owned();
            settings.insert(
                key.clone(),
                Setting {
                    key,
                    value: format!("\"{name}\""),
                    origin: "--policy".to_owned(),
                },
            );
        }
        for (key, value) in config.values() {
            settings.entry(key.to_owned()).or_insert_with(|| Setting {
                key: key.to_owned(),
                value,
                origin: "default".to_owned(),
            });
        }
        Ok(Self {
            config,
            files: files.to_vec(),
            policy,
            settings: settings.into_values().collect(),
        })
    }

    /// The same files as they are now.
    pub(super) fn again(&self) -> Result<Self> {
        Self::load(&self.files, self.policy)
    }

    /// Every value that is in force.
    pub(super) fn settings(&self) -> &[Setting] {
        &self.settings
    }
}

fn all(files: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for file in files {
        if !file.is_dir() {
            all.push(file.clone());
            continue;
        }
        let listed =
            fs::read_dir(file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut parts: Vec<PathBuf> = listed
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension() == Some("toml".as_ref()))
            .filter(|path| !is_hidden(path))
            .collect();
        parts.sort();
        all.append(&mut parts);
    }
    Ok(all)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn rules_of(table: &Table) -> usize {
    table
        .get(RULE)
        .and_then(Value::as_array)
        .map_or(0, Vec::len)
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (Some(Value::Array(old)), Value::Array(mut new)) if key == RULE => old.append(&mut new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Notes where each value of a file stands. Rules are counted from 1 over all files.
fn note(
    settings: &mut BTreeMap<String, Setting>,
    above: &str,
    table: &DeTable<'_>,
    rules_before: usize,
    origin: &dyn Fn(usize) -> String,
) {
    for (key, value) in table {
        let key = match above {
            "" => key.get_ref().to_string(),
            above => format!("{above}.{}", key.get_ref()),
        };
        match value.get_ref() {
            DeValue::Table(table) => note(settings, &key, table, rules_before, origin),
            DeValue::Array(rules) if key == RULE => {
                for (number, rule) in (rules_before + 1..).zip(rules.iter()) {
                    if let DeValue::Table(rule) = rule.get_ref() {
                        note(settings, &format!("{RULE}.{number}"), rule, 0, origin);
                    }
                }
            }
            _ => {
                let setting = Setting {
                    key: key.clone(),
                    value: shown(value),
                    origin: origin(value.span().start),
                };
                settings.insert(key, setting);
            }
        }
    }
}

fn shown(value: &Spanned<DeValue<'_>>) -> String {
    fn of(value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix());
                parsed.map_or_else(|_| Value::String(number.to_string()), Value::Integer)
            }
            DeValue::Float(number) => {
                let parsed = number.as_str().parse();
                parsed.map_or_else(|_| Value::String(number.to_string()), Value::Float)
            }
            DeValue::Boolean(yes) => Value::Boolean(*yes),
            DeValue::Datetime(when) => Value::Datetime(*when),
            DeValue::Array(all) => Value::Array(all.iter().map(|v| of(v.get_ref())).collect()),
            DeValue::Table(table) => Value::Table(
                table
                    .iter()
                    .map(|(k, v)| (k.get_ref().to_string(), of(v.get_ref())))
                    .collect(),
            ),
        }
    }
    of(value.get_ref()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin<'a>(settings: &'a Settings, key: &str) -> (&'a str, &'a str) {
        let found = settings.settings().iter().find(|one| one.key == key);
        let found = found.unwrap_or_else(|| panic!("no {key}"));
        (&found.value, &found.origin)
    }

    #[test]
    fn the_later_file_counts_and_every_value_knows_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("10.toml"), dir.path().join("20.toml"));
        fs::write(
            &first,
            "[[rule]]\ncomm = \"a\"\nclass = \"online\"\n\n[policy]\nname = \"slo\"\n[guards]\nmax_pause = \"2s\"\n",
        )
        .unwrap();
        fs::write(
            &second,
            "[[rule]]\ncomm = \"b\"\nclass = \"offline\"\n[policy.slo]\ntarget = \"5ms\"\n[guards]\nmax_pause = \"1s\"\n",
        )
        .unwrap();
        fs::write(dir.path().join("30.txt"), "not read").unwrap();
        let settings = Settings::load(&[dir.path().to_owned()], None).unwrap();
        assert_eq!(settings.config.rules.len(), 2);
        assert_eq!(settings.config.guards.max_pause, 1_000_000_000);
        assert_eq!(
            origin(&settings, "policy.name"),
            ("\"slo\"", format!("{}:6", first.display()).as_str())
        );
        assert_eq!(
            origin(&settings, "guards.max_pause"),
            ("\"1s\"", format!("{}:7", second.display()).as_str())
        );
        assert_eq!(
            origin(&settings, "rule.2.comm"),
            ("\"b\"", format!("{}:2", second.display()).as_str())
        );
        assert_eq!(
            origin(&settings, "policy.priority.linger"),
            ("\"50ms\"", "default")
        );
        let other = Settings::load(&[dir.path().to_owned()], Some(PolicyName::Manual)).unwrap();
        assert_eq!(origin(&other, "policy.name"), ("\"manual\"", "--policy"));
        assert_eq!(
            other.again().unwrap().config.policy.name,
            PolicyName::Manual
        );
    }

    #[test]
    fn mistakes_name_their_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, "[guards]\n\nmax_pose = \"1s\"\n").unwrap();
        let error = Settings::load(std::slice::from_ref(&file), None).unwrap_err();
        let said = format!("{error:#}");
        assert!(said.contains("a.toml") && said.contains("line 3"), "{said}");
        fs::write(&file, "[policy]\nname = \"slo\"\n").unwrap();
        let error = Settings::load(std::slice::from_ref(&file), None).unwrap_err();
        assert!(format!("{error:#}").contains("policy.slo.target"));
        let error = Settings::load(&["/nonexistent.toml".into()], None).unwrap_err();
        assert!(format!("{error:#}").contains("/nonexistent.toml"));
    }

    #[test]
    fn every_default_is_told() {
        let settings = Settings::load(&[], None).unwrap();
        assert!(settings
            .settings()
            .iter()
            .all(|one| one.origin == "default"));
        for key in ["serve.lease", "guards.margin", "policy.slo.floor"] {
            origin(&settings, key);
        }
    }
}
