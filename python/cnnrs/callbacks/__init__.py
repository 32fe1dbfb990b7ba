"""What `Sequential.fit` calls while it trains, with Keras's names and hooks."""

from cnnrs.callbacks._backup import BackupAndRestore
from cnnrs.callbacks._base import Callback, History
from cnnrs.callbacks._checkpoint import ModelCheckpoint

__all__ = ["BackupAndRestore", "Callback", "History", "ModelCheckpoint"]
