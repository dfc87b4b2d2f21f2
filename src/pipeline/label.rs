//! Labels: what was found out later about a transaction, as one JSON object each.

use serde::{Deserialize, Serialize};

use crate::transaction::{EventTime, MAX_TEXT_BYTES, Refusal};

/// Fraud or not, as somebody found out: a chargeback, an analyst.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    pub transaction_id: String,
    pub fraud: bool,
    /// What kind of fraud, in the sender's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typology: Option<String>,
    /// When it became known, milliseconds since 1970; recorded streams need it to be fed in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_time: Option<EventTime>,
}

impl Label {
    /// Reads a label. Fields it does not know are ignored.
    ///
    /// # Errors
    /// Not a JSON object with a `transaction_id` and a `fraud`.
    pub fn parse(record: &[u8]) -> Result<Self, Refusal> {
        let label: Self = serde_json::from_slice(record).map_err(|error| {
            Refusal::whole(record, format!("a label such as {{\"transaction_id\": \"t1\", \"fraud\": true}} ({error})"))
        })?;
        if label.transaction_id.is_empty() || label.transaction_id.len() > MAX_TEXT_BYTES {
            let id = label.transaction_id.as_bytes();
            return Err(Refusal::new("transaction_id", id, format!("an id of 1 to {MAX_TEXT_BYTES} bytes")));
        }
        Ok(label)
    }
}

#[cfg(test)]
mod tests {
    use super::Label;

    #[test]
    fn a_label_is_read_and_a_bad_one_says_what_is_wrong() {
        let label = Label::parse(br#"{"transaction_id":"t1","fraud":true,"source":"chargeback"}"#).expect("a label");
        assert_eq!((label.transaction_id.as_str(), label.fraud, label.label_time), ("t1", true, None));
        for (bad, said) in [
            (r#"{"transaction_id":"t1"}"#, "missing field `fraud`"),
            (r#"{"transaction_id":"","fraud":true}"#, "1 to 1024 bytes"),
            (r"[]", "a label such as"),
        ] {
            let refusal = Label::parse(bad.as_bytes()).expect_err("bad").to_string();
            assert!(refusal.contains(said), "{refusal}");
        }
    }
}
