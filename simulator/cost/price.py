"""Money and carbon of a training or a served token."""

from __future__ import annotations

from functools import lru_cache

from simulator.errors import SpecError
from simulator.spec.price_table import Region, read_energy
from simulator.spec.workload import Economics

ENERGY_TABLE = "energy-2025"
"""The dated table that regions are looked up in first; codecarbon's has many more countries."""

WORLD_GRAMS_PER_KWH = 475.0
"""World mean carbon intensity of electricity (IEA, as bundled by codecarbon 3.3)."""
JOULES_PER_KWH = 3.6e6


def rent_usd(gpus: int, seconds: float, economics: Economics) -> float | None:
    """Rent of `gpus` for `seconds`; None where no price is given."""
    return None if economics.gpu_hour is None else economics.gpu_hour * gpus * seconds


def electricity_usd(joules: float, economics: Economics) -> float | None:
    """Price of the energy at the meter; None where no price is given. Rented machines include it."""
    return None if economics.electricity is None else economics.electricity * joules


def carbon_grams_per_joule(economics: Economics) -> tuple[float, str]:
    """(grams of CO2 equivalent per joule, where the number comes from). Raises SpecError for an unknown region."""
    if economics.carbon_intensity is not None:
        return economics.carbon_intensity, "stated in the run"
    if economics.region is None:
        return WORLD_GRAMS_PER_KWH / JOULES_PER_KWH, "world mean, codecarbon's table (IEA)"
    shipped = _regions().get(economics.region)
    if shipped is not None and shipped.carbon is not None:
        return shipped.carbon, f"{economics.region}: {shipped.source}"
    return _region_intensity(economics.region) / JOULES_PER_KWH, f"codecarbon's table, {economics.region}"


def electricity_price(economics: Economics) -> float | None:
    """USD per joule: stated, or that of the region in the dated table; None where neither is known."""
    if economics.electricity is not None or economics.region is None:
        return economics.electricity
    shipped = _regions().get(economics.region)
    return None if shipped is None else shipped.electricity


@lru_cache(maxsize=1)
def _regions() -> dict[str, Region]:
    return read_energy(ENERGY_TABLE).regions


def _region_intensity(region: str) -> float:
    """Grams of CO2 per kWh of a country, by its ISO code, from codecarbon's bundled energy mix."""
    import json
    from importlib.resources import files

    try:
        table = files("codecarbon") / "data/private_infra/global_energy_mix.json"
        mix = json.loads(table.read_text(encoding="utf-8"))
    except (ModuleNotFoundError, FileNotFoundError):
        raise SpecError(
            f"the table {ENERGY_TABLE} has no carbon of '{region}', and more regions need the extra `carbon` "
            "(pip install 'moesim[carbon]'); or state economics.carbon_intensity",
            path="economics.region",
        ) from None
    if region not in mix:
        from simulator.errors import nearest

        raise SpecError(f"unknown region '{region}'.{nearest(region, mix)}", path="economics.region")
    return float(mix[region]["carbon_intensity"])
