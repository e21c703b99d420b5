"""The images that the grid pointing game is played with, collected while a data set is evaluated."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bcos_core import BcosError

Key = int | str


State = list[tuple[int, float, Key, Tensor]]
"""What a process sends to another: class, confidence, key and image on the CPU of each that it kept."""


class ConfidentImages:
    """For each class, the most confident images that were classified correctly.

    Memory is bounded by classes × `capacity` images. What is kept depends on the images alone, not on their
    order, their batches or the processes that saw them: among equal confidences the smaller key wins.

    Args:
        capacity: images to keep of each class.
        min_confidence: images must be more confident than this. The paper keeps those with a probability
            above 0.5.

    Raises:
        BcosError: a capacity below 1.

    >>> best = ConfidentImages(capacity=2)
    >>> labels = predictions = torch.tensor([0, 0, 0, 1])
    >>> best.update(torch.rand(4, 3, 8, 8), labels, torch.tensor([0.6, 0.9, 0.7, 0.8]), predictions, keys=range(4))
    >>> best.keys()
    [1, 2, 3]

    Source: Böhle et al., TPAMI 2024, section 5.2.
    """

    def __init__(self, capacity: int, *, min_confidence: float = 0.0) -> None:
        if capacity < 1:
            raise BcosError(f"capacity must be at least 1 image a class, got {capacity}")
        self.capacity = capacity
        self.min_confidence = min_confidence
        self._best: dict[int, list[tuple[float, Key, Tensor]]] = {}  # class: (-confidence, key, image), sorted

    def update(
        self, images: Tensor, labels: Tensor, confidences: Tensor, predictions: Tensor, keys: Sequence[Key] | Tensor
    ) -> None:
        """Take a batch into account.

        Args:
            images: (N, C, H, W), of any type; kept on the CPU as they are.
            labels: (N,), the true classes.
            confidences: (N,), probability of the predicted class, such as the sigmoid of its logit.
            predictions: (N,), the predicted classes.
            keys: N numbers or N strings that name the images, unique in the data set.

        Raises:
            BcosError: different lengths, or NaN as confidence.
        """
        names: list[Key] = keys.tolist() if isinstance(keys, Tensor) else list(keys)
        lengths = [len(images), len(labels), len(confidences), len(predictions), len(names)]
        if len(set(lengths)) > 1:
            raise BcosError(f"images, labels, confidences, predictions and keys must be as many, got {lengths}")
        if bool(torch.isnan(confidences).any()):
            raise BcosError(f"{int(torch.isnan(confidences).sum())} of {len(names)} confidences are NaN")
        candidates = ((labels == predictions) & (confidences > self.min_confidence)).nonzero().flatten()
        classes, values = labels.tolist(), confidences.tolist()
        for i in candidates.tolist():
            self._offer(classes[i], values[i], names[i], images[i])

    def _offer(self, label: int, confidence: float, key: Key, image: Tensor) -> None:
        best = self._best.setdefault(label, [])
        rank = (-confidence, key)
        if len(best) == self.capacity and rank >= best[-1][:2]:
            return
        best.append((*rank, image.detach().cpu().clone()))
        best.sort(key=lambda entry: entry[:2])
        del best[self.capacity :]

    def __len__(self) -> int:
        return sum(map(len, self._best.values()))

    def state(self) -> State:
        """Everything that was kept, by class, the most confident first; to be merged in another process."""
        return [
            (label, -negative, key, image) for label in sorted(self._best) for negative, key, image in self._best[label]
        ]

    def keys(self) -> list[Key]:
        """Keys of the kept images, by class, the most confident first."""
        return [key for _, _, key, _ in self.state()]

    def collected(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images (M, C, H, W), labels (M,) and confidences (M,), by class, the most confident first.

        Raises:
            BcosError: nothing was kept.
        """
        entries = self.state()
        if not entries:
            raise BcosError(
                f"no image was classified correctly with a confidence above {self.min_confidence:g}; "
                "train the model further, or, in Python, lower the min_confidence of ConfidentImages"
            )
        labels, confidences, _, images = zip(*entries, strict=True)
        return torch.stack(images), torch.tensor(labels), torch.tensor(confidences, dtype=torch.float64)

    def merge(self, state: State) -> None:
        """Take what another process kept into account; an image that both hold counts once."""
        known = set(self.keys())
        for label, confidence, key, image in state:
            if key not in known:
                self._offer(label, confidence, key, image)
