//! Fraud in campaigns: some transactions of one plan, each plan worked out from the seed, the day and its number.

use super::payment::{Channel, Payment, Typology};
use super::population::{self, Population};
use super::random::Random;

const CAMPAIGN: u64 = 10;
const DAY: i64 = 86_400_000;
const MINUTE: f64 = 60_000.0;

/// The campaigns that begin on a day, as transactions without ids.
pub(super) fn of_day(
    seed: u64,
    day: u32,
    typology: Typology,
    daily: f64,
    accounts: u32,
    people: &Population,
    into: &mut Vec<Payment>,
) {
    let mut random = Random::of(seed, CAMPAIGN + typology as u64, u64::from(day), 0);
    for _ in 0..random.poisson(daily) {
        let mut plan = Plan { random: &mut random, accounts, people, typology, into };
        match typology {
            Typology::CardTesting => plan.card_testing(),
            Typology::VelocityBurst => plan.velocity_burst(),
            Typology::AccountTakeover => plan.account_takeover(),
            Typology::DeviceRing => plan.device_ring(),
            Typology::MuleFanIn => plan.mule_fan_in(),
            Typology::ImpossibleTravel => plan.impossible_travel(),
            Typology::GiftCards => plan.gift_cards(),
            Typology::HighAmount | Typology::CompromisedTerminal | Typology::LeakedCredentials => {}
        }
    }
}

struct Plan<'a> {
    random: &'a mut Random,
    accounts: u32,
    people: &'a Population,
    typology: Typology,
    into: &'a mut Vec<Payment>,
}

impl Plan<'_> {
    fn account(&mut self) -> u32 {
        u32::try_from(self.random.below(u64::from(self.accounts))).unwrap_or_default()
    }

    fn times(&mut self, low: u64, high: u64) -> u64 {
        low + self.random.below(high - low + 1)
    }

    /// A start that leaves `minutes` to the day's end.
    fn start(&mut self, minutes: f64) -> f64 {
        let room = DAY as f64 - (minutes + 1.0) * MINUTE;
        self.random.between(0.0, room)
    }

    fn payment(&mut self, account: u32, time: f64, amount: f64) -> Payment {
        let own = self.people.account(account);
        let terminal = self.people.terminal(&own, self.random);
        let mut payment = Payment::usual(account, &own, terminal);
        #[expect(clippy::cast_possible_truncation, reason = "milliseconds of a day")]
        {
            payment.time = (time as i64).clamp(0, DAY - 1);
        }
        payment.set_amount(amount);
        payment.typology = Some(self.typology);
        payment
    }

    /// A stolen number is tried with small amounts at one online merchant, then used.
    fn card_testing(&mut self) {
        let account = self.account();
        let terminal = self.people.any_terminal(self.random);
        let device = self.random.below(1 << 40);
        let mut time = self.start(40.0);
        let tries = self.times(8, 20);
        for step in 0..=tries {
            time += self.random.between(0.2, 1.5) * MINUTE;
            let amount = if step == tries { self.random.between(150.0, 600.0) } else { self.random.between(0.5, 2.5) };
            let mut payment = self.payment(account, time, amount);
            payment.terminal = terminal;
            payment.channel = Channel::Online;
            payment.device = device | 1 << 60;
            self.into.push(payment);
        }
    }

    /// A card is emptied quickly at many places.
    fn velocity_burst(&mut self) {
        let account = self.account();
        let mut time = self.start(45.0);
        for _ in 0..self.times(8, 20) {
            time += self.random.between(0.3, 2.0) * MINUTE;
            let amount = self.random.between(20.0, 150.0);
            let payment = self.payment(account, time, amount);
            self.into.push(payment);
        }
    }

    /// Somebody else signs in: a new device in another country, larger amounts.
    fn account_takeover(&mut self) {
        let account = self.account();
        let device = self.random.below(1 << 40) | 2 << 60;
        let (country, latitude, longitude) = population::far_place(self.random);
        let mut time = self.start(180.0);
        let usual = self.people.account(account).mean_amount;
        for _ in 0..self.times(3, 6) {
            time += self.random.between(3.0, 25.0) * MINUTE;
            let amount = usual * self.random.between(2.0, 6.0);
            let mut payment = self.payment(account, time, amount);
            payment.terminal = self.people.any_terminal(self.random);
            payment.channel = Channel::Online;
            payment.device = device;
            payment.ip = u32::try_from(device & 0xffff_ffff).unwrap_or_default();
            payment.country = country;
            payment.place = Some((latitude, longitude));
            self.into.push(payment);
        }
    }

    /// One device pays for many accounts.
    fn device_ring(&mut self) {
        let device = self.random.below(1 << 40) | 3 << 60;
        let mut time = self.start(400.0);
        for _ in 0..self.times(6, 15) {
            time += self.random.between(2.0, 25.0) * MINUTE;
            let account = self.account();
            let amount = self.random.between(30.0, 200.0);
            let mut payment = self.payment(account, time, amount);
            payment.channel = Channel::Online;
            payment.device = device;
            self.into.push(payment);
        }
    }

    /// Many accounts pay one payee, in round amounts.
    fn mule_fan_in(&mut self) {
        let terminal = self.people.any_terminal(self.random);
        let mut time = self.start(160.0);
        for _ in 0..self.times(10, 25) {
            time += self.random.between(0.5, 6.0) * MINUTE;
            let account = self.account();
            let amount = 50.0 * (1.0 + self.random.below(8) as f64);
            let mut payment = self.payment(account, time, amount);
            payment.terminal = terminal;
            payment.channel = Channel::Online;
            self.into.push(payment);
        }
    }

    /// A card is used at home and, minutes later, on another continent; only the far ones are fraud.
    fn impossible_travel(&mut self) {
        let account = self.account();
        let mut time = self.start(60.0);
        let usual = self.people.account(account).mean_amount;
        let mut home = self.payment(account, time, usual);
        home.typology = None;
        self.into.push(home);
        let (country, latitude, longitude) = population::far_place(self.random);
        for _ in 0..self.times(1, 3) {
            time += self.random.between(5.0, 18.0) * MINUTE;
            let amount = usual * self.random.between(0.8, 3.0);
            let mut payment = self.payment(account, time, amount);
            payment.terminal = self.people.any_terminal(self.random);
            payment.country = country;
            payment.place = Some((latitude, longitude));
            self.into.push(payment);
        }
    }

    /// A pattern that no model has seen: at night, from the account's own device, just below 100.
    fn gift_cards(&mut self) {
        let account = self.account();
        let mut time = self.random.between(0.0, 4.0) * 60.0 * MINUTE;
        for _ in 0..self.times(3, 6) {
            time += self.random.between(1.0, 10.0) * MINUTE;
            let amount = self.random.between(95.0, 99.9);
            let mut payment = self.payment(account, time, amount);
            // A merchant that sells gift cards: the twelfth kind.
            payment.terminal = self.people.any_terminal(self.random) / 36 * 36 + 33;
            payment.channel = Channel::Online;
            self.into.push(payment);
        }
    }
}
