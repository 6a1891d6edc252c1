//! A map with a bound: entries that nobody asked for during two generations are gone.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// Keeps at most `2 × generation` entries, those used last among them. Values are cheap to clone.
pub struct RecentMap<K, V> {
    generation: usize,
    maps: Mutex<(HashMap<K, V>, HashMap<K, V>)>,
}

impl<K: Hash + Eq, V: Clone> RecentMap<K, V> {
    pub fn new(generation: usize) -> Self {
        Self { generation: generation.max(1), maps: Mutex::default() }
    }

    pub fn get(&self, key: &K) -> Option<V> {
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let (young, old) = &mut *maps;
        if let Some(value) = young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = old.remove_entry(key)?;
        put(young, old, self.generation, key, value.clone());
        Some(value)
    }

    pub fn insert(&self, key: K, value: V) {
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let (young, old) = &mut *maps;
        put(young, old, self.generation, key, value);
    }

    /// Replaces a value in one step. `change` gets the one that is there.
    pub fn update<R>(&self, key: K, change: impl FnOnce(Option<V>) -> (V, R)) -> R {
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        let (young, old) = &mut *maps;
        let before = young.remove(&key).or_else(|| old.remove(&key));
        let (value, result) = change(before);
        put(young, old, self.generation, key, value);
        result
    }
}

fn put<K: Hash + Eq, V>(young: &mut HashMap<K, V>, old: &mut HashMap<K, V>, generation: usize, key: K, value: V) {
    if young.len() >= generation && !young.contains_key(&key) {
        *old = std::mem::take(young);
    }
    young.insert(key, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_size_is_bounded() {
        let map = RecentMap::new(10);
        map.insert(0, "kept");
        for n in 1..1000 {
            map.insert(n, "other");
            assert_eq!(map.get(&0), Some("kept"), "after {n}");
        }
        assert_eq!(map.get(&1), None);
        let maps = map.maps.lock().unwrap();
        assert!(maps.0.len() + maps.1.len() <= 20);
    }
}
