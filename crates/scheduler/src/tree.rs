//! A tree over places in a row, each with room or none; a node knows the most of each kind that a place below it has.

use crate::Room;

/// Nodes in the order of a heap: 1 is the root, children of `n` are `2n` and `2n + 1`. A place without room takes nothing,
/// not even what needs nothing.
#[derive(Debug, Clone)]
pub(crate) struct MaxTree {
    nodes: Vec<Option<Room>>,
    /// Leaves there is space for; a power of two.
    width: usize,
    used: usize,
}

pub(crate) const ROOT: usize = 1;

impl Default for MaxTree {
    fn default() -> Self {
        Self { nodes: vec![None; 2], width: 1, used: 0 }
    }
}

impl MaxTree {
    /// Adds a place at the end of the row; gives its number.
    pub(crate) fn push(&mut self, room: Option<Room>) -> usize {
        if self.used == self.width {
            self.widen();
        }
        self.used += 1;
        self.set(self.used - 1, room);
        self.used - 1
    }

    fn widen(&mut self) {
        let leaves = self.nodes[self.width..].to_vec();
        self.width *= 2;
        self.nodes = vec![None; self.width * 2];
        self.nodes[self.width..self.width + leaves.len()].copy_from_slice(&leaves);
        for node in (ROOT..self.width).rev() {
            self.nodes[node] = self.of_children(node);
        }
    }

    fn of_children(&self, node: usize) -> Option<Room> {
        match (self.nodes[2 * node], self.nodes[2 * node + 1]) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (one, None) | (None, one) => one,
        }
    }

    pub(crate) fn set(&mut self, place: usize, room: Option<Room>) {
        let mut node = self.width + place;
        self.nodes[node] = room;
        while node > ROOT {
            node /= 2;
            let now = self.of_children(node);
            if self.nodes[node] == now {
                return;
            }
            self.nodes[node] = now;
        }
    }

    /// The most of each kind below the node, if something below it may hold `needs`.
    pub(crate) fn holding(&self, node: usize, needs: Room) -> Option<Room> {
        self.nodes[node].filter(|room| room.holds(needs))
    }

    /// The most of each kind that any place has.
    pub(crate) fn most(&self) -> Option<Room> {
        self.nodes[ROOT]
    }

    /// The place that a node is, if it is one.
    pub(crate) fn place(&self, node: usize) -> Option<usize> {
        node.checked_sub(self.width)
    }
}
