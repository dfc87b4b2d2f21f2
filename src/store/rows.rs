//! Feature rows to files: one row a transaction, its id and event time first.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as PhysicalType};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    /// Whole numbers as INT64, others as DOUBLE, missing values as nulls; zstd.
    Parquet,
    Csv,
    Ndjson,
}

/// Rows in a row group of Parquet.
const GROUP: usize = 65_536;

/// Writes rows. Values are `f64`, NaN where missing; a column of integers is written without a point.
pub struct RowWriter<W: Write + Send> {
    columns: Vec<(String, bool)>,
    to: Output<W>,
    line: Vec<u8>,
}

enum Output<W: Write + Send> {
    Lines { to: W, format: RowFormat },
    Parquet(Box<ParquetRows<W>>),
}

struct ParquetRows<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    ids: Vec<ByteArray>,
    times: Vec<i64>,
    /// Column by column.
    values: Vec<Vec<f64>>,
}

impl<W: Write + Send> RowWriter<W> {
    /// `columns` are names, and whether their values are whole numbers.
    ///
    /// # Errors
    /// The writer's own.
    pub fn new(mut to: W, format: RowFormat, columns: Vec<(String, bool)>) -> io::Result<Self> {
        let to = match format {
            RowFormat::Parquet => Output::Parquet(Box::new(ParquetRows::new(to, &columns).map_err(io::Error::other)?)),
            RowFormat::Ndjson => Output::Lines { to, format },
            RowFormat::Csv => {
                let names: Vec<&str> = ["transaction_id", "event_time"]
                    .into_iter()
                    .chain(columns.iter().map(|(name, _)| name.as_str()))
                    .collect();
                writeln!(to, "{}", names.join(","))?;
                Output::Lines { to, format }
            }
        };
        Ok(Self { columns, to, line: Vec::new() })
    }

    /// Adds a row; `event_time` in milliseconds since 1970.
    ///
    /// # Errors
    /// The writer's own.
    pub fn row(&mut self, transaction_id: &str, event_time: i64, values: &[f64]) -> io::Result<()> {
        match &mut self.to {
            Output::Parquet(rows) => {
                rows.row(transaction_id, event_time, values, &self.columns).map_err(io::Error::other)
            }
            Output::Lines { to, format } => {
                self.line.clear();
                let line = &mut self.line;
                let mut digits = itoa::Buffer::new();
                if *format == RowFormat::Csv {
                    csv_text(transaction_id, line);
                    line.push(b',');
                    line.extend_from_slice(digits.format(event_time).as_bytes());
                    for (value, (_, integer)) in values.iter().zip(&self.columns) {
                        line.push(b',');
                        if !value.is_nan() {
                            number(*value, *integer, line);
                        }
                    }
                } else {
                    line.extend_from_slice(b"{\"transaction_id\":");
                    serde_json::to_writer(&mut *line, transaction_id)?;
                    line.extend_from_slice(b",\"event_time\":");
                    line.extend_from_slice(digits.format(event_time).as_bytes());
                    for (value, (name, integer)) in values.iter().zip(&self.columns) {
                        line.extend_from_slice(b",\"");
                        line.extend_from_slice(name.as_bytes());
                        line.extend_from_slice(b"\":");
                        if value.is_finite() {
                            number(*value, *integer, line);
                        } else {
                            line.extend_from_slice(b"null");
                        }
                    }
                    line.push(b'}');
                }
                line.push(b'\n');
                to.write_all(line)
            }
        }
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// The writer's own.
    pub fn finish(self) -> io::Result<W> {
        match self.to {
            Output::Lines { mut to, .. } => to.flush().map(|()| to),
            Output::Parquet(mut rows) => {
                rows.group(&self.columns).map_err(io::Error::other)?;
                rows.writer.into_inner().map_err(io::Error::other)
            }
        }
    }
}

/// Whole numbers below 2^53 are exact in an `f64`; the shortest text that reads back as the same otherwise.
#[expect(clippy::cast_possible_truncation, reason = "checked to be whole and below 2^53")]
fn number(value: f64, integer: bool, to: &mut Vec<u8>) {
    if integer && value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
        to.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
    } else {
        to.extend_from_slice(ryu::Buffer::new().format(value).as_bytes());
    }
}

fn csv_text(text: &str, to: &mut Vec<u8>) {
    if text.contains(['"', ',', '\n', '\r']) {
        to.push(b'"');
        to.extend_from_slice(text.replace('"', "\"\"").as_bytes());
        to.push(b'"');
    } else {
        to.extend_from_slice(text.as_bytes());
    }
}

impl<W: Write + Send> ParquetRows<W> {
    fn new(to: W, columns: &[(String, bool)]) -> Result<Self, ParquetError> {
        let column = |name: &str, physical, repetition, logical| {
            Type::primitive_type_builder(name, physical)
                .with_repetition(repetition)
                .with_logical_type(logical)
                .build()
                .map(Arc::new)
        };
        let mut fields = vec![
            column("transaction_id", PhysicalType::BYTE_ARRAY, Repetition::REQUIRED, Some(LogicalType::String))?,
            column("event_time", PhysicalType::INT64, Repetition::REQUIRED, None)?,
        ];
        for (name, integer) in columns {
            let physical = if *integer { PhysicalType::INT64 } else { PhysicalType::DOUBLE };
            fields.push(column(name, physical, Repetition::OPTIONAL, None)?);
        }
        let schema = Arc::new(Type::group_type_builder("features").with_fields(fields).build()?);
        let properties =
            WriterProperties::builder().set_compression(Compression::ZSTD(parquet::basic::ZstdLevel::try_new(1)?));
        let writer = SerializedFileWriter::new(to, schema, Arc::new(properties.build()))?;
        Ok(Self { writer, ids: Vec::new(), times: Vec::new(), values: vec![Vec::new(); columns.len()] })
    }

    fn row(&mut self, id: &str, time: i64, values: &[f64], columns: &[(String, bool)]) -> Result<(), ParquetError> {
        self.ids.push(ByteArray::from(id));
        self.times.push(time);
        for (column, value) in self.values.iter_mut().zip(values) {
            column.push(*value);
        }
        if self.ids.len() >= GROUP { self.group(columns) } else { Ok(()) }
    }

    fn group(&mut self, columns: &[(String, bool)]) -> Result<(), ParquetError> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        let missing = || ParquetError::General("a column is missing".into());
        let mut column = group.next_column()?.ok_or_else(missing)?;
        column.typed::<ByteArrayType>().write_batch(&self.ids, None, None)?;
        column.close()?;
        let mut column = group.next_column()?.ok_or_else(missing)?;
        column.typed::<Int64Type>().write_batch(&self.times, None, None)?;
        column.close()?;
        for (values, (_, integer)) in self.values.iter_mut().zip(columns) {
            let levels: Vec<i16> = values.iter().map(|value| i16::from(!value.is_nan())).collect();
            values.retain(|value| !value.is_nan());
            let mut column = group.next_column()?.ok_or_else(missing)?;
            if *integer {
                #[expect(clippy::cast_possible_truncation, reason = "the column's values are whole numbers")]
                let whole: Vec<i64> = values.iter().map(|value| *value as i64).collect();
                column.typed::<Int64Type>().write_batch(&whole, Some(&levels), None)?;
            } else {
                column.typed::<DoubleType>().write_batch(values, Some(&levels), None)?;
            }
            column.close()?;
            values.clear();
        }
        group.close()?;
        self.ids.clear();
        self.times.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    use super::{RowFormat, RowWriter};

    fn written(format: RowFormat) -> Vec<u8> {
        let columns = vec![("count".to_owned(), true), ("mean".to_owned(), false)];
        let mut rows = RowWriter::new(Vec::new(), format, columns).expect("memory takes it");
        rows.row("a,\"1", 1_700_000_000_000, &[3.0, 0.1]).expect("memory takes it");
        rows.row("b", 1_700_000_000_001, &[f64::NAN, f64::NAN]).expect("memory takes it");
        rows.finish().expect("memory takes it")
    }

    #[test]
    fn lines_of_csv_and_json() {
        let text = |format| String::from_utf8(written(format)).expect("UTF-8");
        assert_eq!(
            text(RowFormat::Csv),
            "transaction_id,event_time,count,mean\n\"a,\"\"1\",1700000000000,3,0.1\nb,1700000000001,,\n"
        );
        assert_eq!(
            text(RowFormat::Ndjson),
            "{\"transaction_id\":\"a,\\\"1\",\"event_time\":1700000000000,\"count\":3,\"mean\":0.1}\n\
             {\"transaction_id\":\"b\",\"event_time\":1700000000001,\"count\":null,\"mean\":null}\n"
        );
    }

    #[test]
    fn parquet_is_read_back_by_its_own_reader() {
        let reader = SerializedFileReader::new(bytes::Bytes::from(written(RowFormat::Parquet))).expect("a file");
        let rows: Vec<_> = reader.get_row_iter(None).expect("rows").map(|row| row.expect("a row")).collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].get_string(0).expect("an id"), "a,\"1");
        assert_eq!(
            (rows[0].get_long(1).expect("a time"), rows[0].get_long(2).expect("a count")),
            (1_700_000_000_000, 3)
        );
        assert_eq!(rows[0].get_double(3).expect("a mean"), 0.1);
        assert!(rows[1].get_long(2).is_err() && rows[1].get_double(3).is_err());
    }
}
