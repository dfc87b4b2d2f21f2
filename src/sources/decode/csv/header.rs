//! A CSV header: which column each mapped field is in, and the JSON object that a record becomes.

use super::super::mapping::{Mapping, field_name};
use crate::mistake::nearest;
use crate::transaction::Field;

/// Why a CSV's header cannot be used: all that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("CSV header: {0}")]
pub struct HeaderError(pub String);

/// What becomes of a record.
#[derive(Debug)]
pub(super) struct Layout {
    /// How many columns there are.
    pub columns: usize,
    /// The values of the object in its order.
    pub values: Vec<ValueAt>,
    /// What closes the object.
    pub tail: Vec<u8>,
}

/// A mapped column.
#[derive(Debug)]
pub(super) struct ValueAt {
    /// The JSON before the value.
    pub before: Vec<u8>,
    pub column: usize,
    pub name: String,
}

impl Layout {
    /// Finds the mapping's columns by their names: a path's keys joined by points.
    ///
    /// # Errors
    /// A needed column is missing, or a mapped one is there twice.
    pub fn new(names: &[String], mapping: &Mapping, separator: u8) -> Result<Self, HeaderError> {
        let mut wrong = Vec::new();
        let mut found = Vec::new();
        for (path, field) in &mapping.paths {
            let name = path.join(".");
            let mut columns = names.iter().enumerate().filter(|(_, known)| **known == name).map(|(column, _)| column);
            match (columns.next(), columns.next()) {
                (Some(column), None) => found.push((path.as_slice(), column)),
                (Some(one), Some(other)) => {
                    wrong.push(format!("column `{name}` is there twice, as number {} and {}", one + 1, other + 1));
                }
                (None, _) if needed(*field, mapping) => wrong.push(missing(&name, *field, names, mapping)),
                (None, _) => {}
            }
        }
        if !wrong.is_empty() {
            wrong.extend(one_column(names, separator));
            return Err(HeaderError(wrong.join("; ")));
        }
        let (mut values, mut tail) = (Vec::new(), Vec::new());
        object(&found, names, &mut values, &mut tail);
        Ok(Self { columns: names.len(), values, tail })
    }
}

/// A record may lack an optional field, but a file that lacks a column which the user's own mapping names
/// is a slip of the hand: the field would be absent for ever, and nobody would know.
fn needed(field: Field, mapping: &Mapping) -> bool {
    match field {
        Field::TransactionId | Field::EventTime | Field::Amount => true,
        Field::Currency => mapping.currency.is_none(),
        Field::Text(_) | Field::Number(_) => mapping.given,
    }
}

fn missing(name: &str, field: Field, names: &[String], mapping: &Mapping) -> String {
    let own = field_name(field, &mapping.schema);
    let purpose = if own == name { String::new() } else { format!(" for `{own}`") };
    let help = nearest(name, names.iter().map(String::as_str));
    let help = help.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    format!("no column `{name}`{purpose}{help}")
}

/// A header of one column mostly has another separator.
fn one_column(names: &[String], separator: u8) -> Option<String> {
    let [name] = names else { return None };
    let other = [",", ";", "\t", "|"]
        .into_iter()
        .find(|other| !other.starts_with(char::from(separator)) && name.contains(other))?;
    Some(format!("it is a single column with {other:?} in its name: is that the separator?"))
}

/// Adds the object of `found`, keys in the order of the mapping, which the decoder expects them in; paths
/// that begin alike share an object inside it. `text` is what stands before the next value.
fn object(found: &[(&[String], usize)], names: &[String], values: &mut Vec<ValueAt>, text: &mut Vec<u8>) {
    let mut done: Vec<&String> = Vec::new();
    text.push(b'{');
    for (path, column) in found {
        let Some((key, rest)) = path.split_first() else { continue };
        if done.contains(&key) {
            continue;
        }
        if !done.is_empty() {
            text.push(b',');
        }
        done.push(key);
        text.extend_from_slice(serde_json::Value::from(key.as_str()).to_string().as_bytes());
        text.push(b':');
        if rest.is_empty() {
            let name = names.get(*column).cloned().unwrap_or_default();
            values.push(ValueAt { before: std::mem::take(text), column: *column, name });
        } else {
            let mut inside = Vec::new();
            for (path, column) in found {
                if let Some((first, rest)) = path.split_first()
                    && first == key
                {
                    inside.push((rest, *column));
                }
            }
            object(&inside, names, values, text);
        }
    }
    text.push(b'}');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::super::{Mapping, Rates};
    use super::Layout;
    use crate::transaction::{Currency, Schema};

    fn layout(header: &str, mapping: Option<&str>) -> Result<String, String> {
        let schema = Arc::new(Schema::default());
        let rates = Rates::new(Currency::EUR);
        let mapping = match mapping {
            None => Mapping::own(Arc::clone(&schema), rates),
            Some(text) => Mapping::from_table(&text.parse().expect("TOML"), &schema, rates).expect("a mapping"),
        };
        let names: Vec<String> = header.split(',').map(str::to_owned).collect();
        let layout = Layout::new(&names, &mapping, b',').map_err(|error| error.to_string())?;
        let mut text = String::new();
        for value in &layout.values {
            text += &format!("{}{}", String::from_utf8_lossy(&value.before), value.column);
        }
        Ok(text + &String::from_utf8_lossy(&layout.tail))
    }

    #[test]
    fn columns_are_found_wherever_they_are() {
        assert_eq!(
            layout("account,x,amount,currency,event_time,transaction_id", None),
            Ok("{\"transaction_id\":5,\"event_time\":4,\"amount\":2,\"currency\":3,\"account\":0}".to_owned())
        );
        // Dotted paths are dotted names, and nested objects for the decoder.
        let mapping = "transaction_id = 'meta.id'\namount = 'sum'\nevent_time = 'meta.at'\ncard = 'pay.card.no'";
        let expected = "{\"sum\":0,\"pay\":{\"card\":{\"no\":3}},\"meta\":{\"at\":1,\"id\":2}}";
        assert_eq!(layout("sum,meta.at,meta.id,pay.card.no", Some(mapping)), Ok(expected.to_owned()));
    }

    #[test]
    fn a_header_that_cannot_do_says_why() {
        assert_eq!(
            layout("transaction_id,event_time,amonut,curency", None),
            Err(
                "CSV header: no column `amount`; did you mean `amonut`?; no column `currency`; did you mean `curency`?"
                    .to_owned()
            )
        );
        assert_eq!(
            layout("transaction_id,event_time,amount,currency,account,account", None),
            Err("CSV header: column `account` is there twice, as number 5 and 6".to_owned())
        );
        let mapping = "transaction_id = 'id'\namount = 'sum'\nevent_time = 'at'\naccount = 'acct_no'";
        assert_eq!(
            layout("id,at,sum,acctno", Some(mapping)),
            Err("CSV header: no column `acct_no` for `account`; did you mean `acctno`?".to_owned())
        );
        let error = layout("transaction_id;event_time;amount;currency", None).expect_err("one column");
        assert!(error.ends_with("it is a single column with \";\" in its name: is that the separator?"), "{error}");
    }

    #[test]
    fn columns_nobody_asked_for_may_be_many_and_alike() {
        let header = format!("transaction_id,event_time,amount,currency,{}", vec!["x,,"; 5_000].join(","));
        assert!(layout(&header, None).is_ok());
    }
}
