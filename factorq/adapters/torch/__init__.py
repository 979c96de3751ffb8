"""PyTorch: factorizations as modules that train, and models whose layers are such modules.

What is trained are the numbers behind the factors (:class:`factorq.Trainable`); every forward rounds them to what would
be stored, and gradients pass through the rounding.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("factorq.adapters.torch needs PyTorch: pip install 'factorq[torch]'") from error

from .layers import Factors, Layer, to_module
from .models import compress, from_state_dict, state_dict
from .tuning import accumulate_gram, correct_bias, finetune, reestimate_batch_norm

__all__ = [
    "Factors", "Layer", "accumulate_gram", "compress", "correct_bias", "finetune", "from_state_dict",
    "reestimate_batch_norm", "state_dict", "to_module",
]  # fmt: skip
