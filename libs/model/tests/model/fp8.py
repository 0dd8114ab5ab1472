"""Writes fp8.json, the casts of `ml_dtypes` that tests/model/fp8.rs holds ours against.

`decode`: the bits of the f32 that each code stands for. `runs`: what *every* f32 becomes. Its bits,
read as a whole number from 0 to 2^32 - 1, are cut into runs of one code; a run is named by the
first bits that are in it. Values beyond the format are clipped to its largest first, because
`ml_dtypes` turns them into NaN or infinity where ours saturate.

Some five minutes: pip install ml_dtypes==0.6.0 numpy==2.4.6; python fp8.py > fp8.json
"""

import json

import ml_dtypes
import numpy as np

CHUNK = 1 << 24
FORMATS = {"e4m3": (ml_dtypes.float8_e4m3fn, 448), "e5m2": (ml_dtypes.float8_e5m2, 57344)}


def runs(dtype, largest):
    """`[first bits, code]` of each run."""
    found = []
    last = None
    for start in range(0, 1 << 32, CHUNK):
        bits = np.arange(start, start + CHUNK, dtype=np.uint64).astype(np.uint32)
        codes = np.clip(bits.view(np.float32), -largest, largest).astype(dtype).view(np.uint8)
        changes = np.flatnonzero(np.diff(codes)) + 1
        if codes[0] != last:
            changes = np.concatenate([[0], changes])
        found += [[start + int(i), int(codes[i])] for i in changes]
        last = codes[-1]
    return found


def decode(dtype):
    """The bits of the f32 of each code."""
    codes = np.arange(256, dtype=np.uint8).view(dtype)
    return codes.astype(np.float32).view(np.uint32).tolist()


if __name__ == "__main__":
    np.seterr(invalid="ignore")
    fixture = {
        name: {"decode": decode(dtype), "runs": runs(dtype, largest)}
        for name, (dtype, largest) in FORMATS.items()
    }
    print(json.dumps(fixture, separators=(",", ":")))
