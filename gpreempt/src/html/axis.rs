// SPDX-License-Identifier: MIT OR Apache-2.0
//! Axes: their limits, where their ticks are, and what they say.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};

/// One direction of a plot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
    logarithmic: bool,
}

impl Axis {
    /// From `low`, which may be the greater one, to `high`, with lines at `ticks`.
    pub(crate) fn plain(low: f64, high: f64, ticks: Vec<f64>) -> Self {
        Self {
            low,
            high,
            ticks,
            logarithmic: false,
        }
    }

    /// Its limits.
    pub(crate) fn limits(&self) -> (f64, f64) {
        (self.low, self.high)
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let place = if self.logarithmic {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        from + (f64::from(to - from) * place).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            Vec::new()
        } else {
            self.ticks.clone()
        }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

/// A logarithmic axis around positive values: limits with a little air, and ticks at 1, 2 and 5 (at 1 only, over many decades).
pub(crate) fn logarithmic(values: impl Iterator<Item = f64>) -> Option<Axis> {
    let (least, most) = values
        .filter(|value| *value > 0.0)
        .fold((f64::INFINITY, 0.0_f64), |(least, most), value| {
            (least.min(value), most.max(value))
        });
    if most == 0.0 {
        return None;
    }
    let air = (most / least).powf(0.04).max(1.08);
    let (low, high) = (least / air, most * air);
    let decades = (high / low).log10();
    let steps: &[f64] = if decades > 2.5 {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    let mut ticks = ticks(low, high, steps);
    if ticks.len() < 2 {
        let all: Vec<f64> = (10..100).map(|n| f64::from(n) / 10.0).collect();
        ticks = self::ticks(low, high, &all);
        let every = ticks.len().div_ceil(5).max(1);
        ticks = ticks.into_iter().step_by(every).collect();
    }
    Some(Axis {
        low,
        high,
        ticks,
        logarithmic: true,
    })
}

fn ticks(low: f64, high: f64, steps: &[f64]) -> Vec<f64> {
    let first = low.log10().floor() as i32;
    let last = high.log10().ceil() as i32;
    (first..=last)
        .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
        .filter(|tick| (low..=high).contains(tick))
        .collect()
}

/// A linear axis from 0 with about so many ticks at round values.
pub(crate) fn linear(most: f64, about: f64) -> Axis {
    let rough = (most / about).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|n| n * power)
        .into_iter()
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(rough);
    let ticks = (0..=(most / step).ceil() as u32)
        .map(|n| f64::from(n) * step)
        .filter(|tick| *tick <= most)
        .collect();
    Axis::plain(0.0, most, ticks)
}

/// A duration on an axis, without needless digits: `200µs`, `1ms`, `2.5s`.
pub(crate) fn time(ns: f64) -> String {
    if ns == 0.0 {
        return "0".to_owned();
    }
    let (unit, name) = match ns {
        n if n >= 0.9999e9 => (1e9, "s"),
        n if n >= 0.9999e6 => (1e6, "ms"),
        n if n >= 0.9999e3 => (1e3, "µs"),
        _ => (1.0, "ns"),
    };
    let digits = format!("{:.2}", ns / unit);
    format!(
        "{}{name}",
        digits.trim_end_matches('0').trim_end_matches('.')
    )
}

/// A ratio on an axis: `0.5`, `10`.
pub(crate) fn ratio(value: f64) -> String {
    let digits = format!("{value:.3}");
    digits
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(axis: &Axis) -> Vec<String> {
        axis.ticks.iter().copied().map(time).collect()
    }

    #[test]
    fn ticks_are_round() {
        let axis = logarithmic([150e3, 30e6].into_iter()).unwrap();
        assert!(axis.low < 150e3 && axis.high > 30e6);
        assert_eq!(
            shown(&axis),
            ["200µs", "500µs", "1ms", "2ms", "5ms", "10ms", "20ms"]
        );
        let wide = logarithmic([1e3, 5e9].into_iter()).unwrap();
        assert_eq!(
            shown(&wide),
            ["1µs", "10µs", "100µs", "1ms", "10ms", "100ms", "1s"]
        );
        assert_eq!(logarithmic(std::iter::empty()), None);
    }

    #[test]
    fn a_narrow_range_has_ticks_too() {
        for range in [[1.03e6, 1.05e6], [3e6, 3e6], [7.0e6, 9.2e6]] {
            let axis = logarithmic(range.into_iter()).unwrap();
            assert!((2..=5).contains(&axis.ticks.len()), "{axis:?}");
        }
    }

    #[test]
    fn linear_ticks_end_within() {
        assert_eq!(
            linear(47e6, 5.0),
            Axis::plain(0.0, 47e6, vec![0.0, 1e7, 2e7, 3e7, 4e7])
        );
        assert_eq!(linear(0.0, 5.0).ticks, [0.0]);
    }

    #[test]
    fn values_are_where_they_belong() {
        let time = logarithmic([1e3, 1e6].into_iter()).unwrap();
        let middle = (time.low * time.high).sqrt();
        let places = [time.low, middle, time.high].map(|v| time.map(&v, (100, 300)));
        assert_eq!(places, [100, 200, 300]);
        let rows = Axis::plain(4.0, 0.0, Vec::new());
        assert_eq!([0.0, 1.0, 4.0].map(|v| rows.map(&v, (80, 0))), [0, 20, 80]);
    }

    #[test]
    fn labels_have_no_needless_digits() {
        assert_eq!(time(2.5e9), "2.5s");
        assert_eq!(time(999.0), "999ns");
        assert_eq!(ratio(0.2), "0.2");
        assert_eq!(ratio(100.0), "100");
    }
}
