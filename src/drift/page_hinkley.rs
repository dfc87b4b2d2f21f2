//! Page–Hinkley: the running sum of differences from the running mean, against its own least or greatest value.
//!
//! Page, Continuous Inspection Schemes (1954), with a factor that forgets. Order of operations, defaults and the
//! start of the greatest sum (-1) are River's, so that alarms come at the same values. The defaults are for values
//! of about unit size, and are known to raise false alarms on long streams: choose a threshold.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PageHinkleySettings {
    /// Values before the first alarm.
    pub min_instances: f64,
    /// The change that is borne.
    pub delta: f64,
    pub threshold: f64,
    /// What the sum keeps of itself at each value.
    pub alpha: f64,
    pub direction: Direction,
}

impl Default for PageHinkleySettings {
    fn default() -> Self {
        Self { min_instances: 30.0, delta: 0.005, threshold: 50.0, alpha: 1.0 - 0.0001, direction: Direction::Both }
    }
}

#[derive(Debug, Clone)]
pub struct PageHinkley {
    settings: PageHinkleySettings,
    count: f64,
    mean: f64,
    rise: f64,
    fall: f64,
    least_rise: f64,
    greatest_fall: f64,
    changed: bool,
}

impl PageHinkley {
    #[must_use]
    pub fn new(settings: PageHinkleySettings) -> Self {
        Self {
            settings,
            count: 0.0,
            mean: 0.0,
            rise: 0.0,
            fall: 0.0,
            least_rise: f64::INFINITY,
            greatest_fall: -1.0,
            changed: false,
        }
    }

    /// Takes a value and says whether the mean has changed; starts anew after it has. A value that is not finite is
    /// passed over.
    pub fn update(&mut self, value: f64) -> bool {
        if !value.is_finite() {
            return false;
        }
        let settings = self.settings;
        if self.changed {
            *self = Self::new(settings);
        }
        self.count += 1.0;
        self.mean += (1.0 / self.count) * (value - self.mean);
        let difference = value - self.mean;
        self.rise = settings.alpha * self.rise + difference - settings.delta;
        self.fall = settings.alpha * self.fall + difference + settings.delta;
        self.least_rise = self.least_rise.min(self.rise);
        self.greatest_fall = self.greatest_fall.max(self.fall);
        if self.count >= settings.min_instances {
            let up = self.rise - self.least_rise > settings.threshold;
            let down = self.greatest_fall - self.fall > settings.threshold;
            self.changed = match settings.direction {
                Direction::Up => up,
                Direction::Down => down,
                Direction::Both => up || down,
            };
        }
        self.changed
    }
}
