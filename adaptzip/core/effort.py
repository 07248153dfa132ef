"""How much work may be spent on a smaller file; every effort's files are read alike."""

from __future__ import annotations

from typing import Literal, get_args

Effort = Literal["fast", "default", "best"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
