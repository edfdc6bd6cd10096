//! The ratios as an SVG: a group of bars for each workload, on a logarithmic scale.

use std::fmt::Write as _;

use crate::summary::{Row, Summary};

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 20.0;
/// Where the bars may be; names are left of it, figures right.
const BARS_LEFT: f64 = 190.0;
const BARS_RIGHT: f64 = 600.0;
const HEADER: f64 = 92.0;
const GROUP_HEADER: f64 = 30.0;
const ROW: f64 = 20.0;
const BAR: f64 = 12.0;
const GROUP_GAP: f64 = 12.0;
const FOOTER: f64 = 24.0;

/// Beyond this many times from one end to the other only powers of ten are named.
const FINE_SCALE_MAX: f64 = 100.0;

/// Follows the reader's choice of light or dark, and brings its own background.
const STYLE: &str = "\
.page{fill:#ffffff}.text{fill:#1f2328}.faint{fill:#59636e}.grid{stroke:#d1d9e0}\
.one{stroke:#1f2328}.quinn{fill:#2f6fd0}.s2n{fill:#8250df}.msquic{fill:#c2570c}.tcp{fill:#2b8a3e}\
text{font:12px system-ui,sans-serif}.head{font-size:16px;font-weight:600}.group{font-weight:600}\
.batched{fill-opacity:.6}\
@media(prefers-color-scheme:dark){.page{fill:#0d1117}.text{fill:#e6edf3}.faint{fill:#9198a1}\
.grid{stroke:#3d444d}.one{stroke:#e6edf3}.quinn{fill:#6ea8fe}.s2n{fill:#b392f0}.msquic{fill:#f0883e}\
.tcp{fill:#56d364}}";

/// Draws moorline's ratio to each of the others.
pub(crate) fn draw(summaries: &[Summary], note: &str) -> String {
    let scale = Scale::of(summaries);
    let height = HEADER + summaries.iter().map(group_height).sum::<f64>() + FOOTER;
    let mut svg = Svg(String::new());
    svg.line(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-labelledby=\"title\">"
    ));
    svg.line(format_args!("<title id=\"title\">moorline beside other transports</title>"));
    svg.line(format_args!("<style>{STYLE}</style>"));
    svg.line(format_args!(
        "<rect class=\"page\" x=\"0\" y=\"0\" width=\"{WIDTH}\" height=\"{height}\"/>"
    ));
    svg.text(MARGIN, 30.0, "text head", "start", "moorline beside other transports");
    let subtitle =
        "Ratio of medians, logarithmic: right of 1 moorline is better, left of 1 the other.";
    svg.text(MARGIN, 50.0, "faint", "start", &format!("{subtitle} {note}"));
    scale.draw(&mut svg, height - FOOTER);
    let mut top = HEADER;
    for summary in summaries {
        draw_group(&mut svg, &scale, summary, top);
        top += group_height(summary);
    }
    svg.line(format_args!("</svg>"));
    svg.0
}

fn group_height(summary: &Summary) -> f64 {
    GROUP_HEADER + ROW * summary.others.len() as f64 + GROUP_GAP
}

fn draw_group(svg: &mut Svg, scale: &Scale, summary: &Summary, top: f64) {
    let right = WIDTH - MARGIN;
    svg.text(MARGIN, top + 18.0, "text group", "start", summary.comparison.title());
    let ours = figure_text(&summary.moorline, summary.unit());
    let better = if summary.comparison.lower_is_better() { ", less is better" } else { "" };
    svg.text(right, top + 18.0, "text", "end", &format!("moorline {ours}{better}"));
    for (index, row) in summary.others.iter().enumerate() {
        let top = top + GROUP_HEADER + ROW * index as f64;
        let baseline = top + BAR - 1.0;
        svg.text(BARS_LEFT - 12.0, baseline, "text", "end", &row.title);
        let theirs = figure_text(row, summary.unit());
        svg.text(right, baseline, "faint", "end", &theirs);
        let Some(ratio) = summary.ratio_to(row).filter(|ratio| is_drawable(*ratio)) else {
            continue;
        };
        let (one, end) = (scale.x(1.0), scale.x(ratio));
        let (left, width) = (one.min(end), (end - one).abs().max(1.0));
        svg.line(format_args!(
            "<rect class=\"{}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" \
             height=\"{BAR}\"/>",
            class(&row.title)
        ));
        svg.text(BARS_RIGHT + 62.0, baseline, "text", "end", &format!("{}×", digits(ratio)));
    }
}

fn class(title: &str) -> String {
    let peer = match title.split([',', '-', ' ']).next() {
        Some("quinn") => "quinn",
        Some("s2n") => "s2n",
        Some("msquic") => "msquic",
        _ => "tcp",
    };
    if title.contains("batched") { format!("{peer} batched") } else { peer.to_owned() }
}

fn is_drawable(ratio: f64) -> bool {
    ratio.is_finite() && ratio > 0.0
}

/// The median with its unit.
fn figure_text(row: &Row, unit: &str) -> String {
    let Some(value) = row.value() else { return "no figure".to_owned() };
    let (value, thousands) = match value.median {
        value if value >= 1e6 => (value / 1e6, " M "),
        value if value >= 1e4 => (value / 1e3, " k "),
        value => (value, " "),
    };
    let unit = if unit == "us" { "µs" } else { unit };
    format!("{}{thousands}{unit}", digits(value))
}

/// Three digits, or as many as there are before the point.
fn digits(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 => format!("{value:.2}"),
        medium if medium < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A logarithmic scale that begins and ends at 1, 2 or 5 times a power of ten.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn of(summaries: &[Summary]) -> Self {
        let ratios = summaries
            .iter()
            .flat_map(|summary| summary.others.iter().filter_map(|row| summary.ratio_to(row)));
        let (mut low, mut high) = (0.5_f64, 2.0_f64);
        for ratio in ratios.filter(|ratio| is_drawable(*ratio)) {
            (low, high) = (low.min(ratio), high.max(ratio));
        }
        let all = ticks();
        let below = all.iter().copied().rfind(|tick| *tick <= low);
        let above = all.iter().copied().find(|tick| *tick >= high);
        Self { low: below.unwrap_or(low), high: above.unwrap_or(high) }
    }

    fn x(&self, ratio: f64) -> f64 {
        let share = (ratio / self.low).ln() / (self.high / self.low).ln();
        BARS_LEFT + share * (BARS_RIGHT - BARS_LEFT)
    }

    fn draw(&self, svg: &mut Svg, bottom: f64) {
        let fine = self.high / self.low <= FINE_SCALE_MAX;
        for tick in ticks().into_iter().filter(|tick| (self.low..=self.high).contains(tick)) {
            if !fine && !is_power_of_ten(tick) {
                continue;
            }
            let x = self.x(tick);
            let class = if tick == 1.0 { "one" } else { "grid" };
            svg.line(format_args!(
                "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>",
                HEADER - 12.0
            ));
            svg.text(x, HEADER - 18.0, "faint", "middle", &tick.to_string());
        }
    }
}

/// Exact where they are written out, so that they can be compared.
fn ticks() -> Vec<f64> {
    let small = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5];
    let large = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];
    small.into_iter().chain(large).collect()
}

fn is_power_of_ten(tick: f64) -> bool {
    tick.log10().fract().abs() < 1e-9
}

struct Svg(String);

impl Svg {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // A string takes all.
        let _ = writeln!(self.0, "{line}");
    }

    fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        self.line(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Comparison;
    use crate::summary::tests::row;

    fn summaries() -> Vec<Summary> {
        let summary = |comparison| Summary {
            comparison,
            moorline: row("moorline", "msg/s", &[4e6]),
            others: vec![
                row("quinn", "msg/s", &[8e5]),
                row("s2n-quic", "msg/s", &[4e5]),
                row("msquic-async, batched", "msg/s", &[2e4]),
                row("TCP <& rustls>", "msg/s", &[]),
            ],
        };
        Comparison::ALL.map(summary).into()
    }

    /// Every element ends, in the order in which they began.
    fn expect_balanced(svg: &str) {
        let mut open = Vec::new();
        for piece in svg.split('<').skip(1) {
            let (tag, text) = piece.split_once('>').expect("a tag ends");
            assert!(!text.contains('>'), "{text}");
            assert!(tag.matches('"').count() % 2 == 0, "{tag}");
            let name = tag.split_whitespace().next().expect("a tag has a name");
            if let Some(name) = name.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn the_drawing_is_well_formed_and_names_every_workload_and_figure() {
        let svg = draw(&summaries(), "Rounds: 3 & more.");
        expect_balanced(&svg);
        for comparison in Comparison::ALL {
            assert!(svg.contains(&format!(">{}<", comparison.title())), "{comparison:?}");
        }
        for text in [
            "moorline 4.00 M msg/s",
            "800 k msg/s",
            "20.0 k msg/s",
            "200×",
            "5.00×",
            "no figure",
            "3 &amp; more",
        ] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.contains("TCP &lt;&amp; rustls&gt;"), "{svg}");
    }

    #[test]
    fn every_bar_lies_within_the_scale_and_begins_or_ends_at_one() {
        let scale = Scale::of(&summaries());
        assert_eq!((scale.low, scale.high), (0.005, 200.0));
        assert_eq!((scale.x(0.005), scale.x(200.0)), (BARS_LEFT, BARS_RIGHT));
        assert!(scale.x(0.2) < scale.x(1.0) && scale.x(1.0) < scale.x(5.0));
    }

    #[test]
    fn a_drawing_of_nothing_is_still_one() {
        expect_balanced(&draw(&[], ""));
        assert!(is_power_of_ten(0.001) && is_power_of_ten(1000.0) && !is_power_of_ten(0.2));
    }
}
