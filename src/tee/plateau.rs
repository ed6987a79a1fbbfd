//! The shadow's median latency over its last pairs, stretch by stretch: whether it still falls shows whether caches are
//! still filling. Stretches are counted in pairs, not in seconds, so that they weigh the same at any load.

use std::collections::VecDeque;

/// Enough that a median moves by less than the tenth that is looked for.
const PAIRS: usize = 40;
const STRETCHES: usize = 8;

#[derive(Debug, Default)]
pub struct Plateau {
    current: Vec<u64>,
    stretches: VecDeque<u64>,
}

impl Plateau {
    pub fn record(&mut self, micros: u64) {
        self.current.push(micros);
        if self.current.len() < PAIRS {
            return;
        }
        let (_, median, _) = self.current.select_nth_unstable(PAIRS / 2);
        if self.stretches.len() == STRETCHES {
            self.stretches.pop_front();
        }
        self.stretches.push_back(*median);
        self.current.clear();
    }

    pub fn clear(&mut self) {
        self.current.clear();
        self.stretches.clear();
    }

    /// Pairs and median, in microseconds, of each whole stretch; the oldest first.
    pub fn stretches(&self) -> impl Iterator<Item = (u64, u64)> {
        self.stretches.iter().map(|median| (PAIRS as u64, *median))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_knows_the_last_whole_stretches() {
        let mut plateau = Plateau::default();
        for stretch in 0..10_u64 {
            (0..PAIRS as u64).for_each(|n| plateau.record(1000 - 100 * stretch + n % 3));
        }
        plateau.record(7);
        let medians: Vec<_> = plateau.stretches().map(|(_, median)| median).collect();
        assert_eq!(medians, [801, 701, 601, 501, 401, 301, 201, 101]);
        plateau.clear();
        assert_eq!(plateau.stretches().count(), 0);
    }
}
