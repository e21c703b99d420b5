"""The base class of a recipe's sections, and the kinds of numbers in them."""

from typing import Annotated, get_args

from pydantic import BaseModel, Field

MOST = 10**9
"""The largest integer that a recipe may hold."""
Positive = Annotated[int, Field(ge=1, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Rate = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel, extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False):
    """A part of a recipe; an unknown key is a mistake, and so is a number that is not finite."""


def section_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the section that a key holds, if it holds one."""
    field = model.model_fields.get(key)
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
