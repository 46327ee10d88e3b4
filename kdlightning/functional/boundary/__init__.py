"""How far an image is from a classifier's decision boundaries, found with top-1 labels only.

Every function takes ``predict: Callable[[Tensor], Tensor]`` (pixels in [0, 1] ``(M, C, H, W)`` to class indices
``(M,)``), not a teacher: what it cannot see it cannot miscount. Work is done on *pairs* (image, target class), all at
once: each round asks one image for every unfinished pair, in batches of at most ``batch_size``, and a pair that is done
leaves. A pair's result depends on nothing but the pair, so that any split over batches and processes gives the same.

All points lie in the pixel box, so a distance is that of an image that was really shown to the classifier.

.. [Wang2021] Z. Wang. Zero-Shot Knowledge Distillation from a Decision-Based Black-Box Model. ICML 2021.
.. [Chen2020] J. Chen, M. Jordan, M. Wainwright. HopSkipJumpAttack. IEEE S&P 2020, arXiv:1904.02144.
.. [Li2020] H. Li et al. QEBA: Query-Efficient Boundary-Based Blackbox Attack. CVPR 2020, arXiv:2005.14137.
.. [Cheng2020] M. Cheng et al. Sign-OPT: A Query-Efficient Hard-label Adversarial Attack. ICLR 2020, arXiv:1909.10773.
"""

from kdlightning.functional.boundary.candidates import (
    Subspace,
    nearest_candidates,
    probe_bank,
    random_distance,
    sample_distance,
)
from kdlightning.functional.boundary.descent import TRIES, boundary_normal, minimal_boundary_distance, retreat
from kdlightning.functional.boundary.labels import activations, linear_logits, mean_nearest
from kdlightning.functional.boundary.search import (
    BoundaryPoints,
    Predict,
    any_but,
    boundary_distance,
    is_target,
    most_boundary_queries,
)
from kdlightning.functional.boundary.surrogate import Guide, Recorder, guided_normals, imitation

__all__ = [
    "TRIES", "BoundaryPoints", "Guide", "Predict", "Recorder", "Subspace", "activations", "any_but",
    "boundary_distance", "boundary_normal", "guided_normals", "imitation", "is_target", "linear_logits",
    "mean_nearest", "minimal_boundary_distance", "most_boundary_queries", "nearest_candidates", "probe_bank",
    "random_distance", "retreat", "sample_distance",
]  # fmt: skip
