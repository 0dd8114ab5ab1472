"""A Python loop that does what tidegate's curation does, stage by stage, one record at a time.

Decode and validate, exact duplicates (by id and by content), near duplicates (MinHash-LSH in a
window of the newest texts), hold-out by hash of the id, late-label join. Two ways to make a
signature: `plain` with nothing but the standard library, `numpy` with all permutations of a text
as one array. Hashes are what Python has fast: zlib's CRC-32 for words, BLAKE2b for ids and
contents. With `--hashes reference` they are tidegate's own, and then every single decision must
be the same; `--decisions` writes them.

Prints one JSON object. Timing begins when all records are in memory.
"""

import argparse
import gc
import hashlib
import json
import platform
import random
import sys
import time
import zlib
from datetime import datetime
from operator import eq

M32, M64 = (1 << 32) - 1, (1 << 64) - 1
MAX_RECORD_BYTES = 8 << 20
MAX_NAME_BYTES = 256
EVENT_FIELDS = {"id", "time", "domain", "groups", "parts", "label", "weight"}
LABEL_FIELDS = {"id", "time", "label"}


class Rejected(Exception):
    """Ends a record; its argument is the code."""


# --- decode and validate ---------------------------------------------------------------------


def name(value):
    """Names are 1 to 256 bytes without control characters."""
    if not isinstance(value, str) or not value or len(value.encode()) > MAX_NAME_BYTES:
        raise Rejected("invalid_field")
    if not value.isprintable() and any(c < " " or "\x7f" <= c <= "\x9f" for c in value):
        raise Rejected("invalid_field")
    return value


def decode(value, fields):
    if not value:
        raise Rejected("empty")
    if len(value) > MAX_RECORD_BYTES:
        raise Rejected("too_large")
    try:
        record = json.loads(value.decode())
    except UnicodeDecodeError:
        raise Rejected("not_utf8") from None
    except ValueError:
        raise Rejected("malformed") from None
    if not isinstance(record, dict) or not fields.issuperset(record):
        raise Rejected("malformed")
    return record


def valid_time(record, record_time, max_future):
    """Seconds since the epoch."""
    at = record.get("time")
    try:
        at = record_time if at is None else datetime.fromisoformat(at).timestamp()
    except ValueError:
        raise Rejected("malformed") from None
    if at - record_time > max_future:
        raise Rejected("future_time")
    return at


def valid_event(value, record_time, max_future):
    event = decode(value, EVENT_FIELDS)
    event["id"] = name(event.get("id"))
    event["domain"] = name(event.get("domain") or "default")
    for group, member in event.setdefault("groups", {}).items():
        name(group)
        name(member)
    texts = []
    for part in event.get("parts") or [{}]:
        text = part.get("text")
        if len(part) != 1 or not isinstance(text, str) or not text.strip():
            raise Rejected("invalid_field")
        texts.append(text)
    event["text"] = "\n\n".join(texts)
    weight = event.setdefault("weight", 1.0)
    if not 0.0 < weight < float("inf"):
        raise Rejected("invalid_field")
    if event.get("label") is not None:
        name(event["label"])
    event["time"] = valid_time(event, record_time, max_future)
    return event


def valid_label(value, record_time, max_future):
    label = decode(value, LABEL_FIELDS)
    name(label.get("id"))
    name(label.get("label"))
    label["time"] = valid_time(label, record_time, max_future)
    return label


# --- hashes ----------------------------------------------------------------------------------


class FastHashes:
    """What Python computes fastest."""

    PRIME = 0x9E3779B97F4A7C15

    def permutations(self, count):
        draw = random.Random(1)
        return [(draw.getrandbits(32) | 1, draw.getrandbits(32)) for _ in range(count)]

    def words(self, text):
        return list(map(zlib.crc32, text.encode().split(b" ")))

    def shingles(self, words, size):
        """A polynomial over each window, its upper half."""
        p = self.PRIME
        hashes = words[: len(words) - size + 1]
        for shift in range(1, size):
            hashes = [h * p + w for h, w in zip(hashes, words[shift:])]
        return [(h & M64) >> 32 for h in hashes]

    def shingles_numpy(self, np, words, size):
        words = np.array(words, np.uint64)
        p = np.uint64(self.PRIME)
        count = len(words) - size + 1
        hashes = words[:count].copy()
        for shift in range(1, size):
            hashes *= p
            hashes += words[shift : shift + count]
        return (hashes >> np.uint64(32)).astype(np.uint32)

    @staticmethod
    def kept(minima):
        return minima

    @staticmethod
    def digest(*parts):
        """Over parts that are told apart."""
        h = hashlib.blake2b(digest_size=16)
        for part in parts:
            h.update(len(part).to_bytes(8, "little"))
            h.update(part)
        return h.digest()


class ReferenceHashes(FastHashes):
    """tidegate's own, for comparing decisions; not for timing."""

    def __init__(self):
        import reference_hashes

        self.own = reference_hashes
        self.cache = {}

    def permutations(self, count):
        return self.own.permutations(count)

    def words(self, text):
        words = text.encode().split(b" ")
        for word in words:
            if word not in self.cache:
                self.cache[word] = self.own.fnv1a(word)
        return [self.cache[word] for word in words]

    def shingles_numpy(self, np, words, size):
        words = np.array(words, np.uint64)
        count = len(words) - size + 1
        h = np.zeros(count, np.uint64)
        for shift in range(size):
            h = ((h << np.uint64(13)) | (h >> np.uint64(51))) * np.uint64(5)
            h ^= words[shift : shift + count]
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            h = (h ^ (h >> np.uint64(33))) * np.uint64(factor)
        h ^= h >> np.uint64(33)
        return (h >> np.uint64(32)).astype(np.uint32)

    @staticmethod
    def kept(minima):
        import numpy as np

        return ((minima * np.uint32(0x9E3779B1)) >> np.uint32(16)).astype(np.uint16)

    def digest(self, *parts):
        data = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
        # Only equality counts for long contents; the hold-out's ids are short.
        return self.own.blake3(data) if len(data) <= 1024 else hashlib.blake2b(data).digest()


# --- near duplicates -------------------------------------------------------------------------


class PlainSignatures:
    """The standard library alone."""

    def __init__(self, hashes, permutations):
        self.hashes = hashes
        self.permutations = hashes.permutations(permutations)

    def of(self, words, size):
        shingles = set(self.hashes.shingles(words, size))
        minima = [min([(a * s + b) & M32 for s in shingles]) for a, b in self.permutations]
        return self.hashes.kept(tuple(minima))

    @staticmethod
    def band(signature, at, rows):
        return signature[at : at + rows]

    @staticmethod
    def same(one, other):
        return sum(map(eq, one, other))


class NumpySignatures:
    """All permutations of a text at once."""

    def __init__(self, hashes, permutations):
        import numpy as np

        self.np = np
        self.hashes = hashes
        factors, offsets = zip(*hashes.permutations(permutations))
        self.factors = np.array(factors, np.uint32)[:, None]
        self.offsets = np.array(offsets, np.uint32)[:, None]

    def of(self, words, size):
        shingles = self.hashes.shingles_numpy(self.np, words, size)
        images = self.factors * shingles
        images += self.offsets
        return self.hashes.kept(images.min(axis=1))

    @staticmethod
    def band(signature, at, rows):
        return signature[at : at + rows].tobytes()

    def same(self, one, other):
        return int(self.np.count_nonzero(one == other))


class Near:
    BUCKET = 16

    def __init__(self, config, signatures, hashes):
        self.config = config
        self.signatures = signatures
        self.hashes = hashes
        self.needed = config["threshold"] * config["permutations"]
        self.bands = [(b, b * config["rows"]) for b in range(config["bands"])]
        self.seen = {}  # number -> (signature, keys), oldest first
        self.buckets = {}
        self.number = 0

    def is_duplicate(self, text):
        """Remembers the text when it is none."""
        size, rows = self.config["shingle"], self.config["rows"]
        words = self.hashes.words(text)[: self.config["max_shingles"] + size - 1]
        signature = self.signatures.of(words, min(size, len(words)))
        band = self.signatures.band
        keys = [(b, band(signature, at, rows)) for b, at in self.bands]
        candidates = set()
        for key in keys:
            candidates.update(self.buckets.get(key, ()))
        same = self.signatures.same
        if any(same(signature, self.seen[n][0]) >= self.needed for n in candidates):
            return True
        if len(self.seen) == self.config["capacity"]:
            self.forget_oldest()
        for key in keys:
            bucket = self.buckets.setdefault(key, [])
            if len(bucket) == self.BUCKET:
                del bucket[0]
            bucket.append(self.number)
        self.seen[self.number] = (signature, keys)
        self.number += 1
        return False

    def forget_oldest(self):
        oldest = next(iter(self.seen))
        _, keys = self.seen.pop(oldest)
        for key in keys:
            bucket = self.buckets.get(key)
            if bucket is None:
                continue
            if oldest in bucket:
                bucket.remove(oldest)
            if not bucket:
                del self.buckets[key]


# --- exact duplicates, hold-out, join --------------------------------------------------------


class Exact:
    def __init__(self, capacity):
        self.capacity = capacity
        self.contents = {}
        self.ids = {}  # id -> content, oldest first

    def check(self, identity, content):
        if identity in self.ids:
            raise Rejected("duplicate_id")
        if content in self.contents:
            raise Rejected("duplicate_content")
        if len(self.ids) == self.capacity:
            del self.contents[self.ids.pop(next(iter(self.ids)))]
        self.ids[identity] = content
        self.contents[content] = True


class Join:
    """An event and its label meet, whichever comes first; neither waits beyond the horizon."""

    LABELLED, UNLABELLED, REJECTED = "duplicate_label", "label_too_late", "event_rejected"

    def __init__(self, horizon, capacity, done):
        self.horizon, self.capacity, self.done = horizon, capacity, done
        self.events, self.labels, self.settled = {}, {}, {}
        self.events_clock = self.labels_clock = float("-inf")

    def event(self, at, time, event):
        self.events_clock = max(self.events_clock, time)
        key = event["id"]
        label = self.labels.pop(key, None)
        if event.get("label") is not None:
            self.settle(key, self.LABELLED)
            self.done.event(at, event, time)
            if label is not None:
                self.done.label(label[0], "duplicate_label")
        elif label is not None:
            self.pair(key, at, event, label)
        else:
            self.events[key] = (at, time, event)
        self.release()

    def label(self, at, time, label):
        self.labels_clock = max(self.labels_clock, time)
        key = label["id"]
        event = self.events.pop(key, None)
        if event is not None:
            self.pair(key, event[0], event[2], (at, time, label))
        elif key in self.settled:
            self.done.label(at, self.settled[key])
        elif key in self.labels:
            self.done.label(at, "duplicate_label")
        else:
            self.labels[key] = (at, time, label)
        self.release()

    def rejected(self, time, event):
        """Its label need not wait for it."""
        self.events_clock = max(self.events_clock, time)
        key = event["id"]
        if key in self.settled or key in self.events:
            return
        self.settle(key, self.REJECTED)
        label = self.labels.pop(key, None)
        if label is not None:
            self.done.label(label[0], "event_rejected")

    def pair(self, key, at, event, label):
        self.settle(key, self.LABELLED)
        event["label"] = label[2]["label"]
        self.done.event(at, event, label[1])
        self.done.label(label[0], "joined")

    def settle(self, key, fate):
        self.settled[key] = fate
        if len(self.settled) > self.capacity:
            del self.settled[next(iter(self.settled))]

    def release(self):
        while self.events:
            key = next(iter(self.events))
            at, time, event = self.events[key]
            if len(self.events) <= self.capacity and self.labels_clock - time <= self.horizon:
                break
            del self.events[key]
            self.settle(key, self.UNLABELLED)
            self.done.event(at, event, None)
        while self.labels:
            key = next(iter(self.labels))
            at, time, _ = self.labels[key]
            if len(self.labels) <= self.capacity and self.events_clock - time <= self.horizon:
                break
            del self.labels[key]
            self.done.label(at, "label_without_event")


class Done:
    """What was decided, by offset."""

    def __init__(self, events, labels):
        self.events = ["waiting"] * events
        self.labels = ["waiting"] * labels

    def event(self, at, event, labelled_at):
        event["labelled_at"] = labelled_at
        side = "eval" if event["held_out"] else "train"
        self.events[at] = side if event.get("label") is not None else side + "_unlabelled"

    def label(self, at, code):
        self.labels[at] = code


def curate(records, config, signatures, hashes, done):
    """The loop that is timed."""
    digest = hashes.digest
    max_future = config["max_future_s"]
    exact = Exact(config["exact_capacity"])
    near = Near(config["near"], signatures, hashes)
    salt, fraction = config["salt"].encode(), config["fraction"]
    join = Join(config["horizon_s"], config["join_capacity"], done)
    for is_event, at, time, value in records:
        event = None
        try:
            if not is_event:
                join.label(at, time, valid_label(value, time, max_future))
                continue
            event = valid_event(value, time, max_future)
            text = " ".join(event["text"].lower().split())
            domain, key = event["domain"].encode(), event["id"].encode()
            exact.check(digest(domain, key), digest(text.encode()))
            if text and near.is_duplicate(text):
                raise Rejected("near_duplicate")
            draw = int.from_bytes(digest(salt, domain, key)[:8], "little") >> 11
            event["held_out"] = draw / (1 << 53) < fraction
            join.event(at, time, event)
        except Rejected as why:
            code = why.args[0]
            if not is_event:
                done.label(at, code)
                continue
            done.events[at] = code
            if event is not None and code != "duplicate_id":
                join.rejected(time, event)


def read(path):
    """Lines of `e` or `l`, milliseconds, JSON; offsets count by side."""
    records, counts = [], {b"e": 0, b"l": 0}
    with open(path, "rb") as file:
        for line in file:
            side, ms, value = line.rstrip(b"\n").split(b" ", 2)
            records.append((side == b"e", counts[side], int(ms) / 1000, value))
            counts[side] += 1
    return records, counts[b"e"], counts[b"l"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("input")
    parser.add_argument("--config", type=json.loads, required=True)
    parser.add_argument("--signatures", choices=["plain", "numpy"], required=True)
    parser.add_argument("--hashes", choices=["fast", "reference"], default="fast")
    parser.add_argument("--decisions", help="where to write each record's decision")
    args = parser.parse_args()

    records, events, labels = read(args.input)
    hashes = FastHashes() if args.hashes == "fast" else ReferenceHashes()
    kinds = {"plain": PlainSignatures, "numpy": NumpySignatures}
    signatures = kinds[args.signatures](hashes, args.config["near"]["permutations"])
    done = Done(events, labels)
    # As `timeit` does: what is measured is the loop, not when the collector happens to run.
    gc.disable()
    cpu, wall = time.process_time(), time.perf_counter()
    curate(records, args.config, signatures, hashes, done)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall

    if args.decisions:
        with open(args.decisions, "w", encoding="utf-8") as file:
            json.dump({"events": done.events, "labels": done.labels}, file)
    versions = {"python": platform.python_version()}
    if "numpy" in sys.modules:
        versions["numpy"] = sys.modules["numpy"].__version__
    print(json.dumps({"cpu_s": cpu, "wall_s": wall, "versions": versions}))


if __name__ == "__main__":
    main()
