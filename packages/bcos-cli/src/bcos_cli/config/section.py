"""The base class of a recipe's sections, and the kinds of numbers in them."""

from typing import Annotated, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from bcos_core.errors import BcosError, shown
from bcos_models.checks import is_range

MOST = 10**9
"""The largest integer that a recipe may hold."""
Positive = Annotated[int, Field(ge=1, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Rate = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


def _is_range(values: tuple[float, float]) -> tuple[float, float]:
    if not is_range(values):
        raise ValueError("black and white must be finite and differ")
    return values


Range = Annotated[
    tuple[float, float],
    BeforeValidator(lambda value: value.split(":") if isinstance(value, str) else value),
    AfterValidator(_is_range),
]
"""Black and white of images of more than 8 bits: two numbers, or ``BLACK:WHITE``."""


def parse_range(text: str | None) -> tuple[float, float] | None:
    """Read the option ``--range``, or refuse it."""
    try:
        return TypeAdapter(Range | None).validate_python(text)
    except ValidationError as reason:
        raise BcosError(f"--range must be BLACK:WHITE, two numbers such as 0:4095, got {shown(text)}") from reason


class Section(BaseModel, extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False):
    """A part of a recipe; an unknown key is a mistake, and so is a number that is not finite."""


def section_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the section that a key holds, if it holds one."""
    field = model.model_fields.get(key)
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
