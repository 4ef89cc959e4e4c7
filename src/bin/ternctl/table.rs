//! The one writer of tables: columns as wide as their longest cell, two spaces between them.
//!
//! Start with [`Table::new`].
use std::fmt;

/// Space between two columns.
const GAP: &str = "  ";

/// Rows of text under a line of titles.
pub struct Table {
    titles: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(titles: &[&'static str]) -> Table {
        Table {
            titles: titles.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Appends a row.
    ///
    /// # Panics
    ///
    /// If it has not one cell for each title.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.titles.len(), "one cell for each title");
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let titles: Vec<String> = self.titles.iter().map(|title| title.to_string()).collect();
        let lines: Vec<Vec<String>> = std::iter::once(&titles)
            .chain(&self.rows)
            .map(|cells| cells.iter().map(|cell| printable(cell)).collect())
            .collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
        let widths: Vec<usize> = (0..titles.len()).filter_map(width).collect();
        for line in &lines {
            let mut text = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                text.push_str(&format!("{cell:<width$}{GAP}"));
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// The text on one line: a control character would move the cursor or forge a row.
fn printable(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let mut table = Table::new(&["NAME", "ROLE"]);
        table.row(vec!["n1".into(), "leader".into()]);
        table.row(vec!["longer\n".into(), "x".into()]);
        let expected = "NAME      ROLE\nn1        leader\nlonger\\n  x\n";
        assert_eq!(table.to_string(), expected);
    }
}
