//! What is wrong with a configuration file, and where: `FILE:LINE:COL: message`.

use std::fmt;

/// One fault, at a place an editor can jump to. Line and column count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct Fault {
    pub file: String,
    pub line: usize,
    pub column: usize,
    /// One sentence: what is wrong, and the way out.
    pub message: String,
}

/// Every fault found in one file, in the order of their places; at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.0.iter()
    }

    pub(super) fn locate(file: &str, text: &str, mut found: Vec<(Place, String)>) -> Self {
        found.sort();
        found.dedup();
        let located = found.into_iter().map(|(place, message)| {
            let (line, column) = place.line_and_column(text);
            Fault { file: file.into(), line, column, message }
        });
        Self(located.collect())
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl IntoIterator for Faults {
    type Item = Fault;
    type IntoIter = std::vec::IntoIter<Fault>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// Where something stands in the file: a byte offset, turned into line and column only when printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(pub usize);

impl Place {
    pub const START: Self = Self(0);

    fn line_and_column(self, text: &str) -> (usize, usize) {
        let before = text.get(..text.floor_char_boundary(self.0)).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or(before);
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_places_never_leave_the_text() {
        let text = "a\nµµ = 1\r\nb";
        assert_eq!(Place(0).line_and_column(text), (1, 1));
        assert_eq!(Place(6).line_and_column(text), (2, 3));
        assert_eq!(Place(12).line_and_column(text), (3, 1));
        assert_eq!(Place(999).line_and_column(text), (3, 2));
        assert_eq!(Place(3).line_and_column(text), (2, 1), "inside a character: its start");
    }
}
