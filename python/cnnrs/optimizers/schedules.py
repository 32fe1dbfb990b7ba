"""Learning rates that change from step to step."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LearningRateSchedule"]


class LearningRateSchedule:
    """The base of learning rate schedules: called with steps, one returns their learning rates.

    Steps are counted from 0 since the model was compiled. Rates are asked for many steps at a
    time, ahead of the training, so a rate must follow from the step alone.

    Reference: `keras.optimizers.schedules.LearningRateSchedule`.

    Example:
        >>> import numpy as np
        >>> from cnnrs.optimizers import SGD
        >>> from cnnrs.optimizers.schedules import LearningRateSchedule
        >>> class Halving(LearningRateSchedule):
        ...     def __call__(self, steps):
        ...         return 0.1 * 0.5 ** (steps // 1000)
        >>> Halving()(np.array([0, 999, 1000])).tolist()
        [0.1, 0.1, 0.05]
        >>> optimizer = SGD(Halving())
    """

    def __call__(self, steps: npt.NDArray[np.int64]) -> Any:
        """Return the learning rates of these steps.

        Args:
            steps: int64 array.

        Returns:
            As many learning rates, each at least 0, or one for all.
        """
        raise NotImplementedError
