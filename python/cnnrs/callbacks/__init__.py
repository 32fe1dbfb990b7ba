"""What `Sequential.fit` calls while it trains, with Keras's names and hooks."""

from cnnrs.callbacks._base import Callback, History

__all__ = ["Callback", "History"]
