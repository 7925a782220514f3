"""List the kinds of faults that can happen to a stack."""

from __future__ import annotations

from scripts.research.chaos.colleagues import COLLEAGUES_ACTS
from scripts.research.chaos.process_faults import PROCESS_FAULTS
from scripts.research.chaos.storage_faults import STORAGE_FAULTS

FAULTS = (*PROCESS_FAULTS, *STORAGE_FAULTS, *COLLEAGUES_ACTS)
