"""What an exchange of tokens between expert ranks sends: copies of each token, inside a domain and beyond it."""

from __future__ import annotations

from typing import Literal

from simulator.graph.operator import Collective, ExchangeKernel, Group

Sending = Literal["copies", "distinct", "all"]
"""A copy for every selected expert, one for every distinct place, or everything to everyone."""


def distinct_ranks(ranks: int, top_k: int) -> float:
    """Expected ranks, of all `ranks`, that a token routed uniformly to `top_k` places reaches: R(1 - (1 - 1/R)^k)."""
    return ranks * (1 - (1 - 1 / ranks) ** top_k)


def token_exchange(
    group: Group,
    size: float,
    *,
    sending: Sending,
    top_k: int,
    reached_domains: int | None = None,
    kernel: ExchangeKernel = "nccl",
    combines: bool = False,
    sms: int | None = None,
) -> Collective:
    """The exchange of tokens that are `size` bytes on each rank, routed uniformly to `top_k` experts.

    Where a token is sent once to each distinct place, it goes over the network to the rank of the same place in each
    distinct remote domain, which forwards it inside to each distinct rank but itself: a rank forwards for the others as
    many copies as they do for it. Routing may be limited to `reached_domains` of the domains (arXiv 2412.19437, section
    2.1.2).
    """
    places, domains = group.per_domain, group.domains
    match sending:
        case "distinct":
            reached = min(domains, reached_domains or domains)
            inside = distinct_ranks(reached * places, top_k) * (places - 1) / places
            outside = distinct_ranks(reached, top_k) * (domains - 1) / domains
        case "all":
            inside, outside = float(places - 1), float(group.size - places)
        case "copies":
            inside = top_k * (places - 1) / group.size
            outside = top_k * (group.size - places) / group.size
    return Collective("all_to_all", size * inside, group, size * outside, kernel=kernel, combines=combines, sms=sms)
