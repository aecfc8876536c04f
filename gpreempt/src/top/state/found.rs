// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is worth knowing now.

use super::State;
use crate::findings::{self, Finding, Kind, Severity};
use crate::sink::finding::grouped;
use crate::top::feed::Feed;

/// What preemptions cost is a share of the time that was watched: of less than this, it says nothing.
const LEAST_WATCHED_NS: u64 = 10_000_000_000;

impl State {
    /// After the nodes are known.
    pub(super) fn judge(&mut self, feed: &Feed, now_ns: u64) {
        let evidence = findings::Evidence {
            // Firmware's times of the last save stay on the screen.
            before: None,
            ..feed
                .history
                .evidence(Some(&feed.model), findings::IDLE_AFTER_NS, now_ns)
        };
        let watched_ns = now_ns.saturating_sub(feed.model.since_ns().unwrap_or(now_ns));
        self.findings = grouped(&findings::find(&evidence));
        self.findings.retain(|finding| match finding.kind {
            // What is over is no news on a screen that shows what is.
            Kind::Oversubscribed => self
                .gpus
                .iter()
                .any(|gpu| Some(gpu.gpu_id) == finding.gpu_id && gpu.over.is_some()),
            Kind::Preempted => watched_ns >= LEAST_WATCHED_NS,
            _ => true,
        });
        let nodes = self.gpus.iter().map(|gpu| gpu.gpu_id);
        self.rates = nodes
            .filter_map(|gpu_id| Some((gpu_id, feed.history.rate(gpu_id)?)))
            .collect();
    }

    /// Findings of the nodes that are shown, what matters most first.
    pub(in crate::top) fn found(&self) -> impl Iterator<Item = &Finding> {
        let only = self.gpu_filter;
        self.findings.iter().filter(move |finding| {
            only.is_none() || finding.gpu_id.is_none_or(|id| only == Some(id))
        })
    }

    /// Those that cost time.
    pub(in crate::top) fn warnings(&self) -> impl Iterator<Item = &Finding> {
        self.found()
            .filter(|finding| finding.severity == Severity::Warn)
    }
}
