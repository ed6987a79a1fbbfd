//! What was measured so far: by scenario, row (a contender, unless said otherwise) and round; a scenario whose
//! contenders are started several times a round has as many more of them.
//!
//! Ratios are taken within a round, whose measurements are minutes apart at most, and summed up over rounds: a
//! machine that is slower for an hour then moves both sides of a ratio.

use std::collections::HashMap;
use std::hash::Hash;

use crate::Outcome;
use crate::figures::{Figure, Figures, Spread};
use crate::scenario::Contender;

pub struct Results<Row = Contender> {
    rounds: usize,
    measured: HashMap<(&'static str, Row, usize), Figures>,
    /// Why a row has no figures in some round.
    failed: HashMap<(&'static str, Row), String>,
}

impl<Row: Copy + Eq + Hash> Results<Row> {
    pub fn new() -> Self {
        Self { rounds: 0, measured: HashMap::new(), failed: HashMap::new() }
    }

    pub fn add(&mut self, scenario: &'static str, row: Row, round: usize, measured: Outcome<Figures>) {
        self.rounds = self.rounds.max(round + 1);
        match measured {
            Ok(figures) => {
                self.measured.insert((scenario, row, round), figures);
            }
            Err(error) => {
                eprintln!("bench:         no figures: {error}");
                self.failed.insert((scenario, row), error.to_string());
            }
        }
    }

    pub fn failure(&self, scenario: &'static str, row: Row) -> Option<&str> {
        self.failed.get(&(scenario, row)).map(String::as_str)
    }

    pub fn one(&self, scenario: &'static str, row: Row, round: usize, figure: Figure) -> Option<f64> {
        self.measured.get(&(scenario, row, round))?.get(&figure).copied()
    }

    /// The values of all rounds, in their order; a round without one is left out.
    pub fn all(&self, scenario: &'static str, row: Row, figure: Figure) -> Vec<f64> {
        (0..self.rounds).filter_map(|round| self.one(scenario, row, round, figure)).collect()
    }

    pub fn spread(&self, scenario: &'static str, row: Row, figure: Figure) -> Option<Spread> {
        Spread::of(self.all(scenario, row, figure))
    }

    /// `combine` of what two functions find in the same round.
    pub fn by_round(
        &self,
        left: impl Fn(usize) -> Option<f64>,
        right: impl Fn(usize) -> Option<f64>,
        combine: impl Fn(f64, f64) -> f64,
    ) -> Option<Spread> {
        Spread::of((0..self.rounds).filter_map(|round| Some(combine(left(round)?, right(round)?))))
    }
}
