"""ML: the student regresses on the teacher's logits.

.. [Ba2014] J. Ba, R. Caruana. Do Deep Nets Really Need to be Deep? NeurIPS 2014, arXiv:1312.6184.
Compared in C, the code of MEKD: https://github.com/HAIV-Lab/MEKD/tree/72881bc (MIT), project/ML.py.

Access: soft, top-k or hard labels. Phases: predict TeacherAnswers → fit ML.

Differences from the paper (P) and the code of MEKD (C):
1. Centred logits against centred log-probabilities: no API answers logits, and log-probabilities are logits up to the
   constant that centring removes. P and C regress on the white box's raw logits.
2. Mean over elements (C). P prints ``1/(2T) sum ||g(x) - z||²`` over T images, K / 2 times as large.
3. P trains on labelled and unlabelled images of its own; here, as in C, on the pool, and with no label.
4. Hard answers become a label of probability ``confidence``, whose centred logits are a scaled one-hot row.
"""

from torch import Tensor
from torch.nn import functional as F

from kdlightning.modules.answered import AnsweredModule
from kdlightning.types import Batch


class ML(AnsweredModule):
    """Mimic learning on a ``TransferSetDataModule`` or a ``GeneratedDataModule``; see :class:`AnsweredModule`."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared difference of centred logits: the regression of [Ba2014]_."""
        student, teacher = self.vectors(*self.responses(batch))
        return {"logits": F.mse_loss(student, teacher)}
