"""The evaluation of explanations on annotated photographs, as ``bcos eval --boxes`` does it."""

from pathlib import Path
from typing import Any

from bcos_cli.config.trust import trusts_runs
from bcos_cli.evaluate.annotated import load_annotated
from bcos_cli.evaluate.explanations import ExplanationMetrics
from bcos_cli.evaluate.options import EvaluationOptions
from bcos_cli.evaluate.result import Evaluation, ScoreFiles, means
from bcos_cli.evaluate.resumable import partial_results
from bcos_cli.evaluate.table import print_evaluation
from bcos_cli.processes.group import process_state
from bcos_core.errors import BcosError
from bcos_explain import metric_specs
from bcos_models import load_trained


def evaluate_photos(
    run_or_model: str,
    annotations: Path,
    photos: Path,
    given: dict[str, Any],
    *,
    weights: str | None = None,
    files: ScoreFiles,
) -> Evaluation:
    """Score explanations of photographs whose objects have boxes or masks, for the classes of these objects.

    Args:
        run_or_model: as :func:`bcos_models.load_trained` takes it.
        annotations: a COCO file, a VOC file, or a folder of VOC files.
        photos: folder of the photographs.
        given: fields of :class:`EvaluationOptions`.
        weights: a file of weights, for a model by name.
        files: what to write; partial results are in their folder.

    Raises:
        BcosError: malformed annotations, no image to score, or a metric that works on something else.
    """
    files.check()
    trained = load_trained(run_or_model, weights, trust=trusts_runs())
    options = EvaluationOptions(**{"metrics": ("epg",), **given})
    options.check()
    specs = [spec for spec in metric_specs() if spec.name in options.all_metrics]
    if unfit := [m for m in options.all_metrics if m not in {spec.name for spec in specs if spec.unit == "image"}]:
        raise BcosError(f"{', '.join(unfit)} cannot be measured on annotated photographs; leave out --boxes")
    images = load_annotated(trained, annotations, photos, masks=any("masks" in spec.needs for spec in specs))
    trained.model.to(process_state().device).eval()
    kept = partial_results(files.partial, trained.fingerprint(), options.fingerprint(), images.fingerprint())
    explanations, failed = ExplanationMetrics(trained, images, options, kept).measure_all(specs)
    evaluation = Evaluation(
        model=run_or_model,
        data=str(photos),
        split=str(annotations),
        classes=trained.classes,
        classification=None,
        metrics=means(explanations),
        explanations=explanations,
        samples={spec.name: list(images.keys) for spec in specs},
        grid_size=options.grid_size,
        skipped=images.left_out | failed,
    )
    if process_state().is_main_process:
        files.write(evaluation)
        print_evaluation(evaluation)
    return evaluation
