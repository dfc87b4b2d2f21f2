//! Synthetic payments with fraud and drift, seeded: the same scenario gives the same bytes.
//!
//! The base follows the published description of the simulator in *Reproducible Machine Learning for Credit
//! Card Fraud Detection: Practical Handbook* (Le Borgne, Siblini, Lebichot, Bontempi, 2022), chapter 3:
//! accounts and terminals on a plane, spending profiles, a radius, and three kinds of fraud. On top come
//! campaigns ([`Typology`]) and drift.
//!
//! A day is made at a time, from numbers that depend only on the seed, the account and the day: memory
//! grows with what happens in one day (some 12 bytes a payment), not with the length of the run.

mod campaign;
mod payment;
mod population;
mod random;
mod write;

use std::collections::BTreeSet;

pub use payment::Typology;
use payment::{Channel, Payment};
use population::Population;
use random::Random;
pub use write::{Summary, write};

const DAY_MS: i64 = 86_400_000;
const SPENDING: u64 = 3;
const DETAIL: u64 = 4;
const TERMINALS_COMPROMISED: u64 = 5;
const CREDENTIALS_LEAKED: u64 = 6;

/// What is simulated.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    pub seed: u64,
    pub accounts: u32,
    pub terminals: u32,
    pub days: u32,
    /// Milliseconds since 1970 at which the first day begins.
    pub start: i64,
    /// Terminals compromised a day, of 10,000 (the Handbook's 2).
    pub compromised_terminals: f64,
    /// Accounts whose credentials leak a day, of 5,000 (the Handbook's 3).
    pub leaked_credentials: f64,
    /// Campaigns of each typology a day, of 10,000 accounts.
    pub campaigns: f64,
    /// Prices rise by this part...
    pub price_rise: f64,
    /// ...from this day on.
    pub price_rise_from: Option<u32>,
    /// Gift-card fraud, which was not there before, begins on this day.
    pub new_fraud_from: Option<u32>,
    /// From this day on the device is missing...
    pub null_device_from: Option<u32>,
    /// ...with this probability.
    pub null_device_share: f64,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 1,
            accounts: 5_000,
            terminals: 10_000,
            days: 30,
            start: 1_767_225_600_000,
            compromised_terminals: 2.0,
            leaked_credentials: 3.0,
            campaigns: 2.0,
            price_rise: 0.0,
            price_rise_from: None,
            new_fraud_from: None,
            null_device_from: None,
            null_device_share: 1.0,
        }
    }
}

impl Scenario {
    /// Payments to expect, for a progress bar.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
    pub fn expected(&self) -> u64 {
        // Two a day on average, some of them past midnight and dropped.
        (f64::from(self.accounts) * f64::from(self.days) * 1.93) as u64
    }

    /// # Errors
    /// What is wrong with the numbers.
    pub fn check(&self) -> Result<(), String> {
        let positive = [("accounts", self.accounts), ("terminals", self.terminals), ("days", self.days)];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} must be at least 1"));
        }
        if self.accounts > 100_000_000 || self.terminals > 10_000_000 {
            return Err("at most 100000000 accounts and 10000000 terminals".into());
        }
        let rates = [
            ("compromised_terminals", self.compromised_terminals, 10_000.0),
            ("leaked_credentials", self.leaked_credentials, 5_000.0),
            ("campaigns", self.campaigns, 10_000.0),
            ("null_device_share", self.null_device_share, 1.0),
            ("price_rise", self.price_rise, 1_000.0),
        ];
        for (name, rate, most) in rates {
            if !(0.0..=most).contains(&rate) {
                return Err(format!("{name} must be from 0 to {most}"));
            }
        }
        let end = self.start.checked_add(i64::from(self.days) * DAY_MS);
        if self.start < 0 || end.is_none_or(|end| end >= crate::transaction::EVENT_TIMES.end) {
            return Err("the days must lie between 1970 and 2200".into());
        }
        Ok(())
    }
}

/// Makes payments in the order of their times.
struct Simulator {
    scenario: Scenario,
    people: Population,
    day: u32,
    /// Time of day, account and number of each payment of the day, in one word that sorts.
    order: Vec<u64>,
    next: usize,
    campaigns: Vec<Payment>,
    compromised: BTreeSet<u32>,
    leaked: BTreeSet<u32>,
}

/// The number of a payment in a day's campaigns stands where an account's own number would.
const FROM_CAMPAIGN: u64 = 0xff;

impl Simulator {
    fn new(scenario: &Scenario) -> Self {
        let people = Population::new(scenario.seed, scenario.terminals);
        let mut simulator = Self {
            scenario: scenario.clone(),
            people,
            day: 0,
            order: Vec::new(),
            next: 0,
            campaigns: Vec::new(),
            compromised: BTreeSet::new(),
            leaked: BTreeSet::new(),
        };
        simulator.begin_day();
        simulator
    }

    /// The next payment, `None` at the end.
    fn next(&mut self) -> Option<Payment> {
        while self.next == self.order.len() {
            self.day += 1;
            if self.day >= self.scenario.days {
                return None;
            }
            self.begin_day();
        }
        let word = self.order.get(self.next).copied()?;
        self.next += 1;
        Some(self.payment(word))
    }

    fn begin_day(&mut self) {
        let Scenario { seed, accounts, terminals, .. } = self.scenario;
        let day = u64::from(self.day);
        self.order.clear();
        self.next = 0;
        for account in 0..accounts {
            let mut random = Random::of(seed, SPENDING, u64::from(account), day);
            let daily = self.people.account(account).daily;
            let mut number = 0;
            for _ in 0..random.poisson(daily) {
                // Around noon; what falls outside the day is dropped, as in the Handbook.
                let second = 43_200.0 + 20_000.0 * random.normal();
                if (0.0..86_400.0).contains(&second) && number < FROM_CAMPAIGN {
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "inside a day")]
                    let time = (second * 1_000.0) as u64;
                    self.order.push(time << 36 | u64::from(account) << 8 | number);
                    number += 1;
                }
            }
        }
        self.campaigns.clear();
        let daily = self.scenario.campaigns * f64::from(accounts) / 10_000.0;
        for typology in Typology::ALL {
            let new = typology == Typology::GiftCards;
            if !new || self.scenario.new_fraud_from.is_some_and(|from| self.day >= from) {
                let daily = if new { daily * 4.0 } else { daily };
                campaign::of_day(seed, self.day, typology, daily, accounts, &self.people, &mut self.campaigns);
            }
        }
        for (index, payment) in self.campaigns.iter().enumerate() {
            #[expect(clippy::cast_sign_loss, reason = "milliseconds of a day")]
            self.order.push((payment.time as u64) << 36 | (index as u64) << 8 | FROM_CAMPAIGN);
        }
        self.order.sort_unstable();
        let terminal_rate = self.scenario.compromised_terminals * f64::from(terminals) / 10_000.0;
        self.compromised = recent(seed, TERMINALS_COMPROMISED, self.day, 28, terminal_rate, terminals);
        let account_rate = self.scenario.leaked_credentials * f64::from(accounts) / 5_000.0;
        self.leaked = recent(seed, CREDENTIALS_LEAKED, self.day, 14, account_rate, accounts);
    }

    fn payment(&self, word: u64) -> Payment {
        let (number, index) = (word & 0xff, u32::try_from(word >> 8 & 0x0fff_ffff).unwrap_or_default());
        let mut payment = if number == FROM_CAMPAIGN {
            self.campaigns.get(index as usize).copied().unwrap_or_else(|| self.own(0, 0))
        } else {
            self.own(index, number)
        };
        payment.time = self.scenario.start + i64::from(self.day) * DAY_MS + (word >> 36).cast_signed();
        self.drift(&mut payment, word);
        payment
    }

    /// A payment that an account makes itself, and that fraud of the Handbook's kinds may touch.
    fn own(&self, account: u32, number: u64) -> Payment {
        let day = u64::from(self.day);
        let mut random = Random::of(self.scenario.seed, DETAIL, u64::from(account), day << 8 | number);
        let own = self.people.account(account);
        let mut amount = own.mean_amount + own.mean_amount / 2.0 * random.normal();
        if amount < 0.0 {
            amount = random.between(0.0, 2.0 * own.mean_amount);
        }
        let terminal = self.people.terminal(&own, &mut random);
        let mut payment = Payment::usual(account, &own, terminal);
        payment.channel = match random.below(100) {
            0..35 => Channel::Contactless,
            35..60 => Channel::PointOfSale,
            60..95 => Channel::Online,
            _ => Channel::Atm,
        };
        if random.chance(0.02) {
            // A second device now and then: a new one is not fraud by itself.
            payment.device = u64::from(account) | 1 << 40;
        }
        if self.leaked.contains(&account) && random.chance(1.0 / 3.0) {
            amount *= 5.0;
            payment.typology = Some(Typology::LeakedCredentials);
        }
        payment.set_amount(amount);
        if payment.amount > 22_000 {
            payment.typology = payment.typology.or(Some(Typology::HighAmount));
        }
        if self.compromised.contains(&terminal) {
            payment.typology = payment.typology.or(Some(Typology::CompromisedTerminal));
        }
        payment
    }

    fn drift(&self, payment: &mut Payment, word: u64) {
        let since = |from: Option<u32>| from.is_some_and(|from| self.day >= from);
        if since(self.scenario.price_rise_from) {
            let amount = payment.amount as f64 / 100.0;
            payment.set_amount(amount * (1.0 + self.scenario.price_rise));
        }
        if since(self.scenario.null_device_from) {
            let mut random = Random::of(self.scenario.seed, DETAIL, word, u64::from(self.day));
            if random.chance(self.scenario.null_device_share) {
                payment.device = u64::MAX;
            }
        }
    }
}

/// What was struck within the last `lasts` days: so many a day, of `of`.
fn recent(seed: u64, purpose: u64, day: u32, lasts: u32, rate: f64, of: u32) -> BTreeSet<u32> {
    let mut struck = BTreeSet::new();
    for past in (day + 1).saturating_sub(lasts)..=day {
        let mut random = Random::of(seed, purpose, u64::from(past), 0);
        // The whole part every day, the rest by chance.
        let whole = rate.floor();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
        let count = whole as u32 + u32::from(random.chance(rate - whole));
        for _ in 0..count {
            struck.insert(u32::try_from(random.below(u64::from(of))).unwrap_or_default());
        }
    }
    struck
}

#[cfg(test)]
mod tests {
    use super::{Scenario, Simulator, Typology, write};

    fn text(scenario: &Scenario) -> (String, String) {
        let (mut payments, mut labels) = (Vec::new(), Vec::new());
        write(scenario, &mut payments, Some(&mut labels), |_| true).expect("memory takes it");
        (String::from_utf8(payments).expect("UTF-8"), String::from_utf8(labels).expect("UTF-8"))
    }

    fn small() -> Scenario {
        Scenario { accounts: 500, terminals: 1_000, days: 20, campaigns: 20.0, ..Scenario::default() }
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_others() {
        let first = text(&small());
        assert_eq!(first, text(&small()));
        assert_ne!(first.0, text(&Scenario { seed: 2, ..small() }).0);
    }

    #[test]
    fn payments_come_in_order_with_ids_of_their_own() {
        let (payments, labels) = text(&small());
        let (mut last, mut ids) = (0, std::collections::BTreeSet::new());
        for line in payments.lines() {
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let time = value["event_time"].as_i64().expect("a time");
            assert!(time >= last);
            last = time;
            assert!(ids.insert(value["transaction_id"].as_str().expect("an id").to_owned()));
        }
        let mut last = 0;
        for line in labels.lines() {
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let time = value["label_time"].as_i64().expect("a time");
            assert!(time >= last && ids.contains(value["transaction_id"].as_str().expect("an id")));
            last = time;
        }
        assert!(labels.lines().count() > 500);
    }

    /// The Handbook's population: 1.93 payments a day and account (a few fall outside the day), a mean
    /// amount of 53.6 (negative ones are drawn again), all above 220 fraud.
    #[test]
    fn spending_is_the_handbooks() {
        let scenario = Scenario {
            accounts: 2_000,
            days: 10,
            campaigns: 0.0,
            leaked_credentials: 0.0,
            compromised_terminals: 0.0,
            ..Scenario::default()
        };
        let mut simulator = Simulator::new(&scenario);
        let payments: Vec<_> = std::iter::from_fn(|| simulator.next()).collect();
        let a_day = payments.len() as f64 / 20_000.0;
        assert!((1.85..2.0).contains(&a_day), "{a_day} payments a day");
        let mean = payments.iter().map(|payment| payment.amount).sum::<i64>() as f64 / payments.len() as f64 / 100.0;
        assert!((51.0..56.0).contains(&mean), "mean amount {mean}");
        for payment in &payments {
            assert_eq!(payment.typology == Some(Typology::HighAmount), payment.amount > 22_000);
        }
    }

    #[test]
    fn every_typology_is_there_and_fraud_is_rare() {
        let scenario = Scenario { new_fraud_from: Some(10), accounts: 5_000, days: 20, ..Scenario::default() };
        let mut simulator = Simulator::new(&scenario);
        let payments: Vec<_> = std::iter::from_fn(|| simulator.next()).collect();
        for typology in Typology::ALL {
            assert!(payments.iter().any(|payment| payment.typology == Some(typology)), "{}", typology.name());
        }
        let share = payments.iter().filter(|payment| payment.typology.is_some()).count() as f64 / payments.len() as f64;
        assert!((0.002..0.03).contains(&share), "fraud share {share}");
        let new = payments.iter().filter(|payment| payment.typology == Some(Typology::GiftCards));
        assert!(new.map(|payment| payment.time).min().expect("some") >= scenario.start + 10 * super::DAY_MS);
    }

    #[test]
    fn drift_begins_on_its_day() {
        let plain = small();
        let changed =
            Scenario { price_rise: 0.5, price_rise_from: Some(10), null_device_from: Some(10), ..plain.clone() };
        let (mut plain, mut changed) = (Simulator::new(&plain), Simulator::new(&changed));
        let border = small().start + 10 * super::DAY_MS;
        while let (Some(before), Some(after)) = (plain.next(), changed.next()) {
            assert_eq!(before.time, after.time);
            if after.time < border {
                assert_eq!((before.amount, before.device), (after.amount, after.device));
            } else {
                assert!((after.amount as f64 - before.amount as f64 * 1.5).abs() <= 0.51);
                assert_eq!(after.device, u64::MAX);
            }
        }
    }
}
