// SPDX-License-Identifier: MIT OR Apache-2.0

//! What windows cost, and how costs are written.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The marginal cost of a page is the difference between these two sizes.
const MARGINAL: [u64; 2] = [512, 4096];

/// What one window executes in its cheapest repetition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    pub instructions: u64,
    /// By how many instructions the dearest repetition was dearer.
    pub spread: u64,
    pub dsb: u64,
    pub isb: u64,
    pub tlbi: u64,
    /// Those of the DSB that are `DSB ISH`; the library's others are `DSB ISHST`.
    pub ish: u64,
    pub dmb: u64,
}

impl Cost {
    /// All counts with their names.
    pub fn counts(&self) -> [(&'static str, u64); 7] {
        [
            ("instructions", self.instructions),
            ("spread", self.spread),
            ("DSB", self.dsb),
            ("ISB", self.isb),
            ("TLBI", self.tlbi),
            ("DSB ISH", self.ish),
            ("DMB", self.dmb),
        ]
    }
}

impl fmt::Display for Cost {
    /// `15910 / 1 / 1 / 0`: instructions, DSB, ISB and TLBI.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            instructions,
            dsb,
            isb,
            tlbi,
            ..
        } = self;
        write!(f, "{instructions} / {dsb} / {isb} / {tlbi}")
    }
}

/// What one page more costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PerPage {
    pub instructions: f64,
    /// DSB, ISB and TLBI.
    pub barriers: [f64; 3],
}

impl fmt::Display for PerPage {
    /// `3.47 / 0 / 0 / 0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let barriers = self.barriers.map(few).join(" / ");
        write!(f, "{} / {barriers}", instructions(self.instructions))
    }
}

/// What all windows of one measurement cost, by number of the window and by pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Costs(pub BTreeMap<(u8, u64), Cost>);

impl Costs {
    /// The cost of a window.
    pub fn get(&self, op: u8, pages: u64) -> Option<&Cost> {
        self.0.get(&(op, pages))
    }

    /// The windows with one number, the smallest first.
    pub fn of(&self, op: u8) -> impl Iterator<Item = (u64, &Cost)> {
        self.0
            .range((op, 0)..=(op, u64::MAX))
            .map(|((_, pages), cost)| (*pages, cost))
    }

    /// The marginal cost of a page, if the operation was measured with both sizes.
    pub fn per_page(&self, op: u8) -> Option<PerPage> {
        let [few, many] = MARGINAL.map(|pages| self.get(op, pages));
        let (few, many) = (few?, many?);
        let slope = |of: fn(&Cost) -> u64| {
            let more = of(many) as f64 - of(few) as f64;
            more / (MARGINAL[1] - MARGINAL[0]) as f64
        };
        Some(PerPage {
            instructions: slope(|cost| cost.instructions),
            barriers: [
                slope(|cost| cost.dsb),
                slope(|cost| cost.isb),
                slope(|cost| cost.tlbi),
            ],
        })
    }
}

/// Two decimals where they matter.
pub fn instructions(value: f64) -> String {
    if value.abs() < 0.005 {
        "0".to_owned()
    } else if value < 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.1}")
    }
}

/// Up to three decimals, without zeros at the end.
pub fn few(value: f64) -> String {
    // Adding 0.0 makes a negative zero positive.
    let rounded = (value * 1000.0).round() / 1000.0 + 0.0;
    rounded.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(sizes: [u64; 2]) -> Costs {
        let cost = |instructions, tlbi| Cost {
            instructions,
            tlbi,
            dsb: 1,
            ..Cost::default()
        };
        let windows = [
            ((8, sizes[0]), cost(1000, 0)),
            ((8, sizes[1]), cost(8168, 7168)),
        ];
        Costs(windows.into())
    }

    #[test]
    fn marginal_cost_is_taken_between_two_sizes() {
        let per_page = costs(MARGINAL).per_page(8).unwrap();
        assert_eq!(per_page.to_string(), "2.00 / 0 / 0 / 2");
        assert_eq!(costs([16, 512]).per_page(8), None);
        assert_eq!(costs(MARGINAL).per_page(9), None);
    }

    #[test]
    fn windows_of_a_number_come_in_the_order_of_their_sizes() {
        let costs = costs([16, 512]);
        let shown: Vec<_> = costs
            .of(8)
            .map(|(pages, cost)| (pages, cost.to_string()))
            .collect();
        let expected = [(16, "1000 / 1 / 0 / 0"), (512, "8168 / 1 / 0 / 7168")];
        assert_eq!(
            shown,
            expected.map(|(pages, text)| (pages, text.to_owned()))
        );
        assert_eq!(costs.of(9).count(), 0);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([2.944, 113.66].map(instructions), ["2.94", "113.7"]);
        assert_eq!(
            [0.0, 1.0, 0.00195, -0.0001, -0.25].map(few),
            ["0", "1", "0.002", "0", "-0.25"]
        );
    }
}
