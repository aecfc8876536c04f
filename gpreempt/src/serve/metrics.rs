// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metrics in the OpenMetrics format. Labels have values of closed sets only (classes, triggers, guards, GPUs): the number of series
//! does not grow with jobs or processes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{exponential_buckets, Histogram};
use prometheus_client::registry::{Registry, Unit};

use super::seconds;
use crate::policy::{Class, GuardName, Trigger, View};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClass {
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTrigger {
    trigger: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfGuard {
    guard: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfGpu {
    gpu: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    jobs: Family<OfClass, Gauge>,
    processes: Family<OfClass, Gauge>,
    processes_of_gpu: Family<OfGpu, Gauge>,
    held: Gauge,
    pending: Gauge<u64, AtomicU64>,
    hints: Gauge,
    holds: Family<OfTrigger, Counter>,
    releases: Counter,
    refusals: Counter,
    denials: Family<OfGuard, Counter>,
    paused: Counter<f64, AtomicU64>,
    hold_seconds: Histogram,
    release_seconds: Histogram,
    pause_seconds: Histogram,
    request_seconds: Histogram,
    lost: Counter,
    /// Of all labels together.
    totals: Totals,
}

/// Sums that `status` tells too.
#[derive(Debug, Default)]
struct Totals {
    holds: AtomicU64,
    denials: AtomicU64,
}

/// 100 us to 6.5 s.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(100e-6, 2.0, 17))
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("gpreempt");
        macro_rules! metric {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
            ($name:literal, $help:literal, $metric:expr, seconds) => {{
                let metric = $metric;
                registry.register_with_unit($name, $help, Unit::Seconds, metric.clone());
                metric
            }};
        }
        let build: Family<Build, Gauge> =
            metric!("build_info", "Version of the daemon", Family::default());
        build
            .get_or_create(&Build {
                version: env!("CARGO_PKG_VERSION"),
            })
            .set(1);
        Self {
            jobs: metric!("jobs", "Jobs by class", Family::default()),
            processes: metric!(
                "processes",
                "Processes that have /dev/kfd open, by class",
                Family::default()
            ),
            processes_of_gpu: metric!(
                "gpu_processes",
                "Processes that have queues on a GPU",
                Family::default()
            ),
            held: metric!("jobs_held", "Jobs that are held now", Gauge::default()),
            pending: metric!(
                "online_pending_packets",
                "Packets that wait in queues of online jobs, when last looked at",
                Gauge::default()
            ),
            hints: metric!(
                "hints",
                "Hints of online services that are in force",
                Gauge::default()
            ),
            holds: metric!(
                "holds",
                "Stops of a job that were seen to take effect, by what triggered them",
                Family::default()
            ),
            releases: metric!("releases", "Restarts of a job", Counter::default()),
            refusals: metric!(
                "refusals",
                "Stops and restarts that the driver refused, or that were not seen",
                Counter::default()
            ),
            denials: metric!(
                "denials",
                "Stops that a policy wanted and a guard did not allow",
                Family::default()
            ),
            paused: metric!(
                "paused",
                "Time for which jobs were held, sum over all that were released",
                Counter::default(),
                seconds
            ),
            hold_seconds: metric!(
                "hold_latency",
                "From the first call into the driver to its last answer, of a stop",
                latency(),
                seconds
            ),
            release_seconds: metric!(
                "release_latency",
                "Likewise of a restart",
                latency(),
                seconds
            ),
            pause_seconds: metric!(
                "pause",
                "How long jobs were held",
                Histogram::new(exponential_buckets(1e-3, 2.0, 16)),
                seconds
            ),
            request_seconds: metric!(
                "online_request",
                "How long requests of online services took, by their hints",
                latency(),
                seconds
            ),
            lost: metric!(
                "lost_events",
                "Events of the driver that were lost",
                Counter::default()
            ),
            totals: Totals::default(),
            registry,
        }
    }

    pub(super) fn view(&self, view: &View) {
        let mut gpus: BTreeMap<String, i64> = BTreeMap::new();
        for class in [Class::Online, Class::Offline, Class::Ignore] {
            let jobs: Vec<_> = view.of(class).collect();
            let label = OfClass {
                class: class.name(),
            };
            self.jobs.get_or_create(&label).set(count(jobs.len()));
            let members = jobs.iter().map(|job| job.members.len()).sum();
            self.processes.get_or_create(&label).set(count(members));
            for gpu in jobs
                .iter()
                .flat_map(|job| &job.members)
                .flat_map(|member| &member.gpus)
            {
                *gpus.entry(gpu.to_string()).or_default() += 1;
            }
        }
        for (gpu, processes) in gpus {
            self.processes_of_gpu
                .get_or_create(&OfGpu { gpu })
                .set(processes);
        }
        self.held
            .set(count(view.jobs.iter().filter(|job| job.is_held()).count()));
        self.pending
            .set(view.of(Class::Online).map(|job| job.activity.pending).sum());
        self.hints.set(i64::from(view.hints));
        for request in &view.latencies {
            self.request_seconds.observe(seconds(request.latency_ns));
        }
    }

    pub(super) fn held(&self, trigger: Trigger, latency_ns: u64) {
        let label = OfTrigger {
            trigger: trigger.name(),
        };
        self.holds.get_or_create(&label).inc();
        self.totals.holds.fetch_add(1, Ordering::Relaxed);
        self.hold_seconds.observe(seconds(latency_ns));
    }

    pub(super) fn released(&self, held_ns: u64, latency_ns: u64) {
        self.releases.inc();
        self.paused.inc_by(seconds(held_ns));
        self.pause_seconds.observe(seconds(held_ns));
        self.release_seconds.observe(seconds(latency_ns));
    }

    pub(super) fn refused(&self) {
        self.refusals.inc();
    }

    pub(super) fn denied(&self, guard: GuardName) {
        let label = OfGuard {
            guard: guard.name(),
        };
        self.denials.get_or_create(&label).inc();
        self.totals.denials.fetch_add(1, Ordering::Relaxed);
    }

    /// So many in all; it never becomes less.
    pub(super) fn lost(&self, total: u64) {
        self.lost.inner().fetch_max(total, Ordering::Relaxed);
    }

    /// Stops, restarts, refusals, denials.
    pub(super) fn totals(&self) -> [u64; 4] {
        [
            self.totals.holds.load(Ordering::Relaxed),
            self.releases.get(),
            self.refusals.get(),
            self.totals.denials.load(Ordering::Relaxed),
        ]
    }

    /// As Prometheus reads them.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_have_units_and_series_do_not_grow_with_jobs() {
        let metrics = Metrics::new();
        let lines = |metrics: &Metrics| metrics.text().lines().count();
        for trigger in [Trigger::Hint, Trigger::Pending] {
            metrics.held(trigger, 1_000_000);
            metrics.released(5_000_000, 1_000_000);
        }
        metrics.denied(GuardName::Rate);
        metrics.view(&View::default());
        let before = lines(&metrics);
        for _ in 0..1000 {
            metrics.held(Trigger::Hint, 2_000_000);
            metrics.denied(GuardName::Rate);
        }
        assert_eq!(lines(&metrics), before);
        let text = metrics.text();
        for name in [
            "gpreempt_holds_total{trigger=\"hint\"} 1001",
            "gpreempt_denials_total{guard=\"rate\"} 1001",
            "gpreempt_pause_seconds_count 2",
            "gpreempt_build_info{version=",
        ] {
            assert!(text.contains(name), "{name} in {text}");
        }
        assert_eq!(metrics.totals(), [1002, 2, 0, 1001]);
        assert!(text.ends_with("# EOF\n"));
    }

    /// Everything in it has a value.
    fn all() -> Metrics {
        let metrics = Metrics::new();
        metrics.view(&View::default());
        metrics.held(Trigger::Hint, 1);
        metrics.released(1, 1);
        metrics.denied(GuardName::Rate);
        let gpu = OfGpu { gpu: "cf19".into() };
        metrics.processes_of_gpu.get_or_create(&gpu).set(1);
        metrics
    }

    #[test]
    fn lost_events_are_counted_as_they_are_told() {
        let metrics = all();
        for total in [3, 7, 7] {
            metrics.lost(total);
        }
        let text = metrics.text();
        assert!(text.contains("gpreempt_lost_events_total 7\n"), "{text}");
    }

    #[test]
    fn the_dashboard_asks_for_metrics_that_there_are() {
        const DASHBOARD: &str = include_str!("../../../dist/grafana/gpreempt.json");
        let text = all().text();
        let name_of = |line: &str| line.split(['{', ' ']).next().unwrap().to_owned();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let names: BTreeSet<String> = lines.map(name_of).collect();
        let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let ids: BTreeSet<u64> = panels
            .iter()
            .map(|one| one["id"].as_u64().unwrap())
            .collect();
        assert_eq!(ids.len(), panels.len(), "ids of panels are unique");
        let mut asked = BTreeSet::new();
        for panel in panels {
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{}", panel["title"]);
            for target in targets {
                let expr = target["expr"].as_str().unwrap();
                let words = expr.split(|c: char| !c.is_alphanumeric() && c != '_');
                let known: Vec<&str> = words.filter(|word| word.starts_with("gpreempt_")).collect();
                assert!(!known.is_empty(), "{expr}");
                asked.extend(known.into_iter().map(str::to_owned));
            }
        }
        let unknown: Vec<&String> = asked.difference(&names).collect();
        assert!(unknown.is_empty(), "{unknown:?} are not among {names:?}");
    }
}
