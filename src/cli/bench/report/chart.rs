//! The drawing of curves: a coordinate system with its labels, and lines in it.
//!
//! Colours of curves are readable on light and on dark ground. All else is drawn in [`INK`], which
//! the page's style replaces by the text colour of the reader's scheme.

use std::ops::Range;

use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::drawing::{DrawingArea, IntoDrawingArea as _};
use plotters::element::{PathElement, Rectangle};
use plotters::prelude::SVGBackend;
use plotters::style::{Color as _, RGBColor};

/// The size of a picture, twice as large as it is shown, because coordinates are whole numbers.
const SIZE: (u32, u32) = (1120, 520);

/// The height of letters, in the same units.
const LETTERS: u32 = 29;

/// The colour of axes, letters and the band behind the warm-up; `style.css` depends on it.
const INK: RGBColor = RGBColor(0, 0, 0);

/// The widths of the topmost curve and of those below it, which are wider, so that curves on top of
/// each other are all visible. There are four kinds of operations, and failures.
const WIDTHS: [u32; 5] = [4, 6, 8, 10, 12];

/// The most labels on an axis: so few that a logarithmic one has them at powers of ten only.
const LABELS: usize = 8;

/// The message for a failed drawing operation, which cannot happen with a string as the target.
const DRAWN: &str = "drawing into a string does not fail";

/// The drawing area.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A curve in one colour. A time without an answer is a gap between two of its runs.
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) colour: RGBColor,
    pub(super) runs: Vec<Vec<(f64, f64)>>,
}

/// The formats of the values along both axes.
pub(super) type Labels = (fn(f64) -> String, fn(f64) -> String);

/// A picture with its coordinates.
pub(super) type Chart<'a, X, Y> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>;

/// An empty picture with its axes.
pub(super) fn chart<'a, X, Y>(
    area: &Area<'a>,
    x: X,
    y: Y,
    labels: Labels,
) -> Chart<'a, X::CoordDescType, Y::CoordDescType>
where
    X: AsRangedCoord<Value = f64, CoordDescType: ValueFormatter<f64>>,
    Y: AsRangedCoord<Value = f64, CoordDescType: ValueFormatter<f64>>,
{
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(72)
        .x_label_area_size(48)
        .y_label_area_size(120)
        .build_cartesian_2d(x, y)
        .expect(DRAWN);
    chart
        .configure_mesh()
        .x_labels(LABELS)
        .y_labels(LABELS)
        .x_label_formatter(&|value| labels.0(*value))
        .y_label_formatter(&|value| labels.1(*value))
        .label_style(("sans-serif", LETTERS))
        .axis_style(INK.mix(0.5))
        .bold_line_style(INK.mix(0.2))
        .light_line_style(INK.mix(0.06))
        .draw()
        .expect(DRAWN);
    chart
}

/// Shades the time before `end`, over the height of the picture.
pub(super) fn band<X, Y>(chart: &mut Chart<'_, X, Y>, end: f64, height: &Range<f64>)
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    let corners = [(0.0, height.start), (end, height.end)];
    let shade = (end > 0.0).then(|| Rectangle::new(corners, INK.mix(0.08).filled()));
    chart.draw_series(shade).expect(DRAWN);
}

/// Draws curves, the last one on top.
pub(super) fn draw<X, Y>(chart: &mut Chart<'_, X, Y>, curves: &[Curve])
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    for (Curve { colour, runs, .. }, width) in curves.iter().rev().zip(WIDTHS).rev() {
        let style = colour.mix(0.85).stroke_width(width);
        let paths = runs.iter().filter(|run| !run.is_empty());
        let paths = paths.map(|run| PathElement::new(run.clone(), style));
        chart.draw_series(paths).expect(DRAWN);
    }
}

/// The picture as an `svg` element.
pub(super) fn on_paper(draw: impl FnOnce(&Area<'_>)) -> String {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    draw(&area);
    area.present().expect(DRAWN);
    drop(area);
    svg
}

/// `0`, `2.5`, `5000`.
pub(super) fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `2.5 s`.
pub(super) fn seconds(value: f64) -> String {
    format!("{} s", short(value))
}

/// `100 µs`, of microseconds.
pub(super) fn time(us: f64) -> String {
    match us {
        small if small < 1e3 => format!("{} µs", short(small)),
        middle if middle < 1e6 => format!("{} ms", short(middle / 1e3)),
        large => format!("{} s", short(large / 1e6)),
    }
}

/// `90 %` at 10, `99 %` at 100, `99.9 %` at 1000.
pub(super) fn percentile(one_in: f64) -> String {
    let below = 100.0 - 100.0 / one_in;
    let text = format!("{below:.6}");
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short() {
        let table =
            [(1.0, "1 µs"), (100.0, "100 µs"), (1e4, "10 ms"), (1e6, "1 s"), (1e8, "100 s")];
        for (us, label) in table {
            assert_eq!(time(us), label);
        }
        let table = [(1.0, "0 %"), (10.0, "90 %"), (100.0, "99 %"), (1000.0, "99.9 %")];
        for (one_in, label) in table {
            assert_eq!(percentile(one_in), label);
        }
        assert_eq!(
            (short(0.0), short(2.5), short(5000.0)),
            ("0".into(), "2.5".into(), "5000".into())
        );
    }
}
