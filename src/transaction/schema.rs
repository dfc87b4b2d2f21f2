//! Which fields a transaction has: a fixed core, and whatever a user declares beside it.

/// A text field by its place in the [`Schema`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TextField(pub u16);

/// A number field by its place in the [`Schema`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NumberField(pub u16);

pub const ACCOUNT: TextField = TextField(0);
pub const CARD: TextField = TextField(1);
pub const MERCHANT: TextField = TextField(2);
pub const TERMINAL: TextField = TextField(3);
pub const DEVICE: TextField = TextField(4);
pub const IP: TextField = TextField(5);
pub const COUNTRY: TextField = TextField(6);
pub const CHANNEL: TextField = TextField(7);
pub const MCC: TextField = TextField(8);

/// Degrees north, -90 to 90.
pub const LATITUDE: NumberField = NumberField(0);
/// Degrees east, -180 to 180.
pub const LONGITUDE: NumberField = NumberField(1);

/// The text fields every transaction may have, in the order of their numbers.
pub const TEXT_FIELDS: [&str; 9] =
    ["account", "card", "merchant", "terminal", "device", "ip", "country", "channel", "mcc"];
/// The number fields every transaction may have, in the order of their numbers.
pub const NUMBER_FIELDS: [&str; 2] = ["latitude", "longitude"];
/// The fields with a type of their own, which every transaction must have.
pub const CORE_FIELDS: [&str; 4] = ["transaction_id", "event_time", "amount", "currency"];

/// At most this many fields may be declared beside the fixed ones, of each kind.
pub const MAX_DECLARED: usize = 64;

/// The fields of this deployment's transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    texts: Vec<String>,
    numbers: Vec<String>,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    TransactionId,
    EventTime,
    Amount,
    Currency,
    Text(TextField),
    Number(NumberField),
}

impl Default for Schema {
    fn default() -> Self {
        Self {
            texts: TEXT_FIELDS.iter().map(|name| (*name).to_owned()).collect(),
            numbers: NUMBER_FIELDS.iter().map(|name| (*name).to_owned()).collect(),
        }
    }
}

impl Schema {
    /// Declares a text field of the user's own; `None` if the name is taken or the limit is met.
    pub fn declare_text(&mut self, name: &str) -> Option<TextField> {
        if self.field(name).is_some() || self.texts.len() >= TEXT_FIELDS.len() + MAX_DECLARED {
            return None;
        }
        self.texts.push(name.to_owned());
        u16::try_from(self.texts.len() - 1).ok().map(TextField)
    }

    /// Declares a number field of the user's own; `None` if the name is taken or the limit is met.
    pub fn declare_number(&mut self, name: &str) -> Option<NumberField> {
        if self.field(name).is_some() || self.numbers.len() >= NUMBER_FIELDS.len() + MAX_DECLARED {
            return None;
        }
        self.numbers.push(name.to_owned());
        u16::try_from(self.numbers.len() - 1).ok().map(NumberField)
    }

    #[must_use]
    pub fn field(&self, name: &str) -> Option<Field> {
        match name {
            "transaction_id" => return Some(Field::TransactionId),
            "event_time" => return Some(Field::EventTime),
            "amount" => return Some(Field::Amount),
            "currency" => return Some(Field::Currency),
            _ => {}
        }
        self.text(name).map(Field::Text).or_else(|| self.number(name).map(Field::Number))
    }

    #[must_use]
    pub fn text(&self, name: &str) -> Option<TextField> {
        let at = self.texts.iter().position(|known| known == name)?;
        u16::try_from(at).ok().map(TextField)
    }

    #[must_use]
    pub fn number(&self, name: &str) -> Option<NumberField> {
        let at = self.numbers.iter().position(|known| known == name)?;
        u16::try_from(at).ok().map(NumberField)
    }

    #[must_use]
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    #[must_use]
    pub fn numbers(&self) -> &[String] {
        &self.numbers
    }

    /// Every name a transaction's field may have here, for "did you mean".
    pub fn names(&self) -> impl Iterator<Item = &str> {
        CORE_FIELDS
            .into_iter()
            .chain(self.texts.iter().map(String::as_str))
            .chain(self.numbers.iter().map(String::as_str))
    }
}
