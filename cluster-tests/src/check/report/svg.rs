//! The few shapes of which pictures consist.

use keyward::report::visible;
use maud::{Markup, html};

/// The width of every picture, in its own units.
pub(super) const WIDTH: f64 = 1080.0;
/// The position at which time begins: the names stand before it.
pub(super) const LEFT: f64 = 150.0;

/// A picture under construction.
#[derive(Debug, Default)]
pub(super) struct Svg {
    shapes: Vec<Markup>,
}

impl Svg {
    /// A rectangle with a class and a tooltip.
    pub(super) fn bar(&mut self, class: &str, at: (f64, f64), size: (f64, f64), title: &str) {
        self.styled_bar(class, None, at, size, title);
    }

    /// As [`Svg::bar`], in a colour of its own.
    pub(super) fn styled_bar(
        &mut self,
        class: &str,
        fill: Option<&str>,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        title: &str,
    ) {
        let style = fill.map(|fill| format!("fill:{fill}"));
        self.shapes.push(html! {
            rect class=(class) style=[style] x=(place(x)) y=(place(y)) width=(place(width.max(1.0)))
                height=(place(height)) {
                @if !title.is_empty() { title { (visible(title)) } }
            }
        });
    }

    /// A line with a class.
    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.shapes.push(html! {
            line class=(class) x1=(place(x1)) y1=(place(y1)) x2=(place(x2)) y2=(place(y2)) {}
        });
    }

    /// Words with a class, which begin, end or are centred at the place.
    pub(super) fn text(&mut self, class: &str, (x, y): (f64, f64), words: &str) {
        let words = visible(words);
        self.shapes.push(html! { text class=(class) x=(place(x)) y=(place(y)) { (words) } });
    }

    /// The whole picture.
    pub(super) fn finish(self, height: f64, label: &str) -> Markup {
        let view = format!("0 0 {WIDTH} {height:.0}");
        html! {
            svg viewBox=(view) role="img" aria-label=(visible(label)) {
                @for shape in self.shapes { (shape) }
            }
        }
    }
}

/// A length to a tenth of a unit.
fn place(length: f64) -> String {
    format!("{length:.1}")
}

/// Time along a picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub(super) begin: u64,
    pub(super) end: u64,
}

impl Axis {
    /// The position of a moment; moments outside are at the edge.
    #[allow(clippy::cast_precision_loss, reason = "a picture's precision is a tenth of a unit")]
    pub(super) fn x(self, at: u64) -> f64 {
        let length = (self.end - self.begin).max(1) as f64;
        let at = at.clamp(self.begin, self.end) - self.begin;
        LEFT + (WIDTH - LEFT - 10.0) * (at as f64 / length)
    }

    /// Draws the axis below the picture, with round times.
    pub(super) fn draw(self, svg: &mut Svg, top: f64, bottom: f64) {
        let mut step = 1_000;
        for factor in [2, 5, 2].iter().cycle() {
            if (self.end - self.begin) / step <= 8 {
                break;
            }
            step *= if *factor == 5 { 5 } else { 2 };
        }
        let mut at = self.begin.div_ceil(step) * step;
        while at <= self.end {
            let x = self.x(at);
            svg.line("grid", (x, top), (x, bottom));
            svg.text("tick", (x, bottom + 14.0), &short(at, step));
            at += step;
        }
    }
}

/// A time in the unit that suits the step.
fn short(at: u64, step: u64) -> String {
    match step {
        1_000_000_000.. => format!("{} s", at / 1_000_000_000),
        100_000_000.. => format!("{}.{} s", at / 1_000_000_000, at / 100_000_000 % 10),
        1_000_000.. => format!("{} ms", at / 1_000_000),
        _ => format!("{}.{:03} ms", at / 1_000_000, at / 1_000 % 1_000),
    }
}

/// The colour of a name: the same wherever it appears in the page.
pub(super) fn colour(place: usize) -> String {
    // Steps of the golden angle keep neighbours apart, however many there are.
    let hue = (place * 137 + 210) % 360;
    let light = if place.is_multiple_of(2) { 47 } else { 60 };
    format!("hsl({hue} 55% {light}%)")
}
