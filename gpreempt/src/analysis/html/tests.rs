// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page is well-formed, loads nothing, and hostile names stay text.

use super::super::conclude::{conclude, Means};
use super::super::run::tests::{run_of, S};
use super::super::run::{Level, Stretch};
use super::*;
use crate::event::{Cause, Comm, GpuId, Pid};

fn analysis(name: &[u8]) -> Analysis {
    let mut run = run_of(&[(7, 0, 1, Some(9)), (7, 1, 2, None)]);
    run.members[0].comm = Some(Comm::from_procfs(name));
    run.parties = vec!["sh -c '<b>&'".to_owned()];
    run.levels.push(Level {
        ts_ns: S,
        gpu_id: GpuId(1),
        queues: 2,
        cp_queues: 2,
        processes: 1,
        oversubscribed: false,
    });
    run.stretches.push(Stretch {
        from_ns: 3 * S,
        to_ns: 4 * S,
        gpu_id: None,
        pid: Some(Pid(7)),
        queue_id: None,
        cause: Cause::Other,
    });
    run.lives[0].slots.all.insert((0, 1, 2));
    conclude(vec![run], Vec::new(), None, &Means::default())
}

#[test]
fn the_page_is_well_formed_and_loads_nothing() {
    let text = page("Queues of a model", &analysis(b"<script>x\n"), true).unwrap();
    let parsed = scraper::Html::parse_document(&text);
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    let select = |what: &str| {
        let selector = scraper::Selector::parse(what).unwrap();
        parsed.select(&selector).count()
    };
    assert_eq!(select("script, link, img, iframe, [src], [href]"), 0);
    assert_eq!(select("b"), 0, "what a command holds stays text");
    assert!(select("svg") >= 3, "timeline, levels and slots");
    assert!(text.contains("Simulated GPU"));
    assert!(!text.contains("url("));
}

#[test]
fn nothing_seen_is_a_page_too() {
    let analysis = conclude(vec![run_of(&[])], Vec::new(), None, &Means::default());
    let text = page("Queues of a model", &analysis, false).unwrap();
    assert!(text.contains("No queue was seen"));
    assert!(!text.contains("Simulated GPU"));
    assert!(comparison(&[], &[], false).unwrap().contains("<table>"));
}

#[test]
fn time_off_is_drawn_within_the_life_of_a_queue() {
    let analysis = analysis(b"model\n");
    let whole = plot::timeline(&analysis.runs[0]).unwrap();
    // A bar each, the time off of each as a box in a frame.
    assert_eq!(whole.matches("<rect").count(), 2 + 2 * 2, "{whole}");
}
