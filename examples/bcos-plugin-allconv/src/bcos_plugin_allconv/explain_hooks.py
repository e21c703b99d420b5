"""What the package adds to bcos-explain. Imports no torch."""

from collections.abc import Iterable

from bcos_explain import ExplainerSpec, MetricSpec, hookimpl


@hookimpl
def bcos_explain_explainers() -> Iterable[ExplainerSpec]:
    """Return one method of explanation."""
    yield ExplainerSpec(
        name="squared_gradient",
        builder="bcos_plugin_allconv.sensitivity:SquaredGradient",
        summary="square of the gradient: how sensitive the logit is to each pixel",
        source="Simonyan et al., 2013, arXiv 1312.6034",
        signed=False,
    )


@hookimpl
def bcos_explain_metrics() -> Iterable[MetricSpec]:
    """Return one metric of explanations."""
    yield MetricSpec(
        name="eccentricity",
        builder="bcos_plugin_allconv.eccentricity:eccentricity",
        summary="distance of what is explained from the centre of the image",
        needs=("model", "explainer", "images"),
        unit="image",
    )
