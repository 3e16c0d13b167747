"""The knowledge base: what others measured, what the user measured, and what Mofang's own jobs measured."""

from mofang.catalog.measurements.importing import Imported, import_measurements
from mofang.catalog.measurements.load import load_serving, load_training
from mofang.catalog.measurements.loaded import Loaded, Problem
from mofang.catalog.measurements.own import from_jobs

__all__ = ["Imported", "Loaded", "Problem", "from_jobs", "import_measurements", "load_serving", "load_training"]
