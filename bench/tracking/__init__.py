"""A sweep's events in the tools that people watch runs with: TensorBoard, Weights & Biases, MLflow."""

from profl.bench.tracking.choosing import TRACKERS, trackers
from profl.bench.tracking.listener import Tracking

__all__ = ["TRACKERS", "Tracking", "trackers"]
