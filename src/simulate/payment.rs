//! One simulated payment, small and without text: ids become text only when it is written.

use super::population::{self, Account};

/// Why a payment is fraud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Typology {
    /// The Handbook's first: an amount above 220.
    HighAmount,
    /// The Handbook's second: a terminal that was compromised in the last 28 days.
    CompromisedTerminal,
    /// The Handbook's third: credentials leaked in the last 14 days, a third of the payments five times as large.
    LeakedCredentials,
    CardTesting,
    VelocityBurst,
    AccountTakeover,
    DeviceRing,
    MuleFanIn,
    ImpossibleTravel,
    /// The new pattern that drift brings.
    GiftCards,
}

impl Typology {
    pub const ALL: [Self; 10] = [
        Self::HighAmount,
        Self::CompromisedTerminal,
        Self::LeakedCredentials,
        Self::CardTesting,
        Self::VelocityBurst,
        Self::AccountTakeover,
        Self::DeviceRing,
        Self::MuleFanIn,
        Self::ImpossibleTravel,
        Self::GiftCards,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HighAmount => "high_amount",
            Self::CompromisedTerminal => "compromised_terminal",
            Self::LeakedCredentials => "leaked_credentials",
            Self::CardTesting => "card_testing",
            Self::VelocityBurst => "velocity_burst",
            Self::AccountTakeover => "account_takeover",
            Self::DeviceRing => "device_ring",
            Self::MuleFanIn => "mule_fan_in",
            Self::ImpossibleTravel => "impossible_travel",
            Self::GiftCards => "gift_cards",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    PointOfSale,
    Contactless,
    Online,
    Atm,
}

impl Channel {
    pub fn name(self) -> &'static str {
        match self {
            Self::PointOfSale => "pos",
            Self::Contactless => "contactless",
            Self::Online => "online",
            Self::Atm => "atm",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Payment {
    /// Milliseconds of the day until it is taken, then since 1970.
    pub time: i64,
    pub account: u32,
    pub terminal: u32,
    /// The account's own device below 2^32; others have a higher bit set.
    pub device: u64,
    pub ip: u32,
    pub country: &'static str,
    pub place: Option<(f64, f64)>,
    pub channel: Channel,
    /// Cents.
    pub amount: i64,
    pub typology: Option<Typology>,
}

impl Payment {
    /// A payment of an account at home, with its own device.
    pub fn usual(account: u32, own: &Account, terminal: u32) -> Self {
        Self {
            time: 0,
            account,
            terminal,
            device: u64::from(account),
            ip: account.wrapping_mul(2_654_435_761) | 0x0a00_0000,
            country: population::country(own.country),
            place: Some(population::on_earth(own.country, own.x, own.y)),
            channel: Channel::PointOfSale,
            amount: 0,
            typology: None,
        }
    }

    /// Sets the amount, in units; never below one cent.
    pub fn set_amount(&mut self, amount: f64) {
        #[expect(clippy::cast_possible_truncation, reason = "amounts are far below 2^63 cents")]
        let cents = (amount * 100.0).round() as i64;
        self.amount = cents.max(1);
    }
}
