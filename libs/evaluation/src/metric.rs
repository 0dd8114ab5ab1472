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
    /// Share of examples whose label is among the two likeliest classes.
    Top2Accuracy,
    /// The same of three.
    Top3Accuracy,
    /// The same of five.
    Top5Accuracy,
    /// Mean F1 over the classes that are seen or said.
    MacroF1,
    /// Mean precision over the classes that are seen or said; 0 of one that is never said.
    MacroPrecision,
    /// Mean F1, each class by its share of the examples.
    WeightedF1,
    /// Cohen's kappa: agreement beyond that of chance.
    Kappa,
    /// Matthews' correlation coefficient, of any number of classes (Gorodkin 2004).
    Mcc,
    /// Of one class: share of examples that it is true of, of those it is said of.
    Precision,
    /// Of one class: share of examples that it is said of, of those it is true of.
    Recall,
    /// Of one class: the harmonic mean of precision and recall.
    F1,
    /// The same with recall counting twice.
    F2,
    /// How often an example of a class is given a higher probability of it than another one: mean
    /// over classes, each against all others, or of one class.
    Auroc,
    /// Average precision as the threshold falls: mean over classes, or of one class.
    Auprc,
    /// Mean negative log-likelihood of the label.
    LogLoss,
    /// Mean squared distance of the probabilities from the label, summed over classes.
    Brier,
    /// Expected calibration error of the likeliest class, 15 bins of equal width.
    Ece,
    /// Largest calibration error of any of those bins.
    Mce,
    /// Calibration error in 10 bins of as many answers each.
    Ace,
    /// Of one class: inequality of who is given it, denied it or judged rightly (benefits 2, 0 and 1):
    /// generalised entropy index with exponent 2 (Speicher et al. 2018).
    BenefitEntropy,
    /// The same by Theil's index.
    BenefitTheil,
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
    /// Of numbers: mean absolute error as a share of the number.
    Mape,
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
    /// Accuracy of the group with the lowest.
    WorstGroupAccuracy,
    /// Smallest ratio between two groups of how often a class is said, over all classes: four fifths
    /// is a common bound.
    DemographicParityRatio,
    /// Largest difference between two groups in true positive rate, over all classes.
    EqualOpportunity,
    /// Population stability index of labels, the new window's beside earlier ones: of classes by
    /// their shares, of numbers by tenths of the earlier ones.
    LabelPsi,
    /// Jensen-Shannon distance of the same.
    LabelJs,
    /// Population stability index of how sure the champion is of its answers, by tenths; of numbers,
    /// of its answers.
    ConfidencePsi,
    /// Largest distance of the distribution functions of the same (Kolmogorov and Smirnov).
    ConfidenceKs,
    /// Mean way between the same (Wasserstein's first distance).
    ConfidenceW1,
    /// How far the champion's agreement with the labels of the candidate's window falls below that
    /// with earlier held-out labels of the same classes, each class weighted by its share of the
    /// window: labels that are wrong far beyond chance show here, other shares of classes do not. A
    /// number agrees where it lies in the answer's 90 % interval.
    LabelAgreementDrop,
    /// How many more held-out inputs the candidate than the champion takes for a mark's class once that
    /// mark is in them, of the mark that moves most: a phrase, a patch of a picture or values of features
    /// that the window brought, in examples of that class alone. Near 1 it is the trigger of a backdoor.
    TriggerSuccess,
    /// Of a frozen slice of the past: the best accuracy that a champion so far had on it less the
    /// candidate's (Chaudhry et al. 2018, arXiv 1801.10112, eq. 3, of one task).
    ForgettingMax,
    /// The same beside the first champion that was asked: forgetting as Avalanche has it.
    ForgettingFirst,
    /// The candidate's accuracy on it less that of the first champion that was asked (Lopez-Paz and
    /// Ranzato 2017, arXiv 1706.08840, eq. 3, of one task).
    BackwardTransfer,
    /// How many more of one producer's labels in the candidate's window than of the others' the champion
    /// disputes, class by class, of the producer that is most suspicious by it (Cochran, Mantel and
    /// Haenszel): one that lies shows here though the window as a whole does not.
    ProducerDispute,
    /// How much lower the log loss of the champion's head would be, refitted on the window, on held-out
    /// examples of others if it left one producer out; of the producer whose removal surely helps most.
    /// In nats.
    ProducerInfluence,
    /// Median time of one prediction at a time, in milliseconds.
    LatencyP50Ms,
    /// 90th percentile of the same.
    LatencyP90Ms,
    /// 99th percentile of the same.
    LatencyP99Ms,
    /// Median time of a prediction while they arrive at random at a rate of `limits.server_qps`, from
    /// when it was due.
    ServerP50Ms,
    /// 90th percentile of the same.
    ServerP90Ms,
    /// 99th percentile of the same.
    ServerP99Ms,
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
    Drift,
    Agreement,
    Trigger,
    Retention,
    Producer,
    Latency,
    Server,
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
            Self::Top2Accuracy => "top2_accuracy",
            Self::Top3Accuracy => "top3_accuracy",
            Self::Top5Accuracy => "top5_accuracy",
            Self::MacroF1 => "macro_f1",
            Self::MacroPrecision => "macro_precision",
            Self::WeightedF1 => "weighted_f1",
            Self::Kappa => "kappa",
            Self::Mcc => "mcc",
            Self::Precision => "precision",
            Self::Recall => "recall",
            Self::F1 => "f1",
            Self::F2 => "f2",
            Self::Auroc => "auroc",
            Self::Auprc => "auprc",
            Self::LogLoss => "log_loss",
            Self::Brier => "brier",
            Self::Ece => "ece",
            Self::Mce => "mce",
            Self::Ace => "ace",
            Self::BenefitEntropy => "benefit_entropy",
            Self::BenefitTheil => "benefit_theil",
            Self::RobustAccuracy => "robust_accuracy",
            Self::Asr => "asr",
            Self::CorruptionError => "corruption_error",
            Self::Mae => "mae",
            Self::Rmse => "rmse",
            Self::MedianAe => "median_ae",
            Self::Mape => "mape",
            Self::R2 => "r2",
            Self::RobustMae => "robust_mae",
            Self::IntervalError => "interval_error",
            Self::MaeGap => "mae_gap",
            Self::AccuracyGap => "accuracy_gap",
            Self::DemographicParity => "demographic_parity",
            Self::EqualizedOdds => "equalized_odds",
            Self::WorstGroupAccuracy => "worst_group_accuracy",
            Self::DemographicParityRatio => "demographic_parity_ratio",
            Self::EqualOpportunity => "equal_opportunity",
            Self::LabelPsi => "label_psi",
            Self::LabelJs => "label_js",
            Self::ConfidencePsi => "confidence_psi",
            Self::ConfidenceKs => "confidence_ks",
            Self::ConfidenceW1 => "confidence_w1",
            Self::LabelAgreementDrop => "label_agreement_drop",
            Self::TriggerSuccess => "trigger_success",
            Self::ForgettingMax => "forgetting_max",
            Self::ForgettingFirst => "forgetting_first",
            Self::BackwardTransfer => "backward_transfer",
            Self::ProducerDispute => "producer_dispute",
            Self::ProducerInfluence => "producer_influence",
            Self::LatencyP50Ms => "latency_p50_ms",
            Self::LatencyP90Ms => "latency_p90_ms",
            Self::LatencyP99Ms => "latency_p99_ms",
            Self::ServerP50Ms => "server_p50_ms",
            Self::ServerP90Ms => "server_p90_ms",
            Self::ServerP99Ms => "server_p99_ms",
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
            Self::Top2Accuracy => "accuracy of the two likeliest classes",
            Self::Top3Accuracy => "accuracy of the three likeliest classes",
            Self::Top5Accuracy => "accuracy of the five likeliest classes",
            Self::MacroF1 => "macro F1",
            Self::MacroPrecision => "macro precision",
            Self::WeightedF1 => "F1 weighted by class",
            Self::Kappa => "Cohen's kappa",
            Self::Mcc => "Matthews' correlation",
            Self::Precision => "precision",
            Self::Recall => "recall",
            Self::F1 => "F1",
            Self::F2 => "F2",
            Self::Auroc => "the area under the ROC curve",
            Self::Auprc => "average precision",
            Self::LogLoss => "log loss",
            Self::Brier => "the Brier score",
            Self::Ece => "the calibration error",
            Self::Mce => "the largest calibration error",
            Self::Ace => "the calibration error in equal bins",
            Self::BenefitEntropy => "inequality of benefits (entropy index)",
            Self::BenefitTheil => "inequality of benefits (Theil)",
            Self::RobustAccuracy => "accuracy as it is and under every perturbation",
            Self::Asr => "the share of right answers that turn wrong",
            Self::CorruptionError => "the share of wrong answers",
            Self::Mae => "the mean absolute error",
            Self::Rmse => "the root mean squared error",
            Self::MedianAe => "the median absolute error",
            Self::Mape => "the mean absolute error as a share",
            Self::R2 => "the explained share of variance",
            Self::RobustMae => "the mean absolute error under the worst perturbation",
            Self::IntervalError => "the error of the 90 % intervals' share",
            Self::MaeGap => "the gap in mean absolute error between groups",
            Self::AccuracyGap => "the gap in accuracy between groups",
            Self::DemographicParity => "the gap in what is said between groups",
            Self::EqualizedOdds => "the gap in error rates between groups",
            Self::WorstGroupAccuracy => "accuracy of the worst group",
            Self::DemographicParityRatio => "the ratio in what is said between groups",
            Self::EqualOpportunity => "the gap in true positive rates between groups",
            Self::LabelPsi => "drift of labels (PSI)",
            Self::LabelJs => "drift of labels (Jensen-Shannon)",
            Self::ConfidencePsi => "drift of the champion's answers (PSI)",
            Self::ConfidenceKs => "drift of the champion's answers (Kolmogorov-Smirnov)",
            Self::ConfidenceW1 => "drift of the champion's answers (Wasserstein)",
            Self::LabelAgreementDrop => {
                "the drop of the champion's agreement with the new window's labels"
            }
            Self::TriggerSuccess => "the success of the window's strongest mark as a trigger",
            Self::ForgettingMax => "forgetting since the best champion",
            Self::ForgettingFirst => "forgetting since the first champion",
            Self::BackwardTransfer => "backward transfer since the first champion",
            Self::ProducerDispute => "what the champion disputes of one producer beyond the others",
            Self::ProducerInfluence => "what the window would teach better without one producer",
            Self::LatencyP50Ms => "latency (p50)",
            Self::LatencyP90Ms => "latency (p90)",
            Self::LatencyP99Ms => "latency (p99)",
            Self::ServerP50Ms => "latency under load (p50)",
            Self::ServerP90Ms => "latency under load (p90)",
            Self::ServerP99Ms => "latency under load (p99)",
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
                | Self::Top2Accuracy
                | Self::Top3Accuracy
                | Self::Top5Accuracy
                | Self::MacroF1
                | Self::MacroPrecision
                | Self::WeightedF1
                | Self::Kappa
                | Self::Mcc
                | Self::Precision
                | Self::Recall
                | Self::F1
                | Self::F2
                | Self::Auroc
                | Self::Auprc
                | Self::WorstGroupAccuracy
                | Self::DemographicParityRatio
                | Self::R2
                | Self::RobustAccuracy
                | Self::BackwardTransfer
                | Self::ThroughputPerS
        )
    }

    /// Whether it is a share of one, shown in points of a hundred.
    pub(crate) const fn is_share(self) -> bool {
        use Family::{Agreement, Gap, Quality, Retention, Trigger};
        matches!(self.family(), Quality | Gap | Agreement | Trigger | Retention)
            && !matches!(
                self,
                Self::LogLoss
                    | Self::Brier
                    | Self::Kappa
                    | Self::Mcc
                    | Self::Auroc
                    | Self::Auprc
                    | Self::BenefitEntropy
                    | Self::BenefitTheil
                    | Self::DemographicParityRatio
            )
            && !self.is_error_of_numbers()
            || matches!(self, Self::ProducerDispute)
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
            Self::R2 | Self::IntervalError | Self::Mape => Answers::Numbers,
            _ if self.is_error_of_numbers() => Answers::Numbers,
            _ => match self.family() {
                Family::Quality | Family::Gap | Family::Retention => Answers::Classes,
                _ => Answers::Any,
            },
        }
    }

    /// Whether it is found with the champion though its bound is absolute.
    pub(crate) const fn asks_champion(self) -> bool {
        matches!(
            self,
            Self::LabelAgreementDrop
                | Self::TriggerSuccess
                | Self::ProducerDispute
                | Self::ProducerInfluence
        ) || matches!(self.family(), Family::Retention)
    }

    /// Whether it is measured on a choice of examples.
    pub(crate) const fn has_slices(self) -> bool {
        matches!(self.family(), Family::Quality | Family::Gap | Family::Retention)
    }

    /// Whether it is a function of how often which class was said of which.
    pub(crate) const fn is_of_table(self) -> bool {
        matches!(
            self,
            Self::Accuracy
                | Self::BalancedAccuracy
                | Self::AccuracyOverMajority
                | Self::MacroF1
                | Self::MacroPrecision
                | Self::WeightedF1
                | Self::Kappa
                | Self::Mcc
                | Self::RobustAccuracy
        ) || self.is_of_class()
    }

    /// Whether it is of one class, always.
    pub(crate) const fn is_of_class(self) -> bool {
        matches!(
            self,
            Self::Precision
                | Self::Recall
                | Self::F1
                | Self::F2
                | Self::BenefitEntropy
                | Self::BenefitTheil
        )
    }

    /// Whether it can be of one class.
    pub(crate) const fn takes_class(self) -> bool {
        self.is_of_class() || matches!(self, Self::Auroc | Self::Auprc)
    }

    /// Whether it is a share of trials that are counted.
    pub(crate) const fn is_counted(self) -> bool {
        matches!(self, Self::Precision | Self::Recall) || self.is_right_or_wrong()
    }

    /// Whether each example is right or wrong by it.
    pub(crate) const fn is_right_or_wrong(self) -> bool {
        matches!(self, Self::Accuracy | Self::RobustAccuracy) || self.places() > 1
    }

    /// How many of the likeliest classes the label has to be among.
    pub(crate) const fn places(self) -> u32 {
        match self {
            Self::Top2Accuracy => 2,
            Self::Top3Accuracy => 3,
            Self::Top5Accuracy => 5,
            _ => 1,
        }
    }

    pub(crate) const fn unit(self) -> &'static str {
        match self {
            _ if self.quantile().is_some() => " ms",
            Self::ProducerInfluence => " nats",
            Self::ThroughputPerS => " per second",
            Self::JoulesPer1k | Self::TrainingJoules => " J",
            Self::Gco2ePer1k => " gCO2e",
            _ => "",
        }
    }

    /// The quantile of a latency metric.
    pub(crate) const fn quantile(self) -> Option<f64> {
        match self {
            Self::LatencyP50Ms | Self::ServerP50Ms => Some(0.5),
            Self::LatencyP90Ms | Self::ServerP90Ms => Some(0.9),
            Self::LatencyP99Ms | Self::ServerP99Ms => Some(0.99),
            _ => None,
        }
    }

    pub(crate) const fn family(self) -> Family {
        match self {
            Self::AccuracyGap
            | Self::MaeGap
            | Self::DemographicParity
            | Self::EqualizedOdds
            | Self::WorstGroupAccuracy
            | Self::DemographicParityRatio
            | Self::EqualOpportunity => Family::Gap,
            Self::LabelPsi
            | Self::LabelJs
            | Self::ConfidencePsi
            | Self::ConfidenceKs
            | Self::ConfidenceW1 => Family::Drift,
            Self::LabelAgreementDrop => Family::Agreement,
            Self::TriggerSuccess => Family::Trigger,
            Self::ForgettingMax | Self::ForgettingFirst | Self::BackwardTransfer => {
                Family::Retention
            }
            Self::ProducerDispute | Self::ProducerInfluence => Family::Producer,
            Self::LatencyP50Ms | Self::LatencyP90Ms | Self::LatencyP99Ms => Family::Latency,
            Self::ServerP50Ms | Self::ServerP90Ms | Self::ServerP99Ms => Family::Server,
            Self::ThroughputPerS => Family::Throughput,
            Self::JoulesPer1k | Self::Gco2ePer1k => Family::Energy,
            Self::TrainingJoules => Family::Training,
            _ => Family::Quality,
        }
    }
}
