//! How the records of a stream are written, as a configuration or a file's name says.

use std::path::Path;

/// One JSON object a line, or CSV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordFormat {
    Ndjson,
    Csv { separator: u8 },
}

impl RecordFormat {
    /// What a file's name says: CSV where it ends in `.csv` or `.tsv`.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "csv" => Self::Csv { separator: b',' },
            "tsv" => Self::Csv { separator: b'\t' },
            _ => Self::Ndjson,
        }
    }

    /// CSV with this separator, or with the one it has already, or with commas.
    #[must_use]
    pub fn as_csv(self, separator: Option<u8>) -> Self {
        match (separator, self) {
            (Some(separator), _) => Self::Csv { separator },
            (None, Self::Csv { separator }) => Self::Csv { separator },
            (None, Self::Ndjson) => Self::Csv { separator: b',' },
        }
    }
}

/// What stands between the columns of CSV.
///
/// # Errors
/// What is expected.
pub fn separator(text: &str) -> Result<u8, String> {
    match text {
        "," => Ok(b','),
        ";" => Ok(b';'),
        "|" => Ok(b'|'),
        "tab" | "\\t" | "\t" => Ok(b'\t'),
        _ => Err("\",\", \";\", \"|\" or \"tab\"".to_owned()),
    }
}
