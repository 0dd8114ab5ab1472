//! What inputs go through before they are answered.
use std::fmt;

use serde::Deserialize;
use tidegate_model::{Attack, Input, Method, Norm, Space};

use crate::{
    Metric,
    perturb::{Kind, Perturbation, SEVERITIES},
};

/// Draws of one perturbation at most.
const MOST_DRAWS: u32 = 20;
/// Steps of an attack, and questions of a black box, at most.
const MOST_STEPS: u32 = 1_000;
const MOST_RESTARTS: u32 = 20;
/// Changes of one text at most: with more of them the label is not what it was.
const MOST_SWAPS: f64 = 2.0;
/// What steps are when a suite does not say.
const STEPS: u32 = 10;
pub(crate) const QUERIES: u32 = 200;

/// What inputs go through before both models answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Under {
    /// The same perturbed inputs for both.
    Perturbed(Perturbation),
    /// A kind at each of its severities.
    Severities(Kind),
    /// Each model's own adversarial inputs.
    Attacked(Attack),
}

impl Under {
    /// `characters 0.05`, `image.jpeg 1-5`, `attack.pgd_linf pixels 4, 10 steps`.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Perturbed(Perturbation { kind, strength, draws: 1 }) => {
                format!("{} {strength}", kind.as_str())
            }
            Self::Perturbed(Perturbation { kind, strength, draws }) => {
                format!("{} {strength}, worst of {draws}", kind.as_str())
            }
            Self::Severities(kind) => {
                format!("{} {}-{}", kind.as_str(), SEVERITIES.start(), SEVERITIES.end())
            }
            Self::Attacked(attack) => attack.to_string(),
        }
    }

    /// For people.
    #[must_use]
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Perturbed(perturbation) => perturbation.words(),
            Self::Severities(kind) => format!("{} at every severity", kind.as_str()),
            Self::Attacked(attack) => format!("{attack}, on each model by itself"),
        }
    }

    /// The kind of part that it is of.
    pub(crate) fn part(&self) -> &'static str {
        match self {
            Self::Perturbed(Perturbation { kind, .. }) | Self::Severities(kind) => kind.part(),
            Self::Attacked(attack) => attack.space.part(),
        }
    }

    /// The perturbations that it is made of; none of an attack.
    pub(crate) fn perturbations(&self) -> Vec<Perturbation> {
        match self {
            Self::Perturbed(perturbation) => vec![*perturbation],
            Self::Severities(kind) => {
                SEVERITIES.map(|severity| Perturbation::new(*kind, f64::from(severity))).collect()
            }
            Self::Attacked(_) => vec![],
        }
    }
}

/// Whether an input has a part of this kind.
pub(crate) fn has_part(input: &Input, part: &str) -> bool {
    match part {
        "text" => !input.texts().is_empty(),
        part => input.parts.iter().any(|one| one.name() == part),
    }
}

/// `under` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnderDocument {
    kind: String,
    strength: Option<f64>,
    severity: Option<u32>,
    worst_of: Option<u32>,
    space: Option<String>,
    eps: Option<f64>,
    steps: Option<u32>,
    restarts: Option<u32>,
}

impl UnderDocument {
    /// # Errors
    /// In words: what is wrong, and what would be right.
    pub(crate) fn validate(&self, metric: Metric) -> Result<Under, String> {
        match self.kind.strip_prefix("attack.") {
            Some(method) => self.attack(method).map(Under::Attacked),
            None => self.perturbation(metric),
        }
    }

    fn perturbation(&self, metric: Metric) -> Result<Under, String> {
        let name = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(&self.kind);
        let kind = Kind::deserialize(name).map_err(|_| {
            let kind = &self.kind;
            format!("kind `{kind}` is none: see docs/guides/robustness.md for those there are")
        })?;
        let attacks = [
            ("space", self.space.is_some()),
            ("eps", self.eps.is_some()),
            ("steps", self.steps.is_some()),
            ("restarts", self.restarts.is_some()),
        ];
        if let Some((field, _)) = attacks.into_iter().find(|(_, given)| *given) {
            return Err(format!("`{field}` belongs to attacks: leave it out of {}", self.kind));
        }
        let draws = self.worst_of.unwrap_or(1);
        if !(1..=MOST_DRAWS).contains(&draws) {
            return Err(format!("worst_of {draws}: use 1 to {MOST_DRAWS}"));
        }
        let strength = match (kind.has_severities(), self.strength, self.severity) {
            (false, Some(strength), None) if strength > 0.0 && strength <= 1.0 => strength,
            (false, Some(strength), None) => {
                return Err(format!("strength {strength}: use above 0, to 1"));
            }
            (false, ..) => {
                let kind = &self.kind;
                return Err(format!("{kind} has a `strength` (above 0, to 1), and no severity"));
            }
            (true, None, Some(severity)) if SEVERITIES.contains(&severity) => f64::from(severity),
            (true, None, Some(severity)) => return Err(format!("severity {severity}: use 1 to 5")),
            (true, None, None) if metric == Metric::CorruptionError => {
                return Ok(Under::Severities(kind));
            }
            (true, ..) => {
                return Err(format!("{} has a `severity` (1 to 5), and no strength", self.kind));
            }
        };
        if metric == Metric::CorruptionError {
            let need =
                "corruption_error is over all severities of a kind of picture, sound or table";
            return Err(format!("{need}: give `kind` alone"));
        }
        Ok(Under::Perturbed(Perturbation { kind, strength, draws }))
    }

    fn attack(&self, method: &str) -> Result<Attack, String> {
        let kind = &self.kind;
        if let Some(field) = [
            ("strength", self.strength.is_some()),
            ("severity", self.severity.is_some()),
            ("worst_of", self.worst_of.is_some()),
        ]
        .into_iter()
        .find_map(|(field, given)| given.then_some(field))
        {
            return Err(format!("`{field}` belongs to perturbations: leave it out of {kind}"));
        }
        let method = match method {
            "fgsm" => Method::Fgsm,
            "pgd_linf" => Method::PgdLinf,
            "pgd_l2" => Method::PgdL2,
            "hotflip" => Method::Hotflip,
            "random" => Method::Random(Norm::Linf),
            _ => {
                let known = "attack.fgsm, attack.pgd_linf, attack.pgd_l2, attack.hotflip and \
                             attack.random";
                return Err(format!("kind `{kind}` is none: there are {known}"));
            }
        };
        const SPACES: [Space; 6] = [
            Space::Pixels,
            Space::Waveform,
            Space::Numbers,
            Space::Embedding,
            Space::Characters,
            Space::Words,
        ];
        let fits = |space: &Space| match method {
            Method::Hotflip => space.is_of_swaps(),
            Method::Random(_) => true,
            _ => !space.is_of_swaps(),
        };
        let given = self.space.as_deref().unwrap_or_default();
        let space = SPACES.into_iter().filter(fits).find(|space| space.as_str() == given);
        let space = space.ok_or_else(|| {
            let names: Vec<&str> = SPACES.iter().filter(|s| fits(s)).map(|s| s.as_str()).collect();
            format!("`space` of {kind}: use one of {}", names.join(", "))
        })?;
        let eps = self.eps.ok_or_else(|| format!("{kind} needs `eps`, how much it may change"))?;
        if !(eps.is_finite() && eps > 0.0) {
            return Err(format!("eps {eps}: use above 0"));
        }
        if space.is_of_swaps() && !(eps.fract() == 0.0 && eps <= MOST_SWAPS) {
            return Err(format!("eps {eps} in {}: use 1 or {MOST_SWAPS} changes", space.as_str()));
        }
        let random = matches!(method, Method::Random(_));
        let one_step = matches!(method, Method::Fgsm | Method::Hotflip);
        if one_step && (self.steps.is_some() || self.restarts.is_some()) {
            return Err(format!("`steps` and `restarts` mean nothing for {kind}: leave them out"));
        }
        if random && self.restarts.is_some() {
            return Err(format!("`restarts` means nothing for {kind}: leave it out"));
        }
        let steps = self.steps.unwrap_or(if random { QUERIES } else { STEPS });
        let restarts = self.restarts.unwrap_or(u32::from(!random && !one_step));
        if !(1..=MOST_STEPS).contains(&steps) || restarts > MOST_RESTARTS {
            let most = format!("steps 1 to {MOST_STEPS}, restarts to {MOST_RESTARTS}");
            return Err(format!("steps {steps}, restarts {restarts}: use {most}"));
        }
        Ok(Attack { method, space, eps, steps, restarts })
    }
}

impl fmt::Display for Under {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}
