"""Pictures, with matplotlib (the extra `plots`). Each function returns the figure it drew.

A figure belongs to no window: `figure.savefig("file.png")` writes it, and a notebook shows it as
the last value of a cell. A function that takes `ax` draws into that axes and returns its figure.
"""

try:
    from cnnrs.plotting._curves import time_bars, training_curves
    from cnnrs.plotting._insides import feature_maps, filters
    from cnnrs.plotting._results import confusion_matrix, mistakes, prediction
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"cnnrs.plotting needs {error.name}, which is not installed: pip install 'cnnrs[plots]'",
        name=error.name,
    ) from error

__all__ = [
    "confusion_matrix",
    "feature_maps",
    "filters",
    "mistakes",
    "prediction",
    "time_bars",
    "training_curves",
]
