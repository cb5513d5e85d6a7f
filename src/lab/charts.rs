//! A chart: data in, one SVG out.
//!
//! A chart can be read alone: its title says the finding with figures, axes carry units, what was
//! predicted is drawn beside what was measured. Colours are Okabe and Ito's, and dash and marker
//! say the same again, so colour is never the only cue. The font is bundled, so that words are
//! measured the same on a machine without fonts. It decides nothing about what is worth drawing.

mod axis;
mod ink;

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, TextStyle, register_font};

use crate::failure::Failure;
use crate::lab::stats::Series;
use crate::lab::text::short;

pub use axis::Axis;
pub use ink::Ink;

const FONT: &str = "DejaVu Sans";
static FONT_BYTES: &[u8] = include_bytes!("fonts/DejaVuSans.ttf");

/// Size in CSS pixels.
const SIZE: (u32, u32) = (900, 520);
const MARGIN: i32 = 14;
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GREY: RGBColor = RGBColor(0x66, 0x66, 0x66);
const SHADE: RGBColor = RGBColor(0xF3, 0xF1, 0xEA);
const GRID: RGBColor = RGBColor(0xE4, 0xE4, 0xE4);

/// One line of a chart.
#[derive(Debug, Clone)]
pub struct Line {
    /// For the legend.
    pub label: String,
    /// How it is drawn.
    pub ink: Ink,
    /// (x, y), ascending in x.
    pub points: Series,
}

/// A stretch of the x axis with a name, such as a load phase.
#[derive(Debug, Clone)]
pub struct Span {
    /// Written inside, at the top.
    pub label: String,
    /// Where it begins.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
}

/// A whole chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// File name without extension.
    pub name: &'static str,
    /// The finding, with figures.
    pub title: String,
    /// What is drawn, how it was measured.
    pub subtitle: String,
    /// Even for time.
    pub x_axis: Axis,
    /// With unit.
    pub x_label: &'static str,
    /// With unit.
    pub y_label: &'static str,
    /// In drawing order.
    pub lines: Vec<Line>,
    /// Every other one is shaded.
    pub spans: Vec<Span>,
}

impl Chart {
    /// Writes `NAME.svg` into `dir`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), Failure> {
        let svg = self.svg()?;
        let path = dir.join(format!("{}.svg", self.name));
        std::fs::write(&path, svg)
            .map_err(|e| Failure::Failed(format!("{}: cannot be written: {e}", path.display())))
    }

    fn failed(&self, why: impl std::fmt::Display) -> Failure {
        Failure::Failed(format!("chart {}: {why}", self.name))
    }

    /// The picture as SVG text.
    ///
    /// # Errors
    /// When the drawing library fails, which no data should cause.
    pub fn svg(&self) -> Result<String, Failure> {
        // Before any text is measured; doing it again changes nothing.
        register_font(FONT, FontStyle::Normal, FONT_BYTES)
            .map_err(|_| self.failed("the bundled font is no font"))?;
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            self.draw(&root).map_err(|e| self.failed(e))?;
            root.present().map_err(|e| self.failed(e))?;
        }
        Ok(svg)
    }

    fn draw<DB: DrawingBackend>(&self, root: &DrawingArea<DB, Shift>) -> Drawn<DB> {
        root.fill(&WHITE)?;
        let mut y = MARGIN;
        y = paragraph(root, &self.title, text(20.0, INK), y)?;
        y = paragraph(root, &self.subtitle, text(13.0, GREY), y + 2)?;
        y = self.legend(root, y + 8)?;
        let (_, plot) = root.split_vertically(y + 4);
        self.plot(&plot)
    }

    /// Swatches with their labels, in as many rows as they need. Gives the next free y.
    fn legend<DB: DrawingBackend>(
        &self,
        root: &DrawingArea<DB, Shift>,
        top: i32,
    ) -> Result<i32, DrawingAreaErrorKind<DB::ErrorType>> {
        const SWATCH: i32 = 34;
        const ROW: i32 = 21;
        let (mut x, mut y) = (MARGIN, top);
        for line in &self.lines {
            let width = root.estimate_text_size(&line.label, &text(13.0, INK))?.0 as i32;
            if x > MARGIN && x + SWATCH + 6 + width > SIZE.0 as i32 - MARGIN {
                (x, y) = (MARGIN, y + ROW);
            }
            let middle = y + ROW / 2;
            line.ink.draw(root, &[(x, middle), (x + SWATCH, middle)])?;
            line.ink.mark(root, (x + SWATCH / 2, middle))?;
            let left = text(13.0, INK).pos(Pos::new(HPos::Left, VPos::Center));
            root.draw(&Text::new(line.label.clone(), (x + SWATCH + 6, middle), left))?;
            x += SWATCH + 6 + width + 22;
        }
        Ok(y + ROW)
    }

    fn plot<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Drawn<DB> {
        let lines: Vec<Vec<(f64, f64)>> =
            self.lines.iter().map(|line| self.x_axis.place(&line.points)).collect();
        let heights = || lines.iter().flatten().map(|p| p.1);
        let (low, high) = (heights().fold(0.0, f64::min), heights().fold(0.0, f64::max));
        // Head room for the names of the spans.
        let (y_min, y_max) = (low * 1.05, if high > low { high * 1.12 } else { 1.0 });
        let along = self.x_axis.along(&lines);
        let xs = along.range();
        let mut chart = ChartBuilder::on(area)
            .margin_left(8)
            .margin_right(MARGIN + 12)
            .margin_bottom(6)
            .x_label_area_size(46)
            .y_label_area_size(74)
            .build_cartesian_2d(along, y_min..y_max)?;
        let within =
            |span: &Span| (span.from.clamp(xs.start, xs.end), span.to.clamp(xs.start, xs.end));
        for (at, span) in self.spans.iter().enumerate() {
            let (from, to) = within(span);
            if at % 2 == 1 {
                chart
                    .draw_series([Rectangle::new([(from, y_min), (to, y_max)], SHADE.filled())])?;
            }
        }
        chart
            .configure_mesh()
            .x_desc(self.x_label)
            .y_desc(self.y_label)
            .y_labels(7)
            .x_label_formatter(&|x| short(self.x_axis.value(*x)))
            .y_label_formatter(&|y| short(*y))
            .label_style(text(13.0, INK))
            .axis_desc_style(text(14.0, INK))
            .axis_style(GREY)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .draw()?;
        let plotting = chart.plotting_area().strip_coord_spec();
        let (left, upper) = plotting.get_base_pixel();
        let place = |point: &(f64, f64)| {
            let (x, y) = chart.plotting_area().map_coordinate(point);
            (x - left, y - upper)
        };
        for (line, points) in self.lines.iter().zip(&lines) {
            // Between two sizes nothing was measured: only a model knows what is there.
            if matches!(self.x_axis, Axis::Even) || line.ink.is_of_a_model() {
                let path: Vec<(i32, i32)> = points.iter().map(place).collect();
                line.ink.draw(&plotting, &path)?;
            }
        }
        // Marks are over all lines: at every point of a short line, at 12 of a long one. Each
        // line's marks are a little further on than those of the one before, so that lines on top
        // of each other both show.
        for (at, (line, points)) in self.lines.iter().zip(&lines).enumerate() {
            let step = (points.len() / 12).max(1);
            let first = if step > 1 { step * (2 * at + 1) / 6 } else { 0 };
            for point in points.iter().skip(first).step_by(step) {
                line.ink.mark(&plotting, place(point))?;
            }
        }
        for (at, span) in self.spans.iter().enumerate() {
            let (from, to) = within(span);
            let style = text(13.0, GREY).pos(Pos::new(HPos::Center, VPos::Top));
            let (x, _) = place(&((from + to) / 2.0, y_max));
            let (wide, high) = plotting.estimate_text_size(&span.label, &style)?;
            let half = wide as i32 / 2 + 3;
            // No grid line runs through the words.
            let ground = if at % 2 == 1 { SHADE } else { WHITE }.filled();
            let corners = [(x - half, 4), (x + half, 8 + high as i32)];
            plotting.draw(&Rectangle::new(corners, ground))?;
            plotting.draw(&Text::new(span.label.clone(), (x, 5), style))?;
        }
        Ok(())
    }
}

type Drawn<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;

fn text(size: f64, colour: RGBColor) -> TextStyle<'static> {
    // plotters writes size / 1.24 into the SVG: sizes here are what the reader gets.
    TextStyle {
        font: (FONT, size * 1.24).into_font(),
        color: colour.to_backend_color(),
        pos: Pos::new(HPos::Left, VPos::Top),
    }
}

/// Draws `words` in as many lines as the width asks for. Gives the next free y.
fn paragraph<DB: DrawingBackend>(
    root: &DrawingArea<DB, Shift>,
    words: &str,
    style: TextStyle<'_>,
    mut y: i32,
) -> Result<i32, DrawingAreaErrorKind<DB::ErrorType>> {
    let width_max = SIZE.0 - 2 * MARGIN as u32;
    let height = (style.font.get_size() / 1.24 * 1.3) as i32;
    let mut line = String::new();
    for word in words.split_whitespace() {
        let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
        if !line.is_empty() && root.estimate_text_size(&longer, &style)?.0 > width_max {
            root.draw(&Text::new(line, (MARGIN, y), style.clone()))?;
            y += height;
            line = word.to_owned();
        } else {
            line = longer;
        }
    }
    root.draw(&Text::new(line, (MARGIN, y), style))?;
    Ok(y + height)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let line = |label: &str, ink, slope: f64| Line {
            label: label.to_owned(),
            ink,
            points: (0..80).map(|t| (f64::from(t), 15.0 + slope * f64::from(t))).collect(),
        };
        Chart {
            name: "test",
            title: "A title < with & signs that must be escaped".into(),
            subtitle: "under it".into(),
            x_axis: Axis::Even,
            x_label: "s",
            y_label: "MB",
            lines: vec![line("a", Ink::Blue, 0.0), line("b", Ink::Predicted, 3.0)],
            spans: vec![Span { label: "load".into(), from: 0.0, to: 200.0 }],
        }
    }

    #[test]
    fn the_file_is_written_and_its_words_are_escaped() {
        let dir = tempfile::tempdir().expect("dir");
        chart().write(dir.path()).expect("written");
        let svg = std::fs::read_to_string(dir.path().join("test.svg")).expect("svg");
        assert!(svg.contains("&lt; with &amp; signs"), "{svg}");
    }

    #[test]
    fn a_chart_without_data_is_still_a_picture() {
        let empty = Chart { lines: Vec::new(), spans: Vec::new(), ..chart() };
        assert!(empty.svg().expect("drawn").contains("</svg>"));
    }

    #[test]
    fn sizes_lie_at_equal_ratios_and_every_point_of_a_short_line_is_marked() {
        let sizes = [1.0, 50.0, 200.0, 1000.0];
        let line = |ink| Line {
            label: "measured".into(),
            ink,
            points: [0.0].iter().chain(&sizes).map(|x| (*x, *x)).collect(),
        };
        let by_size = Chart {
            x_axis: Axis::Ratios(sizes.into()),
            lines: vec![line(Ink::Predicted), line(Ink::Blue)],
            spans: Vec::new(),
            ..chart()
        };
        let svg = by_size.svg().expect("drawn");
        // Blue marks are circles: four points, the one at 0 has no place, and one in the legend.
        let marks: Vec<f64> = svg
            .match_indices("<circle cx=\"")
            .filter_map(|(at, found)| svg.get(at + found.len()..)?.split('"').next()?.parse().ok())
            .collect();
        let [_legend, one, fifty, two_hundred, thousand] = marks[..] else {
            panic!("5 marks, not {marks:?}");
        };
        let decade = (thousand - one) / 3.0;
        assert!((fifty - one - decade * 50f64.log10()).abs() < 2.0, "{marks:?}");
        assert!((two_hundred - one - decade * 200f64.log10()).abs() < 2.0, "{marks:?}");
        for size in ["1", "50", "200", "1,000"] {
            assert!(svg.contains(&format!(">\n{size}\n<")), "no tick {size}");
        }
    }

    #[test]
    fn values_below_zero_are_inside_the_picture() {
        let points = vec![(0.0, -1.0), (1.0, 0.5), (2.0, f64::NAN), (3.0, 1.0)];
        let lines = vec![Line { label: "r".into(), ink: Ink::Blue, points }];
        let svg = Chart { lines, ..chart() }.svg().expect("drawn");
        let lowest = svg.split("cy=\"").filter_map(|rest| rest.split('"').next()?.parse().ok());
        let lowest = lowest.fold(0.0, f64::max);
        assert!((200.0..520.0).contains(&lowest), "a mark at {lowest}");
        assert_eq!(svg.matches("<circle").count(), 4, "one for the legend, none for NaN");
    }
}
