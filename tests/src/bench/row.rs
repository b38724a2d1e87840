//! The output of a benchmark, and how interleaved pairs of measurements become one ratio.

/// A finished row.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    pub peer: &'static str,
    pub ours: Vec<f64>,
    pub theirs: Vec<f64>,
    pub goal: Goal,
}

/// The goal for the ratio ours / theirs.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Of our value alone, in the row's unit, on a machine like the reference one; the ratio shows
    /// how machines differ.
    OursAtMost(f64),
    /// Printed for information, without a goal.
    None,
}

impl Row {
    /// A row without measurements.
    pub fn new(name: impl Into<String>, unit: &'static str, peer: &'static str, goal: Goal) -> Self {
        Self { name: name.into(), unit, peer, ours: Vec::new(), theirs: Vec::new(), goal }
    }

    /// Adds an interleaved pair.
    pub fn pair(&mut self, ours: f64, theirs: f64) {
        self.ours.push(ours);
        self.theirs.push(theirs);
    }

    /// One ratio per interleaved pair.
    fn ratios(&self) -> Vec<f64> {
        let mut ratios: Vec<_> = self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| ours / theirs).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    /// The median ratio.
    pub fn ratio(&self) -> f64 {
        median(&self.ratios())
    }

    pub fn met(&self) -> Option<bool> {
        match self.goal {
            Goal::AtLeast(goal) => Some(self.ratio() >= goal),
            Goal::AtMost(goal) => Some(self.ratio() <= goal),
            Goal::OursAtMost(goal) => Some(median_of(&self.ours) <= goal),
            Goal::None => None,
        }
    }

    pub fn print(&self) {
        let ratios = self.ratios();
        let spread = format!("{:.2}..{:.2}", ratios.first().unwrap_or(&f64::NAN), ratios.last().unwrap_or(&f64::NAN));
        let goal = match self.goal {
            Goal::AtLeast(goal) => format!(">= {goal}"),
            Goal::AtMost(goal) => format!("<= {goal}"),
            Goal::OursAtMost(goal) => format!("ours <= {goal} {}", self.unit),
            Goal::None => "-".to_owned(),
        };
        let met = match self.met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        println!(
            "{:<34} ours {:>11} {:<6} {:>24} {:>11}   ratio {:>6.2} ({spread}, {} pairs)  goal {goal} {met}",
            self.name,
            figure(median_of(&self.ours)),
            self.unit,
            self.peer,
            figure(median_of(&self.theirs)),
            self.ratio(),
            ratios.len(),
        );
    }
}

fn figure(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// The median of sorted values.
pub fn median(sorted: &[f64]) -> f64 {
    if sorted.is_empty() { f64::NAN } else { sorted[sorted.len() / 2] }
}

/// The median of values in any order.
pub fn median_of(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    median(&sorted)
}

/// The value below which `share` of the values lie.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(f64::NAN)
}
