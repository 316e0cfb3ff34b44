"""Switches of which each may be and which together cannot: said before anything is begun."""

from typing import Any

from ingest.errors import UsageError
from trainer.switches import NetworkSettings, Recipe, RuleSettings

NUM_WIDTHS = {"alexnet": 5, "cifar": 3}
NOT_IN_CIFAR: dict[str, Any] = {
    "columns": 1, "exchange": True, "sixth": False, "without": "none", "pool": 3, "pool_rounding": "ceil", "lrn": False,
    "spatial_norm": False, "dropout": "none",
}  # fmt: skip
"""Switches that the small network does not have, as it is without them."""


def refuse_impossible(recipe: Recipe) -> None:
    """Raise UsageError for switches that do not go together."""
    network = recipe.network
    _refuse_shape(network)
    if network.architecture == "cifar":
        _refuse_not_in_cifar(network)
    _refuse_rates_of_nothing(recipe.rule, network)
    if recipe.rule.trust and recipe.rule.velocity == "without_rate":
        raise UsageError("rule.trust: LARS keeps the rate in the velocity; give rule.velocity=with_rate as well")
    if recipe.loader.output != "float32" and (recipe.loader.output, recipe.precision) != ("bfloat16", "bf16"):
        raise UsageError(
            f"loader.output {recipe.loader.output}: the network takes float32 pictures in {recipe.precision}; leave it out"
        )


def _refuse_shape(network: NetworkSettings) -> None:
    wanted, columns = NUM_WIDTHS[network.architecture], network.columns
    if len(network.widths) != wanted:
        raise UsageError(
            f"network.widths {list(network.widths)}: {network.architecture} has {wanted} convolutions, give as many"
        )
    for name in ("widths", "hidden"):
        odd = [width for width in getattr(network, name) if width % columns]
        if odd and (name == "widths" or not network.exchange):
            raise UsageError(f"network.{name}: {odd[0]} cannot be shared out to {columns} columns; give even numbers")


def _refuse_not_in_cifar(network: NetworkSettings) -> None:
    for name, value in NOT_IN_CIFAR.items():
        if getattr(network, name) != value:
            raise UsageError(
                f"network.{name} {getattr(network, name)}: the cifar network has no such switch; only {value} fits"
            )


def _refuse_rates_of_nothing(rule: RuleSettings, network: NetworkSettings) -> None:
    """Raise UsageError if a layer is given a rate that the network does not have."""
    from trainer.transfer import layers_of, shapes

    if not rule.layer_rates:
        return
    layers = layers_of(shapes(network))
    if unknown := [name for name in rule.layer_rates if name not in layers]:
        raise UsageError(
            f"rule.layer_rates: this network has no {', '.join(unknown)}; its layers are {', '.join(layers)}"
        )
