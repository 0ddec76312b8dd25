"""The numbers: what is counted of an object on a day, stable yet changing every night."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

CHANNELS: Final = ("email", "push", "sms")
ODD_CHANNELS: Final = (*CHANNELS, "carrier_pigeon", "007")
_SHARES: Final = {"email": 1.0, "push": 0.35, "sms": 0.55, "carrier_pigeon": 0.01, "007": 0.02}
_FURTHER_SHARES: Final = {
    "unsubscribed": 0.08,
    "complained": 0.002,
    "hardbounced": 0.03,
    "suspended": 0.01,
    "invalid": 0.005,
}


def counters(
    segment_id: object,
    resource_id: object,
    channel: str,
    day: int,
    *,
    size: float | None = None,
    growth: float | None = None,
    weekly: Sequence[float] = (),
) -> dict[str, int]:
    """Return the counters of a channel on a day (days since 1970).

    A size of the segment's own, a growth or decline over years, waves of weeks and months that each channel
    goes through by itself, a ripple over the week and a little noise. Made up where not given: `size` (in
    email, at the start of 2024), `growth` (0.1: a tenth a year), `weekly` (seven factors, Monday's first).
    """
    key = f"{segment_id}/{resource_id}"
    share = _SHARES.get(channel, 0.1) * (0.8 + 0.4 * chance(key, channel, "share"))
    if size is None:
        size = 10 ** (2.5 + 3 * chance(key, "size"))
    years = day / 365.25 - 54  # since about the start of 2024
    if growth is None:
        grown = math.exp(math.tanh(years / 10) * (chance(key, "growth") - 0.3))
    else:
        grown = (1 + growth) ** max(-100.0, min(years, 100.0))
    waves = 1 + 0.06 * math.sin(math.tau * (day / (25 + 90 * chance(key, "period")) + chance(key, "phase")))
    waves *= 1 + 0.04 * math.sin(math.tau * (day / (20 + 40 * chance(key, channel)) + chance(channel, key)))
    if weekly:
        ripple = weekly[(day + 3) % 7]  # 1970 began on a Thursday
    else:
        ripple = 1 + 0.01 * math.sin(math.tau * (day / 7 + chance(key, channel, "week")))
    noise = 1 + 0.01 * (chance(key, channel, day) - 0.5)
    subscribed = size * share * grown * waves * ripple * noise
    unconfirmed = subscribed * 0.05 * (chance(key, channel, "unconfirmed") + 0.2 * chance(key, day))
    return {"subscribed_sendable": round(subscribed), "unconfirmed_sendable": round(unconfirmed)}


def further_counters(status: dict[str, int]) -> dict[str, int]:
    """Return the counters of a database or a resource, which have more than a segment's."""
    subscribed, unconfirmed = (round(1.04 * value) for value in status.values())
    others = {name: round(share * subscribed) for name, share in _FURTHER_SHARES.items()}
    parts = {"subscribed": subscribed, "unconfirmed": unconfirmed, **others}
    return {"all": sum(parts.values()), **parts, **status}


def chance(*key: object) -> float:
    """Return a number in [0, 1) that looks random and is always the same for the same key."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
