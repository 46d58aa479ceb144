"""FarmHash's Fingerprint64, by which ORQA holds its dev questions out (TensorFlow: `to_hash_bucket_fast`)."""

_MASK = 2**64 - 1
_K0 = 0xC3A5C85C97CB3127
_K1 = 0xB492B66FBE98F273
_K2 = 0x9AE16A3B2F90404F


def fingerprint64(text: str) -> int:
    """The unsigned 64-bit fingerprint of the UTF-8 bytes of a text (FarmHash 1.1, `farmhashna::Hash64`)."""
    data = text.encode()
    if len(data) <= 16:
        return _up_to_16(data)
    if len(data) <= 32:
        return _up_to_32(data)
    return _up_to_64(data) if len(data) <= 64 else _longer(data)


def _word(data: bytes, start: int, size: int = 8) -> int:
    """Little-endian word; a negative start counts from the end, as in a slice."""
    start += len(data) if start < 0 else 0
    return int.from_bytes(data[start : start + size], "little")


def _rotate(value: int, shift: int) -> int:
    value &= _MASK
    return (value >> shift | value << (64 - shift)) & _MASK


def _fold(value: int) -> int:
    value &= _MASK
    return value ^ value >> 47


def _mix(u: int, v: int, multiplier: int) -> int:
    a = _fold((u ^ v) * multiplier)
    return _fold((v & _MASK ^ a) * multiplier) * multiplier & _MASK


def _up_to_16(data: bytes) -> int:
    size = len(data)
    multiplier = _K2 + size * 2
    if size >= 8:
        a = _word(data, 0) + _K2
        b = _word(data, -8)
        c = _rotate(b, 37) * multiplier + a
        d = (_rotate(a, 25) + b) * multiplier
        return _mix(c & _MASK, d & _MASK, multiplier)
    if size >= 4:
        return _mix(size + (_word(data, 0, 4) << 3), _word(data, -4, 4), multiplier)
    if size:
        y = data[0] + (data[size >> 1] << 8)
        z = size + (data[-1] << 2)
        return _fold(y * _K2 ^ z * _K0) * _K2 & _MASK
    return _K2


def _up_to_32(data: bytes) -> int:
    multiplier = _K2 + len(data) * 2
    a = _word(data, 0) * _K1
    b = _word(data, 8)
    c = _word(data, -8) * multiplier
    d = _word(data, -16) * _K2
    u = _rotate(a + b, 43) + _rotate(c, 30) + d
    return _mix(u & _MASK, a + _rotate(b + _K2, 18) + c & _MASK, multiplier)


def _up_to_64(data: bytes) -> int:
    multiplier = _K2 + len(data) * 2
    a = _word(data, 0) * _K2
    b = _word(data, 8)
    c = _word(data, -8) * multiplier
    d = _word(data, -16) * _K2
    y = _rotate(a + b, 43) + _rotate(c, 30) + d & _MASK
    z = _mix(y, a + _rotate(b + _K2, 18) + c & _MASK, multiplier)
    e = _word(data, 16) * multiplier
    f = _word(data, 24)
    g = (y + _word(data, -32)) * multiplier
    h = (z + _word(data, -24)) * multiplier
    u = _rotate(e + f, 43) + _rotate(g, 30) + h
    return _mix(u & _MASK, e + _rotate(f + a, 18) + g & _MASK, multiplier)


def _weak(data: bytes, start: int, a: int, b: int) -> tuple[int, int]:
    w, x, y, z = (_word(data, start + offset) for offset in (0, 8, 16, 24))
    a += w
    c = a + x + y
    return c + z & _MASK, _rotate(b + a + z, 21) + _rotate(c, 44) + a & _MASK


def _longer(data: bytes) -> int:
    seed = 81
    x = seed
    y = seed * _K1 + 113 & _MASK
    z = _fold(y * _K2 + 113) * _K2 & _MASK
    v, w = (0, 0), (0, 0)
    x = x * _K2 + _word(data, 0) & _MASK
    size = len(data)
    end = (size - 1) // 64 * 64
    for start in range(0, end, 64):
        x = _rotate(x + y + v[0] + _word(data, start + 8), 37) * _K1 & _MASK
        y = _rotate(y + v[1] + _word(data, start + 48), 42) * _K1 & _MASK
        x ^= w[1]
        y = y + v[0] + _word(data, start + 40) & _MASK
        z = _rotate(z + w[0], 33) * _K1 & _MASK
        v = _weak(data, start, v[1] * _K1, x + w[0])
        w = _weak(data, start + 32, z + w[1], y + _word(data, start + 16))
        z, x = x, z
    multiplier = _K1 + ((z & 0xFF) << 1)
    last = size - 64
    w = (w[0] + ((size - 1) & 63) & _MASK, w[1])
    v = (v[0] + w[0] & _MASK, v[1])
    w = (w[0] + v[0] & _MASK, w[1])
    x = _rotate(x + y + v[0] + _word(data, last + 8), 37) * multiplier & _MASK
    y = _rotate(y + v[1] + _word(data, last + 48), 42) * multiplier & _MASK
    x ^= w[1] * 9 & _MASK
    y = y + v[0] * 9 + _word(data, last + 40) & _MASK
    z = _rotate(z + w[0], 33) * multiplier & _MASK
    v = _weak(data, last, v[1] * multiplier, x + w[0])
    w = _weak(data, last + 32, z + w[1], y + _word(data, last + 16))
    z, x = x, z
    return _mix(
        _mix(v[0], w[0], multiplier) + _fold(y) * _K0 + z & _MASK, _mix(v[1], w[1], multiplier) + x & _MASK, multiplier
    )
