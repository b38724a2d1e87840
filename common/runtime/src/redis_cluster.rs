//! The nodes of a Redis Cluster: which node owns a partition's slot, and which nodes exist beside
//! those of the URL. Without them a program cannot reconnect once the URL's nodes are down or no
//! longer masters.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::Value;

use crate::redis_url::redirected;

/// Host and port of a node.
pub type Address = (String, u16);

/// The known nodes of a Cluster.
#[derive(Debug, Default)]
pub struct Members(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    owners: HashMap<u16, Address>,
    nodes: Vec<Address>,
    turn: usize,
}

impl Members {
    /// The nodes to try for a partition, each once: the last known owner, the configured nodes, the
    /// others. The owner is dropped until it has answered again, and each call starts elsewhere in
    /// the rest: a node that never answers must not use up the time of every attempt.
    pub fn to_ask(&self, partition: u16, configured: &[Address]) -> Vec<Address> {
        let mut state = self.locked();
        let owner = state.owners.remove(&partition);
        let mut rest: Vec<Address> = configured.to_vec();
        rest.extend(state.nodes.iter().filter(|node| !configured.contains(node)).cloned());
        let turn = state.turn % rest.len().max(1);
        state.turn = state.turn.wrapping_add(1);
        rest.rotate_left(turn);
        rest.retain(|node| Some(node) != owner.as_ref());
        owner.into_iter().chain(rest).collect()
    }

    /// Records the owner of a partition's slot.
    pub fn set_owner(&self, partition: u16, owner: Address) {
        self.locked().owners.insert(partition, owner);
    }

    /// Records the nodes; an empty list changes nothing.
    pub fn set_nodes(&self, nodes: Vec<Address>) {
        if !nodes.is_empty() {
            self.locked().nodes = nodes;
        }
    }

    /// The configured nodes and all other known ones.
    pub fn with_known(&self, configured: &[Address]) -> Vec<Address> {
        let mut all = configured.to_vec();
        all.extend(self.locked().nodes.iter().filter(|node| !configured.contains(node)).cloned());
        all
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The nodes in a reply to `CLUSTER SLOTS`, masters and replicas, each once; `asked` is the
/// replying host.
pub fn nodes(answer: &Value, asked: &str) -> Vec<Address> {
    let mut nodes: Vec<Address> = Vec::new();
    let Value::Array(ranges) = answer else { return nodes };
    for range in ranges {
        let Value::Array(range) = range else { continue };
        for node in range.iter().skip(2) {
            let Value::Array(node) = node else { continue };
            let host = match node.first() {
                Some(Value::BulkString(host)) => String::from_utf8_lossy(host).into_owned(),
                _ => String::new(),
            };
            let Some(Value::Int(port)) = node.get(1) else { continue };
            if let Some(address) = redirected(asked, &format!("{host}:{port}"))
                && !nodes.contains(&address)
            {
                nodes.push(address);
            }
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        ("h".to_owned(), port)
    }

    #[test]
    fn owner_is_tried_first_but_once_without_an_answer() {
        let members = Members::default();
        members.set_nodes(vec![at(1), at(3)]);
        members.set_owner(7, at(3));
        assert_eq!(members.to_ask(7, &[at(1), at(2)]), [at(3), at(1), at(2)]);
        assert_eq!(members.to_ask(7, &[at(1), at(2)]), [at(2), at(3), at(1)], "no answer: others first");
        assert_eq!(members.to_ask(7, &[at(1), at(2)]), [at(3), at(1), at(2)]);
        members.set_nodes(Vec::new());
        assert_eq!(members.with_known(&[at(1), at(2)]), [at(1), at(2), at(3)]);
        assert_eq!(Members::default().to_ask(0, &[]), []);
    }

    #[test]
    fn nodes_of_cluster_slots() {
        let node = |host: Value, port| Value::Array(vec![host, Value::Int(port), Value::Nil]);
        let host = |host: &str| Value::BulkString(host.as_bytes().to_vec());
        let range = |nodes: [Value; 2]| Value::Array([vec![Value::Int(0), Value::Int(9)], nodes.to_vec()].concat());
        let answer = Value::Array(vec![
            range([node(host("a"), 1), node(Value::Nil, 2)]),
            range([node(host("a"), 1), node(host("::1"), 3)]),
        ]);
        let expected = [("a".to_owned(), 1), ("asked".to_owned(), 2), ("::1".to_owned(), 3)];
        assert_eq!(nodes(&answer, "asked"), expected);
        assert_eq!(nodes(&Value::Okay, "asked"), []);
    }
}
