"""ImageNet's classifier as a teacher: what it sees at every place, as a mixture of its classes' vectors in the joint space.

Convex combination of class names (Norouzi et al. 2014, "Zero-Shot Learning by Convex Combination of Semantic Embeddings").
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backend.engines.embedded.places import Backbone

LIKELIEST = 5
LEAST_SURE = 0.15
MOST_HIDDEN = 0.2
"""How likely the classes of held-out names may be where something else is taught."""


class ClassTeacher(nn.Module):
    """A frozen copy of the pretrained backbone and its classifier. ``vectors (1000, D)`` are the classes' unit vectors,
    ``hidden (1000,)`` the classes that nothing may be taught of.
    """

    def __init__(self, backbone: Backbone, classifier: nn.Linear, vectors: Tensor, hidden: Tensor) -> None:
        super().__init__()
        self.backbone, self.classifier = copy.deepcopy(backbone), copy.deepcopy(classifier)
        self.register_buffer("vectors", vectors)
        self.register_buffer("hidden", hidden)
        self.requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, fourth: Tensor) -> tuple[Tensor, Tensor]:
        """From the backbone's map at stride 4: unit vectors ``(N, D, h, w)`` at stride 32, and how sure each is."""
        head = F.avg_pool2d(self.backbone.late(fourth)[-1], 3, 1, 1, count_include_pad=False)
        chance = torch.softmax(self.classifier(head.permute(0, 2, 3, 1)).float(), dim=-1)
        unknown = (chance * self.hidden).sum(dim=-1)
        likeliest = (chance * ~self.hidden).topk(LIKELIEST, dim=-1)
        mixed = torch.einsum("nhwk,nhwkd->ndhw", likeliest.values, self.vectors[likeliest.indices])
        sure = likeliest.values[..., 0] * (likeliest.values[..., 0] > LEAST_SURE) * (unknown < MOST_HIDDEN)
        return F.normalize(mixed, dim=1), sure
