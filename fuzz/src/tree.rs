// SPDX-License-Identifier: MIT OR Apache-2.0
//! A whole machine from its files: sysfs, procfs, dumps and the driver's structs, joined to a picture and shown.

use std::sync::{Arc, Mutex};

use gpreempt::kfd::snapshot::{collect, Want};
use gpreempt::kfd::tree::Tree;
use gpreempt::kfd::{queues, topology, Root};
use gpreempt::sink::picture::{Beside, Picture, Sample, Select};
use gpreempt::sink::table::Layout;

use super::{files, screen};

pub fn tree(bytes: &[u8]) {
    let mut tree = Tree::default();
    for (path, content) in files::files(bytes) {
        tree.put(path, content);
    }
    let root = Root::recorded(Arc::new(Mutex::new(tree)));
    let nodes = topology::read(&root);
    assert!(nodes.iter().all(|node| node.gpu_id.0 != 0));
    assert!(nodes.windows(2).all(|pair| pair[0].node <= pair[1].node));
    let listed = queues::read(&root).unwrap_or_default();
    let snapshot = collect(&root, Want { hqds: true });
    assert_eq!(snapshot.gpus.len(), nodes.len());
    // Whatever else is known of queues, those of sysfs are shown, and no others.
    assert_eq!(snapshot.queues.len(), listed.len());
    for queue in &listed {
        assert!(snapshot
            .queue(queue.pid, queue.gpu_id, queue.queue_id)
            .is_some());
        assert!(snapshot.process(queue.pid).is_some());
    }
    let before = Sample::of(&snapshot);
    let picture = || {
        let beside = Beside {
            before: Some(&before),
            model: None,
            with_slots: true,
        };
        Picture::new(&snapshot, &Select::default(), beside)
    };
    let mut shown = Vec::new();
    picture()
        .write(&mut shown, Layout::default())
        .expect("memory can be written");
    screen::is_text(&shown);
    for record in picture().records() {
        let mut line = serde_json::to_vec(&record).expect("it is JSON");
        line.push(b'\n');
        screen::is_json_lines(&line);
    }
}
