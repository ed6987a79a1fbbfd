//! What was measured so far: by scenario, contender and round.
//!
//! Ratios are taken within a round, whose measurements are minutes apart at most, and summed up over rounds: a
//! machine that is slower for an hour then moves both sides of a ratio.

use std::collections::HashMap;

use crate::figures::{Figure, Figures, Spread};
use crate::scenario::Contender;

#[derive(Default)]
pub struct Results {
    rounds: usize,
    measured: HashMap<(&'static str, Contender, usize), Figures>,
    /// Why a contender has no figures in some round.
    failed: HashMap<(&'static str, Contender), String>,
}

impl Results {
    pub fn add(&mut self, scenario: &'static str, contender: Contender, round: usize, figures: Figures) {
        self.rounds = self.rounds.max(round + 1);
        self.measured.insert((scenario, contender, round), figures);
    }

    pub fn fail(&mut self, scenario: &'static str, contender: Contender, why: String) {
        self.failed.insert((scenario, contender), why);
    }

    pub fn failure(&self, scenario: &'static str, contender: Contender) -> Option<&str> {
        self.failed.get(&(scenario, contender)).map(String::as_str)
    }

    pub fn one(
        &self,
        scenario: &'static str,
        contender: Contender,
        round: usize,
        figure: Figure,
    ) -> Option<f64> {
        self.measured.get(&(scenario, contender, round))?.get(&figure).copied()
    }

    /// The values of all rounds, in their order; a round without one is left out.
    pub fn all(&self, scenario: &'static str, contender: Contender, figure: Figure) -> Vec<f64> {
        (0..self.rounds).filter_map(|round| self.one(scenario, contender, round, figure)).collect()
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
