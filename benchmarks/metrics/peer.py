"""scikit-learn and fairlearn on the same answers.

The job: `rows`, `classes`, and files, little-endian: `truth` and `said` (i64), `group` (i64),
`probabilities` (f64, `[rows, classes]`). Metrics of groups are of class 0 against the others, as
fairlearn has them for two classes.

It says first the value of each metric. Requests:

    value METRIC SECONDS               the metric of all rows, one time after the other
    interval METRIC RESAMPLES SEED     once: that many resamples of rows, and their 5 % and 95 %

The first answers with `samples_s`; the second also with `low` and `high`.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from peers import turns
from sklearn import metrics


def begin(job):
    rows, classes = job["rows"], job["classes"]
    truth, said, group = (np.fromfile(job[name], "<i8") for name in ("truth", "said", "group"))
    probabilities = np.fromfile(job["probabilities"], "<f8").reshape(rows, classes)
    binary_truth, binary_said = (truth == 0).astype(int), (said == 0).astype(int)

    def of_groups(metric):
        def find(at):
            return metric(binary_truth[at], binary_said[at], sensitive_features=group[at])

        return find

    of = {
        "balanced_accuracy": lambda at: metrics.balanced_accuracy_score(truth[at], said[at]),
        "macro_f1": lambda at: metrics.f1_score(truth[at], said[at], average="macro"),
        "mcc": lambda at: metrics.matthews_corrcoef(truth[at], said[at]),
        "kappa": lambda at: metrics.cohen_kappa_score(truth[at], said[at]),
        "log_loss": lambda at: metrics.log_loss(
            truth[at], probabilities[at], labels=range(classes)
        ),
        "auroc": lambda at: metrics.roc_auc_score(
            truth[at], probabilities[at], multi_class="ovr", labels=range(classes)
        ),
        "demographic_parity": of_groups(demographic_parity_difference),
        "equalized_odds": of_groups(equalized_odds_difference),
    }
    whole = slice(None)

    def value(name, seconds):
        return {"samples_s": turns.timed(lambda: of[name](whole), float(seconds))}

    def interval(name, resamples, seed):
        random = np.random.default_rng(int(seed))
        began = time.perf_counter()
        found = [of[name](random.integers(0, rows, rows)) for _ in range(int(resamples))]
        low, high = np.quantile(found, [0.05, 0.95])
        return {"samples_s": [time.perf_counter() - began], "low": low, "high": high}

    first = {
        "values": {name: float(metric(whole)) for name, metric in of.items()},
        "versions": turns.versions("scikit-learn", "fairlearn", "numpy"),
    }
    return first, {"value": value, "interval": interval}


if __name__ == "__main__":
    turns.serve(begin)
