"""Makes `digits.bin` and `tumours.csv` from data sets inside scikit-learn.

Run by hand, with `scikit-learn` from PyPI; nothing at test time needs it:

    python libs/learning/tests/data/export.py

Both are from the UCI Machine Learning Repository, licence CC BY 4.0.

- `digits.bin`: "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998,
  doi:10.24432/C50P49), the 1,797 digits of its test part. A byte for the class, then 64 for the
  pixels of an image of 8 x 8, row by row, 0 to 16.
- `tumours.csv`: "Breast Cancer Wisconsin (Diagnostic)" (Wolberg and others 1993,
  doi:10.24432/C5DW2B), 569 rows of 30 numbers, rounded to four digits, behind the class.
"""

from pathlib import Path

from sklearn.datasets import load_breast_cancer, load_digits

here = Path(__file__).parent

digits = load_digits()
rows = (bytes([label, *map(int, pixels)]) for pixels, label in zip(digits.data, digits.target))
(here / "digits.bin").write_bytes(b"".join(rows))

tumours = load_breast_cancer()
names = [str(name).replace(" ", "_") for name in tumours.feature_names]
lines = [",".join(["class", *names])]
for values, label in zip(tumours.data, tumours.target):
    lines.append(",".join([str(tumours.target_names[label]), *(f"{value:.4g}" for value in values)]))
(here / "tumours.csv").write_text("\n".join(lines) + "\n")
