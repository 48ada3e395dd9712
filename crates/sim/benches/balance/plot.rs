//! Plots, written by hand: a few lines in SVG.

use std::fmt::Write;

use crate::convergence::Curve;
use crate::table::Row;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 250.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Told apart also by those who see few colours (after Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// A line of a plot.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// One axis, linear or logarithmic.
#[derive(Clone, Copy)]
struct Axis {
    name: &'static str,
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    fn over(name: &'static str, log: bool, values: impl Iterator<Item = f64>) -> Self {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if !(low.is_finite() && high.is_finite()) {
            return Self { name, low: 0.0, high: 1.0, log: false };
        }
        let log = log && low > 0.0;
        let high = if high > low { high } else { low + 1.0 };
        Self { name, low, high, log }
    }

    fn place(&self, value: f64) -> f64 {
        if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let mut ticks = Vec::new();
            let mut decade = 10f64.powf(self.low.log10().floor());
            while decade <= self.high * 1.001 {
                ticks.extend([1.0, 3.0].map(|m| m * decade));
                decade *= 10.0;
            }
            ticks.retain(|t| (self.low * 0.999..=self.high * 1.001).contains(t));
            return ticks;
        }
        let rough = (self.high - self.low) / 5.0;
        let unit = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * unit).into_iter().find(|s| *s >= rough);
        let step = step.unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        let ticks = (first..).map(|i| i as f64 * step);
        ticks.take_while(|tick| *tick <= self.high + step * 1e-6).collect()
    }
}

/// How the largest load falls.
pub(crate) fn convergence(curves: &[Curve]) -> String {
    let lines: Vec<Line> = curves
        .iter()
        .map(|curve| Line {
            name: curve.name.clone(),
            points: curve.max_over_mean.iter().enumerate().map(|(i, &y)| (i as f64, y)).collect(),
        })
        .collect();
    let points = || lines.iter().flat_map(|line| &line.points);
    let x = Axis::over("rounds", false, points().map(|p| p.0));
    let y = Axis::over("largest load / mean", false, points().map(|p| p.1).chain([1.0]));
    svg(&[panel("Convergence, seed 1", &lines, x, y)])
}

/// What plans cost as clusters grow.
pub(crate) fn cost(sizes: &[(usize, Row)]) -> String {
    let of = |name: &str, pick: &dyn Fn(&Row) -> Option<f64>| {
        let point = |(hosts, row): &(usize, Row)| Some((*hosts as f64, pick(row)?));
        vec![Line { name: name.to_owned(), points: sizes.iter().filter_map(point).collect() }]
    };
    let panels = [
        (
            "Moves over the bound",
            "moves / bound",
            false,
            of("uniform, 10 machines a host", &|r| {
                r.moves.map(|m| m / r.moves_bound.max(1) as f64)
            }),
        ),
        ("Messages", "messages a host", false, of("in all, until quiet", &|r| r.messages_per_host)),
        ("Time to plan", "seconds", true, of("one core", &|r| r.cpu_seconds.or(r.seconds))),
    ];
    let drawn: Vec<String> = panels
        .into_iter()
        .map(|(title, name, log, lines)| {
            let values = || lines[0].points.iter();
            let x = Axis::over("hosts", true, values().map(|p| p.0));
            let floor = if log { f64::INFINITY } else { 0.0 };
            let y = Axis::over(
                name,
                log,
                values().map(|p| p.1).chain(floor.is_finite().then_some(floor)),
            );
            panel(title, &lines, x, y)
        })
        .collect();
    svg(&drawn)
}

fn svg(panels: &[String]) -> String {
    let height = HEIGHT * panels.len() as f64;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, panel) in panels.iter().enumerate() {
        let down = HEIGHT * index as f64;
        // Writing into a text cannot fail.
        let _ = writeln!(text, "<g transform=\"translate(0 {down})\">\n{panel}</g>");
    }
    text + "</svg>\n"
}

fn panel(title: &str, lines: &[Line], x: Axis, y: Axis) -> String {
    let (wide, high) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let at = |px: f64, py: f64| (LEFT + x.place(px) * wide, TOP + (1.0 - y.place(py)) * high);
    let (right, bottom) = (LEFT + wide, TOP + high);
    let mut text = format!(
        "<text x=\"{LEFT}\" y=\"24\" font-weight=\"bold\">{title}</text>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n\
         <text transform=\"translate(18 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>\n",
        LEFT + wide / 2.0,
        HEIGHT - 12.0,
        x.name,
        TOP + high / 2.0,
        y.name,
    );
    for tick in x.ticks() {
        let (px, _) = at(tick, y.low);
        let _ = writeln!(
            text,
            "<path d=\"M{px:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>\
             <text x=\"{px:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
            bottom + 16.0
        );
    }
    for tick in y.ticks() {
        let (_, py) = at(x.low, tick);
        let shown = (tick * 1e4).round() / 1e4;
        let _ = writeln!(
            text,
            "<path d=\"M{LEFT} {py:.1}H{right}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{shown}</text>",
            LEFT - 6.0,
            py + 4.0
        );
    }
    for (index, line) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let path: Vec<String> = line
            .points
            .iter()
            .map(|&(px, py)| at(px, py))
            .map(|(px, py)| format!("{px:.1},{py:.1}"))
            .collect();
        let label = TOP + 16.0 * index as f64 + 8.0;
        let name = line.name.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <path d=\"M{} {label}h18\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{}\" y=\"{}\">{name}</text>",
            path.join(" "),
            right + 12.0,
            right + 36.0,
            label + 4.0
        );
    }
    text
}
