"""What `Sequential.fit` calls while it trains, with Keras's names and hooks."""

from cnnrs.callbacks._backup import BackupAndRestore
from cnnrs.callbacks._base import Callback, History
from cnnrs.callbacks._checkpoint import ModelCheckpoint
from cnnrs.callbacks._csv import CSVLogger
from cnnrs.callbacks._early_stopping import EarlyStopping
from cnnrs.callbacks._lambda import LambdaCallback
from cnnrs.callbacks._learning_rate import LearningRateScheduler, ReduceLROnPlateau
from cnnrs.callbacks._swap_averages import SwapEMAWeights
from cnnrs.callbacks._tensorboard import TensorBoard
from cnnrs.callbacks._terminate import TerminateOnNaN

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "SwapEMAWeights",
    "TensorBoard",
    "TerminateOnNaN",
]
