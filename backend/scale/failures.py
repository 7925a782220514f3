"""Say in a sentence why there is no connection to a Ray cluster, and what to do."""

from __future__ import annotations

import re

VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


def reason(output: str, address: str) -> str:
    """Return the sentence for what Ray reported when it connected to `address`."""
    if "AuthenticationError" in output:
        return (
            f"the Ray cluster at {address} refused this machine's token: set RAY_AUTH_MODE=token, "
            "and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the token of the cluster's head"
        )
    if "Version mismatch" in output and len(found := VERSIONS.findall(output)) >= 2:
        (ray, python), (own_ray, own_python) = found[:2]
        return (
            f"the Ray cluster at {address} runs Ray {ray} on Python {python}, and this machine Ray "
            f"{own_ray} on Python {own_python}: use the same image, or the same ray.lock and "
            "Python, on all machines"
        )
    if "any running Ray instance" in output:
        return (
            "RAY_ADDRESS=auto, but no Ray node runs on this machine: run `ray start "
            "--address=host:6379` here, or set RAY_ADDRESS=host:6379"
        )
    if address == "auto":
        return (
            "RAY_ADDRESS=auto, but the Ray cluster to which this machine belonged does not answer: "
            "run `ray stop` and `ray start --address=host:6379` here"
        )
    return unreachable(address, "what answers is not the head of a Ray cluster")


def unreachable(address: str, why: str) -> str:
    """Return the sentence for an address where there is no cluster."""
    return (
        f"no Ray cluster answers at RAY_ADDRESS={address} ({why}): start its head with `ray start "
        "--head`, correct the address, or set SCALE=local"
    )


def full_text(error: BaseException | None) -> str:
    """Return an error's text and those of its causes, which say more than the error itself."""
    text = ""
    while error is not None:
        text, error = f"{text}{type(error).__name__}: {error}\n", error.__cause__
    return text
