"""The endpoint's own audit as a judge: what it says of the accounts that came, and of its rows."""

from collections.abc import Iterable, Mapping
from typing import Any

from telemetry_agent.lab.endpoint.audit import StreamVerdict, judge
from telemetry_agent.model import StreamAccount

Name = tuple[str, int]


def verdicts(
    accounts: Iterable[StreamAccount], received: Iterable[Name]
) -> dict[str, StreamVerdict]:
    """Of each stream that is accounted for."""
    seqs: dict[str, list[int]] = {}
    for stream, seq in sorted(set(received)):
        seqs.setdefault(stream, []).append(seq)
    return {
        account.stream: judge(account, [(seq, str(seq)) for seq in seqs.get(account.stream, [])])
        for account in accounts
    }


def said_of(agent: Mapping[str, Any] | None) -> list[Any]:
    """The accounts in a report."""
    return list((agent or {}).get("streams", []))
