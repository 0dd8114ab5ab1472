"""The very hashes of tidegate's curation, in Python: slow, and only to show that the peer's loop
decides as ours does, record by record. The timed peers hash with zlib and hashlib."""

M32, M64 = (1 << 32) - 1, (1 << 64) - 1


def mix(h: int) -> int:
    """The finaliser of MurmurHash3."""
    h = ((h ^ (h >> 33)) * 0xFF51AFD7ED558CCD) & M64
    h = ((h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53) & M64
    return h ^ (h >> 33)


def fnv1a(data: bytes) -> int:
    """64 bits of FNV-1a, then mixed."""
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & M64
    return mix(h)


def permutations(count: int) -> list[tuple[int, int]]:
    """Factors (odd) and offsets of the MinHash permutations."""

    def draw(i: int, of: int) -> int:
        return mix(((i + 1) * of) & M64) >> 32

    return [
        (draw(i, 0x9E3779B97F4A7C15) | 1, draw(i, 0xD1B54A32D192ED03)) for i in range(count)
    ]


_IV = (
    0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
    0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
)  # fmt: skip
_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_QUARTERS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip
_CHUNK_START, _CHUNK_END, _ROOT = 1, 2, 8


def _turn(x: int, by: int) -> int:
    return ((x >> by) | (x << (32 - by))) & M32


def _compress(chaining, block: bytes, flags: int) -> list[int]:
    words = [int.from_bytes(block[i : i + 4], "little") for i in range(0, len(block), 4)]
    m = words + [0] * (16 - len(words))
    v = [*chaining, *_IV[:4], 0, 0, len(block), flags]
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(_QUARTERS):
            for word, (right, left) in ((m[2 * i], (16, 12)), (m[2 * i + 1], (8, 7))):
                v[a] = (v[a] + v[b] + word) & M32
                v[d] = _turn(v[d] ^ v[a], right)
                v[c] = (v[c] + v[d]) & M32
                v[b] = _turn(v[b] ^ v[c], left)
        m = [m[i] for i in _PERMUTATION]
    return [v[i] ^ v[i + 8] for i in range(8)]


def blake3(data: bytes) -> bytes:
    """BLAKE3 of at most one chunk."""
    if len(data) > 1024:
        raise ValueError("one chunk of 1,024 bytes at most")
    blocks = [data[i : i + 64] for i in range(0, len(data), 64)] or [b""]
    chaining = list(_IV)
    for i, block in enumerate(blocks):
        flags = _CHUNK_START if i == 0 else 0
        if i + 1 == len(blocks):
            flags |= _CHUNK_END | _ROOT
        chaining = _compress(chaining, block, flags)
    return b"".join(word.to_bytes(4, "little") for word in chaining)
