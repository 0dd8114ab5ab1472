"""Makes `mel.json`: the log-mel spectrogram of a signal by librosa.

Run by hand, with `librosa==0.11.0` from PyPI; nothing at test time needs it:

    python libs/model/tests/model/mel.py

The signal, which the test makes too, is a rising tone, a steady one and a tick every 0.1 s. Windows
of 400 samples (Hann, periodic) every 160, not centred; power; triangles on Slaney's scale of area 1;
the natural logarithm, of 1e-10 at least.
"""

import json
from pathlib import Path

import librosa
import numpy as np

RATE, SAMPLES, MELS = 16_000, 4_000, 64

at = np.arange(SAMPLES)
t = at / RATE
signal = 0.5 * np.sin(2 * np.pi * (200 + 3_000 * t) * t) + 0.25 * np.sin(2 * np.pi * 440 * t)
signal += 0.5 * (at % 1_600 == 0)
energies = librosa.feature.melspectrogram(
    y=signal, sr=RATE, n_fft=400, hop_length=160, win_length=400, window="hann", center=False,
    power=2.0, n_mels=MELS, htk=False, norm="slaney",
)
log_mel = np.log(np.maximum(energies, 1e-10)).T
reference = {
    "made_by": f"librosa {librosa.__version__}",
    "samples": SAMPLES,
    "mels": MELS,
    "frames": log_mel.shape[0],
    "log_mel": [round(float(value), 4) for value in log_mel.reshape(-1)],
}
Path(__file__).with_suffix(".json").write_text(json.dumps(reference) + "\n")
