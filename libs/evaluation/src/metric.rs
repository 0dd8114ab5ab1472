//! The names of what can be measured, and which way is better.
use serde::{Deserialize, Serialize};

/// What a check measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of examples whose likeliest class is the label.
    Accuracy,
    /// Mean recall over the classes that the examples have.
    BalancedAccuracy,
    /// Accuracy less the share of the commonest class: what is gained over always saying it.
    AccuracyOverMajority,
    /// Mean F1 over the classes that are seen or said.
    MacroF1,
    /// Mean negative log-likelihood of the label.
    LogLoss,
    /// Mean squared distance of the probabilities from the label, summed over classes.
    Brier,
    /// Expected calibration error of the likeliest class, 15 bins of equal width.
    Ece,
    /// Share of examples that are right as they are and under every perturbation of the suite.
    RobustAccuracy,
    /// Attack success rate: of the examples that are right as they are the share that some
    /// perturbation of the suite, or the attack of this check, makes wrong.
    Asr,
    /// Share of wrong answers over all severities of one kind of corruption; its ratio to the
    /// champion's is the corruption error of Hendrycks and Dietterich (arXiv 1903.12261).
    CorruptionError,
    /// Of numbers: mean absolute error, in the unit of the labels.
    Mae,
    /// Of numbers: root of the mean squared error, in the unit of the labels.
    Rmse,
    /// Of numbers: median of the absolute errors, in the unit of the labels.
    MedianAe,
    /// Of numbers: share of their variance that is explained; 0 of always saying their mean.
    R2,
    /// Of numbers: mean over examples of the largest absolute error as they are and under every
    /// perturbation of the suite.
    RobustMae,
    /// Of numbers: how far the share that lies in the answers' 90 % intervals is from 90 %.
    IntervalError,
    /// Of numbers: largest difference of mean absolute error between two groups.
    MaeGap,
    /// Largest difference of accuracy between two groups.
    AccuracyGap,
    /// Largest difference between two groups in how often a class is said, over all classes.
    DemographicParity,
    /// Largest difference between two groups in true or false positive rate, over all classes.
    EqualizedOdds,
    /// How far the champion's agreement with the labels of the candidate's window falls below that
    /// with earlier held-out labels of the same classes, each class weighted by its share of the
    /// window: labels that are wrong far beyond chance show here, other shares of classes do not. A
    /// number agrees where it lies in the answer's 90 % interval.
    LabelAgreementDrop,
    /// Median time of one prediction at a time, in milliseconds.
    LatencyP50Ms,
    /// 90th percentile of the same.
    LatencyP90Ms,
    /// 99th percentile of the same.
    LatencyP99Ms,
    /// Predictions per second in batches.
    ThroughputPerS,
    /// Joules of a thousand predictions in batches.
    #[serde(rename = "joules_per_1k")]
    JoulesPer1k,
    /// Grams of CO2 equivalent of a thousand predictions in batches.
    #[serde(rename = "gco2e_per_1k")]
    Gco2ePer1k,
    /// Joules of the job that made the candidate.
    TrainingJoules,
}

/// What a metric can be asked of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// Answers that are classes.
    Classes,
    /// Answers that are numbers.
    Numbers,
    /// Any.
    Any,
}

/// How a metric is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Quality,
    Gap,
    Agreement,
    Latency,
    Throughput,
    Energy,
    Training,
}

impl Metric {
    /// The name in suites and verdicts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::BalancedAccuracy => "balanced_accuracy",
            Self::AccuracyOverMajority => "accuracy_over_majority",
            Self::MacroF1 => "macro_f1",
            Self::LogLoss => "log_loss",
            Self::Brier => "brier",
            Self::Ece => "ece",
            Self::RobustAccuracy => "robust_accuracy",
            Self::Asr => "asr",
            Self::CorruptionError => "corruption_error",
            Self::Mae => "mae",
            Self::Rmse => "rmse",
            Self::MedianAe => "median_ae",
            Self::R2 => "r2",
            Self::RobustMae => "robust_mae",
            Self::IntervalError => "interval_error",
            Self::MaeGap => "mae_gap",
            Self::AccuracyGap => "accuracy_gap",
            Self::DemographicParity => "demographic_parity",
            Self::EqualizedOdds => "equalized_odds",
            Self::LabelAgreementDrop => "label_agreement_drop",
            Self::LatencyP50Ms => "latency_p50_ms",
            Self::LatencyP90Ms => "latency_p90_ms",
            Self::LatencyP99Ms => "latency_p99_ms",
            Self::ThroughputPerS => "throughput_per_s",
            Self::JoulesPer1k => "joules_per_1k",
            Self::Gco2ePer1k => "gco2e_per_1k",
            Self::TrainingJoules => "training_joules",
        }
    }

    /// The name for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::BalancedAccuracy => "balanced accuracy",
            Self::AccuracyOverMajority => "the gain over always saying the commonest class",
            Self::MacroF1 => "macro F1",
            Self::LogLoss => "log loss",
            Self::Brier => "the Brier score",
            Self::Ece => "the calibration error",
            Self::RobustAccuracy => "accuracy as it is and under every perturbation",
            Self::Asr => "the share of right answers that turn wrong",
            Self::CorruptionError => "the share of wrong answers",
            Self::Mae => "the mean absolute error",
            Self::Rmse => "the root mean squared error",
            Self::MedianAe => "the median absolute error",
            Self::R2 => "the explained share of variance",
            Self::RobustMae => "the mean absolute error under the worst perturbation",
            Self::IntervalError => "the error of the 90 % intervals' share",
            Self::MaeGap => "the gap in mean absolute error between groups",
            Self::AccuracyGap => "the gap in accuracy between groups",
            Self::DemographicParity => "the gap in what is said between groups",
            Self::EqualizedOdds => "the gap in error rates between groups",
            Self::LabelAgreementDrop => {
                "the drop of the champion's agreement with the new window's labels"
            }
            Self::LatencyP50Ms => "latency (p50)",
            Self::LatencyP90Ms => "latency (p90)",
            Self::LatencyP99Ms => "latency (p99)",
            Self::ThroughputPerS => "throughput",
            Self::JoulesPer1k => "energy of a thousand predictions",
            Self::Gco2ePer1k => "carbon of a thousand predictions",
            Self::TrainingJoules => "energy of the training job",
        }
    }

    /// The direction is the metric's, never the check's.
    #[must_use]
    pub const fn higher_is_better(self) -> bool {
        matches!(
            self,
            Self::Accuracy
                | Self::BalancedAccuracy
                | Self::AccuracyOverMajority
                | Self::MacroF1
                | Self::R2
                | Self::RobustAccuracy
                | Self::ThroughputPerS
        )
    }

    /// Whether it is a share of one, shown in points of a hundred.
    pub(crate) const fn is_share(self) -> bool {
        matches!(self.family(), Family::Quality | Family::Gap | Family::Agreement)
            && !matches!(self, Self::LogLoss | Self::Brier)
            && !self.is_error_of_numbers()
    }

    /// Whether it is in the unit of the labels, so that only its ratio to the champion's says
    /// something without knowing the stream.
    pub(crate) const fn is_error_of_numbers(self) -> bool {
        matches!(self, Self::Mae | Self::Rmse | Self::MedianAe | Self::RobustMae | Self::MaeGap)
    }

    /// Whether it is of the worst answer under all perturbations.
    pub(crate) const fn is_robust(self) -> bool {
        matches!(self, Self::RobustAccuracy | Self::RobustMae | Self::Asr)
    }

    /// Whose answers it can be asked of.
    pub(crate) const fn answers(self) -> Answers {
        match self {
            Self::R2 | Self::IntervalError => Answers::Numbers,
            _ if self.is_error_of_numbers() => Answers::Numbers,
            _ => match self.family() {
                Family::Quality | Family::Gap => Answers::Classes,
                _ => Answers::Any,
            },
        }
    }

    /// Whether it is measured on a choice of examples.
    pub(crate) const fn has_slices(self) -> bool {
        matches!(self.family(), Family::Quality | Family::Gap)
    }

    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::LatencyP50Ms | Self::LatencyP90Ms | Self::LatencyP99Ms => " ms",
            Self::ThroughputPerS => " per second",
            Self::JoulesPer1k | Self::TrainingJoules => " J",
            Self::Gco2ePer1k => " gCO2e",
            _ => "",
        }
    }

    /// The quantile of a latency metric.
    pub(crate) const fn quantile(self) -> Option<f64> {
        match self {
            Self::LatencyP50Ms => Some(0.5),
            Self::LatencyP90Ms => Some(0.9),
            Self::LatencyP99Ms => Some(0.99),
            _ => None,
        }
    }

    pub(crate) const fn family(self) -> Family {
        match self {
            Self::Accuracy
            | Self::BalancedAccuracy
            | Self::AccuracyOverMajority
            | Self::MacroF1
            | Self::LogLoss
            | Self::Brier
            | Self::Ece
            | Self::Mae
            | Self::Rmse
            | Self::MedianAe
            | Self::R2
            | Self::RobustMae
            | Self::IntervalError
            | Self::Asr
            | Self::CorruptionError
            | Self::RobustAccuracy => Family::Quality,
            Self::AccuracyGap | Self::MaeGap | Self::DemographicParity | Self::EqualizedOdds => {
                Family::Gap
            }
            Self::LabelAgreementDrop => Family::Agreement,
            Self::LatencyP50Ms | Self::LatencyP90Ms | Self::LatencyP99Ms => Family::Latency,
            Self::ThroughputPerS => Family::Throughput,
            Self::JoulesPer1k | Self::Gco2ePer1k => Family::Energy,
            Self::TrainingJoules => Family::Training,
        }
    }
}
