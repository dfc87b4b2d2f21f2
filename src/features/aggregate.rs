//! What is worked out over a window.

/// An aggregate of an entity's transactions. Amounts are minor units of the base currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Aggregate {
    Count,
    Sum,
    Mean,
    /// Of a sample (divided by *n* − 1); missing below two transactions.
    Std,
    Min,
    Max,
    /// The amount of the transaction before this one.
    Last,
    /// Different values of a field.
    Distinct,
    /// 1 when no transaction before this one, inside the window, has this one's value of a field.
    IsNew,
    /// Seconds since this one's value of a field was first seen inside the window.
    FirstSeen,
    /// Seconds since the transaction before this one.
    SinceLast,
    /// The part of the transactions that have this one's value of a field, 0 to 1.
    Share,
    /// How many standard deviations the amount is from the window's mean.
    ZScore,
    /// The amount divided by the window's mean.
    Ratio,
    /// Kilometres from the transaction before this one that has a place.
    Distance,
    /// Kilometres an hour from the transaction before this one that has a place.
    Speed,
    /// Transactions known to be fraud.
    FraudCount,
    /// The part of the transactions known to be fraud, 0 to 1.
    FraudRate,
}

pub(super) const NAMES: [(&str, Aggregate); 18] = [
    ("count", Aggregate::Count),
    ("sum", Aggregate::Sum),
    ("mean", Aggregate::Mean),
    ("std", Aggregate::Std),
    ("min", Aggregate::Min),
    ("max", Aggregate::Max),
    ("last", Aggregate::Last),
    ("distinct", Aggregate::Distinct),
    ("is_new", Aggregate::IsNew),
    ("first_seen", Aggregate::FirstSeen),
    ("seconds_since_last", Aggregate::SinceLast),
    ("share", Aggregate::Share),
    ("z_score", Aggregate::ZScore),
    ("ratio", Aggregate::Ratio),
    ("distance", Aggregate::Distance),
    ("speed", Aggregate::Speed),
    ("fraud_count", Aggregate::FraudCount),
    ("fraud_rate", Aggregate::FraudRate),
];

impl Aggregate {
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, aggregate)| *aggregate == self).map_or("", |(name, _)| name)
    }

    /// Whether it looks at the transaction before this one, not at a window.
    pub(super) fn is_previous(self) -> bool {
        matches!(self, Self::Last | Self::SinceLast | Self::Distance | Self::Speed)
    }

    /// Whether it needs a text field to work on.
    pub(super) fn needs_field(self) -> bool {
        matches!(self, Self::Distinct | Self::IsNew | Self::FirstSeen | Self::Share)
    }

    /// Whether it looks for all transactions with the current one's value, not only for the last.
    pub(super) fn needs_matches(self) -> bool {
        matches!(self, Self::FirstSeen | Self::Share)
    }

    /// Whether it compares the transaction with its past: itself left out unless the set says otherwise.
    pub(super) fn is_comparison(self) -> bool {
        matches!(self, Self::ZScore | Self::Ratio | Self::IsNew | Self::FirstSeen)
    }

    pub(super) fn needs_fraud(self) -> bool {
        matches!(self, Self::FraudCount | Self::FraudRate)
    }

    pub(super) fn needs_amount(self) -> bool {
        matches!(
            self,
            Self::Sum | Self::Mean | Self::Std | Self::Min | Self::Max | Self::Last | Self::ZScore | Self::Ratio
        )
    }

    pub(super) fn needs_squares(self) -> bool {
        matches!(self, Self::Std | Self::ZScore)
    }

    pub(super) fn needs_extremes(self) -> bool {
        matches!(self, Self::Min | Self::Max)
    }

    pub(super) fn needs_place(self) -> bool {
        matches!(self, Self::Distance | Self::Speed)
    }

    /// Whether its values are whole numbers.
    pub(super) fn is_integer(self) -> bool {
        matches!(
            self,
            Self::Count
                | Self::Sum
                | Self::Min
                | Self::Max
                | Self::Last
                | Self::Distinct
                | Self::IsNew
                | Self::FraudCount
        )
    }
}
