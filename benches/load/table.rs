//! Alternating runs, and their table: medians, and the median of the ratios round by round.
//!
//! The subjects of a round run one after the other on the same machine, so a disturbance of the
//! machine reaches all subjects of the round. Start with `alternate`.
use crate::probe_disk;

/// Measures the subjects alternately, each round the other way round, and prints the medians of the
/// rows. The first subject is compared with each of the others. A figure that a subject does not
/// have is NaN.
pub fn alternate(
    subjects: &[&str],
    rounds: usize,
    rows: &[String],
    mut measure: impl FnMut(usize) -> Vec<f64>,
) {
    let mut results = vec![Vec::new(); subjects.len()];
    for round in 0..rounds {
        eprintln!(
            "round {} of {rounds}: 4 KiB and fdatasync take {:.0} us",
            round + 1,
            probe_disk()
        );
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for i in order {
            let figures = measure(i);
            eprintln!("  {}: {figures:.1?}", subjects[i]);
            results[i].push(figures);
        }
    }
    print(subjects, rounds, rows, &results);
}

/// `results` has the runs of each subject, a run the figures of all rows.
fn print(subjects: &[&str], rounds: usize, rows: &[String], results: &[Vec<Vec<f64>>]) {
    let [first, rivals @ ..] = subjects else {
        return;
    };
    let mut head = format!("| median of {rounds} alternating runs | {first} |");
    let mut rule = "|---|---|".to_string();
    for rival in rivals {
        head += &format!(" {rival} | {first} / {rival} | 95 % interval |");
        rule += "---|---|---|";
    }
    println!("{head}\n{rule}");
    for (row, name) in rows.iter().enumerate() {
        let column = |i: usize| results[i].iter().map(move |run| run[row]);
        let mut line = format!("| {name} | {} |", number(median(column(0).collect()), 1));
        for i in 1..subjects.len() {
            let ratios: Vec<f64> = column(0).zip(column(i)).map(|(a, b)| a / b).collect();
            let (low, high) = median_interval(&ratios);
            line += &format!(
                " {} | {} | {} to {} |",
                number(median(column(i).collect()), 1),
                number(median(ratios), 2),
                number(low, 2),
                number(high, 2)
            );
        }
        println!("{line}");
    }
}

/// A figure of a table; a dash if there is none.
fn number(value: f64, digits: usize) -> String {
    if value.is_finite() {
        format!("{value:.digits$}")
    } else {
        "-".into()
    }
}

/// The median; NaN without values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n == 0 {
        f64::NAN
    } else {
        (values[(n - 1) / 2] + values[n / 2]) / 2.0
    }
}

/// The 95 % interval of a median: the narrowest pair of order statistics, symmetric about the
/// middle, that holds it with that probability (binomial, p = 1/2). With fewer than six values no
/// pair does: the interval is then the whole range.
fn median_interval(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 {
        return (f64::NAN, f64::NAN);
    }
    let mut tail = 0.0;
    let mut chance = 0.5f64.powi(n as i32);
    let mut dropped = 0;
    // `tail`: the chance that the median lies below value `dropped`.
    while 2.0 * (tail + chance) <= 0.05 {
        tail += chance;
        chance *= (n - dropped) as f64 / (dropped + 1) as f64;
        dropped += 1;
    }
    let cut = dropped.saturating_sub(1).min((n - 1) / 2);
    (sorted[cut], sorted[n - 1 - cut])
}
