"""What is in the catalogs, with derived figures, and the JSON Schema of every kind of file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from simulator.cli.output import echo
from simulator.spec.base import Document, catalog, read_catalog, read_document

SEQ_LEN = 4096
"""Sequence length at which FLOPs per token are quoted."""

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="One entry, or a file of yours.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON with exact numbers, SI units in the keys.")]


def models(name: Name = None, json: Json = False) -> None:
    """List the models of the catalog, or show one with its exact parameter counts and FLOPs per token.

    [bold]Examples[/bold]

    moesim models

    moesim models mixtral-8x7b

    moesim models path/to/config.json --json
    — a Hugging Face config
    """
    columns = {
        "parameters": "parameters",
        "active_parameters": "active",
        "num_experts": "experts",
        "num_experts_per_tok": "used",
        "status": "status",
    }
    _show("model", name, json, columns)


def devices(name: Name = None, json: Json = False) -> None:
    """List the devices of the catalog, or show one with its sources.

    [bold]Examples[/bold]

    moesim devices

    moesim devices h100-sxm --json
    """
    columns = {
        "peak_bf16_flops_per_s": "dense bf16",
        "memory_bytes": "memory",
        "memory_bandwidth_bytes_per_s": "bandwidth",
        "scale_up_bytes_per_s": "scale-up",
        "scale_up_domain": "domain",
        "tdp_w": "TDP",
    }
    _show("device", name, json, columns)


def networks(name: Name = None, json: Json = False) -> None:
    """List the networks of the catalog, or show one with its sources.

    [bold]Examples[/bold]

    moesim networks

    moesim networks ib-ndr400-rail --json
    """
    columns = {
        "kind": "kind",
        "topology": "topology",
        "link_bytes_per_s": "link",
        "node_bytes_per_s": "node",
        "latency_s": "latency",
        "oversubscription": "taper",
    }
    _show("network", name, json, columns)


def _show(kind: str, name: str | None, as_json: bool, columns: Mapping[str, str]) -> None:
    from simulator.cli.tables import print_catalog, print_entry

    if name is None:
        entries = [_entry(kind, each) for each in catalog(kind)]
        _print_json(entries) if as_json else print_catalog(entries, {"name": kind, **columns})
        return
    entry, document = _entry(kind, name), _document(kind, name)
    if as_json:
        _print_json({**entry, "definition": document.data})
    else:
        print_entry(entry, document.text)


def _entry(kind: str, name: str) -> dict[str, Any]:
    """The figures of one entry, each under a key that names its unit."""
    match kind:
        case "model":
            return _model(name)
        case "device":
            return _device(name)
        case _:
            return _network(name)


def _model(name: str) -> dict[str, Any]:
    from simulator.spec.model import resolve_model
    from simulator.spec.parameters import sequence_flops_per_token

    model = resolve_model(name)
    forward = sequence_flops_per_token(model, SEQ_LEN)
    return {
        "name": model.name,
        "parameters": model.parameters,
        "active_parameters": model.active_parameters,
        "forward_flops_per_token": forward,
        "training_flops_per_token": 3 * forward,
        "flops_at_seq_len": SEQ_LEN,
        "num_hidden_layers": model.num_hidden_layers,
        "hidden_size": model.hidden_size,
        "num_experts": model.num_experts or (model.peer.num_experts if model.peer else None),
        "num_experts_per_tok": model.num_experts_per_tok
        or (model.peer.num_heads * model.peer.top_k if model.peer else None),
        "attention": model.attention_kind,
        "status": model.status,
    }


def _device(name: str) -> dict[str, Any]:
    from simulator.spec.hardware import load_device

    device = load_device(name)
    bandwidth = device.memory.bandwidth
    return {
        "name": device.name,
        "vendor": device.vendor,
        "architecture": device.architecture,
        **{f"peak_{precision}_flops_per_s": peak for precision, peak in device.peak.items()},
        "memory_bytes": device.memory.capacity,
        "memory_bandwidth_bytes_per_s": bandwidth,
        "bf16_flops_per_memory_byte": device.peak["bf16"] / bandwidth if "bf16" in device.peak else None,
        "scale_up_kind": device.scale_up.kind,
        "scale_up_bytes_per_s": device.scale_up.bandwidth,
        "scale_up_domain": device.scale_up.domain,
        "tdp_w": device.tdp,
        "idle_power_w": device.idle_power,
        "gpus_per_node": device.node.gpus,
        "network": device.node.network,
    }


def _network(name: str) -> dict[str, Any]:
    from simulator.spec.hardware import load_network

    network = load_network(name)
    return {
        "name": network.name,
        "kind": network.kind,
        "topology": network.topology,
        "link_bytes_per_s": network.bandwidth,
        "nics_per_node": network.nics_per_node,
        "links_per_gpu": network.links_per_gpu,
        "node_bytes_per_s": network.bandwidth * network.nics_per_node if network.nics_per_node else None,
        "latency_s": network.latency,
        "oversubscription": network.oversubscription,
        "link_energy_j_per_bit": network.link_energy,
    }


def _document(kind: str, name: str) -> Document:
    """The file of the entry, with units and sources as it states them."""
    return read_catalog(kind, name) if name in catalog(kind) else read_document(name)


class FileKind(StrEnum):
    """Kinds of file with a schema."""

    run = "run"
    sweep = "sweep"
    plan = "plan"
    growth = "growth"
    claims = "claims"
    model = "model"
    device = "device"
    network = "network"
    result = "result"


def schema(kind: Annotated[FileKind, typer.Argument(help="Kind of file.")]) -> None:
    """Print the JSON Schema of a kind of file, for editors that complete and check YAML.

    [bold]Example[/bold]

    moesim schema run > run.schema.json
    """
    _print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **_schema(kind)})


def _schema(kind: FileKind) -> dict[str, Any]:
    match kind:
        case FileKind.run:
            from simulator.spec.run import Run

            return Run.model_json_schema()
        case FileKind.sweep:
            from simulator.sweeps import Sweep

            return Sweep.model_json_schema()
        case FileKind.plan:
            from simulator.spec.plan import Plan

            return Plan.model_json_schema()
        case FileKind.growth:
            from simulator.spec.growth import Growth

            return Growth.model_json_schema()
        case FileKind.claims:
            from simulator.spec.claims import Claims

            return Claims.model_json_schema()
        case FileKind.model:
            from simulator.spec.model import ModelSpec

            return ModelSpec.model_json_schema()
        case FileKind.device:
            from simulator.spec.hardware import Device

            return Device.model_json_schema()
        case FileKind.network:
            from simulator.spec.hardware import Network

            return Network.model_json_schema()
        case FileKind.result:
            from simulator.result import Result

            return Result.model_json_schema()


def _print_json(data: Mapping[str, Any] | Sequence[Any]) -> None:
    import json

    echo(json.dumps(data, indent=1, ensure_ascii=False, default=str))
