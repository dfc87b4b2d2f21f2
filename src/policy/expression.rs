//! Rules as they run: small typed trees over slots, without look-ups by name.
//!
//! A missing value (an absent text, a NaN number) makes every comparison with it false, `!=` too.

use crate::transaction::{NumberField, TextField, TransactionRef};

/// What a rule may look at.
pub(super) struct Facts<'a> {
    pub transaction: TransactionRef<'a>,
    pub features: &'a [f64],
    pub score: f64,
    /// Minor units of the base currency in one unit.
    pub base_scale: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    Always(bool),
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    /// The most common rule by far: a feature against a constant.
    Feature(usize, Comparison, f64),
    Numbers(Number, Comparison, Number),
    NumberIn(Number, Vec<f64>),
    Texts(Text, bool, Text),
    /// Sorted.
    TextIn(Text, Vec<Box<str>>),
    TextHas(Text, Part, Text),
    KnownText(Text),
    KnownNumber(Number),
    Same(Box<(Condition, Condition)>, bool),
    If(Box<(Condition, Condition, Condition)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Start,
    End,
    Inside,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Number {
    Constant(f64),
    Feature(usize),
    Score,
    /// Base currency, major units.
    Amount,
    /// Base currency, minor units.
    AmountMinor,
    /// Milliseconds since 1970.
    EventTime,
    Field(NumberField),
    Size(Text),
    /// 0 to 23, UTC, of a time in milliseconds.
    Hour(Box<Number>),
    Arithmetic(Box<(Number, Number)>, Operator),
    If(Box<(Condition, Number, Number)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Text {
    Constant(Box<str>),
    Id,
    Currency,
    Field(TextField),
}

impl Condition {
    /// Whether it looks at nothing but the transaction itself: no feature, no score.
    pub fn stands_alone(&self) -> bool {
        match self {
            Self::Always(_) | Self::Texts(..) | Self::TextIn(..) | Self::TextHas(..) | Self::KnownText(_) => true,
            Self::All(parts) | Self::Any(parts) => parts.iter().all(Self::stands_alone),
            Self::Not(inner) => inner.stands_alone(),
            Self::Feature(..) => false,
            Self::Numbers(left, _, right) => left.stands_alone() && right.stands_alone(),
            Self::NumberIn(number, _) | Self::KnownNumber(number) => number.stands_alone(),
            Self::Same(pair, _) => pair.0.stands_alone() && pair.1.stands_alone(),
            Self::If(parts) => parts.0.stands_alone() && parts.1.stands_alone() && parts.2.stands_alone(),
        }
    }

    pub fn holds(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Always(always) => *always,
            Self::All(parts) => parts.iter().all(|part| part.holds(facts)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(facts)),
            Self::Not(inner) => !inner.holds(facts),
            Self::Feature(slot, comparison, constant) => {
                comparison.holds(facts.features.get(*slot).copied().unwrap_or(f64::NAN), *constant)
            }
            Self::Numbers(left, comparison, right) => comparison.holds(left.value(facts), right.value(facts)),
            Self::NumberIn(number, list) => {
                let value = number.value(facts);
                list.contains(&value)
            }
            Self::Texts(left, equal, right) => {
                left.with(facts, |left| right.with(facts, |right| (left == right) == *equal)).flatten().unwrap_or(false)
            }
            Self::TextIn(text, list) => {
                text.with(facts, |text| list.binary_search_by(|one| (**one).cmp(text)).is_ok()).unwrap_or(false)
            }
            Self::TextHas(text, part, wanted) => text
                .with(facts, |text| {
                    wanted.with(facts, |wanted| match part {
                        Part::Start => text.starts_with(wanted),
                        Part::End => text.ends_with(wanted),
                        Part::Inside => text.contains(wanted),
                    })
                })
                .flatten()
                .unwrap_or(false),
            Self::KnownText(text) => text.with(facts, |_| true).unwrap_or(false),
            Self::KnownNumber(number) => !number.value(facts).is_nan(),
            Self::Same(pair, equal) => (pair.0.holds(facts) == pair.1.holds(facts)) == *equal,
            Self::If(parts) => {
                let (condition, then, otherwise) = &**parts;
                if condition.holds(facts) { then.holds(facts) } else { otherwise.holds(facts) }
            }
        }
    }
}

impl Comparison {
    #[inline]
    fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
            Self::Equal => left == right,
            Self::NotEqual => left.partial_cmp(&right).is_some_and(std::cmp::Ordering::is_ne),
        }
    }
}

impl Number {
    fn stands_alone(&self) -> bool {
        match self {
            Self::Feature(_) | Self::Score => false,
            Self::Constant(_) | Self::Amount | Self::AmountMinor | Self::EventTime | Self::Field(_) | Self::Size(_) => {
                true
            }
            Self::Hour(time) => time.stands_alone(),
            Self::Arithmetic(pair, _) => pair.0.stands_alone() && pair.1.stands_alone(),
            Self::If(parts) => parts.0.stands_alone() && parts.1.stands_alone() && parts.2.stands_alone(),
        }
    }

    fn value(&self, facts: &Facts<'_>) -> f64 {
        match self {
            Self::Constant(value) => *value,
            Self::Feature(slot) => facts.features.get(*slot).copied().unwrap_or(f64::NAN),
            Self::Score => facts.score,
            Self::Amount => facts.transaction.base_amount() as f64 / facts.base_scale,
            Self::AmountMinor => facts.transaction.base_amount() as f64,
            Self::EventTime => facts.transaction.event_time() as f64,
            Self::Field(field) => facts.transaction.number(*field),
            Self::Size(text) => text.with(facts, |text| text.chars().count() as f64).unwrap_or(f64::NAN),
            Self::Hour(time) => (time.value(facts) / 3_600_000.0).floor().rem_euclid(24.0),
            Self::Arithmetic(pair, operator) => {
                let (left, right) = (pair.0.value(facts), pair.1.value(facts));
                match operator {
                    Operator::Add => left + right,
                    Operator::Subtract => left - right,
                    Operator::Multiply => left * right,
                    Operator::Divide => left / right,
                    Operator::Remainder => left % right,
                }
            }
            Self::If(parts) => {
                let (condition, then, otherwise) = &**parts;
                if condition.holds(facts) { then.value(facts) } else { otherwise.value(facts) }
            }
        }
    }
}

impl Text {
    /// What `look` makes of the text; `None` where there is none.
    fn with<R>(&self, facts: &Facts<'_>, look: impl FnOnce(&str) -> R) -> Option<R> {
        match self {
            Self::Constant(text) => Some(look(text)),
            Self::Id => Some(look(facts.transaction.id())),
            Self::Currency => Some(look(facts.transaction.currency().code())),
            Self::Field(field) => facts.transaction.text(*field).map(look),
        }
    }
}
