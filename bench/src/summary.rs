//! Medians, ratios, and the table.

use std::fmt;

use crate::arguments::Comparison;
use crate::figure::Figure;

/// What one program measured in all rounds.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) title: String,
    pub(crate) figures: Vec<Figure>,
}

/// One workload: moorline first, then whom it is compared with.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) comparison: Comparison,
    pub(crate) moorline: Row,
    pub(crate) others: Vec<Row>,
}

/// The middle of some values, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` where there are no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            values[middle - 1].midpoint(values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, min, max })
    }
}

/// How much better `ours` is than `theirs`: above 1 where it is.
pub(crate) fn ratio(ours: f64, theirs: f64, lower_is_better: bool) -> f64 {
    if lower_is_better { theirs / ours } else { ours / theirs }
}

impl Row {
    pub(crate) fn value(&self) -> Option<Spread> {
        Spread::of(self.figures.iter().map(|figure| figure.value))
    }

    fn median_of(&self, quantity: impl Fn(&Figure) -> Option<f64>) -> Option<f64> {
        Spread::of(self.figures.iter().filter_map(quantity)).map(|spread| spread.median)
    }
}

impl Summary {
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        std::iter::once(&self.moorline).chain(&self.others)
    }

    /// moorline's ratio to one of the others.
    pub(crate) fn ratio_to(&self, other: &Row) -> Option<f64> {
        let (ours, theirs) = (self.moorline.value()?.median, other.value()?.median);
        Some(ratio(ours, theirs, self.comparison.lower_is_better()))
    }

    pub(crate) fn unit(&self) -> &str {
        self.rows().find_map(|row| row.figures.first()).map_or("", |figure| &figure.unit)
    }
}

impl Comparison {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::ThroughputTwo => "throughput, two processes",
            Self::Small => "small",
            Self::SmallTwo => "small, two processes",
            Self::Pingpong => "pingpong p50",
            Self::PingpongTwo => "pingpong p50, two processes",
            Self::Connrate => "connrate",
            Self::Memory => "memory",
            Self::Fanin => "fanin",
            Self::Requests => "requests",
            Self::RequestsTwo => "requests, two processes",
        }
    }

    pub(crate) fn lower_is_better(self) -> bool {
        matches!(self, Self::Pingpong | Self::PingpongTwo | Self::Memory)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let better = if self.comparison.lower_is_better() { "less" } else { "more" };
        let title = format!("{} ({}, {better} is better)", self.comparison.title(), self.unit());
        writeln!(f, "{title}")?;
        write!(f, "  {:<22} {:>11}  {:<25}", "", "median", "[min-max]")?;
        write!(f, " {:>6} {:>9} {:>9}", "cores", "RSS MiB", "ratio")?;
        for row in self.rows() {
            write!(f, "\n  {:<22} ", row.title)?;
            let Some(value) = row.value() else {
                write!(f, "{:>11}", "no figure")?;
                continue;
            };
            let range = format!("[{}-{}]", grouped(value.min), grouped(value.max));
            write!(f, "{:>11}  {range:<25}", grouped(value.median))?;
            write!(f, " {:>6}", optional(row.median_of(Figure::cores)))?;
            write!(f, " {:>9}", optional(row.median_of(Figure::resident_mib)))?;
            if !std::ptr::eq(row, &self.moorline) {
                write!(f, " {:>9}", optional(self.ratio_to(row)))?;
            }
        }
        Ok(())
    }
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

/// With a comma between thousands; one decimal where there are few digits.
fn grouped(value: f64) -> String {
    if value.abs() < 1000.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row(title: &str, unit: &str, values: &[f64]) -> Row {
        let figure = |value: &f64| Figure::new("m", *value, unit).with("cpu_cores", 1.5);
        Row { title: title.to_owned(), figures: values.iter().map(figure).collect() }
    }

    #[test]
    fn the_median_is_the_middle_one_or_between_the_two_in_the_middle() {
        let spread = |median, min, max| Some(Spread { median, min, max });
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), spread(2.0, 1.0, 3.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), spread(2.5, 1.0, 4.0));
        assert_eq!(Spread::of([7.0]), spread(7.0, 7.0, 7.0));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_ratio_is_above_one_where_ours_is_better_whichever_way_is_better() {
        assert_eq!(ratio(300.0, 100.0, false), 3.0);
        assert_eq!(ratio(100.0, 300.0, true), 3.0);
        assert_eq!(ratio(100.0, 50.0, true), 0.5);
    }

    #[test]
    fn thousands_are_grouped() {
        let texts = [0.0, 99.94, 999.0, 1000.0, 123_456.0, 4_920_000.4].map(grouped);
        assert_eq!(texts, ["0.0", "99.9", "999.0", "1,000", "123,456", "4,920,000"]);
    }

    #[test]
    fn the_table_has_a_line_for_each_and_says_who_gave_no_figure() {
        let summary = Summary {
            comparison: Comparison::PingpongTwo,
            moorline: row("moorline", "us", &[100.0, 110.0, 120.0]),
            others: vec![row("quinn", "us", &[55.0]), row("TCP + rustls", "us", &[])],
        };
        let table = summary.to_string();
        let lines: Vec<_> =
            table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(lines.len(), 5, "{table}");
        assert_eq!(lines[0].join(" "), "pingpong p50, two processes (us, less is better)");
        assert_eq!(lines[2], ["moorline", "110.0", "[100.0-120.0]", "1.50", "-"]);
        assert_eq!(lines[3], ["quinn", "55.0", "[55.0-55.0]", "1.50", "-", "0.50"]);
        assert_eq!(lines[4], ["TCP", "+", "rustls", "no", "figure"]);
    }
}
