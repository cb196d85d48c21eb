"""Batch norm folded into the convolutions before it: the same answers from fewer layers, for prediction only.

In evaluation mode batch norm is a fixed scale and shift per channel, which the convolution in front can do itself. On
CPUs that saves a fifth of the time of a ResNet.
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medcore.errors import MedcoreError


def fold_batch_norm(model: nn.Module) -> int:
    """Fold every batch norm that follows a convolution of the same parent: for prediction, not for training on.

    Args:
        model: changed in place; in evaluation mode. In all networks of ours, a batch norm that is listed behind a
            convolution also takes that convolution's output, and nothing else does.

    Returns:
        How many layers were folded.

    Raises:
        MedcoreError: The model is in training mode, in which batch norm is no fixed function.
    """
    if model.training:
        raise MedcoreError("fold_batch_norm: the model is in training mode; call model.eval() first")
    folded = 0
    for parent in list(model.modules()):
        children = list(parent.named_children())
        for (name, layer), (next_name, after) in zip(children, children[1:], strict=False):
            if isinstance(layer, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(layer, after))
                setattr(parent, next_name, nn.Identity())
                folded += 1
    return folded
