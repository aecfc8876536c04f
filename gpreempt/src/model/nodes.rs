// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nodes by id. Most events name the node of the one before, so that one is at hand.

use foldhash::HashMap;

use super::accounting::Node;
use crate::event::GpuId;

#[derive(Debug, Default)]
pub(super) struct Nodes {
    places: HashMap<GpuId, usize>,
    all: Vec<(GpuId, Node)>,
    /// Where the node of the last event is.
    last: usize,
}

impl Nodes {
    pub(super) fn get(&self, gpu_id: GpuId) -> Option<&Node> {
        self.all.get(self.place(gpu_id)?).map(|(_, node)| node)
    }

    /// The node of an event.
    pub(super) fn of_event(&mut self, gpu_id: GpuId) -> &mut Node {
        self.last = self.place(gpu_id).unwrap_or_else(|| {
            self.places.insert(gpu_id, self.all.len());
            self.all.push((gpu_id, Node::default()));
            self.all.len() - 1
        });
        &mut self.all[self.last].1
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (GpuId, &Node)> {
        self.all.iter().map(|(gpu_id, node)| (*gpu_id, node))
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn place(&self, gpu_id: GpuId) -> Option<usize> {
        match self.all.get(self.last) {
            Some((last, _)) if *last == gpu_id => Some(self.last),
            _ => self.places.get(&gpu_id).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_has_its_node_in_any_order() {
        let mut nodes = Nodes::default();
        for (n, id) in [7, 7, 9, 7, 9, 9, 8].into_iter().enumerate() {
            nodes.of_event(GpuId(id)).gpu.unmaps += 1 << n;
        }
        let unmaps = |id| nodes.get(GpuId(id)).map(|node| node.gpu.unmaps);
        assert_eq!(unmaps(7), Some(0b000_1011));
        assert_eq!(unmaps(9), Some(0b011_0100));
        assert_eq!(unmaps(8), Some(0b100_0000));
        assert_eq!(unmaps(6), None);
        assert_eq!(nodes.iter().count(), 3);
        nodes.clear();
        assert!(nodes.get(GpuId(8)).is_none());
    }
}
