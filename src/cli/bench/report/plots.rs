//! The pictures: rates over time, times over time, and times by percentile.
//!
//! Times are on logarithmic axes of whole decades: a stall is a thousand times longer than a usual
//! answer, and both must be visible. An interval without answers has a rate of 0, and a gap in the
//! times.

use std::ops::Range;

use plotters::coord::combinators::IntoLogRange as _;
use plotters::style::RGBColor;

use super::chart::{Curve, band, chart, draw, on_paper, percentile, seconds, short, time};
use crate::bench::{Interval, IntervalFigures, Measurement, Operation, OperationFigures};

const FAILED: RGBColor = RGBColor(0xd0, 0x3b, 0x36);

/// A picture with its title and legend.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) title: String,
    /// Each curve's name and colour, as `#rrggbb`.
    pub(super) legend: Vec<(String, String)>,
    pub(super) svg: String,
}

/// The pictures of a measurement; those without a single point are left out.
pub(super) fn plots(measurement: &Measurement) -> Vec<Plot> {
    let mut plots = vec![rates(measurement)];
    plots.extend(percentiles(measurement));
    let operations = measurement.operations.iter().map(|figures| figures.operation);
    plots.extend(operations.filter_map(|operation| times(&measurement.intervals, operation)));
    plots
}

fn rates(measurement: &Measurement) -> Plot {
    let intervals = &measurement.intervals;
    let operations = measurement.operations.iter().map(|figures| figures.operation);
    let rate = |operation: Operation| Curve {
        name: operation.word().to_owned(),
        colour: colour(operation),
        // An interval without answers has a rate of 0.
        runs: steps(intervals, |interval| {
            Some(interval.of(operation).map_or(0.0, |figures| figures.per_second))
        }),
    };
    let mut curves: Vec<Curve> = operations.map(rate).collect();
    if intervals.iter().any(|interval| failed(interval) > 0) {
        let runs = steps(intervals, |interval| Some(per_second(failed(interval), interval)));
        curves.push(Curve { name: "failures".to_owned(), colour: FAILED, runs });
    }
    let top = values(&curves).fold(0.0, f64::max);
    let height = 0.0..if top > 0.0 { top * 1.05 } else { 1.0 };
    let svg = on_paper(|area| {
        let mut chart = chart(area, span(intervals), height.clone(), (seconds, short));
        band(&mut chart, warmup_end(intervals), &height);
        draw(&mut chart, &curves);
    });
    Plot { title: "Answers a second".to_owned(), legend: legend(&curves, intervals), svg }
}

/// The median, the 99th percentile and the maximum of one kind of operation.
fn times(intervals: &[Interval], operation: Operation) -> Option<Plot> {
    type Pick = fn(&IntervalFigures) -> u64;
    let all: [(&str, RGBColor, Pick); 3] = [
        ("p50", RGBColor(0x2a, 0x9d, 0x8f), |figures| figures.p50_us),
        ("p99", RGBColor(0xd9, 0x8e, 0x04), |figures| figures.p99_us),
        ("max", RGBColor(0xc2, 0x44, 0x7e), |figures| figures.max_us),
    ];
    let curves = all.map(|(name, colour, pick)| Curve {
        name: name.to_owned(),
        colour,
        runs: steps(intervals, |interval| {
            // An interval with nothing but refusals and failures has no times.
            interval.of(operation).filter(|figures| figures.max_us > 0).map(|it| micros(pick(it)))
        }),
    });
    let height = decades(values(&curves))?;
    let svg = on_paper(|area| {
        let scale = height.clone().log_scale();
        let mut chart = chart(area, span(intervals), scale, (seconds, time));
        band(&mut chart, warmup_end(intervals), &height);
        draw(&mut chart, &curves);
    });
    let title = format!("Times of {}", operation.word());
    Some(Plot { title, legend: legend(&curves, intervals), svg })
}

/// Times of all operations by percentile, on a scale on which each further nine is as wide as the
/// one before.
fn percentiles(measurement: &Measurement) -> Option<Plot> {
    let with_times = measurement.operations.iter().filter(|figures| figures.count > 0);
    let curves: Vec<Curve> = with_times.map(curve_of).collect();
    let height = decades(values(&curves))?;
    let points = curves.iter().flat_map(|curve| &curve.runs).flatten();
    let width = decades(points.map(|(x, _)| *x))?;
    let svg = on_paper(|area| {
        let (width, height) = (width.log_scale(), height.log_scale());
        let mut chart = chart(area, width, height, (percentile, time));
        draw(&mut chart, &curves);
    });
    let legend = legend(&curves, &[]);
    Some(Plot { title: "Times by percentile".to_owned(), legend, svg })
}

fn curve_of(figures: &OperationFigures) -> Curve {
    let (count, max) = (number(figures.count), micros(figures.max_us));
    let curve = figures.distribution.curve().into_iter();
    // No share is above the slowest one: it is drawn where one of all would be above.
    let run = curve.map(|(share, us)| (1.0 / (1.0 - share).max(1.0 / count), us.clamp(1.0, max)));
    Curve {
        name: figures.operation.word().to_owned(),
        colour: colour(figures.operation),
        runs: vec![run.collect()],
    }
}

/// A curve that is level within each interval, and broken where there is no value.
fn steps(intervals: &[Interval], value: impl Fn(&Interval) -> Option<f64>) -> Vec<Vec<(f64, f64)>> {
    let mut runs = vec![Vec::new()];
    for interval in intervals {
        let run = runs.last_mut().expect("there is always one");
        match value(interval) {
            Some(value) => run.extend([
                (interval.at_seconds, value),
                (interval.at_seconds + interval.seconds, value),
            ]),
            None if run.is_empty() => {}
            None => runs.push(Vec::new()),
        }
    }
    runs
}

/// The end of the warm-up, from the start of the load.
fn warmup_end(intervals: &[Interval]) -> f64 {
    intervals.iter().filter(|interval| interval.warmup).map(end_of).fold(0.0, f64::max)
}

fn legend(curves: &[Curve], intervals: &[Interval]) -> Vec<(String, String)> {
    let entry = |name: &str, RGBColor(red, green, blue)| {
        (name.to_owned(), format!("#{red:02x}{green:02x}{blue:02x}"))
    };
    let mut legend: Vec<_> = curves.iter().map(|curve| entry(&curve.name, curve.colour)).collect();
    if intervals.iter().any(|interval| interval.warmup) {
        legend.push(("warm-up".to_owned(), "var(--band)".to_owned()));
    }
    legend
}

fn colour(operation: Operation) -> RGBColor {
    match operation {
        Operation::Acquire => RGBColor(0x2f, 0x77, 0xc4),
        Operation::Renew => RGBColor(0x4c, 0x9f, 0x6b),
        Operation::Check => RGBColor(0xd9, 0x8e, 0x04),
        Operation::Release => RGBColor(0x9a, 0x6d, 0xd7),
    }
}

fn failed(interval: &Interval) -> u64 {
    interval.operations.iter().map(|figures| figures.failed).sum()
}

fn per_second(count: u64, interval: &Interval) -> f64 {
    if interval.seconds > 0.0 { number(count) / interval.seconds } else { 0.0 }
}

fn values(curves: &[Curve]) -> impl Iterator<Item = f64> {
    curves.iter().flat_map(|curve| &curve.runs).flatten().map(|(_, value)| *value)
}

fn end_of(interval: &Interval) -> f64 {
    interval.at_seconds + interval.seconds
}

/// The time from the start of the load to its end.
fn span(intervals: &[Interval]) -> Range<f64> {
    0.0..intervals.last().map_or(1.0, end_of).max(0.001)
}

/// The whole decades around these values, one at least; `None` if there are no values.
fn decades(values: impl Iterator<Item = f64>) -> Option<Range<f64>> {
    let (low, high) = values.fold(None, |range: Option<(f64, f64)>, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    })?;
    let low = low.max(1.0).log10().floor();
    let high = high.max(1.0).log10().ceil().max(low + 1.0);
    Some(10f64.powf(low)..10f64.powf(high))
}

#[expect(clippy::cast_precision_loss, reason = "a picture has a thousand places")]
fn number(count: u64) -> f64 {
    count as f64
}

/// A time as a value on a logarithmic axis, which has no zero.
fn micros(us: u64) -> f64 {
    number(us).max(1.0)
}
