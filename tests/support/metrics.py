"""Metrics as Prometheus reads them."""

import aiohttp
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def families(text: str) -> list[Metric]:
    """The metrics of a scrape."""
    return list(text_string_to_metric_families(text))


def samples(text: str) -> Samples:
    """The values of a scrape, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    """The value of the sample with exactly these labels. The name has no prefix. Raises KeyError."""
    return samples(text)[f"contact_exports_{name}", frozenset(labels.items())]


async def scrape(address: str) -> str:
    """The text of /metrics at this address."""
    async with aiohttp.ClientSession() as session, session.get(f"{address}/metrics") as response:
        assert response.status == 200
        assert response.content_type == "text/plain"
        return await response.text()
