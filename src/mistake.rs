//! A mistake in something a person wrote (configuration, feature set, policy): where it is, what is
//! wrong, how to mend it. Collected, so that all are reported at once. Imports nothing of the rest.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The file as the user named it.
    pub file: String,
    /// Counted from 1; 0 where the mistake has no place of its own.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong, with the value found.
    pub message: String,
    /// How to mend it: the nearest name, the values allowed.
    pub help: Option<String>,
}

impl Mistake {
    /// A mistake at byte `at` of `text`.
    #[must_use]
    pub fn at(file: &str, text: &str, at: usize, message: impl Into<String>) -> Self {
        let before = text.get(..at.min(text.len())).unwrap_or_default();
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Self { file: file.to_owned(), line, column, message: message.into(), help: None }
    }

    #[must_use]
    pub fn in_file(file: &str, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, message: message.into(), help: None }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds "did you mean …?" when one of `known` is close to `wrong`.
    #[must_use]
    pub fn nearest<'a>(self, wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(wrong, known) {
            Some(name) => self.help(format!("did you mean `{name}`?")),
            None => self,
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.file, self.message)?;
        } else {
            write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        }
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "\n  help: {help}"))
    }
}

/// All that is wrong with what was given, in the order of the text.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }
}

/// The closest of `known` to `wrong`, if it is close enough to be a slip of the hand.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Two slips in a word of four letters or more: a swapped pair counts as two.
    let length = wrong.chars().count();
    let limit = if length < 4 { 1 } else { (length / 3).max(2) };
    known
        .into_iter()
        .map(|name| (distance(wrong, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein's distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cb, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let up = *cell;
            left = (diagonal + usize::from(ca != *cb)).min(up + 1).min(left + 1);
            diagonal = up;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Mistake, distance, nearest};

    #[test]
    fn a_mistake_says_where_and_how_to_mend_it() {
        let text = "a = 1\nprot = 5\n";
        let mistake = Mistake::at("caddis.toml", text, 6, "unknown key `prot`").nearest("prot", ["port", "host"]);
        assert_eq!(mistake.to_string(), "caddis.toml:2:1: unknown key `prot`\n  help: did you mean `port`?");
    }

    #[test]
    fn distances_are_levenshteins() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(nearest("amonut", ["amount", "account"]), Some("amount"));
        assert_eq!(nearest("zebra", ["amount", "account"]), None);
    }
}
