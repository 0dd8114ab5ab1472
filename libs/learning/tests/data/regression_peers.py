"""Prints what scikit-learn explains of the rows that `tests/regression.rs` learns.

Run by hand, with `scikit-learn` from PyPI; nothing at test time needs it:

    python libs/learning/tests/data/regression_peers.py
"""

import csv
from pathlib import Path

import numpy as np
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

TARGET, LEARNT = "worst_concave_points", 420


def place(row: int) -> int:
    """The order of the test: a hash of the example's id."""
    mixed = 7
    for byte in f"spam-{row}".encode():
        mixed = ((mixed ^ byte) * 16_777_619) & 0xFFFF_FFFF
    return mixed


header, *lines = csv.reader((Path(__file__).parent / "tumours.csv").open())
names = header[1:]
table = np.array([[float(cell) for cell in line[1:]] for line in lines])
table = table[sorted(range(len(table)), key=place)]
means = table[:, [at for at, name in enumerate(names) if name.startswith("mean")]]
numbers = table[:, names.index(TARGET)]
for name, peer in [
    ("ridge regression", make_pipeline(StandardScaler(), RidgeCV())),
    ("gradient boosting", GradientBoostingRegressor(random_state=0)),
]:
    peer.fit(means[:LEARNT], numbers[:LEARNT])
    print(f"{name}: {peer.score(means[LEARNT:], numbers[LEARNT:]):.3f} of the variance")
