//! Who pays where: accounts and terminals on a plane, each worked out from the seed whenever it is needed.

use super::random::Random;

const ACCOUNT: u64 = 1;
const TERMINAL: u64 = 2;

/// The plane is this wide and high.
const SIDE: f64 = 100.0;
/// An account uses the terminals within this distance.
pub(super) const RADIUS: f64 = 5.0;
const CELLS: usize = 20;

/// Countries with the place where their part of the plane begins, and their share in percent.
const COUNTRIES: [(&str, f64, f64, u64); 8] = [
    ("BE", 49.5, 2.5, 30),
    ("FR", 43.0, -1.0, 20),
    ("DE", 48.0, 7.0, 20),
    ("NL", 51.0, 4.0, 10),
    ("ES", 37.0, -6.0, 8),
    ("IT", 41.0, 9.0, 6),
    ("PL", 50.0, 15.0, 4),
    ("SE", 56.0, 12.0, 2),
];
/// Places far from all of these, for travel that cannot be.
const FAR: [(&str, f64, f64); 6] = [
    ("US", 40.7, -74.0),
    ("BR", -23.5, -46.6),
    ("NG", 6.5, 3.4),
    ("CN", 31.2, 121.5),
    ("ID", -6.2, 106.8),
    ("AU", -33.9, 151.2),
];
const MCCS: [&str; 12] =
    ["5411", "5812", "5814", "5541", "5912", "5311", "5999", "4111", "5732", "7011", "6011", "5947"];

/// An account's spending profile, after the Handbook: places uniform on the plane, a mean amount from 5 to
/// 100 with half of it as deviation, 0 to 4 transactions a day.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    pub x: f64,
    pub y: f64,
    pub mean_amount: f64,
    pub daily: f64,
    pub country: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Terminal {
    x: f32,
    y: f32,
}

/// The terminals, found by where they are.
#[derive(Debug)]
pub(super) struct Population {
    seed: u64,
    terminals: Vec<Terminal>,
    cells: Vec<Vec<u32>>,
}

impl Population {
    pub fn new(seed: u64, terminals: u32) -> Self {
        let mut cells = vec![Vec::new(); CELLS * CELLS];
        #[expect(clippy::cast_possible_truncation, reason = "a place on a plane of 100")]
        let terminals = (0..terminals)
            .map(|id| {
                let mut random = Random::of(seed, TERMINAL, u64::from(id), 0);
                let (x, y) = (random.between(0.0, SIDE), random.between(0.0, SIDE));
                if let Some(cell) = cells.get_mut(cell(x) * CELLS + cell(y)) {
                    cell.push(id);
                }
                Terminal { x: x as f32, y: y as f32 }
            })
            .collect();
        Self { seed, terminals, cells }
    }

    pub fn account(&self, id: u32) -> Account {
        let mut random = Random::of(self.seed, ACCOUNT, u64::from(id), 0);
        let (x, y) = (random.between(0.0, SIDE), random.between(0.0, SIDE));
        let (mean_amount, daily) = (random.between(5.0, 100.0), random.between(0.0, 4.0));
        let mut share = random.below(100);
        let country = COUNTRIES.iter().position(|(.., part)| {
            let here = share < *part;
            share = share.saturating_sub(*part);
            here
        });
        Account { x, y, mean_amount, daily, country: country.unwrap_or_default() }
    }

    /// One of the terminals within the account's radius, or any if it has none near.
    pub fn terminal(&self, account: &Account, random: &mut Random) -> u32 {
        let near = |middle: usize| middle.saturating_sub(1)..(middle + 2).min(CELLS);
        let (cx, cy) = (cell(account.x), cell(account.y));
        let around = || near(cx).flat_map(move |i| near(cy).map(move |j| i * CELLS + j));
        let total: usize = around().filter_map(|cell| self.cells.get(cell)).map(Vec::len).sum();
        for _ in 0..40 {
            let mut pick = usize::try_from(random.below(total.max(1) as u64)).unwrap_or_default();
            let found = around().filter_map(|cell| self.cells.get(cell)).find_map(|cell| {
                let here = cell.get(pick).copied();
                pick = pick.saturating_sub(cell.len());
                here
            });
            let Some(id) = found else { break };
            if self.terminals.get(id as usize).is_some_and(|terminal| terminal.distance(account) < RADIUS) {
                return id;
            }
        }
        self.any_terminal(random)
    }

    pub fn any_terminal(&self, random: &mut Random) -> u32 {
        u32::try_from(random.below(self.terminals.len().max(1) as u64)).unwrap_or_default()
    }
}

impl Terminal {
    fn distance(self, account: &Account) -> f64 {
        (f64::from(self.x) - account.x).hypot(f64::from(self.y) - account.y)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 up to 100")]
fn cell(coordinate: f64) -> usize {
    ((coordinate / SIDE * CELLS as f64) as usize).min(CELLS - 1)
}

pub(super) fn country(index: usize) -> &'static str {
    COUNTRIES.get(index).map_or("BE", |(code, ..)| code)
}

/// Where on Earth a point of a country's part of the plane is: 3 degrees by 4.
pub(super) fn on_earth(country: usize, x: f64, y: f64) -> (f64, f64) {
    let (_, latitude, longitude, _) = COUNTRIES.get(country).copied().unwrap_or(("BE", 49.5, 2.5, 0));
    (latitude + y / SIDE * 3.0, longitude + x / SIDE * 4.0)
}

pub(super) fn far_place(random: &mut Random) -> (&'static str, f64, f64) {
    let at = usize::try_from(random.below(FAR.len() as u64)).unwrap_or_default();
    FAR.get(at).copied().unwrap_or(("US", 40.7, -74.0))
}

/// The merchant of a terminal: some merchants have several.
pub(super) fn merchant(terminal: u32) -> u32 {
    terminal / 3
}

pub(super) fn mcc(merchant: u32) -> &'static str {
    MCCS.get(merchant as usize % MCCS.len()).copied().unwrap_or("5999")
}
