//! A curve as a table and as a plot: both axes logarithmic, one line for each series. Pure.
//!
//! Start with `Curve`.
use std::fmt::Write;

/// The name of a line, with its unit.
#[derive(Clone, Copy, Debug)]
pub struct Series(pub &'static str);

/// One figure for each series at each point.
pub struct Curve {
    name: &'static str,
    /// The quantity on the horizontal axis, with its unit.
    axis: &'static str,
    series: Vec<Series>,
    points: Vec<(usize, Vec<f64>)>,
}

/// The plot in pixels: the area of the lines, and the margins for texts.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 50.0;
/// The colours of the lines. Readers with red-green colour blindness can tell them apart.
const COLOURS: [&str; 9] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#888888",
    "#661100",
];

impl Curve {
    /// No points yet.
    pub fn new(name: &'static str, axis: &'static str, series: &[Series]) -> Curve {
        Curve {
            name,
            axis,
            series: series.to_vec(),
            points: Vec::new(),
        }
    }

    /// Adds the figures at `x`, in the order of the series.
    pub fn push(&mut self, x: usize, figures: &[f64]) {
        assert_eq!(figures.len(), self.series.len(), "one figure a series");
        self.points.push((x, figures.to_vec()));
    }

    /// The quantity on the horizontal axis.
    pub fn title(&self) -> &'static str {
        self.axis
    }

    /// The name of the plot's file.
    pub fn file_name(&self) -> String {
        format!("{}.svg", self.name)
    }

    /// The figures as a table in Markdown.
    pub fn table(&self) -> String {
        let mut text = format!("| {} |", self.axis);
        for Series(name) in &self.series {
            text += &format!(" {name} |");
        }
        text += "\n|---|";
        text += &"---|".repeat(self.series.len());
        text.push('\n');
        for (x, figures) in &self.points {
            text += &format!("| {x} |");
            for figure in figures {
                let digits = if *figure < 100.0 { 1 } else { 0 };
                text += &format!(" {figure:.digits$} |");
            }
            text.push('\n');
        }
        text
    }

    /// The plot.
    pub fn svg(&self) -> String {
        let xs = Scale::of(self.points.iter().map(|(x, _)| *x as f64), LEFT, WIDTH);
        let ys = self.points.iter().flat_map(|(_, figures)| figures.clone());
        let ys = Scale::of(ys, TOP + HEIGHT, -HEIGHT);
        let (width, height) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
             fill=\"white\"/>\n"
        );
        self.draw_grid(&xs, &ys, &mut svg);
        for (i, Series(name)) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let at = |(x, figures): &(usize, Vec<f64>)| {
                format!("{:.1},{:.1}", xs.place(*x as f64), ys.place(figures[i]))
            };
            let line: Vec<String> = self.points.iter().map(at).collect();
            let y = TOP + 16.0 * (i as f64 + 1.0);
            let x = LEFT + WIDTH + 12.0;
            let _ = writeln!(
                svg,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>\n\
                 <text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{name}</text>",
                line.join(" ")
            );
        }
        svg + "</svg>\n"
    }

    /// A line and a number for each power of ten, and the name of the axis.
    fn draw_grid(&self, xs: &Scale, ys: &Scale, svg: &mut String) {
        let (right, bottom) = (LEFT + WIDTH, TOP + HEIGHT);
        for (x, text) in xs.powers() {
            let _ = writeln!(
                svg,
                "<path stroke=\"#ddd\" d=\"M{x:.1} {TOP}V{bottom}\"/>\n\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
                bottom + 16.0
            );
        }
        for (y, text) in ys.powers() {
            let _ = writeln!(
                svg,
                "<path stroke=\"#ddd\" d=\"M{LEFT} {y:.1}H{right}\"/>\n\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 6.0,
                y + 4.0
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            LEFT + WIDTH / 2.0,
            bottom + 38.0,
            self.axis
        );
    }
}

/// A logarithmic axis that begins and ends at a power of ten.
struct Scale {
    low: i32,
    high: i32,
    start: f64,
    length: f64,
}

impl Scale {
    /// The axis that has room for all of these figures.
    fn of(figures: impl Iterator<Item = f64>, start: f64, length: f64) -> Scale {
        let mut low = i32::MAX;
        let mut high = i32::MIN;
        for figure in figures.filter(|figure| *figure > 0.0) {
            low = low.min(figure.log10().floor() as i32);
            high = high.max(figure.log10().ceil() as i32);
        }
        if low > high {
            low = 0;
            high = 1;
        }
        Scale {
            low,
            high: high.max(low + 1),
            start,
            length,
        }
    }

    fn place(&self, figure: f64) -> f64 {
        let lowest = 10f64.powi(self.low);
        let part =
            (figure.max(lowest).log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        self.start + part * self.length
    }

    /// The places of the powers of ten, with their numbers.
    fn powers(&self) -> Vec<(f64, String)> {
        let powers = self.low..=self.high;
        let power = |n: i32| {
            let figure = 10f64.powi(n);
            let digits = (-n).max(0) as usize;
            (self.place(figure), format!("{figure:.digits$}"))
        };
        powers.map(power).collect()
    }
}
