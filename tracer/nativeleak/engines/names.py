"""What a report by each engine lacks, by ``tool.backend``. Goes once the reports read ``TraceInfo.coverage``."""

from __future__ import annotations

from typing import Final

from nativeleak.engines.registry import ENGINES

LOST_BY_BACKEND: Final = {spec.backend: spec.coverage.not_available for spec in ENGINES}
