"""What every section of the settings is made of."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

Seconds: TypeAlias = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=10_000_000)]
Unlimited: TypeAlias = Annotated[int, Field(ge=0, le=1_000_000_000_000)]
"""0 means any amount."""
Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=1024)]


class Section(BaseModel):
    """Keys that are all known, and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
